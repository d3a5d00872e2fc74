"""The audit against Mixpanel's own counts, and what it heals."""

import json
from datetime import timedelta

import pytest

from local_mixpanel import Fault, LocalMixpanel, hot_sharded
from mixpanel_pipeline.runs.pipeline import audit
from mixpanel_pipeline.source.configuration import load_configuration
from tests.children import command
from tests.conftest import NOW
from tests.lines import told
from tests.warehouses import rows, subscribers

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
TODAY = NOW.date()


def event(who="ada", ago=timedelta(0), name="$ae_session", **properties):
    time = int((NOW - ago).timestamp())
    properties = {"time": time, "distinct_id": who, "$insert_id": f"{who}-{time}", **properties}
    return {"event": name, "properties": properties}


@pytest.fixture
def run_audit(mixpanel, warehouse):
    def run_audit(days=7, **arguments):
        return audit(warehouse, load_configuration(), now=NOW, days=days, **arguments)

    return run_audit


def count(warehouse):
    return rows(warehouse, "select count(*) from mixpanel_raw.events")[0][0]


def found(audit):
    return [(each.day, each.event, each.at_mixpanel, each.loaded) for each in audit.differences]


def exported_days(mixpanel, since=0):
    return [
        (request.query["from_date"], request.query["to_date"])
        for request in mixpanel.requests[since:]
        if request.path == "/api/2.0/export"
    ]


def test_equal_counts_are_equal(mixpanel, run_sync, run_audit):
    mixpanel.add([event(ago=DAY * ago) for ago in range(10)])
    # Copies count once on either side; events without an $insert_id as often as they are there.
    mixpanel.add(
        [event(), event("eve", **{"$insert_id": None}), event("eve", **{"$insert_id": None})]
    )
    run_sync(skip_transform=True)
    audit = run_audit()
    assert (audit.status, audit.differences) == ("equal", [])
    assert (audit.events_at_mixpanel, audit.events_loaded) == (9, 9)
    assert (audit.from_date, audit.to_date) == (TODAY - DAY * 6, TODAY)


def test_what_is_short_is_shown_and_healed(mixpanel, warehouse, run_sync, run_audit):
    mixpanel.add([event(ago=DAY * ago) for ago in range(10)])
    run_sync(skip_transform=True)
    mixpanel.add([event("late", ago=DAY * ago) for ago in (2, 3, 5, 8)])
    audit = run_audit()
    assert audit.status == "differing"
    assert found(audit) == [(TODAY - DAY * ago, "$ae_session", 2, 1) for ago in (5, 3, 2)]
    assert {each.cause for each in audit.differences} == {"arrived late, or lost to a cut"}
    assert count(warehouse) == 10
    before = len(mixpanel.requests)
    audit = run_audit(heal=True)
    assert (audit.status, audit.differences, audit.events_healed) == ("healed", [], 3)
    assert audit.healed_days == [TODAY - DAY * ago for ago in (5, 3, 2)]
    assert exported_days(mixpanel, before) == [
        ("2026-03-05", "2026-03-05"),
        ("2026-03-07", "2026-03-07"),
        ("2026-03-08", "2026-03-08"),
    ] or exported_days(mixpanel, before) == [
        ("2026-03-05", "2026-03-05"),
        ("2026-03-07", "2026-03-08"),
    ]
    assert subscribers(warehouse)["late"]["app_sessions"] == 3
    assert run_audit(days=30, heal=True).events_healed == 1
    assert run_audit(days=30).status == "equal"


def test_a_cut_that_nothing_shows_is_caught_and_healed(mixpanel, warehouse, run_sync, run_audit):
    mixpanel.add([event(f"who {number}", ago=HOUR * number) for number in range(100)])
    mixpanel.fail(Fault.LINES_MISSING, times=3, at=0.4)
    assert run_sync(skip_transform=True).status == "ok"
    assert count(warehouse) < 100
    audit = run_audit(heal=True)
    assert audit.status == "healed"
    assert count(warehouse) == 100
    assert len(subscribers(warehouse)) == 100


def test_copies_that_mixpanel_counts_by_calendar_day_are_explained(mixpanel, run_sync, run_audit):
    mixpanel.add([event(**{"$insert_id": "1"}), event(ago=HOUR, **{"$insert_id": "1"})])
    run_sync(skip_transform=True)
    assert run_audit().status == "equal"
    mixpanel.compact()
    audit = run_audit()
    assert audit.status == "equal"
    assert found(audit) == [(TODAY, "$ae_session", 1, 2)]
    assert "$insert_id" in audit.differences[0].cause


def test_what_was_deleted_at_mixpanel_is_a_difference_that_is_not_healed(
    mixpanel, warehouse, run_sync, run_audit
):
    mixpanel.add([event(), event("gone")])
    run_sync(skip_transform=True)
    mixpanel.delete({"gone"})
    audit = run_audit(heal=True)
    assert audit.status == "differing"
    assert found(audit) == [(TODAY, "$ae_session", 1, 2)]
    assert "deleted" in audit.differences[0].cause
    assert count(warehouse) == 2


