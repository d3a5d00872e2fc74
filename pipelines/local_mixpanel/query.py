"""`GET /api/query/events`: what Mixpanel's own reports count.

https://docs.mixpanel.com/reference/list-recent-events
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from local_mixpanel.answers import Answer, Refused, as_json, text
from local_mixpanel.export import day_of, names_of

_SUPPORTED = {"type": "general", "unit": "day"}
_NO_QUERY_API = {
    "error": "Your plan does not allow API calls. Upgrade at mixpanel.com/pricing",
    "status": "error",
}


def not_in_plan() -> Answer:
    """The refusal of plans without the Query API."""
    return as_json(402, _NO_QUERY_API)


def parse_count_query(query: Mapping[str, str]) -> tuple[date, date, frozenset[str]]:
    """The days, both inclusive, and the event names to count.

    Raises:
        Refused: With 400 and the reason.
    """
    for name, value in _SUPPORTED.items():
        if query.get(name) != value:
            raise Refused(text(400, f"the local Mixpanel supports only {name}={value}"))
    from_date, to_date = day_of(query, "from_date"), day_of(query, "to_date")
    if from_date > to_date:
        raise Refused(text(400, "to_date cannot be earlier than from_date"))
    names = names_of(query.get("event"))
    if names is None:
        raise Refused(text(400, "event is a required parameter"))
    return from_date, to_date, names


def counts_answer(
    from_date: date, to_date: date, names: Collection[str], lines: Iterable[tuple[date, bytes]]
) -> Answer:
    """The numbers of distinct events by name and day, 0 for none."""
    days = [
        str(from_date + timedelta(days=number)) for number in range((to_date - from_date).days + 1)
    ]
    counts = {name: dict.fromkeys(days, 0) for name in sorted(names)}
    for (name, day), number in count_distinct(lines).items():
        if name in counts:
            counts[name][str(day)] = number
    data = {"series": days, "values": counts}
    return as_json(200, {"data": data, "legend_size": len(counts)})


def names_answer(query: Mapping[str, str], lines: Iterable[tuple[date, bytes]]) -> Answer:
    """The names of events, the most common first."""
    totals = Counter[str]()
    for (name, _), number in count_distinct(lines).items():
        totals[name] += number
    limit = int(query.get("limit", "255"))
    return as_json(200, [name for name, _ in totals.most_common(limit)])


def count_distinct(lines: Iterable[tuple[date, bytes]]) -> Counter[tuple[str, date]]:
    """How many events there are by name and day, copies counted once.

    Copies have the same event, distinct_id, time and $insert_id; what has none is no copy.
    https://docs.mixpanel.com/docs/tracking-methods/deduplication
    """
    seen = set()
    counts = Counter[tuple[str, date]]()
    for day, line in lines:
        event = read_event(line)
        if event is None:
            continue
        properties = event["properties"]
        if properties.get("$insert_id"):
            # As text: an id may be of any type of JSON.
            identity = json.dumps(
                [event["event"], *map(properties.get, ("distinct_id", "time", "$insert_id"))]
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
        event = read_event(line)
        if event is None or not event["properties"].get("$insert_id"):
            continue
        identity = json.dumps(
            [event["event"], *map(event["properties"].get, ("distinct_id", "$insert_id"))]
        )
        if identity in last:
            older.append(last[identity])
        last[identity] = place
    return older


def read_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line; None for any other line."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("properties"), dict):
        return None
    if not isinstance(event.get("event"), str) or "time" not in event["properties"]:
        return None
    return event
