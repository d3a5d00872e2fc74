"""Events in memory, by UTC day, in the order in which they arrived."""

import json
import sys
import threading
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import Any

_DAY_MS = 86_400_000
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
# Encoding happens outside the lock, so an endless generator never blocks a request.
_BATCH = 1_000
# The year 10000: no day from then on has a date to ask for.
_END_OF_DATES = 253_402_300_800
# Marks a line that was added as bytes: it has no time that we know of.
_UNKNOWN = -1

_Encode = Callable[[Any], str]
_encode_utf8: _Encode = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode
_encode_ascii: _Encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass
class _Day:
    """Parallel lists that only ever grow, so a prefix of them is a snapshot."""

    lines: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    times_ms: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass(frozen=True)
class Selection:
    """What one export delivers, as the store held it at one instant."""

    version: int
    """Equal versions of a store mean equal contents."""
    _days: list[tuple[_Day, int]]
    _events: Collection[str] | None
    _time_in_ms: bool

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, without line ends, in order of arrival within each day."""
        for day, count in self._days:
            rows = zip(day.lines, day.names, day.times_ms, strict=False)
            for line, name, time_ms in islice(rows, count):
                if self._events is None or name in self._events:
                    yield _in_milliseconds(line, time_ms) if self._time_in_ms else line


class EventStore:
    """Safe to add to while exports read."""

    def __init__(self) -> None:
        self._days: dict[int, _Day] = {}
        self._version = 0
        self._lock = threading.Lock()

    def add(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Append `{"event": str, "properties": {"time": seconds, …}}` each; return how many.

        `time` is cut to whole seconds in a line, as the export does, and moved to the front.

        Raises:
            ValueError: An event has no name or no time, or holds a NaN or an infinity.
        """
        count = 0
        encoded = map(_encode, events)
        while batch := list(islice(encoded, _BATCH)):
            with self._lock:
                for ordinal, line, name, time_ms in batch:
                    self._append(ordinal, line, name, time_ms)
                self._version += 1
            count += len(batch)
        return count

    def add_lines(self, day: date, lines: Iterable[bytes], event: str | None) -> None:
        """Append `lines` as they are to a UTC day.

        Args:
            day: The day whose exports deliver them.
            lines: Any bytes, without the line end.
            event: The name by which the export's `event` filter knows them; None for no name.
        """
        batch = list(lines)
        with self._lock:
            for line in batch:
                self._append(day.toordinal(), line, event, _UNKNOWN)
            self._version += 1

    def select(
        self,
        from_date: date,
        to_date: date,
        events: Collection[str] | None,
        time_in_ms: bool,
    ) -> Selection:
        """The events of UTC days, both inclusive, with these names (None for all)."""
        with self._lock:
            days = [
                (self._days[ordinal], len(self._days[ordinal].lines))
                for ordinal in sorted(self._days)
                if from_date.toordinal() <= ordinal <= to_date.toordinal()
            ]
            return Selection(self._version, days, events, time_in_ms)

    def _append(self, ordinal: int, line: bytes, name: str | None, time_ms: int) -> None:
        day = self._days.setdefault(ordinal, _Day())
        day.lines.append(line)
        day.names.append(name)
        day.times_ms.append(time_ms)


def _encode(event: Mapping[str, Any]) -> tuple[int, bytes, str, int]:
    name, given = event.get("event"), event.get("properties")
    if not isinstance(name, str) or not isinstance(given, Mapping):
        raise ValueError(f"not an event: {event!r}")
    time = given.get("time")
    if isinstance(time, bool) or not isinstance(time, int | float):
        raise ValueError(f"an event needs a time in seconds: {event!r}")
    # False for NaN, too.
    if not abs(time) < _END_OF_DATES:
        raise ValueError(f"time is not in seconds since 1970: {event!r}")
    time_ms = round(time * 1000)
    properties = {"time": 0, **given}
    properties["time"] = time_ms // 1000
    whole = {**event, "properties": properties}
    try:
        line = _encode_utf8(whole).encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8: only its escape can be sent.
        line = _encode_ascii(whole).encode()
    return _EPOCH_ORDINAL + time_ms // _DAY_MS, line, sys.intern(name), time_ms


def _in_milliseconds(line: bytes, time_ms: int) -> bytes:
    if time_ms == _UNKNOWN:
        return line
    start = b'"properties":{"time":'
    return line.replace(b"%b%d" % (start, time_ms // 1000), b"%b%d" % (start, time_ms), 1)
