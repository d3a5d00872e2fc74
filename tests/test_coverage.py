"""Days that were loaded for other names are told of, and loaded by a full refresh."""

from datetime import timedelta

import pytest

from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW
from tests.warehouses import rows

DAY = timedelta(days=1)


def event(name, ago):
    moment = NOW - ago * DAY
    stamps = {"time": int(moment.timestamp()), "mp_processing_time_ms": moment.timestamp() * 1000}
    return {"event": name, "properties": {**stamps, "distinct_id": "ada"}}


@pytest.fixture
def names(mixpanel, monkeypatch):
    """Sets what to load; the initial window is three days."""
    monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "3")
    mixpanel.add([event(name, ago) for name in ("A", "B") for ago in range(120)])

    def choose(value):
        monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", value)

    return choose


def loaded(warehouse):
    found = "select event, count(*) from mixpanel_raw.events group by event order by event"
    return dict(rows(warehouse, found))


@pytest.mark.parametrize("cursor", ["occurred_at", "processed_at"])
@pytest.mark.parametrize("more", ['["A", "B"]', "all"])
def test_a_full_refresh_loads_what_is_missing_of_all_days(
    mixpanel, warehouse, run_sync, monkeypatch, caplog, names, more, cursor
):
    monkeypatch.setenv("SOURCES__MIXPANEL__CURSOR", cursor)
    names('["A"]')
    old = (NOW - 100 * DAY).date()
    summary = run_sync(now=NOW - 9 * DAY, skip_transform=True)
    run_sync(now=NOW - 4 * DAY, skip_transform=True)
    run_sync(backfill=Window(old, old), skip_transform=True)
    summary = run_sync(skip_transform=True)
    assert (summary.days_missing, "days_missing" in summary.as_json()) == (None, False)
    names(more)
    summary = run_sync(skip_transform=True)
    assert (summary.status, summary.missing_since) == ("ok", old)
    assert summary.days_missing is not None
    assert f"since {old}" in caplog.text
    assert "--full-refresh" in caplog.text
    before = loaded(warehouse)
    assert before["B"] < before["A"]
    caplog.clear()
    summary = run_sync(full_refresh=True, skip_transform=True)
    assert (summary.from_date, summary.days_missing) == (old, None)
    assert loaded(warehouse) == {"A": 101, "B": 101}
    assert run_sync(skip_transform=True).days_missing is None
    assert caplog.text == ""


def test_what_was_left_out_for_a_while_is_missing(mixpanel, warehouse, run_sync, names):
    for ago, value in ((6, '["A", "B"]'), (5, '["A"]'), (1, '["A"]'), (0, '["A", "B"]')):
        names(value)
        summary = run_sync(now=NOW - ago * DAY, skip_transform=True)
    # The day of the watermark is read whole again.
    assert (summary.days_missing, summary.missing_since) == (5, (NOW - 6 * DAY).date())
    assert run_sync(full_refresh=True, skip_transform=True).days_missing is None
    assert loaded(warehouse) == {"A": 9, "B": 9}


def test_fewer_names_leave_nothing_missing(mixpanel, warehouse, run_sync, names):
    names("all")
    run_sync(skip_transform=True)
    names('["A"]')
    assert run_sync(skip_transform=True).days_missing is None


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_what_was_denied_of_all_events_is_missing_once_it_is_not(
    mixpanel, warehouse, run_sync, names, monkeypatch
):
    names("all")
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS_DENIED", '["B"]')
    run_sync(now=NOW - DAY, skip_transform=True)
    assert run_sync(skip_transform=True).days_missing is None
    assert loaded(warehouse) == {"A": 4}
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS_DENIED", '["B", "C"]')
    assert run_sync(skip_transform=True).days_missing is None
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS_DENIED", '["C"]')
    # The day of the watermark is read whole again.
    assert run_sync(skip_transform=True).days_missing == 3
    assert run_sync(full_refresh=True, skip_transform=True).days_missing is None
    assert loaded(warehouse) == {"A": 4, "B": 4}
