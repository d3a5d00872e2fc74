"""Lines of an export, decoded into Arrow tables of events and of lines that are none."""

import json
import math
import sqlite3
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mixpanel_pipeline.events.characters import (
    REPLACEMENT,
    may_need_repair,
    replace_lone_surrogates,
    replace_nul,
)
from mixpanel_pipeline.events.minimisation import Minimisation
from mixpanel_pipeline.events.suppression import Suppression
from mixpanel_pipeline.events.wall_clock import INSTANT, instants

EVENTS_TABLE = "events"
REJECTED_LINES_TABLE = "rejected_lines"

# Which events are the same: a dataset keeps to the rule that it was begun with, as its keys are by
# that. Of old, an event without $insert_id was another one once an identity merge had added more
# than `$distinct_id_before_identity` to it.
KEY_RULES = ("exported", "original")


@dataclass(frozen=True)
class Rules:
    """What a dataset keeps to, as its events' keys and instants are by it.

    Attributes:
        keys: Which events are the same, one of `KEY_RULES`.
        time_in_ms: Whether answers tell times in milliseconds, rather than in whole seconds. Keys
            are by the second: the same event has the same one either way.
    """

    keys: str = KEY_RULES[-1]
    time_in_ms: bool = False


_ADDED_BY_IDENTITY = ("$preshuffle_distinct_id", "$is_reshuffled", "$user_id")

