from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mixpanel_pipeline.source.window import (
    Window,
    incremental_window,
    initial_window,
    last_day,
    later,
    parse_instant,
)

BERLIN, LOS_ANGELES = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Los_Angeles")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "zone", "end_day", "expected"),
    [
        pytest.param(NOON, UTC, "today", date(2026, 3, 10), id="today"),
        pytest.param(NOON, UTC, "yesterday", date(2026, 3, 9), id="yesterday"),
        pytest.param(
            datetime(2026, 3, 10, 23, 30, tzinfo=UTC),
            BERLIN,
            "today",
            date(2026, 3, 11),
            id="east of UTC it is tomorrow already",
        ),
        pytest.param(
            datetime(2026, 3, 10, 3, tzinfo=UTC),
            LOS_ANGELES,
            "today",
            date(2026, 3, 9),
            id="west of UTC it is yesterday still",
        ),
    ],
)
def test_last_day_is_the_projects(now, zone, end_day, expected):
    assert last_day(now, ZoneInfo(str(zone)), end_day) == expected


def test_initial_window_counts_its_last_day():
    assert initial_window(date(2026, 3, 10), 45) == Window(date(2026, 1, 25), date(2026, 3, 10))
    assert initial_window(date(2026, 3, 10), 1) == Window(date(2026, 3, 10), date(2026, 3, 10))


@pytest.mark.parametrize(
    ("start", "zone", "expected_from"),
    [
        pytest.param(NOON - timedelta(hours=2), "UTC", date(2026, 3, 10), id="same day"),
        pytest.param(
            datetime(2026, 3, 9, 23, 59, tzinfo=UTC), "UTC", date(2026, 3, 9), id="over midnight"
        ),
        pytest.param(NOON - timedelta(days=400), "UTC", date(2025, 2, 3), id="after a long pause"),
        pytest.param(
            datetime(2026, 3, 10, 3, tzinfo=UTC),
            "America/Los_Angeles",
            date(2026, 3, 9),
            id="in the project's days",
        ),
        pytest.param(NOON + timedelta(days=3), "UTC", date(2026, 3, 10), id="never in the future"),
    ],
)
def test_incremental_window_begins_with_the_day_of_its_start(start, zone, expected_from):
    window = incremental_window(start, date(2026, 3, 10), ZoneInfo(zone))
    assert window == Window(expected_from, date(2026, 3, 10))


def test_a_window_cannot_end_before_it_begins():
    with pytest.raises(ValueError, match="2026-03-11 is after"):
        Window(date(2026, 3, 11), date(2026, 3, 10))


def test_a_single_day_is_known_as_one():
    assert Window(date(2026, 3, 10), date(2026, 3, 10)).only_day == date(2026, 3, 10)
    assert Window(date(2026, 3, 9), date(2026, 3, 10)).only_day is None


def test_later_ignores_what_is_missing():
    assert later(None, NOON) == later(NOON, None) == later(NOON, NOON - timedelta(1)) == NOON
    assert later(None, None) is None


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param("2026-03-10T12:00:00+00:00", NOON, id="text"),
        pytest.param("2026-03-10T13:00:00+01:00", NOON, id="another offset"),
        pytest.param(NOON.replace(tzinfo=None), NOON, id="no time zone is UTC"),
        pytest.param("yesterday", None, id="no instant"),
        pytest.param(1773144000, None, id="a number"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_parse_instant(stored, expected):
    assert parse_instant(stored) == expected
