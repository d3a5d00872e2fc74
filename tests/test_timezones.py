"""Projects whose exports are wall-clock time: true UTC in the table, days as Mixpanel cuts them."""

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline import project
from mixpanel_pipeline.events.wall_clock import instants, instants_by_python
from mixpanel_pipeline.runs.pipeline import audit
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW
from tests.warehouses import rows

ZONES = ["Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata", "Pacific/Apia"]


def event(wall_clock, **properties):
    """An event as an old project exports it: its wall-clock time written as if it were UTC."""
    time = int(wall_clock.replace(tzinfo=UTC).timestamp())
    return {"event": "$ae_session", "properties": {"time": time, "distinct_id": "a", **properties}}


def loaded(warehouse):
    return [
        occurred_at.astimezone(UTC)
        for (occurred_at,) in rows(
            warehouse, "select occurred_at from mixpanel_raw.events order by occurred_at"
        )
    ]


@pytest.fixture(params=ZONES)
def zone(request, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__TIMEZONE", request.param)
    return ZoneInfo(request.param)


@pytest.fixture
def mixpanel(mixpanel, monkeypatch):
    """A project whose today is as late as it gets anywhere."""
    with LocalMixpanel(today=lambda: NOW.date() + timedelta(days=2)) as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        yield server


def test_times_become_utc_and_days_stay_the_projects(mixpanel, warehouse, run_sync, zone):
    # Either side of the project's midnight, yesterday and today.
    midnight = NOW.astimezone(zone).replace(hour=0, minute=0, second=0, tzinfo=None)
    wall_clocks = [midnight + timedelta(minutes=minutes) for minutes in (-1441, -1, 1)]
    mixpanel.add([event(moment) for moment in wall_clocks])
    yesterday = midnight.date() - timedelta(days=1)
    assert run_sync(backfill=Window(yesterday, yesterday), skip_transform=True).events_new == 1
    assert loaded(warehouse) == [wall_clocks[1].replace(tzinfo=zone).astimezone(UTC)]
    summary = run_sync(skip_transform=True)
    assert summary.to_date == midnight.date()
    found = loaded(warehouse)
    assert found == [moment.replace(tzinfo=zone).astimezone(UTC) for moment in wall_clocks]
    found = audit(warehouse, load_configuration(), now=NOW, days=4)
    assert (found.status, found.events_loaded) == ("equal", 3)


def test_the_window_begins_on_the_projects_day(mixpanel, run_sync, zone):
    moment = NOW - timedelta(days=2)
    mixpanel.add([event(moment.astimezone(zone).replace(tzinfo=None))])
    assert run_sync(skip_transform=True).watermark == moment
    summary = run_sync(skip_transform=True)
    assert summary.from_date == (moment - timedelta(hours=2)).astimezone(zone).date()


@pytest.mark.parametrize(
    ("name", "wall_clock", "expected"),
    [
        pytest.param(
            "Europe/Berlin",
            datetime(2025, 10, 26, 2, 30),
            datetime(2025, 10, 26, 0, 30),
            id="the hour that Berlin's autumn repeats is its first",
        ),
        pytest.param(
            "Europe/Berlin",
            datetime(2025, 10, 26, 3),
            datetime(2025, 10, 26, 2),
            id="after it",
        ),
        pytest.param(
            "Europe/Berlin",
            datetime(2025, 3, 30, 2, 30),
            datetime(2025, 3, 30, 1),
            id="the hour that Berlin's spring leaves out is its end",
        ),
        pytest.param(
            "America/Los_Angeles",
            datetime(2025, 11, 2, 1, 30),
            datetime(2025, 11, 2, 8, 30),
            id="the hour that autumn in Los Angeles repeats is its first",
        ),
        pytest.param(
            "Asia/Kolkata",
            datetime(2025, 11, 2, 1, 30),
            datetime(2025, 11, 1, 20),
            id="Kolkata has no such hour",
        ),
        pytest.param(
            "Pacific/Apia",
            datetime(2011, 12, 31, 0, 30),
            datetime(2011, 12, 30, 10, 30),
            id="Apia after the day that it left out",
        ),
        pytest.param(
            "Pacific/Apia",
            datetime(2011, 12, 29, 23, 30),
            datetime(2011, 12, 30, 9, 30),
            id="Apia before it",
        ),
    ],
)
def test_clock_changes_follow_the_rule(name, wall_clock, expected):
    found = instants(pa.array([wall_clock], pa.timestamp("us")), ZoneInfo(name))
    assert found.to_pylist() == [expected.replace(tzinfo=UTC)]


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_day_that_never_was_is_loaded(mixpanel, warehouse, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__TIMEZONE", "Pacific/Apia")
    mixpanel.add([event(datetime(2011, 12, 30, 12))])
    run_sync(backfill=Window(date(2011, 12, 30), date(2011, 12, 30)), skip_transform=True)
    assert loaded(warehouse) == [datetime(2011, 12, 30, 10, tzinfo=UTC)]


def test_the_audit_counts_days_where_mixpanels_reports_do(
    mixpanel, warehouse, run_sync, monkeypatch
):
    """A new project in Berlin: exports in UTC, reports in its own days."""
    monkeypatch.setenv("SOURCES__MIXPANEL__REPORT_TIMEZONE", "Europe/Berlin")
    # Mixpanel's report has it on the 9th in Berlin; the local one counts days in UTC, so it stands
    # at the report's day here and is loaded from the export's.
    late_evening = datetime(2026, 3, 8, 23, 30)
    mixpanel.add([event(late_evening)])
    run_sync(skip_transform=True)
    found = audit(warehouse, load_configuration(), now=NOW, days=5)
    by_day = {one.day: (one.at_mixpanel, one.loaded) for one in found.differences}
    assert by_day == {date(2026, 3, 8): (1, 0), date(2026, 3, 9): (0, 1)}
    # What is short on a day of reports is looked for in both days of exports that it spans.
    before = len(mixpanel.requests)
    audit(warehouse, load_configuration(), now=NOW, days=5, heal=True)
    exported = {
        request.query[name]
        for request in mixpanel.requests[before:]
        if request.path == "/api/2.0/export"
        for name in ("from_date", "to_date")
    }
    assert exported == {"2026-03-07", "2026-03-08"}


def test_a_system_without_time_zone_files_has_those_of_tzdata(clean_environment):
    """As in an image without them, where even UTC has no file."""
    script = (
        "import sys, zoneinfo\n"
        "from mixpanel_pipeline.source.configuration import load_configuration\n"
        "assert zoneinfo.TZPATH == ()\n"
        "for zone in ('UTC', 'Europe/Berlin', 'Mars/Olympus'):\n"
        "    try:\n"
        "        settings = load_configuration({'project_secret': 'x', 'timezone': zone})\n"
        "        print(settings.zone.key)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    pipelines = str(project.folder() / "pipelines")
    environment = {**os.environ, "PYTHONTZPATH": "", "PYTHONPATH": pipelines}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    *known, refused = done.stdout.splitlines()
    assert known == ["UTC", "Europe/Berlin"]
    assert refused.startswith("ConfigurationError sources.mixpanel: timezone is 'Mars/Olympus'")
    assert "IANA time zone database" in refused


@pytest.mark.parametrize("name", [*ZONES, "UTC", "Africa/Monrovia", "Australia/Lord_Howe"])
def test_times_are_the_same_whoever_knows_the_zone(name):
    hours = [datetime(1970, 1, 1) + timedelta(days=3.3) * number for number in range(5_000)]
    # Clocks are changed in these months: every half hour of them.
    changes = [
        datetime(year, month, 1) + timedelta(minutes=30) * number
        for year, month in ((2011, 12), (2025, 3), (2025, 10), (2025, 11), (2025, 4), (1972, 1))
        for number in range(31 * 48)
    ]
    wall_clock = pa.array(hours + changes, pa.timestamp("us"))
    found = instants_by_python(wall_clock, ZoneInfo(name))
    assert found.equals(instants(wall_clock, ZoneInfo(name)))