EVENTS = pa.schema(
    [
        pa.field("event_key", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("distinct_id", pa.string()),
        pa.field("distinct_id_before_identity", pa.string()),
        pa.field("insert_id", pa.string()),
        pa.field("occurred_at", INSTANT, nullable=False),
        pa.field("processed_at", INSTANT),
        pa.field("properties", pa.string(), nullable=False),
        pa.field("replaced_characters", pa.int64(), nullable=False),
        pa.field("copy_order", pa.int64(), nullable=False),
    ]
)
REJECTED_LINES = pa.schema(
    [
        pa.field("line", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("day", pa.date32()),
    ]
)

# In April 1970, of which no export is; seconds taken for milliseconds would be of before.
_FIRST_MILLISECOND = 10**10
# 9999-12-30: the day after is the last one that Python can hold, and not in every time zone.
_LAST_SECOND = 253_402_214_399
# Milliseconds since 1970 need 42 bits until 2109, which leaves 21 bits of a positive bigint.
_POSITION_BITS = 21
_LAST_PROCESSED_MS = 2**42 - 1


# Past 200,000 events of one distinct_id and day, Mixpanel renames the rest and clears their id.
# https://docs.mixpanel.com/docs/debugging/distinct-id-limits
HOT_SHARD_EVENT = "$hotshard_events"

_NULL = msgspec.Raw(b"null")


# Nothing in these refers back to them: Python's garbage collector would only count them.
class _Line(msgspec.Struct, gc=False):
    event: str
    properties: msgspec.Raw


class _Properties(msgspec.Struct, gc=False):
    """The properties that every event is identified by; all others stay in the payload."""

    time: int
    distinct_id: str | None = None
    insert_id: str | None = msgspec.field(default=None, name="$insert_id")
    id_before_identity: str | None = msgspec.field(
        default=None, name="$distinct_id_before_identity"
    )
    id_before_shuffle: str | None = msgspec.field(default=None, name="$preshuffle_distinct_id")
    processed_ms: int | None = msgspec.field(default=None, name="mp_processing_time_ms")


class _UnusualProperties(msgspec.Struct):
    time: msgspec.Raw = _NULL
    distinct_id: msgspec.Raw = _NULL
    insert_id: msgspec.Raw = msgspec.field(default=_NULL, name="$insert_id")
    id_before_identity: msgspec.Raw = msgspec.field(
        default=_NULL, name="$distinct_id_before_identity"
    )
    id_before_shuffle: msgspec.Raw = msgspec.field(default=_NULL, name="$preshuffle_distinct_id")
    processed_ms: msgspec.Raw = msgspec.field(default=_NULL, name="mp_processing_time_ms")


class _HotShard(msgspec.Struct):
    """What a renamed event was."""

    event: msgspec.Raw = msgspec.field(default=_NULL, name="mp_original_event_name")
    distinct_id: msgspec.Raw = msgspec.field(default=_NULL, name="mp_original_distinct_id")


_lines = msgspec.json.Decoder(_Line)
_properties = msgspec.json.Decoder(_Properties)
_unusual_properties = msgspec.json.Decoder(_UnusualProperties)
_hot_shard = msgspec.json.Decoder(_HotShard)


class _Event(msgspec.Struct, gc=False):
    event_key: str
    event: str
    distinct_id: str | None
    id_before_identity: str | None
    insert_id: str | None
    time: int
    processed_ms: int | None
    payload: bytes
    replaced_characters: int


class _NotAnEvent(Exception):
    """Says why a line is none."""


class _Occurrences:
    """Counts identical payloads within one answer, on disk once they are many."""

    def __init__(self) -> None:
        # The empty name is SQLite's private file that it removes itself.
        # It is used in one thread at a time, though not in the one that makes it.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("pragma journal_mode = off")
        self._database.execute("pragma cache_size = -32000")
        self._database.execute(
            "create table seen (payload blob primary key, times integer) without rowid"
        )
        self._database.execute("begin")

    def count(self, payload: bytes) -> int:
        """How often `payload` has been counted, this time included."""
        row = self._database.execute(
            "insert into seen values (?, 1) "
            "on conflict (payload) do update set times = times + 1 returning times",
            (payload,),
        ).fetchone()
        times: int = row[0]
        return times

    def close(self) -> None:
        self._database.close()


@dataclass
class Batch:
    """What a block of an answer holds: tables with the schemas `EVENTS` and `REJECTED_LINES`."""

    events: pa.Table
    rejected_lines: pa.Table


class EventDecoder:
    """Decodes one answer.

    Args:
        timezone: The project's; wall-clock times are read in it.
        holds_nul: Whether the destination can hold NUL characters in text and JSON.
        only_day: The day that was asked for, when it was a single one: then a line that tells no
            time is of that day.
        names: The events that were asked for; None for all. Mixpanel cannot choose by name among
            those that it renamed.
        rules: Those of the dataset.
        suppression: Tells what is not to be loaded; None for nothing.
        minimisation: Removes what is not to be kept; None for nothing.

    Attributes:
        linked: Ids that turned out to be of somebody forgotten.
    """

    def __init__(
        self,
        timezone: ZoneInfo,
        *,
        holds_nul: bool,
        only_day: date | None,
        names: Collection[str] | None = None,
        rules: Rules | None = None,
        suppression: Suppression | None = None,
        minimisation: Minimisation | None = None,
    ) -> None:
        self._suppression = suppression
        self._hidden: dict[str, _Event] = {}
        self.linked = set[str]()
        self._minimisation = minimisation
        self._timezone = timezone
        rules = rules or Rules()
        self._sees_through_identity = rules.keys == "original"
        self._ticks = 1000 if rules.time_in_ms else 1
        self._names = None if names is None else frozenset(names)
        self._holds_nul = holds_nul
        self._only_day = only_day
        self._occurrences = _Occurrences()
        self._position = 0

    @property
    def hidden(self) -> pa.Table:
        """The events that were not to be loaded: `event_key`, `event` and `occurred_at` of each."""
        events = self._events_table(list(self._hidden.values()))
        return events.select(["event_key", "event", "occurred_at"])

    def decode(self, blocks: Iterable[bytes]) -> Iterator[Batch]:
        """Yield what each block of an answer's whole lines holds; memory does not grow with them.

        What the blocks raise is raised, and what was yielded before must not be loaded then.
        """
        try:
            for block in blocks:
                yield self._decode_block(block)
        finally:
            self._occurrences.close()

    def _decode_block(self, block: bytes) -> Batch:
        events, rejected = list[_Event](), list[dict[str, Any]]()
        for line in block.split(b"\n"):
            if not line or line.isspace():
                continue
            try:
                event = self._event(line, repair=may_need_repair(line))
            except _NotAnEvent as problem:
                if self._suppression and self._suppression.hides_line(line):
                    continue
                kept = (
                    self._minimisation.described(line) if self._minimisation else _printable(line)
                )
                rejected.append({"line": kept, "reason": str(problem), "day": self._only_day})
            else:
                if event is not None:
                    events.append(event)
        return Batch(
            events=self._events_table(events),
            rejected_lines=pa.Table.from_pylist(rejected, schema=REJECTED_LINES),
        )

    def _event(self, line: bytes, *, repair: bool) -> _Event | None:
        """The columns of a line's event; None if it was not asked for, or is not to be loaded."""
        replaced = 0
        if repair:
            line, replaced = replace_lone_surrogates(line)
        try:
            event, payload, identity = _read(line, self._ticks)
            if event == HOT_SHARD_EVENT:
                event = _restored(payload, identity) or event
                if not self._is_wanted(event):
                    return None
            if self._minimisation and event in self._minimisation.denied:
                return None
            is_hidden = self._suppression is not None and self._suppression.hides(payload)
            if is_hidden and self._suppression:
                self.linked |= self._suppression.linked(event, payload)
            distinct_id, insert_id = identity.distinct_id, identity.insert_id
            id_before = identity.id_before_identity or None
            if self._sees_through_identity:
                id_before = id_before or identity.id_before_shuffle or None
            original_id = id_before or distinct_id
            second = identity.time // self._ticks
            if insert_id:
                key = _identity(event, original_id, second, insert_id)
            else:
                key = self._key_of_payload(event, original_id, second, payload)
            if is_hidden:
                # Kept for the audit is that there is one. Renamed ones are counted as others there.
                if b"mp_original_event_name" not in payload:
                    time = identity.time
                    self._hidden[key] = _Event(key, event, None, None, None, time, None, b"", 0)
                return None
            # Last: what an event is known by is read from all of it.
            if self._minimisation:
                payload = self._minimisation.minimised(payload)
        except RecursionError as error:
            raise _NotAnEvent("nested too deeply") from error
        if repair and not self._holds_nul:
            payload, nuls = replace_nul(payload)
            replaced += nuls
            event = event.replace("\0", REPLACEMENT)
            distinct_id = distinct_id and distinct_id.replace("\0", REPLACEMENT)
            id_before = id_before and id_before.replace("\0", REPLACEMENT)
            insert_id = insert_id and insert_id.replace("\0", REPLACEMENT)
        return _Event(
            key,
            event,
            distinct_id,
            id_before,
            insert_id,
            identity.time,
            identity.processed_ms,
            payload,
            replaced,
        )

    def _is_wanted(self, event: str) -> bool:
        """Whether a renamed event is one of those that were asked for."""
        if self._names is None or HOT_SHARD_EVENT in self._names or event in self._names:
            return True
        if event == HOT_SHARD_EVENT:
            raise _NotAnEvent("renamed by Mixpanel, and its own name is missing")
        return False

    def _key_of_payload(
        self, event: str, original_id: str | None, time: int, payload: bytes
    ) -> str:
        """The key of an event without $insert_id.

        It is the whole payload, and the how-manieth of its kind the line is. An answer holds all
        lines of a kind or none, as they have the same day and the same time of processing, so the
        count comes out the same whenever they are read.
        """
        canonical = _canonical(
            payload,
            original_id,
            by_original=self._sees_through_identity,
            second=time if self._ticks > 1 else None,
        )
        whole = _identity(event, original_id, time, canonical)
        occurrence = str(self._occurrences.count(bytes.fromhex(whole)))
        return _hash(f"{len(whole)}:{whole}{len(occurrence)}:{occurrence}")

    def _copy_orders(self, processed_at: pa.Array) -> pa.Array:
        """Orders copies of an event: by processing time, then by position in the answer."""
        first = self._position + 1
        self._position += len(processed_at)
        position = pc.bit_wise_and(
            pa.array(range(first, self._position + 1), pa.int64()), (1 << _POSITION_BITS) - 1
        )
        processed_ms = pc.fill_null(processed_at.cast(pa.int64()), 0)
        return pc.add(pc.shift_left(processed_ms, _POSITION_BITS), position)

    def _events_table(self, events: list[_Event]) -> pa.Table:
        if not events:
            return EVENTS.empty_table()
        times = pa.array(
            [event.time for event in events], pa.timestamp("s" if self._ticks == 1 else "ms")
        )
        occurred_at = instants(times.cast(pa.timestamp("us")), self._timezone)
        processed_at = pa.array(
            [event.processed_ms for event in events], pa.timestamp("ms", tz="UTC")
        )
        return pa.table(
            [
                pa.array([event.event_key for event in events], pa.string()),
                pa.array([event.event for event in events], pa.string()),
                pa.array([event.distinct_id for event in events], pa.string()),
                pa.array([event.id_before_identity for event in events], pa.string()),
                pa.array([event.insert_id for event in events], pa.string()),
                occurred_at,
                processed_at.cast(INSTANT),
                _texts([event.payload for event in events]),
                pa.array([event.replaced_characters for event in events], pa.int64()),
                self._copy_orders(processed_at),
            ],
            schema=EVENTS,
        )


def _read(line: bytes, ticks: int) -> tuple[str, bytes, _Properties]:
    """An event's name, its payload as it stands in the line, and what identifies it.

    Args:
        line: What Mixpanel sent.
        ticks: How many of its unit of time a second has.
    """
    try:
        # msgspec looks into no string that it hands out undecoded.
        if not line.isascii():
            line.decode()
        decoded = _lines.decode(line)
        payload = bytes(decoded.properties)
        try:
            identity = _properties.decode(payload)
        except msgspec.ValidationError:
            identity = _read_unusual(payload)
    except UnicodeDecodeError as error:
        raise _NotAnEvent("not UTF-8") from error
    except msgspec.ValidationError as error:
        raise _NotAnEvent(f"not an event: {error}") from error
    except msgspec.DecodeError as error:
        raise _NotAnEvent(f"not JSON: {error}") from error
    if not 0 <= identity.time // ticks <= _LAST_SECOND:
        unit = "seconds" if ticks == 1 else "milliseconds"
        raise _NotAnEvent(f"time {identity.time} is not a number of {unit} since 1970")
    if ticks > 1 and identity.time < _FIRST_MILLISECOND:
        raise _NotAnEvent(f"time {identity.time} is in seconds, and milliseconds were asked for")
    if identity.processed_ms is not None and not 0 <= identity.processed_ms <= _LAST_PROCESSED_MS:
        identity.processed_ms = None
    return decoded.event, payload, identity


def _read_unusual(payload: bytes) -> _Properties:
    """What identifies an event whose properties are not of the types that Mixpanel documents."""
    tokens = _unusual_properties.decode(payload)
    time = _whole_number(tokens.time)
    if time is None:
        raise _NotAnEvent("not an event: properties.time is not a number")
    return _Properties(
        time=time,
        distinct_id=_text(tokens.distinct_id),
        insert_id=_text(tokens.insert_id),
        id_before_identity=_text(tokens.id_before_identity),
        id_before_shuffle=_text(tokens.id_before_shuffle),
        processed_ms=_whole_number(tokens.processed_ms),
    )


def _restored(payload: bytes, identity: _Properties) -> str | None:
    """The name that a renamed event had, None if it is not told; its id goes into `identity`."""
    original = _hot_shard.decode(payload)
    name = _text(original.event)
    if name is not None:
        identity.distinct_id = _text(original.distinct_id)
    return name


def _texts(utf8: list[bytes]) -> pa.Array:
    """Texts that are known to be UTF-8, which Arrow would check one by one."""
    offsets = array("i", accumulate(map(len, utf8), initial=0))
    return pa.StringArray.from_buffers(
        len(utf8), pa.py_buffer(offsets), pa.py_buffer(b"".join(utf8))
    )


def _whole_number(token: msgspec.Raw) -> int | None:
    try:
        number = float(bytes(token))
    except ValueError:
        return None
    return int(number) if math.isfinite(number) else None


def _text(token: msgspec.Raw) -> str | None:
    """A string's content; of anything else but null the JSON text as it stands in the payload."""
    text = bytes(token)
    if text == b"null":
        return None
    return msgspec.json.decode(text, type=str) if text.startswith(b'"') else text.decode()


def _canonical(
    payload: bytes, original_id: str | None, *, by_original: bool, second: int | None
) -> str:
    """The whole payload, the same for the same properties in whatever order.

    Its time is `second`, where that is given.

    An identity merge rewrites `distinct_id` in later exports, and a hot shard clears it; the
    original takes its place. What else an identity merge adds is left out.
    """

    def verbatim(number: str) -> list[str]:
        return ["number", number]

    properties = json.loads(payload, parse_int=verbatim, parse_float=verbatim)
    if second is not None:
        properties["time"] = verbatim(str(second))
    if properties.pop("mp_original_event_name", None) is not None:
        properties["distinct_id"] = properties.pop("mp_original_distinct_id", None)
    if properties.pop("$distinct_id_before_identity", None) or by_original:
        properties["distinct_id"] = original_id
    if by_original:
        for name in _ADDED_BY_IDENTITY:
            properties.pop(name, None)
    return json.dumps(properties, sort_keys=True, separators=(",", ":"))


def _identity(event: str, original_id: str | None, time: int, what: str) -> str:
    """What makes an event the same event, however often it is exported.

    Mixpanel's own rule is event, distinct_id, time and $insert_id; the original distinct_id stands
    in because an identity merge rewrites the other one. Each part has its length before it, so that
    no two sets of parts are alike.
    https://docs.mixpanel.com/docs/tracking-methods/deduplication
    """
    who = "-" if original_id is None else f"{len(original_id)}:{original_id}"
    when = str(time)
    return _hash(f"{len(event)}:{event}{who}{len(when)}:{when}{len(what)}:{what}")


def _hash(text: str) -> str:
    """128 bits of SHA-256 in hexadecimal."""
    return sha256(text.encode()).hexdigest()[:32]


def _printable(line: bytes) -> str:
    """The line as text that every engine can hold, with `\\x..` for bytes that are none."""
    return line.decode("utf-8", "backslashreplace").replace("\0", r"\x00")
