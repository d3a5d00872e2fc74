"""A sync may die at any instant; the next one makes everything right."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from local_mixpanel import Fault, LocalMixpanel, traffic
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.source.configuration import load_configuration
from tests import children, recount
from tests.conftest import NOW
from tests.lines import told
from tests.warehouses import copy_of, rows, subscribers

RUN = Path(__file__).parents[1] / "pipelines" / "run.py"


def test_killed_syncs_lose_nothing_and_double_nothing(warehouse, mixpanel, monkeypatch, tmp_path):
    now = datetime.now(UTC)
    files = tmp_path / "dlt"

    def is_there(pattern):
        return any(files.glob(f"pipelines/*/{pattern}"))

    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "10")
        instants = {
            "downloading": lambda: is_there("spool/answer*"),
            "extracting": lambda: is_there("mixpanel/normalize/*"),
            "loading": lambda: is_there("mixpanel/load/normalized/*/started_jobs/events*"),
            "merging": lambda: is_there("mixpanel/load/normalized/*/completed_jobs/events*"),
            "transforming": lambda: not is_there("spool"),
        }
        for seed, (instant, has_come) in enumerate(instants.items()):
            server.add(traffic(seed, now, days=3, events=4000, subscribers=50, is_small=True))
            requests = len(server.requests)
            process = children.start_sync(now)
            until(process, lambda requests=requests: len(server.requests) > requests)
            until(process, has_come)
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL, instant
        children.wait_until_quiet(warehouse)
        settings = load_configuration()
        assert sync(warehouse, settings, full_refresh=True, skip_transform=True).status == "ok"
        assert sync(warehouse, skip_load=True).status == "ok"
        lines = server.lines(date.min, date.max, recount.asked(recount.METRICS))
        loaded = recount.deliver({}, lines)
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(len(loaded),)]
    incremental = subscribers(warehouse)
    assert incremental == recount.subscribers(stored(warehouse), recount.rekeyed(lines))
    with copy_of(warehouse) as copy:
        transform(copy, full_refresh=True)
        assert incremental == subscribers(copy)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_terminated_sync_says_so(warehouse, mixpanel, monkeypatch):
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        server.fail(Fault.STALL, seconds=60)
        process = subprocess.Popen(
            [sys.executable, RUN, "--json"],
            env=os.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        until(process, lambda: server.requests)
        process.terminate()
        _, errors = process.communicate()
        assert told(errors.decode()) == ["error: Interrupted. It is safe to run again."]
        assert process.returncode == 1


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
@pytest.mark.parametrize("file_bytes", [1, 1_000, 5_000, 10_000, 13_000])
def test_a_database_whose_creation_was_cut_off_is_created_again(
    warehouse, mixpanel, run_sync, file_bytes
):
    mixpanel.add([{"event": "$ae_session", "properties": {"time": int(NOW.timestamp())}}])
    starved = children.start_sync(NOW, file_bytes=file_bytes)
    starved.join()
    assert starved.exitcode == children.EXIT_CODES["failed"]
    assert run_sync(skip_transform=True).events_new == 1


def until(process, condition):
    """Wait for something that the process does while it runs."""
    while not condition():
        ended = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
        assert ended is None, "the sync ended before"
        time.sleep(0.001)


def stored(warehouse):
    """The events of the raw table in Mixpanel's form: which copy came first is history."""
    return [
        {"event": event, "properties": json.loads(text)}
        for event, text in rows(
            warehouse, "select event, cast(properties as text) from mixpanel_raw.events"
        )
    ]


@pytest.fixture
def two_loads(built, mixpanel, run_sync):
    """A load of an event of yesterday, and one that brings an event of today."""
    for who, moment in (("ada", NOW - timedelta(days=1)), ("eve", NOW)):
        properties = {"time": int(moment.timestamp()), "distinct_id": who, "$insert_id": who}
        mixpanel.add([{"event": "$ae_session", "properties": properties}])
        assert run_sync(now=moment, skip_transform=True).watermark == moment


@pytest.fixture
def uncommitted(warehouse, two_loads):
    """The database as it is when the loader dies before it commits the second load."""
    ((load_id,),) = rows(warehouse, "select max(load_id) from mixpanel_raw._dlt_loads")
    warehouse.execute(f"delete from mixpanel_raw._dlt_loads where load_id = '{load_id}'")
    return load_id


def test_a_load_that_did_not_complete_does_not_count(warehouse, uncommitted):
    transform(warehouse)
    assert set(subscribers(warehouse)) == {"ada"}
    staged = rows(warehouse, "select distinct_id from mixpanel.stg_mixpanel__events")
    assert staged == [("ada",)]


def test_what_did_not_complete_is_delivered_again_and_counts_once(warehouse, uncommitted, run_sync):
    summary = run_sync()
    assert (summary.mode, summary.events_new, summary.events_duplicate) == ("incremental", 1, 1)
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(2,)]
    sessions = {who: row["app_sessions"] for who, row in subscribers(warehouse).items()}
    assert sessions == {"ada": 1, "eve": 1}


def test_what_an_earlier_version_did_not_complete_counts_once(warehouse, uncommitted, run_sync):
    warehouse.execute("drop table mixpanel_raw.loads_begun")
    assert run_sync().events_new == 1
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(2,)]


def test_what_did_not_complete_and_is_gone_from_mixpanel_is_removed(
    warehouse, mixpanel, uncommitted, run_sync
):
    mixpanel.delete(["eve"])
    assert run_sync().events_new == 0
    assert rows(warehouse, "select distinct_id from mixpanel_raw.events") == [("ada",)]


def test_a_load_does_not_take_the_id_of_an_earlier_one(
    warehouse, mixpanel, two_loads, run_sync, monkeypatch
):
    ((load_id,),) = rows(warehouse, "select min(load_id) from mixpanel_raw._dlt_loads")
    transform(warehouse)
    before = subscribers(warehouse)
    properties = {"time": int(NOW.timestamp()), "distinct_id": "kim", "$insert_id": "kim"}
    mixpanel.add([{"event": "$ae_session", "properties": properties}])
    # As in a process that began dlt's clock before it was set back.
    with monkeypatch.context() as clock:
        clock.setattr("dlt.common.storages.load_package.increasing_precise_time", lambda: load_id)
        failed = run_sync()
    assert failed.status == "failed"
    assert f"earlier one ({load_id}" in (failed.error or "")
    assert (failed.error or "").endswith("run again.")
    assert subscribers(warehouse) == before
    assert run_sync().events_new == 1
    assert set(subscribers(warehouse)) == {*before, "kim"}


def test_what_did_not_complete_does_not_move_the_watermark(warehouse, uncommitted, run_sync):
    yesterday = (NOW - timedelta(days=1)).date()
    assert run_sync(skip_transform=True).from_date == yesterday
    assert run_sync(skip_transform=True).from_date == NOW.date()
