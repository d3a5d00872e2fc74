"""A signal at any instant ends the command with one line."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local_mixpanel import Fault, LocalMixpanel
from tests.lines import told
from tests.test_crashes import until
from tests.test_run import ROOT

LINE = "error: Interrupted. It is safe to run again."


@pytest.fixture
def server(mixpanel, monkeypatch):
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        time = int(datetime.now(UTC).timestamp())
        server.add([{"event": "$ae_session", "properties": {"time": time, "distinct_id": "ada"}}])
        yield server


@pytest.fixture
def start():
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, ROOT / "pipelines" / "run.py", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def has_begun(process):
    """Whether the command's first line has run."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    held = int(masks["SigBlk"], 16) | int(masks["SigCgt"], 16)
    return bool(held >> (signal.SIGTERM - 1) & 1)


def has_imported(library):
    def has_imported(process):
        return library in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")

    return has_imported


def has_parsed(process):
    return Path(os.environ["DBT_TARGET_PATH"], "partial_parse.msgpack").exists()


@pytest.mark.parametrize(
    ("instant", "signum"),
    [
        pytest.param(has_begun, signal.SIGINT, id="starting"),
        pytest.param(has_imported("libarrow.so"), signal.SIGHUP, id="importing"),
        pytest.param(has_imported("_duckdb"), signal.SIGTERM, id="importing the database"),
        pytest.param(has_imported("markupsafe/_speedups"), signal.SIGINT, id="importing dbt"),
        pytest.param(has_imported("dbt_extractor"), signal.SIGHUP, id="starting dbt"),
        pytest.param(has_parsed, signal.SIGTERM, id="building"),
    ],
)
@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_signal_is_one_line_and_a_summary(
    warehouse, server, start, monkeypatch, tmp_path, instant, signum
):
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    process = start()
    until(process, lambda: instant(process))
    process.send_signal(signum)
    output, errors = process.communicate()
    summary = json.loads(output)
    assert (process.returncode, summary["status"]) == (1, "failed")
    assert f"error: {summary['error']}" == LINE
    # The server has no more than one of the names, which may have been told before.
    assert told(errors, "ERROR", "CRITICAL") == [LINE]


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_an_interrupted_sync_says_what_came_so_far(warehouse, server, start):
    server.fail(Fault.STALL, seconds=60)
    process = start("--skip-transform")
    until(process, lambda: server.requests)
    process.terminate()
    output, _ = process.communicate()
    summary = json.loads(output)
    today = str(datetime.now(UTC).date())
    assert (summary["mode"], summary["to_date"]) == ("first", today)
    assert (summary["destination"], summary["events_received"]) == ("duckdb", 0)
    ((*row,),) = warehouse.rows("select status, error, id, requests from mixpanel_raw.sync_runs")
    assert row == ["failed", *(summary[name] for name in ("error", "run_id", "requests"))]


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_more_signals_are_the_same_line(warehouse, server, start):
    server.fail(Fault.STALL, seconds=60)
    process = start("--skip-transform")
    until(process, lambda: server.requests)
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        process.send_signal(signum)
    output, errors = process.communicate()
    assert (process.returncode, told(errors)) == (1, [LINE])
    assert json.loads(output)["status"] == "failed"


def test_a_signal_that_is_to_be_ignored_is(tmp_path, monkeypatch):
    """As under `nohup`."""
    command = f"trap '' HUP; exec {sys.executable} {ROOT / 'pipelines' / 'run.py'} --skip-load"
    monkeypatch.setenv("DESTINATION_TYPE", "mysql")
    with subprocess.Popen(command, shell=True, stderr=subprocess.PIPE, text=True) as process:
        until(process, lambda: has_imported("libarrow.so")(process))
        process.send_signal(signal.SIGHUP)
        assert "destination_type" in process.communicate()[1]
        assert process.returncode == 2
