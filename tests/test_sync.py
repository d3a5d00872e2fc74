"""Syncs into real databases: what they load, what they leave, and what they say."""

import json
from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import pytest

import mixpanel_pipeline
from local_mixpanel import Fault
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW
from tests.warehouses import rows, subscribers

SECOND = int(NOW.timestamp())
LOADED = "select distinct_id, occurred_at, _dlt_load_id from mixpanel_raw.events order by 1, 2, 3"
STATE = "select version_hash from mixpanel_raw._dlt_pipeline_state order by _dlt_load_id"


def event(name="$ae_session", who="ada", ago=timedelta(0), **properties):
    time = int((NOW - ago).timestamp())
    return {"event": name, "properties": {"time": time, "distinct_id": who, **properties}}


def count(warehouse, condition="true"):
    return rows(warehouse, f"select count(*) from mixpanel_raw.events where {condition}")[0][0]


def test_the_first_sync_loads_45_days_and_sets_the_watermark(mixpanel, warehouse, run_sync):
    mixpanel.add([event(ago=timedelta(days=days)) for days in (0, 1, 44, 45)])
    summary = run_sync()
    assert (summary.status, summary.mode, summary.destination) == ("ok", "first", warehouse.name)
    assert (summary.from_date, summary.to_date) == (date(2026, 1, 25), date(2026, 3, 10))
    assert summary.watermark == NOW
    assert (summary.events_received, summary.events_new, summary.events_duplicate) == (3, 3, 0)
    assert (summary.lines_rejected, summary.subscribers) == (0, 1)
    assert subscribers(warehouse)["ada"]["app_sessions"] == 3


def test_the_next_sync_asks_for_the_days_since_the_watermark_less_two_hours(mixpanel, run_sync):
    mixpanel.add([event(ago=timedelta(hours=11))])
    run_sync(skip_transform=True)
    summary = run_sync(skip_transform=True)
    assert (summary.mode, summary.from_date) == ("incremental", date(2026, 3, 9))
    assert summary.to_date == date(2026, 3, 10)
    mixpanel.add([event(ago=timedelta(hours=9))])
    run_sync(skip_transform=True)
    assert run_sync(skip_transform=True).from_date == date(2026, 3, 10)


