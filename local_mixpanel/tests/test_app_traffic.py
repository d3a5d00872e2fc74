import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from local_mixpanel import traffic

Event = dict[str, Any]

END = datetime(2026, 3, 10, 14, 30, tzinfo=UTC)
END_SECONDS = int(END.timestamp())
COUNT = 40_000
METRIC_EVENTS = {
    "$ae_session",
    "Viewed Portfolio Details",
    "Viewed Creator Profile",
    "Viewed Creator Paywall",
    "Viewed Stripe Modal",
    "Tapped Creator Card",
    "Tapped Portfolio Card",
    "DubAutoCopyInitiated",
    "AchTransferInitiated",
    "SubscriptionCreated",
    "BankAccountLinked",
}


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return list(traffic(7, END, events=COUNT))


def share(events: list[Event], condition: Callable[[dict[str, Any]], bool]) -> float:
    return sum(condition(event["properties"]) for event in events) / len(events)


def by_insert_id(events: list[Event]) -> dict[str, list[Event]]:
    groups = defaultdict(list)
    for event in events:
        if "$insert_id" in event["properties"]:
            groups[event["properties"]["$insert_id"]].append(event)
    return groups


def test_equal_seeds_yield_equal_events_and_others_do_not(events: list[Event]) -> None:
    assert list(traffic(7, END, events=COUNT)) == events
    assert list(traffic(8, END, events=COUNT)) != events


@pytest.mark.parametrize("count", [1, 2, 7, 1_000, 1_001])
@pytest.mark.parametrize("days", [1, 3, 45])
def test_there_are_exactly_as_many_as_asked_for(count: int, days: int) -> None:
    assert sum(1 for _ in traffic(3, END, days=days, events=count)) == count


def test_repeated_events_fit_into_the_smallest_days() -> None:
    counts = {sum(1 for _ in traffic(seed, END, days=45, events=45)) for seed in range(60)}

    assert counts == {45}


def test_nothing_happens_or_arrives_after_the_end(events: list[Event]) -> None:
    assert max(event["properties"]["time"] for event in events) <= END_SECONDS
    arrivals = [event["properties"]["mp_processing_time_ms"] for event in events]
    assert max(arrivals) <= END_SECONDS * 1000


def test_every_event_arrives_after_it_happened(events: list[Event]) -> None:
    for event in events:
        p = event["properties"]
        assert p["time"] * 1000 <= p["$mp_api_timestamp_ms"] <= p["mp_processing_time_ms"]


def test_all_days_have_events_and_no_other_day_has(events: list[Event]) -> None:
    days = {datetime.fromtimestamp(event["properties"]["time"], UTC).date() for event in events}

    assert days == {END.date() - timedelta(days=back) for back in range(45)}


def test_last_day_is_whole_when_the_end_is_a_date() -> None:
    times = [e["properties"]["time"] for e in traffic(7, date(2026, 3, 10), days=1, events=5_000)]

    midnight = datetime(2026, 3, 10, tzinfo=UTC).timestamp()
    assert midnight <= min(times) < midnight + 3_600
    assert midnight + 23 * 3_600 < max(times) < midnight + 86_400


def test_end_right_after_midnight_is_possible() -> None:
    end = datetime(2026, 3, 10, tzinfo=UTC)

    events = list(traffic(7, end, days=1, events=10))

    assert {event["properties"]["time"] for event in events} == {int(end.timestamp())}


def test_all_events_of_the_metrics_are_there_and_some_more(events: list[Event]) -> None:
    names = Counter(event["event"] for event in events)

    assert names.keys() > METRIC_EVENTS
    assert {"App Opened", "$identify"} <= names.keys()
    assert min(names.values()) >= 50


def test_creator_types_come_in_several_spellings_or_not_at_all(events: list[Event]) -> None:
    for name in ("Viewed Creator Profile", "Viewed Creator Paywall", "DubAutoCopyInitiated"):
        types = Counter(
            event["properties"].get("creatorType") for event in events if event["event"] == name
        )
        assert types.keys() == {"premium", "Premium Creator", "regular", None}
        assert min(types.values()) >= 10


