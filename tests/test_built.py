"""A sync that brings nothing new: it writes no load, and does not call dbt for what is built."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from local_mixpanel import LocalMixpanel, traffic
from mixpanel_pipeline.runs import built, run
from mixpanel_pipeline.runs.built import to_build
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.transform import build_arguments
from tests.conftest import NOW, point_at
from tests.warehouses import copy_of, rows, subscribers

RUN = Path(__file__).parents[1] / "pipelines" / "run.py"
LOADS = "select count(*) from mixpanel_raw._dlt_loads"


def event(who="ada", ago=timedelta(0), **properties):
    time = int((NOW - ago).timestamp())
    return {"event": "$ae_session", "properties": {"time": time, "distinct_id": who, **properties}}


@pytest.fixture
def builds(monkeypatch):
    """The builds by dbt, as they begin."""
    begun = []
    transform = getattr(run, "transform")  # noqa: B009

    def counted(*arguments, **options):
        begun.append(options)
        transform(*arguments, **options)

    monkeypatch.setattr(run, "transform", counted)
    return begun


@pytest.fixture
def synced(built, mixpanel, run_sync, builds):
    builds.clear()
    mixpanel.add([event()])
    assert run_sync().status == "ok"
    assert len(builds) == 1
    builds.clear()


def test_nothing_new_is_neither_loaded_nor_built(warehouse, run_sync, builds, synced):
    before = rows(warehouse, LOADS)
    summary = run_sync()
    assert (summary.status, summary.events_received, summary.events_new) == ("ok", 1, 0)
    assert (summary.watermark, summary.subscribers) == (NOW, 1)
    assert rows(warehouse, LOADS) == before
    assert builds == []


def test_what_is_new_is_built_each_time(mixpanel, warehouse, run_sync, builds, synced):
    mixpanel.add([event()])
    assert run_sync().events_new == 1
    assert subscribers(warehouse)["ada"]["app_sessions"] == 2
    assert len(builds) == 1


def test_what_was_only_loaded_is_built_by_the_next_sync(
    mixpanel, warehouse, run_sync, builds, synced
):
    mixpanel.add([event()])
    assert run_sync(skip_transform=True).events_new == 1
    assert run_sync().events_new == 0
    assert len(builds) == 1
    assert subscribers(warehouse)["ada"]["app_sessions"] == 2


def test_copies_that_move_the_watermark_move_it(mixpanel, run_sync, synced):
    mixpanel.add([event(ago=-timedelta(hours=5))])
    later = NOW + timedelta(hours=1)
    assert run_sync().watermark == NOW
    assert run_sync(now=later).watermark == later


def test_whoever_asks_for_a_build_gets_one(warehouse, run_sync, builds, synced):
    assert sync(warehouse, skip_load=True, now=NOW).status == "ok"
    assert run_sync(full_refresh=True).status == "ok"
    assert len(builds) == 2
    assert run_sync().status == "ok"
    assert len(builds) == 2


def test_the_models_are_tested_again_within_a_day(warehouse, run_sync, builds, synced):
    warehouse.execute("update mixpanel.subscribers set app_sessions = -1")
    assert run_sync().status == "ok"
    warehouse.execute("update mixpanel.built set built_at = built_at - interval '25 hours'")
    summary = run_sync()
    assert summary.status == "failed"
    assert "invariants_hold" in summary.error


def test_a_build_that_failed_is_tried_again(mixpanel, warehouse, run_sync, builds, synced):
    warehouse.execute("update mixpanel.subscribers set events_processed = -5")
    mixpanel.add([event("eve")])
    assert run_sync().status == "failed"
    assert run_sync().status == "failed"
    assert len(builds) == 2


TOUCHES = [
    "delete from mixpanel.subscribers",
    "drop view mixpanel.sync_health",
    "drop view mixpanel.event_lateness; create view mixpanel.event_lateness as select 1 as another",
    "delete from mixpanel.counted_loads",
    "delete from mixpanel_raw._dlt_loads",
    "update mixpanel.counted_loads set definition_hash = 'of others'",
    "insert into mixpanel.counted_loads "
    "values ('subscribers', 'gone', 'x', 'y', current_timestamp)",
    "drop table mixpanel.counted_loads",
    "drop table mixpanel.built",
    "alter table mixpanel.subscribers add column more int",
]


def test_what_was_touched_by_hand_is_not_taken_for_built(warehouse, synced, monkeypatch):
    target = os.environ["DBT_TARGET_PATH"]

    def lacking_after(*changes):
        with copy_of(warehouse) as copy:
            # Where dbt writes is one of the settings that a build is known by.
            monkeypatch.setenv("DBT_TARGET_PATH", target)
            for change in changes:
                copy.execute(change)
            return to_build(copy, build_arguments(), NOW)

    assert lacking_after() == "nothing"
    assert [change for change in TOUCHES if lacking_after(change) == "nothing"] == []
    # Views are left alone while they are as they were.
    assert lacking_after("update mixpanel.subscribers set subscriber_id = 'x'") == "nothing"
    assert lacking_after("delete from mixpanel.subscribers") == "tables"
    assert lacking_after("drop view mixpanel.sync_health") == "everything"


def test_another_project_or_another_dbt_builds_again(
    warehouse, run_sync, builds, synced, monkeypatch, request
):
    def lacks():
        return to_build(warehouse, build_arguments(), NOW)

    with monkeypatch.context() as changed:
        changed.setenv("DBT_SOMETHING", "else")
        assert lacks() == "everything"
    with monkeypatch.context() as changed:
        changed.setattr(built, "version", lambda package: "another")
        assert lacks() == "everything"
    assert lacks() == "nothing"
    macro = request.getfixturevalue("dbt_project") / "macros" / "changed.sql"
    macro.write_text("{# one #}", encoding="utf-8")
    assert run_sync().status == "ok"
    assert len(builds) == 1
    assert lacks() == "nothing"
    macro.write_text("{# another #}", encoding="utf-8")
    assert lacks() == "everything"


def test_a_sync_with_nothing_new_does_not_import_dbt(warehouse, monkeypatch):
    with LocalMixpanel() as server:
        point_at(server, monkeypatch)
        server.add(traffic(1, datetime.now(UTC), days=3, events=50, is_small=True))
        assert sync(warehouse).status == "ok"
        command = [sys.executable, "-X", "importtime", str(RUN), "--json"]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "ok"
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "dlt" in imported
    assert "dbt" not in imported