def test_a_fetched_event_older_than_the_lookback_is_new(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    mixpanel.add([event(who="late", ago=timedelta(hours=11))])
    assert run_sync().events_new == 1
    assert subscribers(warehouse)["late"]["app_sessions"] == 1


def test_an_event_dated_in_the_future_does_not_move_the_watermark_past_now(mixpanel, run_sync):
    mixpanel.add([event(ago=-timedelta(hours=5))])
    assert run_sync(skip_transform=True).watermark == NOW


def test_the_watermark_never_goes_back(mixpanel, run_sync):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    earlier = run_sync(now=NOW - timedelta(hours=6), skip_transform=True)
    assert earlier.watermark == NOW


def test_a_full_refresh_sets_the_watermark_anew(mixpanel, run_sync):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    earlier = NOW - timedelta(hours=6)
    assert run_sync(now=earlier, full_refresh=True, skip_transform=True).watermark == earlier


def test_an_event_at_the_end_of_time_is_loaded(mixpanel, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__TIMEZONE", "America/Los_Angeles")
    last = json.dumps({"event": "$ae_session", "properties": {"time": 253_402_214_399_000}})
    mixpanel.add_lines(NOW.date(), [last.encode()], event="$ae_session")
    summary = run_sync(skip_transform=True)
    assert summary.error is None
    assert (summary.status, summary.events_new, summary.watermark) == ("ok", 1, NOW)


def test_an_empty_project_is_synced_and_shows_no_subscribers(mixpanel, warehouse, run_sync):
    summary = run_sync()
    assert (summary.status, summary.mode, summary.watermark) == ("ok", "first", None)
    assert summary.subscribers == 0
    assert rows(warehouse, "select * from mixpanel.stg_mixpanel__events") == []
    assert rows(warehouse, "select * from mixpanel_raw.rejected_lines") == []
    mixpanel.add([event()])
    assert run_sync(skip_transform=True).mode == "first"
    assert run_sync(skip_transform=True).mode == "incremental"


def test_a_copy_of_a_loaded_event_changes_nothing(mixpanel, warehouse, run_sync):
    mixpanel.add([event(**{"$insert_id": "1", "mp_processing_time_ms": SECOND * 1000, "v": 1})])
    run_sync(skip_transform=True)
    before = rows(warehouse, "select event_key, _dlt_load_id, properties from mixpanel_raw.events")
    copy = {"$insert_id": "1", "mp_processing_time_ms": SECOND * 1000 + 9, "v": 2}
    mixpanel.add([event(**copy)])
    summary = run_sync(skip_transform=True)
    assert (summary.events_received, summary.events_new, summary.events_duplicate) == (2, 0, 2)
    after = rows(warehouse, "select event_key, _dlt_load_id, properties from mixpanel_raw.events")
    assert str(after) == str(before)


def test_of_copies_in_one_load_the_last_processed_stays(mixpanel, warehouse, run_sync):
    for version, processed in enumerate([None, 7, 9, 8, None]):
        stamp = {} if processed is None else {"mp_processing_time_ms": processed}
        mixpanel.add([event(**{"$insert_id": "1", "version": version, **stamp})])
    assert run_sync(skip_transform=True).events_new == 1
    ((properties,),) = rows(warehouse, "select properties from mixpanel_raw.events")
    assert '"version":2' in json.dumps(as_json(properties), separators=(",", ":"))


def as_json(value):
    return json.loads(value) if isinstance(value, str) else value


def test_a_backfill_loads_its_days_and_leaves_the_watermark(mixpanel, warehouse, run_sync):
    mixpanel.add([event(ago=timedelta(hours=3))])
    run_sync(skip_transform=True)
    old = NOW - timedelta(days=100)
    mixpanel.add([event(who="old", ago=timedelta(days=days)) for days in (98, 99, 100, 101)])
    window = Window(old.date(), (old + timedelta(days=1)).date())
    summary = run_sync(backfill=window)
    assert (summary.mode, summary.events_new) == ("backfill", 2)
    assert (summary.from_date, summary.to_date) == (window.from_date, window.to_date)
    assert summary.watermark == NOW - timedelta(hours=3)
    assert subscribers(warehouse)["old"]["app_sessions"] == 2
    assert run_sync(skip_transform=True).from_date == NOW.date()


def test_a_backfill_before_the_first_sync_does_not_stand_in_for_it(mixpanel, run_sync):
    mixpanel.add([event()])
    today = Window(NOW.date(), NOW.date())
    assert run_sync(backfill=today, skip_transform=True).watermark is None
    assert run_sync(skip_transform=True).mode == "first"


def test_a_full_refresh_fetches_the_initial_window_again(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    mixpanel.add([event(who="late", ago=timedelta(days=40))])
    assert run_sync(skip_transform=True).events_new == 0
    summary = run_sync(full_refresh=True)
    assert (summary.mode, summary.events_new) == ("full_refresh", 1)
    assert summary.from_date == date(2026, 1, 25)
    assert set(subscribers(warehouse)) == {"ada", "late"}


@pytest.mark.parametrize("cursor", ["occurred_at", "processed_at"])
def test_a_full_refresh_after_an_outage_begins_at_the_watermark(
    mixpanel, warehouse, run_sync, monkeypatch, cursor
):
    monkeypatch.setenv("SOURCES__MIXPANEL__CURSOR", cursor)
    monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "2")

    def processed(ago, late=timedelta(0)):
        arrived = int((NOW - ago + late).timestamp() * 1000)
        return event(ago=ago, mp_processing_time_ms=arrived)

    mixpanel.add([processed(timedelta(days=30))])
    run_sync(now=NOW - timedelta(days=30), skip_transform=True)
    mixpanel.add([processed(timedelta(days=days)) for days in range(30)])
    days_late = 4 if cursor == "processed_at" else 0
    mixpanel.add([processed(timedelta(days=30 + days_late), late=timedelta(days=days_late + 1))])
    summary = run_sync(full_refresh=True, skip_transform=True)
    assert (summary.mode, summary.events_new) == ("full_refresh", 31)
    assert summary.from_date == (NOW - timedelta(days=30 + (5 if days_late else 0))).date()
    assert run_sync(skip_transform=True).from_date == (
        NOW.date() if cursor == "occurred_at" else (NOW - timedelta(days=5)).date()
    )


def test_a_failed_sync_leaves_tables_and_watermark(mixpanel, warehouse, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "2")
    mixpanel.add([event(ago=timedelta(hours=3))])
    run_sync()
    for number, fault in enumerate((Fault.GZIP_CUT, Fault.TERMINATED_EARLY, Fault.LENGTH_CUT)):
        before = rows(warehouse, LOADED), rows(warehouse, STATE), subscribers(warehouse)
        mixpanel.add([event(who=f"new {number} {each}") for each in range(3000)])
        mixpanel.fail(fault, times=2)
        summary = run_sync()
        assert summary.status == "failed", fault
        assert "run again" in summary.error
        assert (rows(warehouse, LOADED), rows(warehouse, STATE), subscribers(warehouse)) == before
        assert run_sync(skip_transform=True).events_new == 3000
    run_sync()
    assert len(subscribers(warehouse)) == 9001


def test_rejected_lines_are_kept_once_and_counted(mixpanel, warehouse, run_sync):
    bad = [b"no event", b'{"event": "\xff\x00", "properties": {}}', b"x" * 1_000_000]
    mixpanel.add_lines(NOW.date(), bad, event="$ae_session")
    mixpanel.add([event()])
    for _ in range(2):
        summary = run_sync(skip_transform=True)
        assert (summary.lines_rejected, summary.events_received) == (3, 1)
    kept = rows(warehouse, "select line, reason from mixpanel_raw.rejected_lines")
    assert sorted(line[:11] for line, _ in kept) == ["no event", "x" * 11, '{"event": "']
    assert {reason[:8] for _, reason in kept} == {"not JSON", "not UTF-"}


def test_a_rejected_line_of_a_single_day_tells_the_day(mixpanel, warehouse, run_sync):
    mixpanel.add_lines(NOW.date(), [b"no event"], event="$ae_session")
    mixpanel.add([event()])
    run_sync(backfill=Window(NOW.date(), NOW.date()), skip_transform=True)
    assert rows(warehouse, "select day from mixpanel_raw.rejected_lines") == [(NOW.date(),)]


def test_a_fresh_machine_goes_on_where_the_last_one_stopped(
    mixpanel, run_sync, monkeypatch, tmp_path
):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "another machine"))
    assert run_sync(skip_transform=True).mode == "incremental"