def test_hot_shards_are_loaded_under_their_own_name_and_not_compared(
    mixpanel, warehouse, run_sync, run_audit
):
    mixpanel.add([event("busy"), hot_sharded(event("busy", ago=HOUR))])
    mixpanel.add([hot_sharded(event("busy", ago=HOUR * 2, name="Not Tracked"))])
    summary = run_sync()
    assert (summary.events_received, summary.events_new) == (2, 2)
    assert rows(warehouse, "select distinct event, distinct_id from mixpanel_raw.events") == [
        ("$ae_session", "busy")
    ]
    assert subscribers(warehouse)["busy"]["app_sessions"] == 2
    assert run_audit().status == "equal"


def test_all_events_are_compared_when_all_are_loaded(mixpanel, run_sync, run_audit, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    mixpanel.add([event(name=f"Event {number}") for number in range(500)])
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    mixpanel.add([event("late", name="Never Seen"), event("late", name="Event 7")])
    audit = run_audit()
    assert found(audit) == [(TODAY, "Event 7", 2, 1), (TODAY, "Never Seen", 1, 0)]
    queries = [request for request in mixpanel.requests if request.path == "/api/query/events"]
    assert len(queries) == 2


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
@pytest.mark.parametrize("events", ["all", '["$ae_session", "Denied"]'])
def test_what_is_denied_is_neither_loaded_nor_missing(
    mixpanel, warehouse, run_sync, run_audit, monkeypatch, events
):
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", events)
    mixpanel.add([event(), event(name="Denied", ago=HOUR)])
    # Loaded before it was denied, an event stays, and there may be more of it at Mixpanel.
    assert run_sync(skip_transform=True).events_new == 2
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS_DENIED", '["Denied"]')
    asked = len(mixpanel.requests)
    mixpanel.add([event(ago=HOUR * 2), event(name="Denied")])
    assert run_sync(skip_transform=True).events_new == 1
    assert (run_audit(heal=True).status, count(warehouse)) == ("equal", 3)
    assert "Denied" not in str([request.query for request in mixpanel.requests[asked:]])


def test_days_are_the_projects(mixpanel, run_sync, run_audit, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__TIMEZONE", "America/Los_Angeles")
    # Wall clock: both sides of the project's midnight.
    midnight = NOW - HOUR * 12
    mixpanel.add([event(ago=NOW - midnight - HOUR), event(ago=NOW - midnight + HOUR)])
    run_sync(skip_transform=True)
    assert run_audit(days=30).status == "equal"


def test_without_the_query_api_it_is_impossible(warehouse, mixpanel, run_sync, monkeypatch):
    with LocalMixpanel(today=lambda: TODAY, has_query_api=False) as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        found = audit(warehouse, load_configuration(), now=NOW, days=7)
        assert found.status == "impossible"
        assert found.error is not None
        assert "402" in found.error
        assert "plan" in found.error
        monkeypatch.setenv("SOURCES__MIXPANEL__AUDIT_AFTER_SYNC", "3")
        server.add([event()])
        assert run_sync(skip_transform=True).status == "ok"
        assert count(warehouse) == 1


def test_an_audit_while_a_sync_runs_is_impossible(warehouse, run_audit):
    with warehouse.lock():
        audit = run_audit()
    assert audit.status == "impossible"
    assert "Another sync" in str(audit.error)


def test_a_sync_can_audit_and_heal(mixpanel, warehouse, run_sync, monkeypatch, caplog):
    monkeypatch.setenv("SOURCES__MIXPANEL__AUDIT_AFTER_SYNC", "5")
    mixpanel.add([event(ago=DAY * ago) for ago in range(10)])
    run_sync(skip_transform=True)
    mixpanel.add([event("late", ago=DAY * ago) for ago in (3, 7)])
    summary = run_sync()
    assert (summary.status, summary.mode, summary.events_new) == ("ok", "incremental", 1)
    assert "loaded them: 2026-03-07" in caplog.text
    assert subscribers(warehouse)["late"]["app_sessions"] == 1
    assert summary.from_date == TODAY
    assert rows(
        warehouse, "select mode, loaded_to_date from mixpanel_raw.sync_runs order by id desc"
    )[0] == ("incremental", TODAY)


def test_a_sync_does_not_audit_beyond_its_budget(mixpanel, run_sync, monkeypatch, caplog):
    monkeypatch.setenv("SOURCES__MIXPANEL__AUDIT_AFTER_SYNC", "5")
    monkeypatch.setenv("SOURCES__MIXPANEL__REQUESTS_PER_HOUR", "5")
    mixpanel.add([event()])
    assert run_sync(skip_transform=True).status == "ok"
    assert "No audit after this sync" in caplog.text
    assert not any("query" in request.path for request in mixpanel.requests)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_command_tells_by_its_exit_code(mixpanel, warehouse, run_sync, monkeypatch):
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        assert command("--json", "--skip-transform").returncode == 0
        assert command("audit", "--days", "3").returncode == 0
        time = int(NOW.now(NOW.tzinfo).timestamp())
        server.add([{"event": "$ae_session", "properties": {"time": time, "distinct_id": "a"}}])
        differing = command("audit")
        assert differing.returncode == 1
        assert "$ae_session" in differing.stdout
        assert "-1" in differing.stdout
        healed = command("audit", "--heal", "--json")
        assert healed.returncode == 0, healed.stderr
        answer = json.loads(healed.stdout)
        assert (answer["status"], answer["events_healed"]) == ("healed", 1)
    impossible = command("audit", "--json")
    assert impossible.returncode == 2
    assert json.loads(impossible.stdout)["status"] == "impossible"
    assert len(told(impossible.stderr, "ERROR")) == 1
