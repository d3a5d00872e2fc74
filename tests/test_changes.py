"""What happens when the metrics, the database or its past are not what they were."""

from datetime import timedelta
from typing import Any

import pytest
from dlt.common.versioned_state import compress_state, decompress_state

from mixpanel_pipeline.engines import open_warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.conftest import NOW
from tests.warehouses import rows, subscribers


def event(name="$ae_session", who="ada", **properties):
    time = int(NOW.timestamp())
    return {"event": name, "properties": {"time": time, "distinct_id": who} | properties}


@pytest.mark.usefixtures("built")
def test_a_new_metric_is_counted_after_a_full_refresh(mixpanel, warehouse, run_sync, metrics):
    mixpanel.add([event(), event("Signed Up"), event("Signed Up", who="eve")])
    assert run_sync().status == "ok"
    before = subscribers(warehouse)
    metrics(lambda declared: declared.update(sign_ups={"event": "Signed Up"}))
    failed = run_sync()
    assert failed.status == "failed"
    assert failed.error is not None
    assert "--full-refresh" in failed.error
    assert subscribers(warehouse) == before
    assert run_sync(full_refresh=True).status == "ok"
    found = subscribers(warehouse)
    assert {who: row["sign_ups"] for who, row in found.items()} == {"ada": 1, "eve": 1}
    assert found["ada"]["app_sessions"] == 1
    assert run_sync().status == "ok"


@pytest.mark.usefixtures("built")
def test_a_renamed_metric_keeps_its_counts_after_a_full_refresh(
    mixpanel, warehouse, run_sync, metrics
):
    mixpanel.add([event(), event(who="eve")])
    run_sync()
    metrics(lambda declared: declared.update(sessions=declared.pop("app_sessions")))
    failed = run_sync()
    assert (failed.status, "--full-refresh" in str(failed.error)) == ("failed", True)
    assert run_sync(full_refresh=True).status == "ok"
    found = subscribers(warehouse)
    assert {who: row["sessions"] for who, row in found.items()} == {"ada": 1, "eve": 1}
    assert "app_sessions" not in found["ada"]


def test_a_raw_dataset_of_an_older_version_is_gone_on_with(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    run_sync()
    # It had no record of runs, and its state did not name the cursor.
    warehouse.execute("drop view mixpanel.sync_health")
    warehouse.execute("drop table mixpanel_raw.sync_runs")
    ((stored,),) = rows(warehouse, "select state from mixpanel_raw._dlt_pipeline_state")
    state: Any = decompress_state(stored)
    del state["sources"]["mixpanel"]["resources"]["events"]["cursor"]
    warehouse.execute(
        f"update mixpanel_raw._dlt_pipeline_state set state = '{compress_state(state)}'"
    )
    mixpanel.add([event(who="eve")])
    summary = run_sync()
    assert (summary.status, summary.mode, summary.events_new) == ("ok", "incremental", 1)
    assert set(subscribers(warehouse)) == {"ada", "eve"}
    assert rows(warehouse, "select status from mixpanel_raw.sync_runs") == [("ok",)]


@pytest.mark.usefixtures("built")
def test_a_load_that_is_recorded_twice_is_counted_once(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    run_sync()
    warehouse.execute("insert into mixpanel_raw._dlt_loads select * from mixpanel_raw._dlt_loads")
    assert run_sync(full_refresh=True).error is None
    assert subscribers(warehouse)["ada"]["app_sessions"] == 1


@pytest.mark.usefixtures("built")
def test_counts_of_loads_that_a_backup_lacks_are_not_added_to(mixpanel, warehouse, run_sync):
    """Only the raw dataset was restored, to a time before the last load."""
    mixpanel.add([event()])
    run_sync()
    mixpanel.add([event(who="eve")])
    run_sync()
    ((last,),) = rows(warehouse, "select max(load_id) from mixpanel_raw._dlt_loads")
    for table, column in (("events", "_dlt_load_id"), ("_dlt_loads", "load_id")):
        warehouse.execute(f"delete from mixpanel_raw.{table} where {column} = '{last}'")
    failed = run_sync()
    assert failed.status == "failed"
    assert "no longer there" in str(failed.error)
    assert run_sync(full_refresh=True).status == "ok"
    assert subscribers(warehouse)["eve"]["app_sessions"] == 1


@pytest.mark.parametrize("name", ["DATASET_NAME", "PIPELINES__MIXPANEL__DATASET_NAME"])
def test_a_dataset_of_another_name_is_refused(warehouse, monkeypatch, name):
    monkeypatch.setenv(name, "analytics_raw")
    with pytest.raises(ConfigurationError, match=r"analytics_raw.*mixpanel_raw"):
        open_warehouse(None)


def dbt_run(warehouse):
    """dbt as a person runs it: the error, or None."""
    try:
        transform(warehouse, full_refresh=True)
    except SyncError as error:
        return str(error)
    return None


@pytest.mark.usefixtures("built")
def test_dbt_alone_does_not_count_events_anew_that_were_never_loaded(
    mixpanel, warehouse, run_sync, metrics
):
    old = {"time": int((NOW - timedelta(days=20)).timestamp())}
    mixpanel.add([event(), event("Signed Up", **old), event("Signed Up")])
    assert run_sync().status == "ok"
    before = subscribers(warehouse)
    metrics(lambda declared: declared.update(sign_ups={"event": "Signed Up"}))
    for has_asked in (False, True):
        if has_asked:
            # For the event, in the last days.
            failed = run_sync()
            assert failed.status == "failed"
            assert "python pipelines/run.py --full-refresh" in failed.error
        error = dbt_run(warehouse)
        assert "Signed Up" in error
        assert "2026-01-25" in error
        assert error.count("python pipelines/run.py --full-refresh") == 1
        assert subscribers(warehouse) == before
    assert run_sync(full_refresh=True).status == "ok"
    assert subscribers(warehouse)["ada"]["sign_ups"] == 2
    assert dbt_run(warehouse) is None
    assert subscribers(warehouse)["ada"]["sign_ups"] == 2


@pytest.mark.usefixtures("built")
def test_a_metric_of_loaded_events_is_counted_without_loading(
    mixpanel, warehouse, run_sync, metrics
):
    mixpanel.add([event(), event(plan="premium")])
    assert run_sync().status == "ok"
    wanted = {"event": "$ae_session", "where": {"plan": "premium"}}
    metrics(lambda declared: declared.update(premium_sessions=wanted))
    failed = run_sync()
    assert "python pipelines/run.py --skip-load --full-refresh" in str(failed.error)
    requests = len(mixpanel.requests)
    assert sync(warehouse, skip_load=True, now=NOW, full_refresh=True).status == "ok"
    assert len(mixpanel.requests) == requests
    assert subscribers(warehouse)["ada"]["premium_sessions"] == 1


def test_a_metric_that_was_away_lacks_the_days_between(mixpanel, warehouse, run_sync, metrics):
    mixpanel.add([event()])
    assert run_sync().status == "ok"
    metrics(lambda declared: declared.pop("app_sessions"))
    later = NOW + timedelta(days=3)
    mixpanel._today = later.date
    assert run_sync(now=later, skip_transform=True).status == "ok"
    metrics(lambda declared: declared.update(app_sessions={"event": "$ae_session"}))
    assert "$ae_session (4 days, 2026-03-10 to 2026-03-13)" in dbt_run(warehouse)
