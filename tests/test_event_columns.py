"""The table `events`: built where `event_columns` are declared, and right whatever happens."""

import random
from datetime import timedelta

import pytest

from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW
from tests.warehouses import rows

DAY = 86_400


@pytest.fixture
def declare(dbt_project):
    path = dbt_project / "dbt_project.yml"
    text = path.read_text(encoding="utf-8")

    def declare(columns):
        changed = text.replace("event_columns: {}", f"event_columns: {columns}")
        path.write_text(changed, encoding="utf-8")

    return declare


def happened(choose, n):
    properties = {
        "time": int(NOW.timestamp()) - choose.randrange(9 * DAY),
        "distinct_id": choose.choice(["ada", "eve", "$device:1"]),
        "$insert_id": f"{n}",
        "Plan": choose.choice(["gold", "undefined", 5]),
        "amount": choose.choice([n, f"{n}", 0.5]),
    }
    return {
        "event": choose.choice(["$ae_session", "SubscriptionCreated"]),
        "properties": properties,
    }


def expected(sent, columns):
    """By hand: what each event has in the columns."""
    types = {"string": str, "number": int | float}
    found = set()
    for event in sent:
        properties = event["properties"]
        values = [properties[name] for name, _ in columns]
        fitting = [
            value if isinstance(value, types[kind]) and value != "undefined" else None
            for value, (_, kind) in zip(values, columns, strict=True)
        ]
        day = (NOW - timedelta(seconds=NOW.timestamp() - properties["time"])).date()
        found.add((event["event"], properties["distinct_id"], day, properties["time"], *fitting))
    return found


def stored(warehouse, names):
    told = rows(
        warehouse,
        "select event, subscriber_id, event_date, cast(extract(epoch from occurred_at) as bigint)"
        f", {names} from mixpanel.events",
    )
    assert (
        len(told) == rows(warehouse, "select count(distinct event_key) from mixpanel.events")[0][0]
    )
    return set(told)


def test_stored_columns_are_those_of_the_events_after_whatever_happened(
    mixpanel, warehouse, run_sync, declare
):
    choose = random.Random(5)
    sent = [happened(choose, n) for n in range(300)]
    mixpanel.add(sent)
    assert run_sync().error is None
    assert not warehouse.has_table("mixpanel", "events")
    declare("{plan: {property: Plan}, amount: {type: number}}")
    assert run_sync().error is None
    both = [("Plan", "string"), ("amount", "number")]
    assert stored(warehouse, "plan, amount") == expected(sent, both)
    # Late ones, twice, and what is gone.
    late = [happened(choose, n) for n in range(300, 330)]
    mixpanel.add([*late, *late])
    days = Window(NOW.date() - timedelta(days=10), NOW.date())
    assert run_sync(backfill=days).events_new == 30
    remove_events(warehouse, "subscriber_id = 'eve'")
    left = [e for e in [*sent, *late] if e["properties"]["distinct_id"] != "eve"]
    assert stored(warehouse, "plan, amount") == expected(left, both)
    # Declared otherwise: another type, and a column less.
    declare("{amount: {type: string}}")
    assert run_sync(skip_load=True).error is None
    assert stored(warehouse, "amount") == expected(left, [("amount", "string")])
    assert warehouse.columns("mixpanel", "events") == {
        *("event_key", "subscriber_id", "event", "event_date", "occurred_at", "amount")
    }
