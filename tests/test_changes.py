"""What happens when the metrics, the database or its past are not what they were."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dlt.common.versioned_state import compress_state, decompress_state

from mixpanel_pipeline import project
from mixpanel_pipeline.engines import open_warehouse
from mixpanel_pipeline.source.errors import ConfigurationError
from mixpanel_pipeline.sync import transform
from tests.conftest import NOW
from tests.warehouses import rows, subscribers


def event(name="$ae_session", who="ada", **properties):
    time = int(NOW.timestamp())
    return {"event": name, "properties": {"time": time, "distinct_id": who, **properties}}


@pytest.fixture
def metrics(monkeypatch, tmp_path):
    """Changes the metrics in a copy of the dbt project; returns the function that does."""
    copy = tmp_path / "dbt_project"
    ignored = shutil.ignore_patterns("target", "logs")
    shutil.copytree(project.DBT_PROJECT, copy, ignore=ignored)
    monkeypatch.setattr(project, "DBT_PROJECT", copy)
    monkeypatch.setattr(transform, "DBT_PROJECT", copy)
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    # The documented columns and the invariants are those of the metrics as they are.
    Path(copy / "models/marts/subscribers.yml").unlink()

    def change(edit):
        path = copy / "dbt_project.yml"
        declared = yaml.safe_load(path.read_text())
        edit(declared["vars"]["metrics"])
        path.write_text(yaml.safe_dump(declared, sort_keys=False))
        project.metrics.cache_clear()

    yield change
    project.metrics.cache_clear()


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
