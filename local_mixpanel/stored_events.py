"""What stored lines are to Mixpanel: events, of people, and copies of one another."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import date
from typing import Any


def count_distinct(lines: Iterable[tuple[date, bytes]]) -> Counter[tuple[str, date]]:
    """How many events there are by name and day, copies counted once.

    Copies have the same event, distinct_id, time and $insert_id; what has none is no copy. An
    event that an identity merge gave another distinct_id is the event that it was.
    https://docs.mixpanel.com/docs/tracking-methods/deduplication
    """
    seen = set()
    counts = Counter[tuple[str, date]]()
    for day, line in lines:
        event = _read_event(line)
        if event is None:
            continue
        properties = event["properties"]
        if properties.get("$insert_id"):
            # As text: an id may be of any type of JSON.
            identity = json.dumps(
                [event["event"], _who(properties), properties["time"], properties["$insert_id"]]
            )
            if identity in seen:
                continue
            seen.add(identity)
        counts[event["event"], day] += 1
    return counts


def older_copies(lines: Sequence[bytes]) -> list[int]:
    """The positions of a day's lines of which a later copy follows: same event, person and id."""
    last: dict[str, int] = {}
    older = []
    for place, line in enumerate(lines):
        event = _read_event(line)
        if event is None or not event["properties"].get("$insert_id"):
            continue
        identity = json.dumps(
            [event["event"], _who(event["properties"]), event["properties"]["$insert_id"]]
        )
        if identity in last:
            older.append(last[identity])
        last[identity] = place
    return older


def events_of(lines: Sequence[bytes], distinct_ids: Set[str]) -> list[int]:
    """The positions of the lines that are events of these people."""
    return [
        place
        for place, event in enumerate(map(_read_event, lines))
        if event and _is_one_of(event["properties"].get("distinct_id"), distinct_ids)
    ]


def _who(properties: Mapping[str, Any]) -> Any:
    return properties.get("$distinct_id_before_identity") or properties.get("distinct_id")


def _is_one_of(distinct_id: Any, distinct_ids: Set[str]) -> bool:
    return isinstance(distinct_id, str) and distinct_id in distinct_ids


def _read_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line; None for any other line."""
    try:
        event = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("properties"), dict):
        return None
    if not isinstance(event.get("event"), str) or "time" not in event["properties"]:
        return None
    return event
