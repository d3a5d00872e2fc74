"""What product people ask of days, weeks and sessions, compared with counting by hand."""

import random
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW
from tests.warehouses import rows

DAYS = 100
TODAY = NOW.date()
# What events say of where a visit came from, mostly nothing.
VISITS: list[dict[str, Any]] = [
    *12 * [{}],
    {"utm_source": "mail", "utm_medium": "email", "utm_campaign": "spring"},
    {"utm_campaign": "undefined", "utm_term": ""},
    {"utm_content": "<null>", "note": '"utm_source"'},
    {"utm_term": 7},
    {"$referring_domain": "example.com", "utm_content": "it's"},
    {"$referring_domain": "$direct"},
]
PEOPLE = ["ada", "bob", "eve", "zoe", "kim", "$device:1", "$device:2"]


def happened(choose, day, who, name="$ae_session"):
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(
        minutes=choose.choice([0, 1, 5, 29, 30, 31, 60, 1439]), seconds=choose.randrange(60)
    )
    properties = {"time": int(moment.timestamp()), "distinct_id": who}
    return {"event": name, "properties": properties | choose.choice(VISITS)}


def traffic(choose):
    """Days of the last hundred, of which each person has their own share."""
    for who in PEOPLE:
        share = choose.choice([0.02, 0.1, 0.5])
        for ago in range(DAYS):
            if choose.random() < share:
                for _ in range(choose.randrange(1, 5)):
                    yield happened(choose, TODAY - timedelta(days=ago), who)


def at_the_edges():
    """Somebody who is away for as long as a window is, and for a day longer; gaps of a session."""
    for ago in (0, 7, 15, 43, 72):
        for second in (0, 1800, 3599, 86_399):
            day = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC) - timedelta(days=ago)
            moment = int(day.timestamp()) + second
            yield {"event": "$ae_session", "properties": {"time": moment, "distinct_id": "tim"}}


def moments(sent, persons):
    """The seconds of each person's events, by whoever the ids are."""
    found = defaultdict(list)
    for event in sent:
        who = event["properties"]["distinct_id"]
        found[persons.get(who, who)].append(event["properties"]["time"])
    return found


def day_of(second: int) -> date:
    return datetime.fromtimestamp(second, UTC).date()


def activity(days_of):
    """`daily_activity`, by asking each day of each person."""
    first = min(min(days) for days in days_of.values())
    for day in (first + timedelta(days=n) for n in range((TODAY - first).days + 1)):
        within = {
            length: sum(
                any(0 <= (day - one).days < length for one in days) for days in days_of.values()
            )
            for length in (7, 28)
        }
        kinds = Counter[str]()
        for days in days_of.values():
            earlier = [(day - one).days for one in days if one < day]
            if day in days:
                kinds["active"] += 1
                kinds[
                    "new" if not earlier else "returning" if min(earlier) <= 28 else "resurrected"
                ] += 1
            elif earlier and min(earlier) == 28:
                kinds["churned"] += 1
        told = [kinds[kind] for kind in ("active", "new", "returning", "resurrected", "churned")]
        yield (day, *told, within[7], within[28])


def windows(seconds):
    for who, moments in seconds.items():
        for length in (7, 30, 45):
            inside = [one for one in moments if (TODAY - day_of(one)).days < length]
            if inside:
                first = TODAY - timedelta(days=length - 1)
                days = len({day_of(one) for one in inside})
                yield (who, length, first, TODAY, len(inside), len(inside), days)


