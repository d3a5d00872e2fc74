"""`python pipelines/run.py` as its users call it."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import psycopg2.extensions
import pytest

from local_mixpanel import Fault, LocalMixpanel
from tests import children
from tests.lines import parsed, told

ROOT = Path(__file__).parents[1]
FIELDS = [
    "status",
    "mode",
    "destination",
    "run_id",
    "started_at",
    "version",
    "from_date",
    "to_date",
    "watermark",
    "requests",
    "events_received",
    "events_new",
    "events_duplicate",
    "lines_rejected",
    "subscribers",
    "duration_seconds",
]


@pytest.fixture
def today():
    """The command has the real clock."""
    return datetime.now(UTC)


@pytest.fixture
def server(mixpanel, monkeypatch, today):
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        server.add(
            {"event": "$ae_session", "properties": {"time": time, "distinct_id": "ada"}}
            for time in (int((today - timedelta(days=days)).timestamp()) for days in range(3))
        )
        yield server


def run(*arguments, directory=ROOT):
    return subprocess.run(
        [sys.executable, ROOT / "pipelines" / "run.py", *arguments],
        cwd=directory,
        env=os.environ,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def test_json_is_the_last_line_of_stdout_and_nothing_else_is_there(server, warehouse, today):
    done = run("--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert list(summary) == FIELDS
    assert (summary["status"], summary["mode"]) == ("ok", "first")
    assert summary["destination"] == warehouse.name
    assert summary["to_date"] == str(today.date())
    assert summary["from_date"] == str(today.date() - timedelta(days=44))
    assert (summary["events_received"], summary["subscribers"]) == (3, 1)
    assert datetime.fromisoformat(summary["watermark"]) <= datetime.now(UTC)
    # The server has no more than one of the names.
    assert [line for line in told(done.stderr) if "no event of these names" not in line] == []
    assert {line["run_id"] for line in parsed(done.stderr)} == {summary["run_id"]}


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_people_get_a_table_from_whatever_folder(server, warehouse, tmp_path):
    done = children.command(directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"status +│ +ok", done.stdout)
    assert re.search(r"events_new +│ +3", done.stdout)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_failure_is_one_message_without_secrets(server, warehouse, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    server.fail(Fault.GZIP_CUT)
    done = children.command("--json", "--skip-transform")
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert list(summary) == [*FIELDS, "error"]
    assert summary["status"] == "failed"
    assert "run again" in summary["error"]
    assert told(done.stderr) == [f"error: {summary['error']}"]
    assert server.secret not in done.stdout + done.stderr


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_refused_connection_tells_no_password(server, warehouse, monkeypatch):
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "wr0ng-pa55word")
    done = children.command("--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert re.search(r"password authentication failed.*Check password.*environment vari", error)
    assert told(done.stderr) == [f"error: {error}"]
    assert "safe to run again" not in error
    assert "Traceback" not in done.stderr
    assert "wr0ng-pa55word" not in done.stdout + done.stderr


class Lingering(psycopg2.extensions.connection):
    """A connection whose end the server has not seen yet."""

    def close(self):
        pass


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_sync_that_fails_lets_go_at_once(warehouse, monkeypatch):
    lingering = psycopg2.connect(
        warehouse.credentials.to_native_representation(), connection_factory=Lingering
    )
    with monkeypatch.context() as first:
        first.setattr(warehouse, "connect", lambda: lingering)
        with pytest.raises(ZeroDivisionError), warehouse.lock():
            raise ZeroDivisionError
    with warehouse.lock():
        pass
    super(Lingering, lingering).close()


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_second_sync_is_skipped(server, warehouse):
    with warehouse.lock():
        done = children.command("--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "skipped"
    assert f"process {os.getpid()}" in done.stderr
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from-date", "2026-01-01"], "go together"),
        (["--to-date", "2026-01-01"], "go together"),
        (["--from-date", "2026-01-02", "--to-date", "2026-01-01"], "is after"),
        (["--from-date", "yesterday", "--to-date", "2026-01-01"], "is not a day"),
        (["--from-date", "2026-01-01", "--to-date", "2999-01-01"], "in the future"),
        (["--from-date", "2026-01-01", "--to-date", "2026-01-01", "--full-refresh"], "not both"),
        (["--skip-load", "--skip-transform"], "nothing to do"),
        (["--skip-load", "--from-date", "2026-01-01", "--to-date", "2026-01-01"], "--skip-load"),
        (["--destination", "mysql"], "invalid choice"),
        (["--full"], "unrecognized arguments"),
        (["--json", "remove"], "remove comes first"),
        (["--quiet", "dbt", "run"], "dbt comes first"),
    ],
)
def test_wrong_usage(mixpanel, arguments, message):
    done = children.command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert mixpanel.requests == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SOURCES__MIXPANEL__PROJECT_ID", "", "project_id is missing"),
        ("SOURCES__MIXPANEL__REGION", "mars", "region"),
        ("SOURCES__MIXPANEL__REGOIN", "eu", "the nearest is SOURCES__MIXPANEL__REGION"),
        ("DESTINATION_TYPE", "mysql", "it can be duckdb, postgres, spark or filesystem"),
        ("SOURCES__MIXPANEL__EVENTS", '["$ae_session"]', "events lacks AchTransferInitiated"),
        ("DBT_TARGET_PATH", "/proc/target", "Set DBT_TARGET_PATH"),
        ("DESTINATION__DUCKDB__CREDENTIALS", ":memory:", "needs a file"),
        ("DESTINATION__DUCKDB__CREDENTIALS", "mixpanel.duckdb", "cannot be called"),
    ],
)
def test_wrong_configuration(mixpanel, monkeypatch, tmp_path, name, value, message):
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "warehouse.duckdb"))
    monkeypatch.setenv(name, value)
    done = children.command("--json")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads(done.stdout)
    assert list(summary) == [*FIELDS, "error"]
    assert summary["status"] == "failed"
    assert message in summary["error"]


def test_an_audit_is_printed_where_only_ascii_can_be(server, today, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", '["Caf\\u00e9 \\u2615"]')
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    properties = {"time": int(today.timestamp()), "distinct_id": "ada", "$insert_id": "1"}
    server.add([{"event": "Café ☕", "properties": properties}])
    done = run("audit")
    assert "Traceback" not in done.stderr
    assert r"Caf\xe9 \u2615" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [("SERVICE_ACCOUNT_SECRET", "wr0ng-s3cret", "401"), ("PROJECT_ID", "2", "403")],
)
def test_what_mixpanel_refuses_is_wrong_configuration(mixpanel, monkeypatch, name, value, status):
    monkeypatch.setenv(f"SOURCES__MIXPANEL__{name}", value)
    monkeypatch.setenv("SOURCES__MIXPANEL__PARALLEL_DOWNLOADS", "1")
    done = children.command("--json")
    assert done.returncode == 2
    assert f"Mixpanel answered {status}" in done.stderr
    assert "wr0ng" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == "failed"


def test_a_settings_file_that_is_no_toml_is_told_in_one_line(mixpanel, tmp_path):
    file = tmp_path / "project" / ".dlt" / "config.toml"
    file.write_text("[sources.mixpanel]\nregion = \u201ceu\u201d\n", encoding="utf-8")
    done = run("--json")
    assert done.returncode == 2
    assert told(done.stderr) == [f"error: {json.loads(done.stdout)['error']}"]
    assert ".dlt/config.toml, line 2, is no TOML" in done.stderr
    assert mixpanel.requests == []


def test_a_connection_that_is_not_configured_is_said(mixpanel):
    done = children.command("--destination", "postgres")
    assert done.returncode == 2
    assert "DESTINATION__POSTGRES__CREDENTIALS__HOST" in done.stderr


def test_help_explains_every_option_and_exit_code():
    done = run("--help")
    assert done.returncode == 0
    for option in ("from-date", "to-date", "full-refresh", "destination", "skip-transform"):
        assert f"--{option}" in done.stdout
    for option in ("--skip-load", "--json", "demo", "exit codes"):
        assert option in done.stdout


def test_the_demo_shows_equal_counts(monkeypatch):
    database = ROOT / "demo.duckdb"
    done = children.command("demo")
    assert done.returncode == 0, done.stderr
    assert "subscribers are equal to the server's own" in done.stdout
    assert database.exists()
