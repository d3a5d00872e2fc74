"""Believable traffic of the app, as the export would deliver it."""

import heapq
from collections.abc import Iterator
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from itertools import accumulate
from random import Random
from typing import Any

from local_mixpanel.app_catalogue import PATHS, PROFILES, SESSION_HOURS, Properties, Step

Event = dict[str, Any]

_DAY = 86_400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
# Mixpanel's SDKs hold events back for up to five days; it calls two hours late.
_LATE_MS = (2 * 3_600_000, 5 * _DAY * 1000)
# SDKs send what they gathered about once a minute.
_FLUSH_MS = 60_000
_EVENTS_PER_SUBSCRIBER = 60
# The app grows by a third over the period.
_GROWTH = 1 / 3
_WEEKDAYS = (1.0, 1.02, 1.05, 1.03, 0.95, 0.6, 0.55)
_NEEDED = {"creatorType"}
# Shares of the events.
_LATE, _TWICE, _ODD = 0.01, 0.005, 0.006
# Share of the sessions that begin with a login, and of the repeated events that differ.
_SIGNS_IN, _REPEATED_OTHERWISE = 0.03, 0.3
_REPEATED_MS = (1_000, 36 * 3_600_000)


def traffic(
    seed: int,
    end: date | datetime,
    *,
    days: int = 45,
    events: int = 95_000,
    subscribers: int | None = None,
    is_small: bool = False,
) -> Iterator[Event]:
    """Yield exactly `events` exported events, about in the order in which they arrived.

    Besides sessions it holds what Mixpanel's exports are known to hold: 1 % of the events
    arrive late, by up to 5 days; 0.5 % come twice with the same `$insert_id`, sometimes with
    another property; a few have no `$insert_id`, an empty `distinct_id`, or a
    `$distinct_id_before_identity`. Nothing happens or arrives after `end`.

    Args:
        seed: Equal arguments yield equal events.
        end: The last instant, or the last day, whole, in UTC.
        days: How many calendar days, that of `end` included.
        events: How many events, duplicates included.
        subscribers: How many may be active; one for every 60 events by default.
        is_small: Leave out the properties that neither a metric nor identity needs.

    Raises:
        ValueError: `end` has no time zone, or a number is below 1.
    """
    if subscribers is None:
        subscribers = max(1, events // _EVENTS_PER_SUBSCRIBER)
    if min(days, events, subscribers) < 1:
        raise ValueError("days, events and subscribers have to be at least 1")
    return _Traffic(seed, _last_second(end), days, subscribers, is_small).events(events)


def _last_second(end: date | datetime) -> int:
    if not isinstance(end, datetime):
        end = datetime.combine(end, time_of_day(23, 59, 59), UTC)
    if end.tzinfo is None:
        raise ValueError("end needs a time zone")
    return int(end.timestamp())


class _Traffic:
    def __init__(self, seed: int, end: int, days: int, subscribers: int, is_small: bool) -> None:
        self._random = Random(seed)
        self._end = end
        self._end_ms = end * 1000
        self._first_day = end // _DAY - days + 1
        self._days = days
        self._subscribers = subscribers
        self._is_small = is_small
        self._paths = [tuple(map(_only_needed, path)) for path in PATHS] if is_small else PATHS
        self._held: list[tuple[int, int, Event]] = []
        self._held_ever = 0

    def events(self, total: int) -> Iterator[Event]:
        days = range(self._first_day, self._first_day + self._days)
        ends = list(accumulate(map(self._weight, days)))
        done = 0
        for day, weight in zip(days, ends, strict=True):
            until = round(total * weight / ends[-1])
            yield from self._happened_on(day, until - done)
            yield from self._arrived_before((day + 1) * _DAY * 1000)
            done = until

    def _weight(self, day: int) -> float:
        weekday = _WEEKDAYS[date.fromordinal(_EPOCH_ORDINAL + day).weekday()]
        growth = 1 + _GROWTH * (day - self._first_day) / self._days
        elapsed = min(1.0, (self._end + 1 - day * _DAY) / _DAY)
        return weekday * growth * elapsed

    def _happened_on(self, day: int, quota: int) -> Iterator[Event]:
        while quota > 0:
            held = self._held_ever
            arrived = self._session(day, quota)
            quota -= len(arrived) + self._held_ever - held
            yield from arrived

    def _arrived_before(self, instant_ms: int) -> Iterator[Event]:
        while self._held and self._held[0][0] < instant_ms:
            yield heapq.heappop(self._held)[2]

    def _session(self, day: int, quota: int) -> list[Event]:
        """At most `quota` events of one session, without those that arrive later."""
        random = self._random.random
        # The square makes some subscribers much more active than others.
        subscriber = int(self._subscribers * random() ** 2)
        user, device = ids_of(subscriber)
        profile, utc_offset = PROFILES[subscriber * 7919 % len(PROFILES)]
        shared: Properties = {"$device_id": device, "$user_id": user, "$wifi": random() < 0.7}
        shared = {"$device_id": device, "$user_id": user} if self._is_small else shared | profile

        last = min((day + 1) * _DAY - 1, self._end)
        time = started = self._start(day, utc_offset, last)
        arrived: list[Event] = []
        for name, own in self._steps(user, device):
            if time > last or quota <= 0:
                break
            if name == "$ae_session" and not self._is_small:
                own = {"$ae_session_length": time - started}
            event = self._event(name, time, user, shared, own)
            chance = random()
            if chance < _LATE:
                self._delay(event)
            else:
                arrived.append(event)
                if chance < _LATE + _TWICE:
                    if quota > 1 and self._repeat(event):
                        quota -= 1
                elif chance < _LATE + _TWICE + _ODD:
                    self._make_odd(event["properties"], user, device)
            quota -= 1
            time += 2 + int(random() * 40)
        return arrived

    def _event(self, name: str, time: int, user: str, shared: Properties, own: Properties) -> Event:
        random = self._random.random
        time_ms = time * 1000
        received = time_ms + int(random() * min(_FLUSH_MS, self._end_ms - time_ms))
        return {
            "event": name,
            "properties": {
                "time": time,
                "distinct_id": user,
                "$insert_id": f"{self._random.getrandbits(128):032x}",
                **shared,
                **own,
                "$mp_api_timestamp_ms": received,
                "mp_processing_time_ms": min(received + int(random() * 5_000), self._end_ms),
            },
        }

    def _start(self, day: int, utc_offset: int, last: int) -> int:
        hour = SESSION_HOURS[int(self._random.random() * len(SESSION_HOURS))] - utc_offset
        start = day * _DAY + hour % 24 * 3600 + int(self._random.random() * 3600)
        if start > last:
            start = day * _DAY + int(self._random.random() * (last + 1 - day * _DAY))
        return start

    def _steps(self, user: str, device: str) -> list[Step]:
        random, paths = self._random.random, self._paths
        steps: list[Step] = [("App Opened", {})]
        if random() < _SIGNS_IN:
            steps.append(("$identify", {"$identified_id": user, "$anon_distinct_id": device}))
        for _ in range(1 + int(random() * 4)):
            steps += paths[int(random() * len(paths))]
        steps.append(("$ae_session", {}))
        return steps

    def _delay(self, event: Event) -> None:
        properties = event["properties"]
        delay = self._random.uniform(*_LATE_MS)
        received = properties["$mp_api_timestamp_ms"]
        if received + delay > self._end_ms:
            delay = self._random.random() * (self._end_ms - received)
        properties["$mp_api_timestamp_ms"] = received + int(delay)
        properties["mp_processing_time_ms"] = min(received + int(delay) + 1_000, self._end_ms)
        self._hold(event)

    def _repeat(self, event: Event) -> bool:
        """Send the event again a little later; False when `end` comes first."""
        properties = dict(event["properties"])
        processed = properties["mp_processing_time_ms"] + self._random.randint(*_REPEATED_MS)
        if processed > self._end_ms:
            return False
        properties["$mp_api_timestamp_ms"] = processed - 1_000
        properties["mp_processing_time_ms"] = processed
        if self._random.random() < _REPEATED_OTHERWISE:
            properties["$wifi"] = not properties.get("$wifi", False)
        self._hold({"event": event["event"], "properties": properties})
        return True

    def _hold(self, event: Event) -> None:
        arrival = event["properties"]["mp_processing_time_ms"]
        # The number keeps the heap from comparing events.
        heapq.heappush(self._held, (arrival, self._held_ever, event))
        self._held_ever += 1

    def _make_odd(self, properties: Properties, user: str, device: str) -> None:
        match int(self._random.random() * 4):
            case 0:
                del properties["$insert_id"]
            case 1:
                properties["distinct_id"] = ""
                properties |= {"$device_id": device, "$user_id": user}
            case 2:
                properties["distinct_id"] = ""
                properties["$device_id"] = device
                properties.pop("$user_id", None)
            case _:
                properties["$distinct_id_before_identity"] = f"$device:{device}"


def ids_of(subscriber: int) -> tuple[str, str]:
    """The `$user_id` and the `$device_id` of one of the made-up subscribers, by number from 0."""
    # Odd, so that no two subscribers below 2^32 share an id.
    scattered = subscriber * 2_654_435_761 % 2**32
    return f"u{scattered:08x}", f"{scattered:08X}-5A1C-4E0B-9D3F-{subscriber:012X}"


def _only_needed(step: Step) -> Step:
    name, properties = step
    return name, {key: value for key, value in properties.items() if key in _NEEDED}
