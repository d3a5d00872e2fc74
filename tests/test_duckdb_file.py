"""The DuckDB file: which can be one, and how a sync shares it with other processes."""

import logging
import subprocess
import sys
from contextlib import contextmanager

import pytest

from local_mixpanel import Fault
from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.engines import DuckDB, open_warehouse
from mixpanel_pipeline.engines import duckdb as engine
from mixpanel_pipeline.runs.run import Run
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.children import start_sync
from tests.conftest import NOW
from tests.warehouses import rows, subscribers

pytestmark = pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)

HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "True")
connection.sql("select 1").fetchall()
print("open", flush=True)
sys.stdin.readline()
"""
SESSION = {
    "event": "$ae_session",
    "properties": {"time": int(NOW.timestamp()), "distinct_id": "ada"},
}


@contextmanager
def another_process(path, *, read_only):
    """A process that has the file open, until its stdin says otherwise."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path, str(read_only)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield process


class OnWaiting(logging.Handler):
    """Does something as soon as a sync says that it waits."""

    def __init__(self, action):
        super().__init__()
        self.action = action
        self.told = []

    def emit(self, record):
        self.told.append(record.getMessage())
        self.action()


@contextmanager
def on_waiting(action):
    handler = OnWaiting(action)
    engine.logger.addHandler(handler)
    try:
        yield handler
    finally:
        engine.logger.removeHandler(handler)


@pytest.fixture
def loaded(mixpanel, run_sync):
    mixpanel.add([SESSION])
    assert run_sync(skip_transform=True).status == "ok"


@pytest.mark.parametrize("read_only", [True, False])
def test_a_sync_waits_for_whoever_has_the_file_open(
    loaded, mixpanel, warehouse, run_sync, read_only
):
    mixpanel.add([SESSION])
    with (
        another_process(warehouse.path, read_only=read_only) as reader,
        on_waiting(reader.stdin.close) as waiting,
    ):
        assert run_sync(skip_transform=True).events_new == 1
    assert [str(reader.pid) in told for told in waiting.told] == [True]


@pytest.mark.parametrize("step", ["the load", "the models", "the end"])
def test_a_reader_may_come_at_any_time_of_a_sync(
    loaded, mixpanel, warehouse, run_sync, monkeypatch, step
):
    methods = {"the load": "_loader", "the models": "transform", "the end": "_finish"}
    mixpanel.add([SESSION])
    original = getattr(Run, methods[step])
    readers = []

    def with_a_reader(run, *arguments, **options):
        reader = another_process(warehouse.path, read_only=True)
        readers.append((reader, reader.__enter__()))
        return original(run, *arguments, **options)

    def leave():
        readers[0][1].stdin.close()
        readers[0][0].__exit__(None, None, None)

    monkeypatch.setattr(Run, methods[step], with_a_reader)
    with on_waiting(leave) as waiting:
        assert run_sync(skip_transform=step == "the load").status == "ok"
    assert len(waiting.told) == 1
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(2,)]
    if step != "the load":
        assert subscribers(warehouse)["ada"]["app_sessions"] == 2


def test_who_keeps_the_file_open_for_too_long_is_named(loaded, warehouse, run_sync):
    warehouse.lock_wait_seconds = 0
    with another_process(warehouse.path, read_only=True) as reader:
        summary = run_sync(skip_transform=True)
        reader.stdin.close()
    assert summary.status == "failed"
    assert f"PID {reader.pid}" in summary.error
    assert "lock_wait_seconds" in summary.error
    assert "\n" not in summary.error


def test_a_run_that_could_not_open_the_file_is_entered_by_the_next(loaded, warehouse, run_sync):
    warehouse.lock_wait_seconds = 0
    with another_process(warehouse.path, read_only=True) as reader:
        error = run_sync(skip_transform=True).error
        reader.stdin.close()
    assert run_sync(skip_transform=True).status == "ok"
    assert rows(
        warehouse,
        "select status, error, finished_at is null from mixpanel_raw.sync_runs order by id",
    ) == [("ok", None, False), ("failed", error, False), ("ok", None, False)]


def test_a_run_whose_end_could_not_be_written_is_completed_by_the_next(
    loaded, warehouse, run_sync, monkeypatch
):
    warehouse.lock_wait_seconds = 0
    finish = Run._finish

    def with_a_reader(run):
        with another_process(warehouse.path, read_only=True) as reader:
            finish(run)
            reader.stdin.close()

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_finish", with_a_reader)
        assert run_sync(skip_transform=True).status == "ok"
    query = "select status, finished_at is null from mixpanel_raw.sync_runs order by id"
    assert rows(warehouse, query) == [("ok", False), ("running", True)]
    assert run_sync(skip_transform=True).status == "ok"
    assert rows(warehouse, query) == [("ok", False)] * 3


