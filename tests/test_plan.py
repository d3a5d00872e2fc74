from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.plan import (
    REQUEST_BYTES,
    Arrival,
    Request,
    Stage,
    arrivals,
    days_at_once,
    days_become_askable,
)
from mixpanel_pipeline.source.window import Window, incremental_window

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
TODAY = NOON.date()
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def by_arrival(since=NOON - HOUR, now=NOON, last=TODAY, zone="UTC", arrival_days=5):
    return arrivals(
        since + 2 * HOUR,
        now,
        lookback=2 * HOUR,
        arrival_days=arrival_days,
        timezone=ZoneInfo(zone),
        last_event_day=last,
    )


@pytest.mark.parametrize(
    ("bytes_per_day", "days_answered", "expected"),
    [
        pytest.param(None, 0, (1, False), id="nothing known"),
        pytest.param(REQUEST_BYTES * 3, 1, (1, True), id="a day is more than enough"),
        pytest.param(REQUEST_BYTES / 4, 1, (4, True), id="four days fit"),
        pytest.param(REQUEST_BYTES / 16, 1, (8, False), id="growing slowly"),
        pytest.param(0, 8, (64, False), id="empty days"),
    ],
)
def test_requests_have_the_size_that_fits(bytes_per_day, days_answered, expected):
    assert days_at_once(bytes_per_day, days_answered) == expected


def test_whole_days_are_asked_for_without_a_filter():
    request = Stage(Window(TODAY - DAY, TODAY), "occurred_at", NOON).request(TODAY, TODAY)
    assert request == Request(Window(TODAY, TODAY))
    assert request.where is None


def test_arrivals_reach_from_the_lookback_to_a_minute_ago():
    stage = by_arrival(since=NOON - 3 * HOUR)
    assert stage.arrival == Arrival(NOON - 3 * HOUR, NOON - timedelta(minutes=1))
    assert stage.until == NOON - timedelta(minutes=1)
    request = stage.request(TODAY, TODAY)
    assert request.window == Window(TODAY - 5 * DAY, TODAY)
    assert request.where == (
        '(number(properties["mp_processing_time_ms"]) >= 1773133200000 and '
        'number(properties["mp_processing_time_ms"]) < 1773143940000) or '
        'not defined(properties["mp_processing_time_ms"])'
    )


def test_a_long_pause_is_asked_for_in_days_of_arrival():
    stage = by_arrival(since=NOON - 9 * DAY)
    assert stage.days == Window(TODAY - 9 * DAY, TODAY)
    first, second = (stage.request(day, day) for day in stage.days.days[:2])
    assert first.arrival is not None
    assert second.arrival is not None
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert first.arrival == Arrival(NOON - 9 * DAY, midnight)
    assert second.arrival == Arrival(midnight, midnight + DAY)
    # A clock that is fast dates an event after its arrival.
    assert first.window == Window(date(2026, 2, 24), TODAY)


def test_days_that_became_askable_are_asked_for_what_arrived_before():
    by_arrival_stage = by_arrival(since=NOON - 3 * HOUR)
    stage = days_become_askable(TODAY - 2 * DAY, by_arrival_stage)
    assert stage is not None
    assert (stage.days, stage.cursor) == (Window(TODAY - DAY, TODAY), None)
    request = stage.request(TODAY - DAY, TODAY)
    assert request.window == Window(TODAY - DAY, TODAY)
    assert request.where == (
        '(number(properties["mp_processing_time_ms"]) < 1773133200000) or '
        'not defined(properties["mp_processing_time_ms"])'
    )
    assert days_become_askable(TODAY, by_arrival_stage) is None


def test_nothing_that_arrives_after_the_last_day_counts_as_read():
    stage = by_arrival(since=NOON - 2 * DAY, last=TODAY - DAY)
    assert stage.until == datetime(2026, 3, 10, tzinfo=UTC)
    assert stage.days == Window(TODAY - 2 * DAY, TODAY - DAY)
    berlin = by_arrival(since=NOON - 2 * DAY, last=TODAY - DAY, zone="Europe/Berlin")
    assert berlin.until == datetime(2026, 3, 9, 23, tzinfo=UTC)


def test_days_of_events_are_the_projects():
    request = by_arrival(since=NOON - HOUR, zone="Asia/Kolkata").request(TODAY, TODAY)
    assert request.window == Window(TODAY - 5 * DAY, TODAY)
    late = datetime(2026, 3, 9, 20, tzinfo=UTC)
    in_kolkata = by_arrival(since=late, now=late + HOUR, zone="Asia/Kolkata")
    assert in_kolkata.request(late.date(), late.date()).window == Window(TODAY - 5 * DAY, TODAY)


def test_a_clock_that_went_back_asks_for_nothing_that_it_cannot_know():
    stage = by_arrival(since=NOON, now=NOON - DAY, last=TODAY - DAY)
    assert stage.until == NOON - DAY - timedelta(minutes=1)
    assert stage.arrival == Arrival(stage.until - 2 * HOUR, stage.until)


def test_what_arrived_after_the_last_day_does_not_keep_a_cursor_from_changing():
    stage = by_arrival(since=NOON - 3 * HOUR, last=TODAY - DAY)
    midnight = datetime(2026, 3, 10, tzinfo=UTC)
    assert stage.arrival == Arrival(midnight - 2 * HOUR, midnight)


def test_a_change_of_the_cursor_reads_the_days_that_either_may_lack():
    zone = ZoneInfo("UTC")
    window = incremental_window(NOON - 13 * HOUR, TODAY, zone, days_before=5)
    assert window == Window(TODAY - 6 * DAY, TODAY)
    later = NOON + 30 * DAY - HOUR
    assert incremental_window(later, TODAY, zone, days_before=5) == Window(TODAY, TODAY)


class Clock:
    seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_at_most_three_requests_a_second(clock):
    budget = RequestBudget(60, clock=clock)
    assert [budget.take() for _ in range(4)] == [0, 0, 0, 1]
    clock.seconds += 1
    assert budget.take() == 0


def test_at_most_so_many_an_hour_with_those_of_earlier_runs(clock):
    budget = RequestBudget(4, spent=[3000, 3590, 4000], clock=clock)
    assert (budget.left, budget.take(), budget.take(), budget.left) == (2, 0, 0, 0)
    assert budget.take() == 10
    clock.seconds += 10
    assert budget.take() == 0
    assert budget.take() == 590


def test_nobody_sends_while_mixpanel_says_so(clock):
    budget = RequestBudget(60, clock=clock)
    budget.block(100)
    budget.block(5)
    assert budget.take() == 100
    clock.seconds += 100
    assert budget.take() == 0
