"""Syncs into a folder of Parquet, Delta or Iceberg, which no database holds together."""

import fcntl
import json
import os
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dlt.common.runtime import run_context

from local_mixpanel import Fault
from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.engines.filesystem import configured_files
from mixpanel_pipeline.engines.schemas import Schemas
from mixpanel_pipeline.runs.files import sync_files
from mixpanel_pipeline.runs.summary import Summary
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
FORMATS = ("parquet", "delta", "iceberg")


@pytest.fixture(params=FORMATS)
def lake(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each format, configured in the environment; it does not exist yet."""
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    monkeypatch.setenv("DESTINATION_TYPE", "filesystem")
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", str(tmp_path / "lake"))
    monkeypatch.setenv("DESTINATION__FILESYSTEM__TABLE_FORMAT", request.param)
    return tmp_path / "lake" / "mixpanel_raw"


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`lake`, of Parquet alone."""
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", str(tmp_path / "lake"))
    return tmp_path / "lake" / "mixpanel_raw"


def event(time: datetime, insert_id: str, **properties: Any) -> dict[str, Any]:
    of_event = {"time": int(time.timestamp()), "distinct_id": "ada", "$insert_id": insert_id}
    return {"event": "Signed Up", "properties": of_event | properties}


def run(now: datetime = NOW, **arguments: Any) -> Summary:
    files = configured_files(Schemas())
    return sync_files(files, load_configuration(), now=now, **arguments)


def loaded(table: str, column: str) -> Counter[Any]:
    """How often each value is in the table, as its format is read."""
    with configured_files(Schemas()).stored(table, [column]) as rows:
        return Counter(rows.read_all()[column].to_pylist() if rows else [])


def test_each_event_is_in_the_files_once_whatever_came_twice_or_late(
    mixpanel, lake, tmp_path, monkeypatch
):
    mixpanel.add([event(NOW - 3 * DAY, "old", city="Café"), event(NOW - 4 * HOUR, "copy")] * 2)
    mixpanel.add_lines(NOW.date(), [b'"no event"', b'"no event"'])
    # Copies may be far from each other, with days of other answers between.
    mixpanel.add([event(NOW - 4 * HOUR, "copy"), event(NOW - 2 * HOUR, "newest")])
    first = run()
    assert (first.error, first.status, first.mode) == (None, "ok", "first")
    assert (first.events_new, first.events_duplicate) == (3, 3)
    assert first.watermark == NOW - 2 * HOUR

    # Another machine, which knows nothing but where the files are; and settings of dlt's that
    # would drop what is loaded.
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "other machine"))
    monkeypatch.setenv("REFRESH", "drop_sources")
    monkeypatch.setenv("DEV_MODE", "true")
    run_context.active().reload()
    mixpanel.add([event(NOW, "new"), event(NOW - 5 * HOUR, "late"), event(NOW - 4 * HOUR, "copy")])
    second = run(NOW + HOUR)
    assert (second.error, second.status, second.mode) == (None, "ok", "incremental")
    assert second.events_new == 2
    assert second.watermark == NOW
    of_each = dict.fromkeys(["old", "copy", "newest", "new", "late"], 1)
    assert loaded("events", "insert_id") == of_each
    assert loaded("rejected_lines", "line") == {'"no event"': 1}

    ancient = NOW - 200 * DAY
    mixpanel.add([event(ancient, "ancient")])
    third = run(NOW + HOUR, backfill=Window(ancient.date(), ancient.date()))
    assert (third.mode, third.events_new, third.watermark) == ("backfill", 1, NOW)
    assert loaded("events", "insert_id") == of_each | {"ancient": 1}

    files = set(lake.rglob("*"))
    fourth = run(NOW + HOUR)
    assert (fourth.status, fourth.events_new) == ("ok", 0)
    assert set(lake.rglob("*")) == files


def test_of_an_answer_that_is_cut_off_nothing_is_loaded_and_the_watermark_stays(mixpanel, parquet):
    mixpanel.add([event(NOW - DAY, "a")])
    run()
    mixpanel.add([event(NOW, "b")])
    mixpanel.fail(Fault.TERMINATED_EARLY, times=50)
    failed = run()
    assert failed.status == "failed"
    assert "No whole answer" in (failed.error or "")
    assert loaded("events", "insert_id") == {"a": 1}
    mixpanel.forgive()
    assert run().events_new == 1
    assert loaded("events", "insert_id") == {"a": 1, "b": 1}


def test_what_a_sync_left_that_died_while_it_wrote_is_replaced(mixpanel, parquet):
    """Whole or cut off: with a watermark of which the events are removed, they would be lost."""
    mixpanel.add([event(NOW - DAY, "a"), event(NOW - DAY, "b")])
    run()
    # As if it had died before the load was complete, in the middle of a file.
    [file] = parquet.glob("events/*.parquet")
    [record] = parquet.glob("_dlt_loads/*.jsonl")
    record.unlink()
    [state] = parquet.glob("_dlt_pipeline_state/*.jsonl")
    for version in parquet.glob("_dlt_version/*.jsonl"):
        version.write_bytes(version.read_bytes()[:-10])
    state.write_bytes(state.read_bytes()[:-10])
    file.write_bytes(file.read_bytes()[:-10])
    assert run().events_new == 2
    assert loaded("events", "insert_id") == {"a": 1, "b": 1}


