"""Events removed by a condition: the counts are right at once, and whatever follows."""

import json

import pytest

from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError
from mixpanel_pipeline.runs.forgetting import forget
from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.runs.transform import transform
from tests.conftest import NOW
from tests.lines import told
from tests.warehouses import rows, subscribers

HOUR = 3600


def event(who, name="$ae_session", hours_ago=0, **properties):
    time = int(NOW.timestamp()) - hours_ago * HOUR
    return {"event": name, "properties": {"time": time, "distinct_id": who, **properties}}


@pytest.fixture
def counted(built, mixpanel, warehouse, run_sync):
    """Two subscribers, of two loads."""
    mixpanel.add([event("ada", hours_ago=1), event("eve"), event("ada", "SubscriptionCreated")])
    assert run_sync(skip_transform=True).error is None
    mixpanel.add([event("ada"), event("eve", "SubscriptionCreated", hours_ago=1)])
    assert run_sync().error is None
    return subscribers(warehouse)


def test_what_is_removed_is_no_longer_counted(warehouse, counted):
    removal = remove_events(warehouse, "event = '$ae_session' or event like '100%'")
    assert (removal.events, removal.subscribers) == (3, 2)
    found = subscribers(warehouse)
    assert {who: row["app_sessions"] for who, row in found.items()} == {"ada": 0, "eve": 0}
    assert {who: row["total_subscriptions"] for who, row in found.items()} == {"ada": 1, "eve": 1}
    assert found["ada"]["first_event_at"] == int(NOW.timestamp())
    assert remove_events(warehouse, "subscriber_id = 'eve'").events == 1
    found = subscribers(warehouse)
    assert set(found) == {"ada"}
    transform(warehouse, full_refresh=True)
    assert subscribers(warehouse) == found


def test_removed_events_that_come_again_are_counted_once(warehouse, counted, run_sync):
    remove_events(warehouse, "subscriber_id = 'ada'")
    assert set(subscribers(warehouse)) == {"eve"}
    assert run_sync().events_new == 3
    assert subscribers(warehouse) == counted
    assert run_sync(full_refresh=True).error is None
    assert subscribers(warehouse) == counted


def test_what_is_removed_before_it_was_counted_never_is(mixpanel, warehouse, counted, run_sync):
    mixpanel.add([event("ada", hours_ago=2), event("bob")])
    assert run_sync(skip_transform=True).events_new == 2
    remove_events(warehouse, "subscriber_id = 'bob'")
    assert subscribers(warehouse) == counted
    transform(warehouse)
    found = subscribers(warehouse)
    assert found["ada"]["app_sessions"] == 3
    assert "bob" not in found


def test_a_removal_that_fails_changes_nothing(warehouse, counted):
    events = rows(warehouse, "select count(*) from mixpanel_raw.events")
    if warehouse.name == "duckdb":
        warehouse.execute("alter table mixpanel.subscribers add column another integer")
    else:
        warehouse.execute("alter table mixpanel.subscribers add check (app_sessions > 0)")
    with pytest.raises(SyncError, match=r"^Nothing was removed: .*(another|check)"):
        remove_events(warehouse, "event = '$ae_session'")
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == events


def test_no_removal_is_done_beside_a_sync(warehouse, counted):
    with warehouse.lock(), pytest.raises(AnotherSyncIsRunning):
        remove_events(warehouse, "true")


def test_the_command_removes_and_says_what(warehouse, counted, capsys):
    def remove(*options):
        code = main(["remove", "--where", "subscriber_id = 'eve'", "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    found = {"events": 2, "subscribers": 1}
    assert remove("--dry-run") == (0, found | {"is_done": False})
    assert subscribers(warehouse) == counted
    assert remove() == (0, found | {"is_done": True})
    assert set(subscribers(warehouse)) == {"ada"}
    assert main(["remove", "--where", "no_such_column = 1", "--json"]) == 1
    printed = capsys.readouterr()
    (error,) = told(printed.err)
    assert "no_such_column" in error
    assert "no_such_column" in json.loads(printed.out)["error"]


def test_nothing_is_removed_by_metrics_that_nobody_is_counted_by_yet(
    warehouse, counted, metrics, run_sync, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__HASH_SECRET", "0123456789abcdef" * 2)
    metrics(lambda declared: declared["app_sessions"].update(event="SubscriptionCreated"))
    refused = r"^Nothing was .*another declaration.*: python .* --skip-load --full-refresh"
    with pytest.raises(SyncError, match=refused):
        remove_events(warehouse, "subscriber_id = 'ada' and event <> '$ae_session'")
    with pytest.raises(SyncError, match=refused):
        forget(warehouse, ["ada"], "0123456789abcdef" * 2)
    assert subscribers(warehouse) == counted
    assert run_sync(skip_load=True, full_refresh=True).error is None
    assert remove_events(warehouse, "subscriber_id = 'ada'").events == 3
    assert set(subscribers(warehouse)) == {"eve"}
