"""How a sync calls dbt: by its own settings only, and what it says when a model or test fails."""

import random
import shutil

import pytest

from mixpanel_pipeline import project
from mixpanel_pipeline.runs.transform import call_dbt
from tests.conftest import NOW
from tests.warehouses import rows, subscribers


def event(who="ada", **properties):
    time = int(NOW.timestamp())
    return {
        "event": "$ae_session",
        "properties": {"time": time, "distinct_id": who, **properties},
    }


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_setting_of_dbt_leaves_no_event_uncounted(mixpanel, warehouse, run_sync, monkeypatch):
    # By any of them alone, the event would not be counted.
    monkeypatch.setenv("DBT_EMPTY", "true")
    monkeypatch.setenv("DBT_ENGINE_EMPTY", "true")
    monkeypatch.setenv("DBT_RESOURCE_TYPES", "test")
    monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "model")
    mixpanel.add([event()])
    assert run_sync().error is None
    assert subscribers(warehouse)["ada"]["app_sessions"] == 1


def test_no_variable_of_dbt_reaches_a_sync(mixpanel, warehouse, run_sync, monkeypatch):
    from dbt.cli.params import KNOWN_ENV_VARS

    ours = ("DBT_TARGET_PATH", "DBT_LOG_PATH", "DBT_ENGINE_TARGET_PATH", "DBT_ENGINE_LOG_PATH")
    for variable in KNOWN_ENV_VARS:
        for name in (variable.name, variable.old_name):
            if name and name not in ours:
                # dbt would refuse it, or find nothing there.
                monkeypatch.setenv(name, "no such thing")
    mixpanel.add([event()])
    assert run_sync().error is None
    assert subscribers(warehouse)["ada"]["app_sessions"] == 1


def test_a_sync_writes_nothing_into_the_checkout(
    mixpanel, warehouse, run_sync, monkeypatch, tmp_path
):
    copy = tmp_path / "dbt_project"
    shutil.copytree(project.DBT_PACKAGE, copy, ignore=shutil.ignore_patterns("target", "logs"))
    monkeypatch.setattr(project, "DBT_PACKAGE", copy)
    monkeypatch.setattr(project, "_dbt_project", copy)
    monkeypatch.delenv("DBT_TARGET_PATH")
    monkeypatch.delenv("DBT_LOG_PATH")
    before = set(copy.rglob("*"))
    mixpanel.add([event()])
    assert run_sync().error is None
    assert set(copy.rglob("*")) == before
    assert list((tmp_path / "dlt" / "dbt").glob("*/target/partial_parse.msgpack"))


@pytest.mark.usefixtures("built")
def test_a_model_that_fails_is_told_once_and_the_load_is_kept(mixpanel, warehouse, run_sync, capfd):
    mixpanel.add([event()])
    run_sync()
    warehouse.execute("delete from mixpanel.counted_loads")
    mixpanel.add([event("eve")])
    capfd.readouterr()
    summary = run_sync()
    printed = "".join(capfd.readouterr())
    assert "does not say which loads" not in printed
    assert (summary.status, summary.events_new) == ("failed", 1)
    assert "dbt build failed: subscriber_days: " in str(summary.error)
    assert "--full-refresh" in str(summary.error)
    assert str(summary.error).count("does not say which loads") == 1
    assert "is counted by the next sync" in str(summary.error)
    assert "compiled code" not in str(summary.error)
    assert run_sync(full_refresh=True).status == "ok"
    assert set(subscribers(warehouse)) == {"ada", "eve"}


@pytest.mark.usefixtures("built")
def test_a_test_that_fails_after_its_model_says_that_all_is_counted(
    mixpanel, warehouse, run_sync, capfd
):
    mixpanel.add([event()])
    run_sync()
    warehouse.execute(
        "update mixpanel.subscribers set first_event_at = last_event_at + interval '1' day"
    )
    mixpanel.add([event("eve")])
    summary = run_sync()
    assert summary.status == "failed"
    assert "invariants_hold" in str(summary.error)
    assert "is counted, but a test does not pass" in str(summary.error)
    assert "next sync" not in str(summary.error)
    assert set(subscribers(warehouse)) == {"ada", "eve"}


def long_id(seed):
    """As random texts are, it does not become shorter by compression."""
    return random.Random(seed).randbytes(8000).hex()


@pytest.mark.usefixtures("built")
def test_an_id_of_any_length_is_counted(mixpanel, warehouse, run_sync):
    ids = [long_id(1), long_id(2), "x" * 16_000]
    for _ in range(2):
        mixpanel.add([event(who) for who in ids])
        mixpanel.add([event("", user_id=long_id(3)), event()])
        assert run_sync().error is None
    assert run_sync(full_refresh=True).error is None
    found = {who: row["app_sessions"] for who, row in subscribers(warehouse).items()}
    assert found == dict.fromkeys([*ids, long_id(3), "ada"], 2)


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_the_index_of_the_last_version_gives_way_to_one_that_takes_any_id(
    mixpanel, warehouse, run_sync
):
    mixpanel.add([event()])
    run_sync()
    indexes = (
        "select indexname, indexdef from pg_indexes "
        "where schemaname = 'mixpanel' and tablename = 'subscribers'"
    )
    ((name, definition),) = rows(warehouse, indexes)
    assert "USING hash (subscriber_id)" in definition
    warehouse.execute(
        f"drop index mixpanel.{name};"
        "create unique index before on mixpanel.subscribers (subscriber_id)"
    )
    mixpanel.add([event(), event(long_id(1))])
    assert run_sync().error is None
    ((_, definition),) = rows(warehouse, indexes)
    assert "USING hash (subscriber_id)" in definition
    assert subscribers(warehouse)[long_id(1)]["app_sessions"] == 1
    assert subscribers(warehouse)["ada"]["app_sessions"] == 2


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_models_that_add_loads_stand_behind_their_ledger_in_dbts_lineage(warehouse):
    chosen = ["--select", "source:mixpanel_ledger+1", "--resource-type", "model"]
    listed = call_dbt(warehouse, ["ls", *chosen, "--output", "name"])
    adding = ["identity_edges", "property_counts", "subscriber_days", "touches"]
    assert sorted(listed.result) == adding


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_models_that_add_loads_read_no_event_when_there_is_none_to_add(
    mixpanel, warehouse, run_sync
):
    mixpanel.add([event(), event("bob")])
    assert run_sync().error is None
    # The loads are claimed by the build, which this is not.
    compiled = call_dbt(warehouse, ["compile", "--select", "source:mixpanel_ledger+1"])
    nodes = [result.node for result in compiled.result if result.node.resource_type == "model"]
    assert len(nodes) == 4
    for node in nodes:
        ((_, plan),) = warehouse.rows(f"explain analyze {node.compiled_code}")
        assert "mixpanel_raw.events" in plan, node.name
        assert "Row Groups Scanned: 0 / 1" in plan, f"{node.name}: {plan}"
