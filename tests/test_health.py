"""Whether syncs work, how far behind they are, and how late Mixpanel's events come."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from mixpanel_pipeline.runs.transform import call_dbt, transform
from tests.conftest import NOW
from tests.warehouses import rows

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

_run_numbers = count()


def event(at, processed_at=None):
    properties = {"time": int(at.timestamp()), "distinct_id": "ada"}
    if processed_at is not None:
        properties["mp_processing_time_ms"] = int(processed_at.timestamp() * 1000)
    return {"event": "$ae_session", "properties": properties}


def add_run(warehouse, start, *, took=MINUTE, **columns):
    """Enter a run that took so long; None: it has not finished."""
    columns = {
        "id": f"run {next(_run_numbers)}",
        "started_at": start,
        "finished_at": None if took is None else start + took,
        "status": "ok",
        "mode": "incremental",
        "destination": warehouse.name,
        "from_date": start.date(),
        "to_date": start.date(),
        "version": "1",
    } | columns
    literals = ["null" if value is None else f"'{value}'" for value in columns.values()]
    warehouse.execute(
        f"insert into mixpanel_raw.sync_runs ({', '.join(columns)}) values ({', '.join(literals)})"
    )


def set_watermark(warehouse, age):
    """Let the only run have left a watermark that old; None: no run has left one."""
    warehouse.execute("delete from mixpanel_raw.sync_runs")
    now = datetime.now(UTC)
    add_run(warehouse, now - HOUR, watermark_after=None if age is None else now - age)


def set_last_sync(warehouse, age):
    """Let the only sync that succeeded have ended that long ago, and others not count."""
    warehouse.execute("delete from mixpanel_raw.sync_runs")
    now = datetime.now(UTC)
    add_run(warehouse, now - HOUR, status="failed")
    add_run(warehouse, now - HOUR, mode="backfill")
    add_run(warehouse, now - HOUR, from_date=None, to_date=None)
    if age is not None:
        add_run(warehouse, now - age - MINUTE, watermark_after=now - 30 * DAY)


def health(warehouse, destination=None):
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(
            "select * from mixpanel.sync_health "
            f"where destination = '{destination or warehouse.name}'"
        )
        names = [column[0] for column in cursor.description]
        [row] = cursor.fetchall()
        return dict(zip(names, row, strict=True))


def dbt(warehouse, *arguments):
    """The status of each node that dbt ran, but hooks, by its name."""
    from dbt.artifacts.schemas.results import ExecutionResult

    done = call_dbt(warehouse, arguments)
    assert isinstance(done.result, ExecutionResult), done.exception
    nodes = [result for result in done.result if result.node.resource_type != "operation"]
    return {result.node.name: str(result.status) for result in nodes}


@pytest.fixture
def loaded(built, mixpanel, warehouse, run_sync):
    """One event is loaded and not yet counted, and no run is on record."""
    mixpanel.add([event(NOW)])
    assert run_sync(skip_transform=True).events_new == 1
    warehouse.execute("delete from mixpanel_raw.sync_runs")


def test_sync_health_tells_how_syncs_went(warehouse, loaded):
    now = datetime.now(UTC)
    # its watermark was set back
    add_run(warehouse, now - 20 * DAY, took=HOUR, events_new=999, watermark_after=now)
    # the week before
    add_run(warehouse, now - 10 * DAY, took=timedelta(seconds=20), events_new=999)
    add_run(warehouse, now - 9 * DAY, took=HOUR, status="failed", error="Too long ago.")
    add_run(warehouse, now - 7 * DAY - MINUTE, took=timedelta(seconds=40), events_new=999)
    # the last 7 days
    add_run(warehouse, now - 7 * DAY + MINUTE, took=timedelta(seconds=60), events_new=10)
    add_run(warehouse, now - 5 * DAY, took=None, status="running")
    add_run(warehouse, now - 4 * DAY, took=timedelta(seconds=90), events_new=20)
    add_run(
        warehouse,
        success := now - 3 * DAY,
        took=timedelta(seconds=120),
        events_new=None,
        watermark_after=now - 73 * HOUR,
    )
    add_run(warehouse, now - 2 * DAY, took=HOUR, status="failed", error="Before.")
    add_run(
        warehouse,
        now - DAY,
        took=HOUR,
        status="failed",
        error="No answer.",
        events_new=5,
        watermark_after=now - 73 * HOUR,
    )
    # killed: noticed by the next run, and not yet noticed or running
    add_run(warehouse, now - 2 * HOUR, took=None, status="failed", error="Killed.")
    add_run(warehouse, last := now - HOUR, took=None, status="running")
    # elsewhere
    add_run(warehouse, now - 2 * DAY, destination="other", status="failed", error="Elsewhere.")
    add_run(warehouse, now - DAY, destination="other", watermark_after=now - 25 * HOUR)

    transform(warehouse)

    found = health(warehouse)
    assert found.pop("watermark_lag_hours") == pytest.approx(73, abs=0.1)
    assert found.pop("quiet_hours") == pytest.approx(1, abs=0.1)
    assert found == {
        "destination": warehouse.name,
        "last_status": "running",
        "last_error": "Killed.",
        "runs_last_7_days": 8,
        "failed_runs_last_7_days": 3,
        "unfinished_runs_last_7_days": 3,
        "events_per_run": pytest.approx(15),
        "seconds_per_run": pytest.approx(90),
        "seconds_per_run_before": pytest.approx(30),
        "duration_trend": pytest.approx(3),
        "last_success_at": success + timedelta(seconds=120),
        "last_sync_at": success + timedelta(seconds=120),
        "last_run_at": last,
        "watermark": now - 73 * HOUR,
    }
    found = health(warehouse, "other")
    assert found.pop("watermark_lag_hours") == pytest.approx(25, abs=0.1)
    assert found.pop("quiet_hours") == pytest.approx(1, abs=0.1)
    assert found == {
        "destination": "other",
        "last_status": "ok",
        "last_error": None,
        "runs_last_7_days": 2,
        "failed_runs_last_7_days": 1,
        "unfinished_runs_last_7_days": 0,
        "events_per_run": None,
        "seconds_per_run": pytest.approx(60),
        "seconds_per_run_before": None,
        "duration_trend": None,
        "last_success_at": now - DAY + MINUTE,
        "last_sync_at": now - DAY + MINUTE,
        "last_run_at": now - DAY,
        "watermark": now - 25 * HOUR,
    }


def test_sync_health_is_of_now_and_not_of_the_last_sync(warehouse, loaded):
    transform(warehouse)
    set_watermark(warehouse, 3 * HOUR)
    assert health(warehouse)["watermark_lag_hours"] == pytest.approx(3, abs=0.1)


def test_syncs_that_stand_still_fail_the_freshness_test(warehouse, loaded):
    transform(warehouse)

    def outcome():
        return dbt(warehouse, "test", "--select", "tag:freshness")["syncs_are_fresh"]

    assert outcome() == "fail", "no run at all"
    for age, expected in [
        (5 * HOUR, "pass"),
        (6 * HOUR - MINUTE, "pass"),
        (6 * HOUR + MINUTE, "warn"),
        (7 * HOUR, "warn"),
        (24 * HOUR - MINUTE, "warn"),
        (24 * HOUR + MINUTE, "fail"),
        (25 * HOUR, "fail"),
        (None, "fail"),
    ]:
        set_last_sync(warehouse, age)
        assert outcome() == expected, age
    set_last_sync(warehouse, HOUR)
    add_run(warehouse, datetime.now(UTC) - 25 * HOUR, destination="other")
    assert outcome() == "fail", "one destination of two"


def test_syncs_that_stand_still_fail_the_source_freshness(warehouse, loaded):
    def outcome():
        return dbt(warehouse, "source", "freshness")

    assert outcome() == {"sync_runs": "error"}, "no run at all"
    for age, expected in [
        (5 * HOUR, "pass"),
        (7 * HOUR, "warn"),
        (25 * HOUR, "error"),
        (None, "error"),
    ]:
        set_last_sync(warehouse, age)
        assert outcome() == {"sync_runs": expected}, age


def test_events_that_stay_away_are_warned_of_by_what_was_asked_for(warehouse, loaded):
    transform(warehouse)

    def outcome():
        return dbt(warehouse, "test", "--select", "tag:freshness")["events_are_recent"]

    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for asked_for, watermark, expected in [
        (now, now - 71 * HOUR, "pass"),
        (now, now - 73 * HOUR, "warn"),
        (now - DAY, midnight - 71 * HOUR, "pass"),
        (now - DAY, midnight - 73 * HOUR, "warn"),
    ]:
        warehouse.execute("delete from mixpanel_raw.sync_runs")
        add_run(warehouse, now - MINUTE, to_date=asked_for.date(), watermark_after=watermark)
        assert outcome() == expected, (asked_for, watermark)


def test_a_quiet_app_does_not_make_its_sync_fail(warehouse, loaded):
    set_watermark(warehouse, 30 * DAY)
    transform(warehouse)
    transform(warehouse, full_refresh=True)
    found = dbt(warehouse, "test")
    assert (found["syncs_are_fresh"], found["events_are_recent"]) == ("pass", "warn")


LATENESS = """
    select
        cast(event_date as text), events, late_events,
        p50_hours, p90_hours, p99_hours, p999_hours, max_hours
    from mixpanel.event_lateness
    order by 1