def test_one_in_two_hundred_comes_twice_later_and_sometimes_changed(events: list[Event]) -> None:
    repeated = [group for group in by_insert_id(events).values() if len(group) > 1]

    assert 0.003 < len(repeated) / len(events) < 0.007
    changed = 0
    for first, second in repeated:
        assert first["event"] == second["event"]
        one, other = dict(first["properties"]), dict(second["properties"])
        assert one.pop("mp_processing_time_ms") < other.pop("mp_processing_time_ms")
        assert one.pop("$mp_api_timestamp_ms") < other.pop("$mp_api_timestamp_ms")
        assert one["time"] == other["time"]
        changed += one != other
    assert 0.1 < changed / len(repeated) < 0.5


def test_one_in_a_hundred_arrives_hours_to_five_days_late(events: list[Event]) -> None:
    def delay(p: dict[str, Any]) -> int:
        return int(p["mp_processing_time_ms"] - p["time"] * 1000)

    first = [group[0] for group in by_insert_id(events).values()]
    assert 0.006 < share(first, lambda p: delay(p) > 2 * 3_600_000) < 0.014
    longest = max(delay(event["properties"]) for event in first)
    assert 4 * 86_400_000 < longest <= 5 * 86_400_000 + 120_000


def test_late_and_repeated_events_come_on_the_day_of_their_arrival(events: list[Event]) -> None:
    newest_day = 0
    for event in events:
        p = event["properties"]
        newest_day = max(newest_day, p["time"] // 86_400)
        # A session's last event may be processed just after midnight.
        assert p["mp_processing_time_ms"] // 86_400_000 in (newest_day, newest_day + 1)


def test_a_few_have_odd_identities(events: list[Event]) -> None:
    assert 0.0005 < share(events, lambda p: "$insert_id" not in p) < 0.004
    anonymous = [e for e in events if e["properties"]["distinct_id"] == ""]
    assert 0.001 < len(anonymous) / len(events) < 0.006
    assert {"$user_id" in event["properties"] for event in anonymous} == {True, False}
    assert all(event["properties"]["$device_id"] for event in anonymous)
    assert 0.0005 < share(events, lambda p: "$distinct_id_before_identity" in p) < 0.004


def test_insert_ids_are_as_mixpanel_demands(events: list[Event]) -> None:
    for insert_id in by_insert_id(events):
        assert insert_id.isalnum()
        assert len(insert_id) <= 36


def test_subscribers_are_as_many_as_asked_and_some_are_more_active() -> None:
    activity = Counter(
        event["properties"]["distinct_id"]
        for event in traffic(7, END, events=20_000, subscribers=40)
        if event["properties"]["distinct_id"]
    )

    assert len(activity) == 40
    assert max(activity.values()) > 5 * min(activity.values())


def test_nights_are_quieter_than_days(events: list[Event]) -> None:
    # 10 to 16 o'clock and 0 to 6 o'clock in New York's winter.
    hours = Counter(event["properties"]["time"] // 3600 % 24 for event in events)

    assert sum(hours[h] for h in range(15, 21)) > 4 * sum(hours[h] for h in range(5, 11))


def test_events_have_a_believable_size(events: list[Event]) -> None:
    sizes = [len(json.dumps(event, separators=(",", ":"))) for event in events]
    properties = [len(event["properties"]) for event in events]

    assert 500 < sum(sizes) / len(sizes) < 900
    assert 15 <= sum(properties) / len(properties) <= 25


def test_small_events_keep_what_the_metrics_need() -> None:
    small = list(traffic(7, END, events=5_000, is_small=True))

    sizes = [len(json.dumps(event, separators=(",", ":"))) for event in small]
    assert sum(sizes) / len(sizes) < 300
    assert all("$device_id" in event["properties"] for event in small)
    # A few lack it on purpose, in traffic of any size.
    assert sum("$user_id" in event["properties"] for event in small) > 0.99 * len(small)
    assert {"premium", "regular"} <= {e["properties"].get("creatorType") for e in small}


def test_traffic_is_made_while_it_is_read() -> None:
    started = time.monotonic()

    assert len(list(itertools.islice(traffic(7, END, events=10**10), 10))) == 10
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("wrong", [{"days": 0}, {"events": 0}, {"subscribers": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        traffic(7, END, **wrong)


def test_end_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        traffic(7, datetime(2026, 3, 10))