def test_a_sync_leaves_no_working_files(mixpanel, run_sync, tmp_path):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    assert [path for path in (tmp_path / "dlt").rglob("*") if path.is_file()] == []


def test_the_events_to_load_can_be_chosen(mixpanel, warehouse, run_sync, monkeypatch):
    mixpanel.add([event("App Opened"), event("$ae_session"), event("Other")])
    run_sync(skip_transform=True)
    assert count(warehouse) == 1
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", '["App Opened"]')
    run_sync(skip_transform=True)
    assert count(warehouse) == 2
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    run_sync()
    assert count(warehouse) == 3
    assert subscribers(warehouse)["ada"]["events_processed"] == 1


def test_days_that_are_not_over_can_wait(mixpanel, warehouse, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__END_DAY", "yesterday")
    mixpanel.add([event(), event(ago=timedelta(days=1))])
    assert run_sync(skip_transform=True).to_date == date(2026, 3, 9)
    assert count(warehouse) == 1
    run_sync(now=NOW + timedelta(days=1), skip_transform=True)
    assert count(warehouse) == 2


def test_days_and_times_are_the_projects(mixpanel, warehouse, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__TIMEZONE", "Asia/Kolkata")
    mixpanel.add([event()])
    summary = run_sync(now=datetime(2026, 3, 9, 20, tzinfo=UTC), skip_transform=True)
    assert summary.to_date == NOW.date()
    ((occurred_at,),) = rows(warehouse, "select occurred_at from mixpanel_raw.events")
    assert occurred_at == NOW - timedelta(hours=5, minutes=30)


def test_one_sync_at_a_time(mixpanel, warehouse, run_sync, caplog):
    mixpanel.add([event()])
    with warehouse.lock():
        summary = run_sync(skip_transform=True)
    assert (summary.status, summary.error) == ("skipped", None)
    assert "Another sync of this database is running: " in caplog.text
    assert "process" in caplog.text
    assert mixpanel.requests == []
    assert run_sync(skip_transform=True).status == "ok"


def test_a_database_that_does_not_answer_is_a_failure(mixpanel, warehouse, monkeypatch):
    if warehouse.name == "duckdb":
        warehouse.path.write_text(
            "this is no DuckDB file, but it is long enough to be read " * 99, encoding="utf-8"
        )
    else:
        warehouse.credentials.port = 9
    summary = sync(warehouse, load_configuration(), now=NOW)
    assert summary.status == "failed"
    assert summary.error is not None
    assert "run again" in summary.error
    if warehouse.name == "postgres":
        assert warehouse.credentials.password not in summary.error


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_postgresql_has_the_indexes_that_a_sync_needs(mixpanel, warehouse, run_sync):
    run_sync(skip_transform=True)
    found = rows(warehouse, "select indexname from pg_indexes where schemaname = 'mixpanel_raw'")
    assert {("events_event_key",), ("events_dlt_load_id",)} <= set(found)


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_two_transformations_cannot_claim_at_once(mixpanel, warehouse, run_sync, monkeypatch):
    mixpanel.add([event()])
    run_sync()
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=500")
    with closing(warehouse.connect()) as claiming, claiming.cursor() as cursor:
        cursor.execute("lock table mixpanel.counted_loads in row exclusive mode")
        with pytest.raises(SyncError, match="lock timeout"):
            transform(warehouse)
    transform(warehouse)


def test_only_transforming_counts_what_was_only_loaded(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    assert run_sync(skip_transform=True).subscribers is None
    requests = len(mixpanel.requests)
    summary = sync(warehouse, skip_load=True, now=NOW)
    assert (summary.status, summary.events_received, summary.subscribers) == ("ok", None, 1)
    assert len(mixpanel.requests) == requests


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_program_syncs_and_audits_what_is_configured(mixpanel, warehouse):
    mixpanel.add([event(who="ann")])
    assert mixpanel_pipeline.sync(now=NOW, skip_transform=True).events_new == 1
    assert mixpanel_pipeline.audit(now=NOW, days=2).status == "equal"
    assert rows(warehouse, "select distinct_id from mixpanel_raw.events") == [("ann",)]
