"""The state in the database: what is read decides, never that it could not be read."""

import os
import signal
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from dlt.common.versioned_state import compress_state, decompress_state

from mixpanel_pipeline import interruption
from mixpanel_pipeline.engines import open_warehouse
from tests.conftest import NOW
from tests.tcp_proxy import TcpProxy
from tests.warehouses import rows

DAY = timedelta(days=1)


def event(moment):
    properties = {"time": int(moment.timestamp()), "distinct_id": "ada"}
    return {"event": "$ae_session", "properties": properties}


def refuse():
    return False


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    return True


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
@pytest.mark.parametrize("happens", [refuse, interrupt])
def test_a_connection_that_fails_costs_no_events(
    mixpanel, warehouse, run_sync, monkeypatch, happens
):
    """Each connection of a sync in turn, with a watermark farther back than the initial window."""
    monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "1")
    monkeypatch.setattr(mixpanel, "_today", lambda: (NOW + 9999 * DAY).date())
    now = NOW
    mixpanel.add([event(now)])
    run_sync(skip_transform=True)
    endings = []
    with TcpProxy(warehouse.credentials.port) as proxy:
        warehouse.credentials.port = proxy.port
        for number in count(1):
            mixpanel.add([event(now + days * DAY) for days in (1, 2, 3)])
            now += 3 * DAY
            proxy.at(number, happens)
            summary = run_sync(now=now, skip_transform=True)
            endings.append((summary.mode, summary.error))
            if proxy.connections < number:
                break
        proxy.at(0, happens)
        loaded = rows(warehouse, "select count(*) from mixpanel_raw.events")
    assert {mode for mode, _ in endings} == {"incremental"}
    assert loaded == [(1 + 3 * number,)]
    if happens is interrupt:
        assert [error for _, error in endings] == [interruption.MESSAGE] * (number - 1) + [None]


def damage(warehouse, change):
    """Store what `change` makes of the state."""
    ((stored,),) = rows(warehouse, "select state from mixpanel_raw._dlt_pipeline_state")
    changed = change(stored)
    warehouse.execute("update mixpanel_raw._dlt_pipeline_state set state = %s", [changed])
    return changed


def of_another_form(stored):
    state: Any = decompress_state(stored)
    state["sources"] = ["mixpanel"]
    return compress_state(state)


def of_another_cursor(stored):
    state: Any = decompress_state(stored)
    state["sources"]["mixpanel"]["resources"]["events"]["cursor"] = "inserted_at"
    return compress_state(state)


def of_another_type(stored):
    state: Any = decompress_state(stored)
    cursor = state["sources"]["mixpanel"]["resources"]["events"]["incremental"]["occurred_at"]
    cursor["last_value"] = "yesterday"
    return compress_state(state)


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: "no state",
        lambda stored: "",
        lambda stored: stored[: len(stored) // 2],
        lambda stored: compress_state({}),
        of_another_form,
        of_another_cursor,
        of_another_type,
    ],
    ids=[
        "no state",
        "no text",
        "half a state",
        "empty",
        "another form",
        "another cursor",
        "another type",
    ],
)
def test_an_unreadable_state_is_kept_aside(mixpanel, warehouse, run_sync, caplog, change):
    mixpanel.add([event(NOW), event(NOW - 30 * DAY)])
    run_sync(skip_transform=True)
    damaged = damage(warehouse, change)
    summary = run_sync(skip_transform=True)
    assert (summary.status, summary.mode, summary.events_new) == ("ok", "first", 0)
    assert "watermark cannot be read" in caplog.text
    assert "_dlt_pipeline_state_unreadable" in caplog.text
    kept = "select state, set_aside_at from mixpanel_raw._dlt_pipeline_state_unreadable"
    assert rows(warehouse, kept) == [(damaged, NOW)]
    assert run_sync(skip_transform=True).mode == "incremental"


def test_an_unreadable_state_after_an_outage_costs_no_events(
    mixpanel, warehouse, run_sync, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "2")
    mixpanel.add([event(NOW - 30 * DAY)])
    run_sync(now=NOW - 30 * DAY, skip_transform=True)
    mixpanel.add([event(NOW - days * DAY) for days in range(30)])
    damage(warehouse, lambda stored: "no state")
    summary = run_sync(skip_transform=True)
    assert (summary.mode, summary.events_new) == ("first", 30)


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_readable_state_is_never_set_aside(mixpanel, warehouse, run_sync, monkeypatch):
    """dlt's step fails although the state can be read."""
    mixpanel.add([event(NOW)])
    run_sync(skip_transform=True)
    warehouse.execute("update mixpanel_raw._dlt_version set schema = 'no schema'")
    before = rows(warehouse, "select state from mixpanel_raw._dlt_pipeline_state")
    assert run_sync(skip_transform=True).status == "failed"
    assert rows(warehouse, "select state from mixpanel_raw._dlt_pipeline_state") == before
    assert not open_warehouse(None).has_table("mixpanel_raw", "_dlt_pipeline_state_unreadable")
