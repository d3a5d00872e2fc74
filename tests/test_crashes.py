"""A sync may die at any instant; the next one makes everything right."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from local_mixpanel import LocalMixpanel, traffic
from sync.transform import transform
from tests import recount
from tests.conftest import NOW
from tests.warehouses import copy_of, rows, subscribers

RUN = Path(__file__).parents[1] / "pipelines" / "run.py"
EVENTS = 4000
KILLS = 5


def test_killed_syncs_lose_nothing_and_double_nothing(mixpanel, warehouse, monkeypatch):
    now = datetime.now(UTC)
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "10")

        def happen(seed):
            server.add(traffic(seed, now, days=3, events=EVENTS, subscribers=50, is_small=True))

        happen(0)
        started = time.monotonic()
        assert sync_in_a_process() == 0
        duration = time.monotonic() - started
        for kill in range(KILLS):
            happen(kill + 1)
            # Spread over the run's second half: the first is spent on importing.
            sync_in_a_process(kill_after=duration * (0.4 + 0.6 * kill / KILLS))
        assert sync_in_a_process("--full-refresh", "--skip-transform") == 0
        assert sync_in_a_process("--skip-load") == 0
        loaded = recount.deliver({}, server.lines(date.min, date.max, recount.TRACKED))
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(len(loaded),)]
    incremental = subscribers(warehouse)
    assert incremental == recount.subscribers(stored(warehouse))
    with copy_of(warehouse) as copy:
        transform(copy, full_refresh=True)
        assert incremental == subscribers(copy)


def sync_in_a_process(*arguments, kill_after=None):
    process = subprocess.Popen(
        [sys.executable, RUN, "--json", *arguments], env=os.environ, stdout=subprocess.DEVNULL
    )
    try:
        return process.wait(kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def stored(warehouse):
    """The events of the raw table in Mixpanel's form: which copy came first is history."""
    return [
        {"event": event, "properties": json.loads(text)}
        for event, text in rows(
            warehouse, "select event, cast(properties as text) from mixpanel_raw.events"
        )
    ]


@pytest.fixture
def two_loads(mixpanel, run_sync):
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


def test_what_did_not_complete_does_not_move_the_watermark(warehouse, uncommitted, run_sync):
    yesterday = (NOW - timedelta(days=1)).date()
    assert run_sync(skip_transform=True).from_date == yesterday
    assert run_sync(skip_transform=True).from_date == NOW.date()