def test_the_file_can_be_opened_while_a_sync_waits_for_mixpanel(
    loaded, mixpanel, warehouse, run_sync
):
    mixpanel.fail(Fault.STALL, seconds=60)
    requests = len(mixpanel.requests)
    process = start_sync(NOW, skip_transform=True)
    while len(mixpanel.requests) == requests:
        assert process.is_alive()
    with another_process(warehouse.path, read_only=False) as other:
        assert process.is_alive()
        other.stdin.close()
    process.kill()
    process.join()


@pytest.mark.parametrize(
    ("configured", "problem"),
    [
        ("md:", "MotherDuck"),
        ("md:sales?motherduck_token=s3cret", "MotherDuck"),
        ("motherduck:sales", "MotherDuck"),
        ("s3://bucket/warehouse.duckdb", "'s3:' is no file"),
        ("postgresql://me:s3cret@localhost/db", "'postgresql:' is no file"),
        (":memory:", "in memory"),
        ("duckdb:///:memory:", "in memory"),
        (":pipeline:", "in memory"),
        ("", "is empty"),
        ("Mixpanel.duckdb", "the schema mixpanel"),
        ("mixpanel_raw", "the schema mixpanel_raw"),
        ("MIXPANEL_RAW_STAGING.db", "the schema mixpanel_raw_staging"),
        ("main.old.duckdb", "the schema main"),
        ("Temp.duckdb", "the schema temp"),
        ("system.duckdb", "the schema system"),
        ("information_schema.duckdb", "the schema information_schema"),
        ("it's.duckdb", "the character"),
        ('the "new".duckdb', "the character"),
        ("a;b.duckdb", "the character"),
        ("new\nline.duckdb", "the character"),
        ("#1/warehouse.duckdb", "the character '#'"),
        ("why?/warehouse.duckdb", "the character"),
        ("back\\slash.duckdb", "the character"),
        (" warehouse.duckdb", "space"),
        ("pipelines", "is a directory"),
        ("README.md", "is no DuckDB database"),
    ],
)
def test_what_cannot_be_a_duckdb_file_is_refused_at_once(
    warehouse, monkeypatch, capsys, configured, problem
):
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", configured)
    assert main(["--skip-load"]) == 2
    said = capsys.readouterr()
    assert problem in said.err
    assert "like warehouse.duckdb" in said.err
    assert "s3cret" not in said.err + said.out


# Words of SQL, digits at the beginning, and what SQL, dlt's and dbt's templates read otherwise.
@pytest.mark.parametrize("name", ["select.duckdb", "1st two words %20{x}$ ünï-code.v2.duckdb"])
def test_any_other_name_can_be_synced_into_twice(
    mixpanel, warehouse, run_sync, monkeypatch, tmp_path, name
):
    warehouse.path = tmp_path / name
    mixpanel.add([SESSION])
    assert run_sync().status == "ok"
    mixpanel.add([SESSION])
    assert run_sync().events_new == 1
    assert subscribers(warehouse)["ada"]["app_sessions"] == 2


def test_a_folder_that_cannot_be_written_is_named(warehouse, tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    expected = r"destination\.duckdb\.credentials: .*file/folder cannot be written: Not a directory"
    with pytest.raises(ConfigurationError, match=expected), DuckDB(folder / "w.duckdb").lock():
        pass


def test_an_empty_file_becomes_the_database(mixpanel, warehouse, run_sync):
    warehouse.path.touch()
    mixpanel.add([SESSION])
    assert open_warehouse(None) == warehouse
    assert run_sync(skip_transform=True).events_new == 1


@pytest.mark.parametrize(("configured", "seconds"), [(None, 60), ("0", 0), ("2.5", 2.5)])
def test_how_long_to_wait_is_configured(warehouse, monkeypatch, configured, seconds):
    if configured is not None:
        monkeypatch.setenv("DESTINATION__DUCKDB__LOCK_WAIT_SECONDS", configured)
    found = open_warehouse(None)
    assert isinstance(found, DuckDB)
    assert found.lock_wait_seconds == seconds


@pytest.mark.parametrize("configured", ["a minute", "-1", "nan", "inf", "true"])
def test_what_is_no_time_to_wait_is_refused(warehouse, monkeypatch, configured):
    monkeypatch.setenv("DESTINATION__DUCKDB__LOCK_WAIT_SECONDS", configured)
    with pytest.raises(ConfigurationError, match=r"lock_wait_seconds.*number of seconds"):
        open_warehouse(None)