"""


def test_event_lateness_is_that_of_the_events_of_a_day_in_utc(
    mixpanel, warehouse, loaded, run_sync
):
    first, second = datetime(2026, 3, 8, tzinfo=UTC), datetime(2026, 3, 9, 23, 59, 59, tzinfo=UTC)
    mixpanel.add(event(first, first + hours * HOUR) for hours in range(11))
    # This one does not say when it was processed.
    mixpanel.add([event(first + HOUR)])
    mixpanel.add([event(second, second - HOUR), event(second, second + 10 * HOUR)])
    # Nor does any of its day.
    mixpanel.add([event(NOW - 3 * DAY)])
    run_sync(full_refresh=True, skip_transform=True)
    transform(warehouse)

    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("set timezone = 'America/New_York'")
        cursor.execute(LATENESS)
        found = cursor.fetchall()
    # 8 of 0, 1, ... 10 hours are more than two; a quantile lies as far between 0 and 10.
    quantiles = [pytest.approx(hours) for hours in (5, 9, 9.9, 9.99, 10)]
    assert found == [("2026-03-08", 11, 8, *quantiles), ("2026-03-09", 2, 1, *quantiles)]


def test_a_run_with_empty_leaves_the_views_as_they_are(mixpanel, warehouse, loaded, run_sync):
    mixpanel.add([event(NOW - HOUR, NOW)])
    run_sync(skip_transform=True)
    set_watermark(warehouse, HOUR)
    transform(warehouse)
    dbt(warehouse, "run", "--empty", "--select", "sync_health", "event_lateness")
    assert health(warehouse)["runs_last_7_days"] == 1
    assert rows(warehouse, "select events from mixpanel.event_lateness") == [(1,)]


def test_the_views_outlive_a_second_sync(mixpanel, warehouse, loaded, run_sync):
    set_watermark(warehouse, HOUR)
    transform(warehouse)
    # dbt itself would drop what depends on a view when it replaces it.
    transform(warehouse)
    assert health(warehouse)["runs_last_7_days"] == 1
    assert rows(warehouse, "select count(*) from mixpanel.event_lateness") == [(0,)]
