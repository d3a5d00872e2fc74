"""Events in memory, by UTC day, in the order in which they arrived."""

import json
import math
import sys
import threading
from array import array
from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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

Matches = Callable[[bytes], bool]
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
    visible_from: "array[float]" = field(default_factory=lambda: array("d"))


@dataclass(frozen=True)
class Selection:
    """What one export delivers, as the store held it at one instant."""

    version: int
    """Equal versions of a store mean equal contents."""
    _days: list[tuple[date, _Day, int]]
    _events: Collection[str] | None
    _time_in_ms: bool
    _now: float
    _matches: Matches | None

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, without line ends, in order of arrival within each day."""
        for _, line in self.lines_by_day():
            yield line

    def lines_by_day(self) -> Iterator[tuple[date, bytes]]:
        """The same, each with its day."""
        for date_of_day, day, count in self._days:
            rows = zip(day.lines, day.names, day.times_ms, day.visible_from, strict=False)
            for line, name, time_ms, visible_from in islice(rows, count):
                if self._events is not None and name not in self._events:
                    continue
                if visible_from > self._now or (self._matches and not self._matches(line)):
                    continue
                yield date_of_day, _in_milliseconds(line, time_ms) if self._time_in_ms else line


class EventStore:
    """Safe to add to while exports read."""

    def __init__(self) -> None:
        self._days: dict[int, _Day] = {}
        self._version = 0
        self._becoming_visible: list[float] = []
        self._visible = 0
        self._lock = threading.Lock()

    def add(self, events: Iterable[Mapping[str, Any]], visible_from: float = 0.0) -> int:
        """Append `{"event": str, "properties": {"time": seconds, …}}` each; return how many.

        `time` is cut to whole seconds in a line, as the export does, and moved to the front. Until
        `visible_from`, in seconds since 1970 UTC, selections are without them.

        Raises:
            ValueError: An event has no name or no time, or holds a NaN or an infinity.
        """
        if visible_from:
            # First of all: no selection may take hidden events for visible ones of its version.
            with self._lock:
                insort(self._becoming_visible, visible_from)
        count = 0
        encoded = map(_encode, events)
        while batch := list(islice(encoded, _BATCH)):
            with self._lock:
                for ordinal, line, name, time_ms in batch:
                    self._append(ordinal, line, name, time_ms, visible_from)
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
        now: float = math.inf,
        matches: Matches | None = None,
    ) -> Selection:
        """The lines of UTC days, both inclusive, with these names (None for all).

        Args:
            from_date: The first day.
            to_date: The last day.
            events: The names.
            time_in_ms: Whether times are in milliseconds.
            now: What is visible only later is left out; in seconds since 1970 UTC.
            matches: Tells of a line whether it is selected.
        """
        with self._lock:
            days = [
                (date.fromordinal(ordinal), self._days[ordinal], len(self._days[ordinal].lines))
                for ordinal in sorted(self._days)
                if from_date.toordinal() <= ordinal <= to_date.toordinal()
            ]
            # Events that become visible change what there is as much as those that are added.
            visible = bisect_right(self._becoming_visible, now)
            if visible != self._visible:
                self._visible = visible
                self._version += 1
            return Selection(self._version, days, events, time_in_ms, now, matches)

    def remove(
        self, choose: Callable[[Sequence[bytes]], Collection[int]], now: float = math.inf
    ) -> int:
        """Remove lines for good and return how many.

        Args:
            choose: Given lines of a day, returns the positions of those that go.
            now: What is visible only later stays, unseen; in seconds since 1970 UTC.
        """
        removed = 0
        with self._lock:
            for ordinal, day in self._days.items():
                seen = [place for place, since in enumerate(day.visible_from) if since <= now]
                chosen = choose([day.lines[place] for place in seen])
                going = {seen[position] for position in chosen}
                staying = [place for place in range(len(day.lines)) if place not in going]
                # A new object: selections go on to read the old one.
                self._days[ordinal] = _Day(
                    [day.lines[place] for place in staying],
                    [day.names[place] for place in staying],
                    array("q", (day.times_ms[place] for place in staying)),
                    array("d", (day.visible_from[place] for place in staying)),
                )
                removed += len(going)
            self._version += 1
        return removed

    def _append(
        self,
        ordinal: int,
        line: bytes,
        name: str | None,
        time_ms: int,
        visible_from: float = 0.0,
    ) -> None:
        day = self._days.setdefault(ordinal, _Day())
        day.lines.append(line)
        day.names.append(name)
        day.times_ms.append(time_ms)
        day.visible_from.append(visible_from)


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
