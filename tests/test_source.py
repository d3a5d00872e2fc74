"""The source alone, in pipelines and destinations that know nothing of this project."""

import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dlt
import duckdb
import pyarrow.parquet as pq
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed

from local_mixpanel import Fault, LocalMixpanel
from mixpanel_pipeline import mixpanel_source
from mixpanel_pipeline.project import folder
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.conftest import point_at

DAY = timedelta(days=1)


@pytest.fixture
def server(monkeypatch):
    """A Mixpanel with the machine's clock, as the source has it, configured in the environment."""
    with LocalMixpanel() as server:
        point_at(server, monkeypatch)
        yield server


@pytest.fixture(params=["duckdb", "postgres", "filesystem"])
def pipeline(request, tmp_path):
    """A pipeline as any user of dlt makes it, into an empty destination of each kind."""
    destination: Any
    database = None
    if request.param == "duckdb":
        destination = dlt.destinations.duckdb(str(tmp_path / "lake.duckdb"))
    elif request.param == "filesystem":
        destination = dlt.destinations.filesystem((tmp_path / "lake").as_uri())
    else:
        postgresql = request.getfixturevalue("postgresql")
        database = f"source_{tmp_path.name}".lower().replace("-", "_")
        postgresql.create_database(database)
        destination = dlt.destinations.postgres(
            f"postgresql://{postgresql.username}:{postgresql.password}"
            f"@{postgresql.host}:{postgresql.port}/{database}"
        )
    yield dlt.pipeline(
        "analytics",
        destination=destination,
        dataset_name="raw",
        pipelines_dir=str(tmp_path / "pipelines"),
    )
    if database is not None:
        postgresql.drop_database(database)


def event(time: datetime, insert_id: str, **properties: Any) -> dict[str, Any]:
    return {
        "event": "Signed Up",
        "properties": {
            "time": int(time.timestamp()),
            "distinct_id": "ada",
            "$insert_id": insert_id,
            **properties,
        },
    }


def loaded(pipeline: dlt.Pipeline, tmp_path: Any, table: str, column: str) -> Counter[Any]:
    """How often each value of the column is in the table."""
    if pipeline.destination.destination_name == "filesystem":
        files = sorted((tmp_path / "lake" / "raw" / table).rglob("*.parquet"))
        return Counter(value for file in files for value in pq.read_table(file)[column].to_pylist())
    with pipeline.sql_client() as client:
        found = client.execute_sql(f"select {column} from {table}") or ()
        return Counter(value for (value,) in found)


def watermark(pipeline: dlt.Pipeline) -> Any:
    events = pipeline.state["sources"]["mixpanel"]["resources"]["events"]
    return events["incremental"]["occurred_at"]["last_value"]


def run(pipeline: dlt.Pipeline, **arguments: Any) -> None:
    pipeline.run(mixpanel_source(**arguments), loader_file_format="parquet")


def test_new_and_late_events_are_loaded_beside_those_before(server, pipeline, tmp_path):
    now = datetime.now(UTC).replace(microsecond=0)
    server.add([event(now - 3 * DAY, "old", city="Café"), event(now - DAY, "copy")] * 2)
    server.add_lines((now - DAY).date(), [b'"no event"'])
    server.add([event(now - 3 * DAY, "old", city="Café"), event(now - DAY, "newest")])
    run(pipeline)
    assert watermark(pipeline) == now - DAY

    server.add([event(now - timedelta(seconds=5), "new"), event(now - DAY, "late")])
    server.add([event(now - 3 * DAY, "too late for the lookback")])
    run(pipeline)

    found = loaded(pipeline, tmp_path, "events", "insert_id")
    assert set(found) == {"old", "copy", "newest", "new", "late"}
    if pipeline.destination.destination_name == "filesystem":
        # Files are only added to: the day that is read again is there twice, keys tell the copies.
        assert len(loaded(pipeline, tmp_path, "events", "event_key")) == 5
    else:
        assert set(found.values()) == {1}
        assert loaded(pipeline, tmp_path, "rejected_lines", "line") == {'"no event"': 1}
    assert set(loaded(pipeline, tmp_path, "rejected_lines", "line")) == {'"no event"'}
    assert watermark(pipeline) == now - timedelta(seconds=5)


