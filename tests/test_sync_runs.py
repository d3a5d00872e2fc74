"""`mixpanel_raw.sync_runs`: a row per run, whatever became of it."""

import signal
from datetime import timedelta

import pytest

from local_mixpanel import Fault
from mixpanel_pipeline.project import version
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.progress import Progress
from tests.children import start_sync, wait_until_quiet
from tests.conftest import NOW
from tests.warehouses import rows

SECOND = int(NOW.timestamp())


def event(who="ada", ago=timedelta(0), late=timedelta(0), **properties):
    time = int((NOW - ago).timestamp())
    stamps = {"time": time, "mp_processing_time_ms": int((NOW - ago + late).timestamp() * 1000)}
    return {"event": "$ae_session", "properties": {**stamps, "distinct_id": who, **properties}}


def runs(warehouse, columns):
    return rows(warehouse, f"select {columns} from mixpanel_raw.sync_runs order by id")


def test_a_run_leaves_a_row(mixpanel, warehouse, run_sync):
    mixpanel.add([event(), event("eve", ago=timedelta(days=3), late=timedelta(hours=3))])
    mixpanel.add_lines(NOW.date(), [b"no event"], event="$ae_session")
    mixpanel.add([event("bob", ago=timedelta(hours=1))])
    summary = run_sync()
    ((*found,),) = runs(
        warehouse,
        "status, mode, destination, cursor_column, from_date, to_date, loaded_to_date, "
        "watermark_before, watermark_after, requests, events_received, events_new, "
        "events_duplicate, events_late, lines_rejected, error, version",
    )
    assert found == [
        "ok",
        "first",
        warehouse.name,
        "occurred_at",
        summary.from_date,
        summary.to_date,
        summary.to_date,
        None,
        NOW,
        # Three exports, and the names of events.
        4,
        3,
        3,
        0,
        1,
        1,
        None,
        version(),
    ]
    ((started_at, finished_at, *amounts),) = runs(
        warehouse,
        "started_at, finished_at, bytes, download_seconds, load_seconds, transform_seconds",
    )
    assert started_at == NOW < finished_at
    assert runs(warehouse, "id, requests") == [(summary.run_id, summary.requests)]
    assert (summary.started_at, summary.version) == (NOW, version())
    assert all(amount > 0 for amount in amounts)
    run_sync(now=NOW + timedelta(hours=1), skip_transform=True)
    assert runs(warehouse, "mode, watermark_before, watermark_after, events_new")[1] == (
        "incremental",
        NOW,
        NOW,
        0,
    )


def test_a_run_that_failed_says_why(mixpanel, warehouse, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    mixpanel.fail(Fault.GZIP_CUT_AND_CLOSED)
    summary = run_sync(skip_transform=True)
    run_id, status, error, requests, received, finished_at = runs(
        warehouse, "id, status, error, requests, events_received, finished_at"
    )[1]
    assert (status, error, requests, received) == ("failed", summary.error, 1, 0)
    assert (run_id, requests) == (summary.run_id, summary.requests)
    assert finished_at is not None


def test_a_mistake_of_ours_is_no_success(mixpanel, warehouse, run_sync):
    class Broken(Progress):
        def watch(self, *watched):
            raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        run_sync(progress=Broken())
    ((status, error, finished_at),) = runs(warehouse, "status, error, finished_at")
    assert (status, finished_at is None) == ("failed", False)
    assert "a mistake" in error


def test_a_run_that_only_transforms_has_loaded_nothing(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    sync(warehouse, skip_load=True, now=NOW)
    assert runs(warehouse, "status, requests, events_received, watermark_after")[1] == (
        "ok",
        None,
        None,
        None,
    )


def test_a_run_that_was_killed_is_found_out_by_the_next(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    mixpanel.fail(Fault.STALL, seconds=60)
    process = start_sync(NOW)
    while not mixpanel.requests:
        assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    wait_until_quiet(warehouse)
    assert runs(warehouse, "status, finished_at, error") == [("running", None, None)]
    assert run_sync(skip_transform=True).status == "ok"
    (status, finished_at, error), (last, *_) = runs(warehouse, "status, finished_at, error")
    assert (status, finished_at, last) == ("failed", None, "ok")
    assert "killed" in error


def test_a_skipped_run_leaves_none(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    with warehouse.lock():
        skipped = run_sync()
    assert (skipped.status, skipped.started_at, skipped.requests) == ("skipped", NOW, None)
    assert len(runs(warehouse, "id")) == 1


def test_columns_that_an_older_version_did_not_have_are_added(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    warehouse.execute("alter table mixpanel_raw.sync_runs drop column events_late")
    assert run_sync(skip_transform=True).status == "ok"
    assert runs(warehouse, "events_late") == [(None,), (0,)]


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_no_password_is_kept(mixpanel, warehouse, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET", "wr0ng-s3cret")
    assert run_sync().status == "failed"
    ((error,),) = runs(warehouse, "error")
    assert "401" in error
    assert "wr0ng-s3cret" not in error
