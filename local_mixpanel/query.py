"""`GET /api/query/events` and its `/names`: what Mixpanel's own reports count.

https://docs.mixpanel.com/reference/list-recent-events and /reference/query-months-top-event-names
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set
from datetime import date, timedelta

from local_mixpanel.answers import Answer, Refused, as_json, text
from local_mixpanel.export import days_of, names_of, refuse_unsupported
from local_mixpanel.stored_events import count_distinct

_ONLY = {"type": "general", "unit": "day"}
_COUNT_PARAMETERS = {"event", "from_date", "to_date", "project_id", *_ONLY}
_NAMES_PARAMETERS = {"limit", "project_id", "type"}
_DEFAULT_LIMIT = "255"
# Names are those of the last 31 days, today included.
_DAYS_OF_NAMES = 31
_NO_QUERY_API = {
    "error": "Your plan does not allow API calls. Upgrade at mixpanel.com/pricing",
    "status": "error",
}


def not_in_plan() -> Answer:
    """The refusal of plans without the Query API."""
    return as_json(402, _NO_QUERY_API)


def parse_count_query(query: Mapping[str, str], today: date) -> tuple[date, date, frozenset[str]]:
    """The days, both inclusive, and the event names to count.

    Raises:
        Refused: With 400 and the reason.
    """
    _check(query, _COUNT_PARAMETERS)
    from_date, to_date = days_of(query, today)
    names = names_of(query.get("event"))
    if names is None:
        raise Refused(text(400, "event is a required parameter"))
    return from_date, to_date, names


def parse_names_query(query: Mapping[str, str], today: date) -> tuple[date, date, int]:
    """The days, both inclusive, whose most common event names are asked for, and how many.

    Raises:
        Refused: With 400 and the reason.
    """
    _check(query, _NAMES_PARAMETERS)
    limit = query.get("limit", _DEFAULT_LIMIT)
    # Longer numbers are more than there can be names, and at some length none to Python.
    if not re.fullmatch(r"0*[1-9]\d{0,8}", limit, re.ASCII):
        raise Refused(text(400, "limit has to be a positive number"))
    return today - timedelta(days=_DAYS_OF_NAMES - 1), today, int(limit)


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


def names_answer(limit: int, lines: Iterable[tuple[date, bytes]]) -> Answer:
    """The names of at most `limit` events, the most common first."""
    totals = Counter[str]()
    for (name, _), number in count_distinct(lines).items():
        totals[name] += number
    return as_json(200, [name for name, _ in totals.most_common(limit)])


def _check(query: Mapping[str, str], supported: Set[str]) -> None:
    refuse_unsupported(query, supported)
    for name in sorted(_ONLY.keys() & supported):
        if query.get(name) != _ONLY[name]:
            raise Refused(text(400, f"the local Mixpanel supports only {name}={_ONLY[name]}"))