def test_an_event_of_the_future_does_not_move_the_cursor_past_those_to_come(
    server, pipeline, tmp_path
):
    now = datetime.now(UTC).replace(microsecond=0)
    server.add([event(now + timedelta(hours=1), "ahead"), event(now - DAY, "before")])
    if (now + timedelta(hours=1)).date() != now.date():
        server.add([event(now, "of the day that can be asked for")])
    run(pipeline)
    assert watermark(pipeline) <= datetime.now(UTC)


def test_a_backfill_loads_its_days_and_leaves_the_cursor(server, pipeline, tmp_path):
    now = datetime.now(UTC).replace(microsecond=0)
    server.add([event(now - 100 * DAY, "ancient"), event(now - DAY, "recent")])
    run(pipeline)
    before = watermark(pipeline)
    run(pipeline, from_date=(now - 101 * DAY).date(), to_date=(now - 99 * DAY).date())
    assert set(loaded(pipeline, tmp_path, "events", "insert_id")) == {"ancient", "recent"}
    assert watermark(pipeline) == before


def test_nothing_of_an_answer_that_is_not_whole_is_loaded(server, pipeline, tmp_path):
    now = datetime.now(UTC).replace(microsecond=0)
    server.add([event(now - DAY, "a")])
    run(pipeline)
    server.add([event(now - timedelta(seconds=5), "b")])
    server.fail(Fault.TERMINATED_EARLY, times=50)
    with pytest.raises(PipelineStepFailed, match="No whole answer"):
        run(pipeline)
    server.forgive()
    run(pipeline)
    assert set(loaded(pipeline, tmp_path, "events", "insert_id")) == {"a", "b"}


def test_one_resource_alone_can_be_loaded(server, tmp_path):
    now = datetime.now(UTC)
    server.add([event(now - DAY, "a")])
    server.add_lines((now - DAY).date(), [b"[]"])
    server.add([event(now - DAY, "b")])
    pipeline = dlt.pipeline(
        "lines",
        destination=dlt.destinations.duckdb(str(tmp_path / "lines.duckdb")),
        pipelines_dir=str(tmp_path / "pipelines"),
    )
    pipeline.run(mixpanel_source().with_resources("rejected_lines"))
    assert list(pipeline.default_schema.data_table_names()) == ["rejected_lines"]


def test_settings_are_checked_when_the_source_is_made(server):
    with pytest.raises(ConfigurationError, match="region is 'moon'"):
        mixpanel_source(region="moon")
    with pytest.raises(ConfigurationError, match="go together"):
        mixpanel_source(from_date=datetime.now(UTC).date())


def test_dlt_init_gives_the_source(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    # Only what it sets itself is there to configure it by.
    for name in ("PROJECT_ID", "SERVICE_ACCOUNT_USERNAME", "SERVICE_ACCOUNT_SECRET"):
        monkeypatch.delenv(f"SOURCES__MIXPANEL__{name}")
    monkeypatch.delenv("DLT_PROJECT_DIR")
    monkeypatch.setenv("PYTHONPATH", str(folder() / "pipelines"))
    clock = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)
    properties = {"time": int(clock.timestamp()), "distinct_id": "u"}
    server.add([{"event": "A", "properties": properties}])
    project = tmp_path / "initialised"
    project.mkdir()

    def run(*command):
        subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL, input=b"")

    dlt_init = [Path(sys.executable).with_name("dlt"), "init", "mixpanel_export", "duckdb"]
    run(*dlt_init, "--location", folder())
    settings = project / ".dlt"
    (settings / "config.toml").write_text(
        f'[sources.mixpanel_export]\nproject_id = "{server.project_id}"\n'
        'timezone = "America/New_York"\n',
        encoding="utf-8",
    )
    (settings / "secrets.toml").write_text(
        f'[sources.mixpanel_export]\nservice_account_username = "{server.username}"\n'
        f'service_account_secret = "{server.secret}"\n',
        encoding="utf-8",
    )
    for _ in range(2):
        run(sys.executable, "mixpanel_export_pipeline.py")
    with duckdb.connect(project / "mixpanel_export.duckdb") as connection:
        found = connection.sql("select distinct_id, epoch(occurred_at) from mixpanel_raw.events")
        happened = clock.replace(tzinfo=ZoneInfo("America/New_York"))
        assert found.fetchall() == [("u", happened.timestamp())]