def retention(days_of):
    weeks = {
        who: {day - timedelta(days=day.weekday()) for day in days} for who, days in days_of.items()
    }
    counted = Counter[tuple[date, int]]()
    for those in weeks.values():
        counted.update((min(those), (week - min(those)).days // 7) for week in those)
    for (cohort, later), retained in counted.items():
        is_over = cohort + timedelta(days=7 * later + 7) <= TODAY
        yield (cohort, later, counted[cohort, 0], retained, is_over)


def sessions(seconds):
    for who, moments in seconds.items():
        by_day = defaultdict(list)
        for one in sorted(moments):
            by_day[day_of(one)].append(one)
        for day, those in by_day.items():
            starts = [0, *(n for n, (a, b) in enumerate(pairwise(those), 1) if b - a >= 1800)]
            for number, (start, end) in enumerate(pairwise([*starts, len(those)]), 1):
                session = those[start:end]
                yield (who, day, number, session[0], session[-1] - session[0], len(session))


def events_of_days(sent, persons):
    people, number = defaultdict(set), Counter[tuple[date, str]]()
    first: dict[tuple[str, str], date] = {}
    for event in sorted(sent, key=lambda event: event["properties"]["time"]):
        name, day = event["event"], day_of(event["properties"]["time"])
        who = event["properties"]["distinct_id"]
        who = persons.get(who, who)
        first.setdefault((name, who), day)
        number[day, name] += 1
        people[day, name].add(who)
    for (day, name), those in people.items():
        new = sum(first[name, who] == day for who in those)
        yield (day, name, number[day, name], len(those), new)


def touches(sent, persons):
    """All of each person, by their seconds."""
    found = defaultdict[str, dict[int, list[tuple[Any, ...]]]](lambda: defaultdict(list))
    for event in sent:
        properties = event["properties"]
        said = [
            value if isinstance(value := properties.get(name), str) else None
            for name in (
                *("utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term"),
                "$referring_domain",
            )
        ]
        said = [None if value in ("undefined", "<null>") else value for value in said]
        if any(said[:-1]) or said[-1] not in (None, "$direct"):
            who = properties["distinct_id"]
            found[persons.get(who, who)][properties["time"]].append((event["event"], *said))
    return found


def check(warehouse, sent, persons, *, untracked=()):
    seconds = moments(sent, persons)
    days_of = {who: {day_of(one) for one in those} for who, those in seconds.items()}

    def stored(columns, table):
        return sorted(rows(warehouse, f"select {columns} from mixpanel.{table}"))

    assert stored("*", "daily_activity") == sorted(activity(days_of))
    columns = "subscriber_id, window_days, from_date, to_date, app_sessions"
    columns += ", events_processed, active_days"
    assert stored(columns, "subscriber_windows") == sorted(windows(seconds))
    everything = [*sent, *untracked]
    assert stored("*", "daily_events") == sorted(events_of_days(everything, persons))
    assert stored("*", "retention_weekly") == sorted(retention(days_of))
    columns = "subscriber_id, event_date, session_number"
    columns += ", cast(extract(epoch from started_at) as bigint)"
    columns += ", cast(duration_seconds as bigint), events"
    # Whatever is loaded is of a session.
    assert stored(columns, "sessions") == sorted(sessions(moments(everything, persons)))
    columns = "subscriber_id, cast(extract(epoch from touched_at) as bigint), event, utm_source"
    columns += ", utm_medium, utm_campaign, utm_content, utm_term, referring_domain"
    touched = touches(everything, persons)
    assert touched
    for table, choose in (("first_touch", min), ("last_touch", max)):
        found = {
            row[0]: row[1:] for row in rows(warehouse, f"select {columns} from mixpanel.{table}")
        }
        assert found.keys() == touched.keys()
        for who, (second, *said) in found.items():
            assert second == choose(touched[who])
            assert tuple(said) in touched[who][second]


@pytest.mark.usefixtures("as_of_now")
def test_days_weeks_and_sessions_are_those_of_the_events(mixpanel, warehouse, run_sync):
    choose = random.Random(1)
    sent = [*traffic(choose), *at_the_edges()]
    mixpanel.add(sent)
    assert run_sync().error is None
    check(warehouse, sent, {})
    # Late ones, and who two of the ids are.
    late = [happened(choose, TODAY - timedelta(days=ago), "bob") for ago in (1, 3, 29, 60)]
    identified = happened(choose, TODAY, "ada", "$identify")
    identified["properties"] |= {"$identified_id": "ada", "$anon_distinct_id": "$device:1"}
    mixpanel.add([*late, identified])
    assert run_sync(backfill=Window(TODAY - timedelta(days=60), TODAY)).error is None
    sent += late
    check(warehouse, sent, {"$device:1": "ada"}, untracked=[identified])
    remove_events(warehouse, "subscriber_id = 'bob'")
    left = [event for event in sent if event["properties"]["distinct_id"] != "bob"]
    check(warehouse, left, {"$device:1": "ada"}, untracked=[identified])


FUNNELS = [
    (["A", "B", "C"], 1.0),
    (["A", "A"], 0.02),
    (["B", "A", "B"], 3.0),
]


def converted(events, steps, seconds):
    """Whether some events of `events`, pairs of second and name, make the way in time."""

    def goes_on(place, second, left, first):
        if not left:
            return True
        return any(
            name == left[0] and later - first <= seconds and goes_on(n + 1, later, left[1:], first)
            for n, (later, name) in enumerate(events[place:], place)
        )

    return any(
        name == steps[0] and goes_on(n + 1, second, steps[1:], second)
        for n, (second, name) in enumerate(events)
    )


@pytest.mark.usefixtures("as_of_now")
def test_a_funnel_counts_whoever_made_the_way_in_time(
    mixpanel, warehouse, run_sync, dbt_project, monkeypatch
):
    choose = random.Random(2)
    # Seconds of their own: what happened within one has no order.
    seconds = iter(choose.sample(range(4 * 86_400), 200))
    start = int(NOW.timestamp()) - 5 * 86_400
    sent = [
        {"event": name, "properties": {"time": start + next(seconds), "distinct_id": who}}
        for who in PEOPLE
        for name in choose.choices("ABC", k=choose.randrange(2, 12))
    ]
    mixpanel.add(sent)
    for number, (steps, days) in enumerate(FUNNELS):
        query = "{{ mixpanel.funnel(" + f"{steps}, within_days={days}" + ") }}"
        path = dbt_project / "models" / "marts" / f"funnel_{number}.sql"
        path.write_text(f"select * from ({query}) as steps", encoding="utf-8")
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    assert run_sync().error is None
    by_person = defaultdict(list)
    for one in sent:
        properties: Any = one["properties"]
        by_person[properties["distinct_id"]].append((properties["time"], one["event"]))
    for number, (steps, days) in enumerate(FUNNELS):
        expected = [
            (
                length,
                steps[length - 1],
                sum(
                    converted(sorted(events), steps[:length], days * 86_400)
                    for events in by_person.values()
                ),
            )
            for length in range(1, len(steps) + 1)
        ]
        found = rows(warehouse, f"select * from mixpanel.funnel_{number} order by step")
        assert found == expected
