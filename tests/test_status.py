"""`run.py status`: how things stand, without getting in anybody's way."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.runs.pipeline import audit, sync
from mixpanel_pipeline.runs.status import status
from mixpanel_pipeline.source.configuration import load_configuration
from tests.conftest import NOW

HOUR = timedelta(hours=1)


def event(who, ago=HOUR):
    identity = {"time": int((NOW - ago).timestamp()), "distinct_id": who, "$insert_id": who}
    return {"event": "$ae_session", "properties": identity}


def stands(warehouse, now=NOW, max_age=24 * HOUR):
    return status(warehouse, now=now, max_age=max_age)


def test_what_ran_and_what_is_loaded_is_told(mixpanel, warehouse, run_sync):
    assert stands(warehouse).problems == ["Nothing was ever loaded."]
    mixpanel.add([event("ann"), event("bob", 30 * HOUR)])
    assert run_sync(skip_transform=True).status == "ok"
    found = stands(warehouse, NOW + HOUR)
    assert (found.problems, found.running) == ([], None)
    assert (found.watermark, found.lag_seconds) == (NOW - HOUR, 7200)
    assert [run["status"] for run in found.last_runs] == ["ok"]
    assert found.rows["events"] == 2
    assert found.events_by_day == {"2026-03-09": 1, "2026-03-10": 1}
    assert json.loads(found.as_json())["is_well"]
    assert "mixpanel_pipeline_well 1" in found.as_prometheus()

    assert stands(warehouse, NOW + 30 * HOUR).problems == [
        "No sync has succeeded in the last 24 hours."
    ]


def test_a_run_that_failed_or_died_is_a_problem(mixpanel, warehouse, run_sync):
    run_sync(skip_transform=True)
    warehouse.execute("update mixpanel_raw.sync_runs set status = 'failed', error = 'No space.'")
    assert "The last run failed: No space." in stands(warehouse).problems
    warehouse.execute("update mixpanel_raw.sync_runs set status = 'running'")
    assert any("died without a word" in problem for problem in stands(warehouse).problems)
    with warehouse.lock():
        # The first of all may take longer than a day.
        assert stands(warehouse, NOW + 30 * HOUR).problems == []


def test_an_audit_is_no_sync(mixpanel, warehouse, run_sync):
    mixpanel.add([event("ann")])
    run_sync(skip_transform=True)
    synced = stands(warehouse).last_success_at
    warehouse.execute("delete from mixpanel_raw.events")
    # A role that only builds has rows of its own.
    warehouse.execute(
        "insert into mixpanel_raw.sync_runs "
        "(id, started_at, finished_at, status, mode, destination, version) "
        "values ('2', %s, %s, 'ok', 'incremental', 'x', 'x')",
        [NOW + HOUR / 2] * 2,
    )
    assert audit(warehouse, load_configuration(), now=NOW + HOUR).status == "differing"
    found = stands(warehouse, NOW + HOUR)
    assert (found.last_audit, found.problems) == ("1 count differs from Mixpanel's own", [])
    assert found.last_success_at == synced
    warehouse.execute(
        "update mixpanel_raw.sync_runs set status = 'failed', error = 'No space.' "
        "where mode <> 'audit'"
    )
    assert "The last run failed: No space." in stands(warehouse, NOW + HOUR).problems


def test_instants_are_told_in_utc(mixpanel, warehouse, run_sync):
    mixpanel.add([event("ann")])
    run_sync(skip_transform=True)
    written = StringIO()
    stands(warehouse, NOW + HOUR).print(Console(file=written, width=200))
    told = written.getvalue()
    assert f"{NOW - HOUR:%Y-%m-%d %H:%M:%S} UTC, 2.0 hours ago" in told
    assert f"│ {NOW:%Y-%m-%d %H:%M:%S} │ first" in told


def test_a_sync_that_runs_is_told_and_not_disturbed(mixpanel, warehouse, run_sync):
    run_sync(skip_transform=True)
    with warehouse.lock():
        assert "process" in (stands(warehouse).running or "")
    assert stands(warehouse).running is None
    assert run_sync(skip_transform=True).status == "ok"


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_command_tells_monitors(warehouse, monkeypatch, tmp_path, capsys):
    assert main(["status"]) == 1
    assert "Nothing was ever loaded." in capsys.readouterr().out
    now = datetime.now(UTC)
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        monkeypatch.setenv("SOURCES__MIXPANEL__PROJECT_ID", server.project_id)
        monkeypatch.setenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_USERNAME", server.username)
        monkeypatch.setenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET", server.secret)
        sync(warehouse, load_configuration(), now=now, skip_transform=True)
    file = tmp_path / "mixpanel.prom"
    assert main(["status", "--json", "--prometheus", str(file)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["destination"], told["is_well"], told["problems"]) == ("duckdb", True, [])
    assert "mixpanel_pipeline_last_success_timestamp_seconds 1" in file.read_text(encoding="utf-8")
    assert main(["status", "--prometheus", str(tmp_path / "nowhere" / "file")]) == 2