@pytest.mark.parametrize("table_format", ["delta", "iceberg"])
def test_what_was_committed_before_a_sync_died_is_not_written_again(
    mixpanel, parquet, monkeypatch, table_format
):
    monkeypatch.setenv("DESTINATION__FILESYSTEM__TABLE_FORMAT", table_format)
    mixpanel.add([event(NOW - DAY, "a")])
    run()
    for table in ("_dlt_loads", "_dlt_pipeline_state"):
        for record in (parquet / table).glob("*.jsonl"):
            record.unlink()
    if table_format == "iceberg":
        cut_off = parquet / "events" / "metadata" / "99999-cut-off.metadata.json"
        cut_off.write_text('{"location":', encoding="utf-8")
    mixpanel.add([event(NOW - DAY, "b")])
    again = run()
    assert (again.mode, again.events_new, again.events_duplicate) == ("first", 1, 1)
    assert loaded("events", "insert_id") == {"a": 1, "b": 1}


def test_files_of_other_times_are_not_read(mixpanel, parquet, monkeypatch):
    mixpanel.add([event(NOW - DAY, "a")])
    run()
    [file] = parquet.glob("events/*.parquet")
    long_before = (NOW - 30 * DAY).timestamp()
    kept = file.rename(file.with_name(f"{long_before:.6f}.kept.parquet"))
    (parquet / "_dlt_loads" / f"mixpanel__{long_before:.6f}.jsonl").touch()
    kept.write_bytes(b"no Parquet at all")
    mixpanel.add([event(NOW, "b")])
    assert run().error is None


def test_a_second_sync_of_one_folder_is_skipped(mixpanel, parquet):
    parquet.parent.mkdir()
    descriptor = os.open(parquet.with_name(".mixpanel_raw.lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert run().status == "skipped"
    finally:
        os.close(descriptor)
    assert not parquet.exists()


def test_another_clock_or_format_is_not_mixed_in(mixpanel, parquet, monkeypatch):
    mixpanel.add([event(NOW - DAY, "a")])
    run()
    monkeypatch.setenv("SOURCES__MIXPANEL__TIMEZONE", "Europe/Berlin")
    with pytest.raises(ConfigurationError, match="were loaded with 'UTC'"):
        run()
    monkeypatch.delenv("SOURCES__MIXPANEL__TIMEZONE")
    monkeypatch.setenv("DESTINATION__FILESYSTEM__TABLE_FORMAT", "delta")
    with pytest.raises(ConfigurationError, match="has tables of parquet"):
        run()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--destination", "filesystem"], "--destination filesystem --skip-transform"),
        (["--destination", "filesystem", "--skip-load"], "models, which need a database"),
        (["--destination", "filesystem", "--skip-transform", "--full-refresh"], "--from-date"),
        (["audit", "--destination", "filesystem"], "models, which need a database"),
        (["status"], "models, which need a database"),
        (["plan"], "models, which need a database"),
        (["report"], "models, which need a database"),
        (["generate"], "models, which need a database"),
        (["forget", "ada"], "models, which need a database"),
        (["remove", "--where", "true"], "models, which need a database"),
    ],
)
def test_what_needs_a_database_is_refused(parquet, monkeypatch, capsys, arguments, said):
    monkeypatch.setenv("DESTINATION_TYPE", "filesystem")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert said in " ".join((out + err).split())
    assert "Traceback" not in out + err
    assert not parquet.exists()


def test_no_password_is_told(mixpanel, parquet, monkeypatch, capsys):
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", "sftp://ada:correct-horse@h/lake")
    assert main(["--destination", "filesystem", "--skip-transform", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "paramiko" in out
    assert "correct-horse" not in out + err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BUCKET_URL", "", "bucket_url is not set"),
        ("TABLE_FORMAT", "orc", "can be one of parquet, delta, iceberg"),
        ("LAYOUT", "{table_name}.{ext}", "layout cannot be set"),
        ("BUCKET_URI", "/lake", "DESTINATION__FILESYSTEM__BUCKET_URL"),
        ("BUCKET_URL", "s3://bucket/lake", "dlt[s3]"),
    ],
)
def test_a_setting_that_cannot_be_is_named(parquet, monkeypatch, capsys, name, value, said):
    monkeypatch.setenv(f"DESTINATION__FILESYSTEM__{name}", value)
    assert main(["--destination", "filesystem", "--skip-transform", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert said in told["error"]
    assert (told["status"], told["destination"]) == ("failed", "filesystem")
