"""`property_dictionary`: what events' properties are, compared with a recount."""

import json
import random
from datetime import timedelta

import pytest

from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.source.window import Window
from tests import recount
from tests.conftest import NOW
from tests.warehouses import copy_of, rows

DAY = 86_400
NAMES = ["plan", "$city", 'said "hi"', "it's", "a.b", "über", "", "/", "*", "$", "~1", "two\nlines"]
VALUES = [
    *("gold", "", "undefined", "<null>", "null", "5", "ünï", 'a "b"', "two\nlines"),
    *("2026-01-31T12:00:00", "2024-02-29T23:59:59.123Z", "2026-12-31T00:00:00+05:30"),
    *("2026-02-29T00:00:00", "2100-02-29T00:00:00", "2026-04-31T00:00:00", "2026-01-31"),
    *("2026-01-31T24:00:00", "2026-01-31T12:00:00 or so", "0000-01-01T00:00:00"),
    *(0, -1, 1.5, 12345678901234567890, True, False, None, [], [1, "a"], {}, {"a": {"b": None}}),
]


def happened(choose, days_ago, **properties):
    time = int(NOW.timestamp()) - choose.randrange(days_ago * DAY, (days_ago + 1) * DAY)
    # As Mixpanel does not: the same property in most events, each time with another type.
    some = {name: choose.choice(VALUES) for name in NAMES if choose.random() < 0.7}
    who = choose.choice(["ada", "eve", "kim"])
    own = {"time": time, "distinct_id": who, "$insert_id": f"{choose.random()}"}
    event = choose.choice(["$ae_session", "SubscriptionCreated"])
    return {"event": event, "properties": own | some | properties}


def counts(warehouse):
    columns = "event, property, type, bucket, events, first_seen_at, last_seen_at, smallest_hash"
    return sorted(rows(warehouse, f"select {columns} from mixpanel.property_counts"), key=str)


def stored_events(warehouse):
    found = rows(warehouse, "select event, cast(properties as text) from mixpanel_raw.events")
    return [{"event": name, "properties": json.loads(text)} for name, text in found]


def check(warehouse):
    expected = recount.properties(stored_events(warehouse))
    found = rows(
        warehouse,
        "select event, property, type, events, cast(extract(epoch from first_seen_at) as bigint), "
        "cast(extract(epoch from last_seen_at) as bigint), distinct_values "
        "from mixpanel.property_dictionary",
    )
    told = {row[:3]: row[3:6] for row in found}
    assert told == {key: row[:3] for key, row in expected.items()}
    for *key, _, _, _, distinct in found:
        wanted = expected[tuple(key)][3]
        assert abs(distinct - wanted) <= max(1, 0.25 * wanted), key
    shares = rows(
        warehouse,
        "select event, event_share from mixpanel.property_dictionary where property = 'time'",
    )
    assert dict(shares) == {event: 1.0 for event, _ in shares}


def test_the_dictionary_is_that_of_what_is_loaded_after_whatever_happened(
    mixpanel, warehouse, run_sync
):
    choose = random.Random(3)
    mixpanel.add(happened(choose, choose.randrange(9)) for _ in range(600))
    assert run_sync().error is None
    check(warehouse)
    late = [happened(choose, choose.randrange(9), only_late=n) for n in range(40)]
    mixpanel.add([*late, *late])
    days = Window(NOW.date() - timedelta(days=10), NOW.date())
    assert run_sync(backfill=days).events_new == 40
    check(warehouse)
    remove_events(warehouse, "subscriber_id = 'ada' and event = '$ae_session'")
    check(warehouse)
    with copy_of(warehouse) as copy:
        transform(copy, full_refresh=True)
        assert counts(copy) == counts(warehouse)
    remove_events(warehouse, "event = '$ae_session'")
    check(warehouse)


def test_a_dictionary_that_is_declared_otherwise_is_counted_anew(
    mixpanel, warehouse, run_sync, dbt_project
):
    path = dbt_project / "dbt_project.yml"
    text = path.read_text(encoding="utf-8")
    choose = random.Random(4)
    mixpanel.add(happened(choose, 1, plan=f"plan {n % 7}") for n in range(400))
    assert run_sync().error is None
    query = "select max({}) from mixpanel.property_dictionary where property = 'plan'"
    assert rows(warehouse, query.format("examples")) == [(None,)]
    path.write_text(
        text.replace("dictionary_sample: 1", "dictionary_sample: 0.5").replace(
            "dictionary_examples: []", "dictionary_examples: [plan, kind]"
        ),
        encoding="utf-8",
    )
    assert run_sync().error is None
    [(examples,)] = rows(warehouse, query.format("examples"))
    assert len(set(examples.split(", "))) == 5
    assert set(examples.split(", ")) <= {f"plan {n}" for n in range(7)}
    [(sampled,)] = rows(
        warehouse,
        "select sum(events) from mixpanel.property_counts where type = 'event'",
    )
    assert 150 < sampled < 250
    [(estimated,)] = rows(
        warehouse,
        "select sum(events) from mixpanel.property_dictionary where property = 'plan'",
    )
    assert estimated == 2 * sampled
    # Nobody builds it now, and still what is removed goes there too.
    path.write_text(
        text.replace("property_dictionary: true", "property_dictionary: false"), encoding="utf-8"
    )
    remove_events(warehouse, "subscriber_id = 'ada'")
    mixpanel.add([happened(choose, 1, kind="new")])
    assert run_sync().error is None
    path.write_text(text, encoding="utf-8")
    assert run_sync().error is None
    check(warehouse)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_how_many_values_there_are_is_known_to_some_percent(
    mixpanel, warehouse, run_sync, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    numbers = (5, 240, 300, 5000)
    time = int(NOW.timestamp())
    mixpanel.add(
        {"event": f"{number}", "properties": {"time": time - n % 5, "distinct_id": f"{n}"}}
        for number in numbers
        for n in range(number)
    )
    assert run_sync(skip_transform=True).error is None
    transform(warehouse)
    found = rows(
        warehouse,
        "select event, distinct_values from mixpanel.property_dictionary "
        "where property = 'distinct_id'",
    )
    assert len(found) == len(numbers)
    for event, estimate in found:
        assert abs(estimate - int(event)) <= 0.15 * int(event)
