"""The cursor by arrival: late events, however late, and switching there and back."""

from collections.abc import Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import pytest
from dlt.common.versioned_state import compress_state, decompress_state

from local_mixpanel import Fault
from mixpanel_pipeline.source import plan
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.errors import ExportError
from tests.conftest import NOW
from tests.warehouses import rows

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


def event(who, occurred, arrived=None, **properties):
    stamps = {"time": int(occurred.timestamp()), "distinct_id": who}
    if arrived is not None:
        stamps["mp_processing_time_ms"] = int(arrived.timestamp() * 1000)
    return {"event": "$ae_session", "properties": {**stamps, **properties}}


@pytest.fixture
def by_arrival(monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__CURSOR", "processed_at")


@contextmanager
def exports(mixpanel):
    """The queries of the exports that are sent meanwhile."""
    found = list[Mapping[str, str]]()
    before = len(mixpanel.exports)
    yield found
    found += [request.query for request in mixpanel.exports[before:]]


def who_is_loaded(warehouse):
    return {who for (who,) in rows(warehouse, "select distinct_id from mixpanel_raw.events")}


def test_a_first_sync_by_arrival_loads_the_initial_window(
    mixpanel, warehouse, run_sync, by_arrival
):
    mixpanel.add(
        [event("ada", NOW - HOUR, NOW - HOUR), event("old", NOW - 44 * DAY, NOW - 40 * DAY)]
    )
    with exports(mixpanel) as sent:
        summary = run_sync(skip_transform=True)
    assert (summary.status, summary.mode, summary.events_new) == ("ok", "first", 2)
    assert summary.watermark == NOW - HOUR
    assert ["where" in query for query in sent] == [False, False, False, True]
    assert run_sync(skip_transform=True).mode == "incremental"


def test_late_events_are_found_by_their_arrival(mixpanel, warehouse, run_sync, by_arrival):
    mixpanel.add([event("ada", NOW - 3 * HOUR, NOW - 3 * HOUR)])
    run_sync(skip_transform=True)
    now = NOW + 5 * HOUR
    mixpanel.add(
        [
            event("five days late", NOW - 4 * DAY, NOW + HOUR),
            event("minutes late", NOW, NOW + HOUR),
            event("too late", NOW - 7 * DAY, NOW + HOUR),
        ]
    )
    with exports(mixpanel) as sent:
        summary = run_sync(now=now, skip_transform=True)
    assert (summary.events_new, summary.watermark) == (2, NOW + HOUR)
    (query,) = sent
    assert (query["from_date"], query["to_date"]) == ("2026-03-05", "2026-03-10")
    assert who_is_loaded(warehouse) == {"ada", "five days late", "minutes late"}


def test_any_number_of_arrival_days(mixpanel, warehouse, run_sync, by_arrival, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__ARRIVAL_DAYS", "400")
    mixpanel.add([event("ada", NOW - 3 * HOUR, NOW - 3 * HOUR)])
    run_sync(skip_transform=True)
    mixpanel.add([event("a year late", NOW - 390 * DAY, NOW + HOUR)])
    assert run_sync(now=NOW + 5 * HOUR, skip_transform=True).events_new == 1


def test_an_event_that_becomes_visible_late_is_loaded(mixpanel, warehouse, run_sync, by_arrival):
    mixpanel.add([event("ada", NOW, NOW)])
    run_sync(now=NOW + 5 * MINUTE, skip_transform=True)
    mixpanel.add([event("hidden for half an hour", NOW - HOUR, NOW - 30 * MINUTE)])
    run_sync(now=NOW + 10 * MINUTE, skip_transform=True)
    assert who_is_loaded(warehouse) == {"ada", "hidden for half an hour"}


def test_what_does_not_say_when_it_was_processed_is_loaded_once(
    mixpanel, warehouse, run_sync, by_arrival
):
    mixpanel.add([event("ada", NOW, NOW)])
    run_sync(skip_transform=True)
    silent = [event("silent", NOW - DAY)] * 2
    mixpanel.add(silent)
    assert run_sync(now=NOW + HOUR, skip_transform=True).events_new == 2
    again = run_sync(now=NOW + 2 * HOUR, skip_transform=True)
    assert (again.events_new, again.events_duplicate) == (0, 3)


def test_identical_events_without_an_insert_id_are_counted_by_arrival(
    mixpanel, warehouse, run_sync, by_arrival
):
    mixpanel.add([event("ada", NOW - DAY, NOW - DAY)] * 3)
    run_sync(skip_transform=True)
    # The same payload processed later is another event; a part of the day brings all of its kind.
    mixpanel.add([event("ada", NOW - DAY, NOW)] * 2)
    assert run_sync(now=NOW + HOUR, skip_transform=True).events_new == 2
    assert run_sync(now=NOW + HOUR, full_refresh=True, skip_transform=True).events_new == 0
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(5,)]


def test_days_that_are_not_over_can_wait(mixpanel, warehouse, run_sync, by_arrival, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__END_DAY", "yesterday")
    mixpanel.add(
        [event("ada", NOW - DAY, NOW - DAY), event("today", NOW - 5 * HOUR, NOW - 5 * HOUR)]
    )
    mixpanel.add([event("late", NOW - DAY, NOW - HOUR)])
    summary = run_sync(skip_transform=True)
    assert summary.to_date == date(2026, 3, 9)
    run_sync(now=NOW + MINUTE, skip_transform=True)
    run_sync(now=NOW + DAY, skip_transform=True)
    assert who_is_loaded(warehouse) == {"ada", "late", "today"}


def test_a_long_pause_is_loaded_in_slices_of_arrival(
    mixpanel, warehouse, run_sync, by_arrival, monkeypatch
):
    mixpanel.add([event("ada", NOW - 6 * DAY, NOW - 6 * DAY)])
    run_sync(now=NOW - 6 * DAY + HOUR, skip_transform=True)
    monkeypatch.setattr(plan, "REQUEST_BYTES", 1)
    for ago in range(5):
        mixpanel.add([event(f"{ago} days ago", NOW - (ago + 1) * DAY, NOW - ago * DAY - HOUR)])
    with exports(mixpanel) as sent:
        summary = run_sync(skip_transform=True)
    assert (summary.status, summary.events_new) == ("ok", 5)
    # Seven days of arrival, and each of the six that became askable.
    assert len(sent) == 13
    assert summary.watermark == NOW - HOUR


def test_a_failed_slice_keeps_those_before_it(
    mixpanel, warehouse, run_sync, by_arrival, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    monkeypatch.setenv("SOURCES__MIXPANEL__PARALLEL_DOWNLOADS", "1")
    mixpanel.add([event("ada", NOW - 6 * DAY, NOW - 6 * DAY)])
    run_sync(now=NOW - 6 * DAY + HOUR, skip_transform=True)
    mixpanel.add([event("early", NOW - 5 * DAY, NOW - 5 * DAY)])
    mixpanel.add([event("later", NOW - 3 * DAY, NOW - 2 * DAY)])
    monkeypatch.setattr(plan, "REQUEST_BYTES", 1)
    fetch = MixpanelClient.fetch

    def fail_later(client, request, *others, **named):
        if request.arrival.until > NOW - 3 * DAY:
            raise ExportError("no more")
        return fetch(client, request, *others, **named)

    with monkeypatch.context() as broken:
        broken.setattr(MixpanelClient, "fetch", fail_later)
        failed = run_sync(skip_transform=True)
    assert (failed.status, failed.events_new, failed.watermark) == ("failed", 1, NOW - 5 * DAY)
    with exports(mixpanel) as sent:
        assert run_sync(skip_transform=True).events_new == 1
    assert len(sent) == 6


@pytest.fixture
def real_today(mixpanel, monkeypatch):
    """Mixpanel's clock, to be set: it takes no day that is yet to come."""
    clock = [NOW]
    monkeypatch.setattr(mixpanel, "_today", lambda: clock[0].date())
    return clock


@pytest.mark.parametrize("fast", [20 * HOUR, 40 * DAY], ids=["20 hours", "40 days"])
@pytest.mark.parametrize("every", [HOUR, 50 * DAY], ids=["hourly", "after 50 days"])
def test_an_event_of_a_fast_clock_is_loaded_once_its_day_has_come(
    mixpanel, warehouse, run_sync, by_arrival, real_today, fast, every
):
    mixpanel.add([event("ada", NOW - HOUR, NOW - HOUR)])
    run_sync(skip_transform=True)
    mixpanel.add([event("fast", NOW + fast, NOW), event("bob", NOW, NOW)])
    real_today[0] = now = NOW + HOUR
    run_sync(now=now, skip_transform=True)
    assert who_is_loaded(warehouse) == {"ada", "bob"}
    # Later than the lookback, so that no range of arrival reaches back to the fast clock's.
    mixpanel.add([event("eve", NOW + 4 * HOUR, NOW + 4 * HOUR)])
    for now in (NOW + 5 * HOUR, NOW + fast + every):
        real_today[0] = now
        assert run_sync(now=now, skip_transform=True).status == "ok"
    assert who_is_loaded(warehouse) == {"ada", "bob", "eve", "fast"}
    with exports(mixpanel) as sent:
        run_sync(now=now, skip_transform=True)
    # Those days are asked for once.
    assert all(">=" in query["where"] for query in sent)


def test_the_days_of_a_fast_clock_are_asked_for_again_after_a_failure(
    mixpanel, warehouse, run_sync, by_arrival, real_today, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    mixpanel.add([event("fast", NOW + 20 * HOUR, NOW - 5 * HOUR), event("ada", NOW, NOW - HOUR)])
    run_sync(skip_transform=True)
    real_today[0] = NOW + DAY
    mixpanel.fail(Fault.INTERNAL_SERVER_ERROR)
    assert run_sync(now=NOW + DAY, skip_transform=True).status == "failed"
    assert run_sync(now=NOW + DAY, skip_transform=True).status == "ok"
    assert who_is_loaded(warehouse) == {"ada", "fast"}


def test_a_state_that_does_not_say_to_where_it_had_asked_is_gone_on_with(
    mixpanel, warehouse, run_sync, by_arrival, real_today
):
    mixpanel.add([event("fast", NOW + 20 * HOUR, NOW - 5 * HOUR), event("ada", NOW, NOW - HOUR)])
    run_sync(skip_transform=True)
    ((stored,),) = rows(
        warehouse,
        "select state from mixpanel_raw._dlt_pipeline_state order by _dlt_load_id desc limit 1",
    )
    state: Any = decompress_state(stored)
    del state["sources"]["mixpanel"]["resources"]["events"]["asked_to"]
    warehouse.execute(
        f"update mixpanel_raw._dlt_pipeline_state set state = '{compress_state(state)}'"
    )
    real_today[0] = NOW + DAY
    run_sync(now=NOW + DAY, skip_transform=True)
    assert who_is_loaded(warehouse) == {"ada", "fast"}


@pytest.mark.parametrize("interrupted", [False, True], ids=["at once", "interrupted"])
@pytest.mark.parametrize("to", ["occurred_at", "processed_at"])
def test_switching_loses_nothing(mixpanel, warehouse, run_sync, monkeypatch, to, interrupted):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    monkeypatch.setenv("SOURCES__MIXPANEL__PARALLEL_DOWNLOADS", "1")
    other = {"occurred_at": "processed_at", "processed_at": "occurred_at"}[to]
    monkeypatch.setenv("SOURCES__MIXPANEL__CURSOR", other)
    mixpanel.add([event("ada", NOW - DAY, NOW - DAY)])
    run_sync(skip_transform=True)
    mixpanel.add([event("late", NOW - 5 * DAY, NOW + HOUR), event("new", NOW + HOUR, NOW + HOUR)])
    monkeypatch.setenv("SOURCES__MIXPANEL__CURSOR", to)
    if interrupted:
        monkeypatch.setattr(plan, "REQUEST_BYTES", 1)
        mixpanel.add_lines((NOW - DAY).date(), [b'{"error": "timeout"}'], event="$ae_session")
        failed = run_sync(now=NOW + 2 * HOUR, skip_transform=True)
        assert (failed.status, failed.events_new) == ("failed", 1)
        mixpanel.add([event("ada", NOW - DAY, NOW - DAY)])
    summary = run_sync(now=NOW + 2 * HOUR, skip_transform=True)
    assert summary.status == "ok", summary.error
    assert who_is_loaded(warehouse) >= {"ada", "late", "new"}
    with exports(mixpanel) as sent:
        run_sync(now=NOW + 3 * HOUR, skip_transform=True)
    assert ["where" in query for query in sent] == [to == "processed_at"] * len(sent)


def test_a_clock_that_went_back_loses_nothing(mixpanel, warehouse, run_sync, by_arrival):
    mixpanel.add([event("ada", NOW - HOUR, NOW - HOUR)])
    watermark = run_sync(skip_transform=True).watermark
    mixpanel.add([event("bob", NOW - 300 * DAY, NOW), event("eve", NOW, NOW)])
    back = run_sync(now=NOW - 300 * DAY, skip_transform=True)
    assert (back.status, back.watermark) == ("ok", watermark)
    run_sync(now=NOW + HOUR, skip_transform=True)
    assert who_is_loaded(warehouse) == {"ada", "eve"}
