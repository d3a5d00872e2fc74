"""What whoever waits for a sync gets to see."""

import logging
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from local_mixpanel import Fault, LocalMixpanel
from mixpanel_pipeline.sync import progress as progress_module
from mixpanel_pipeline.sync.progress import LoggedProgress, Progress
from tests.conftest import NOW
from tests.test_run import ROOT


class Told(Progress):
    """Remembers every step."""

    def __init__(self):
        super().__init__()
        self.steps = list[str]()

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "step" and hasattr(self, "steps"):
            self.steps.append(value)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_each_step_is_told(mixpanel, warehouse, run_sync):
    mixpanel.add([{"event": "$ae_session", "properties": {"time": int(NOW.timestamp())}}])
    progress = Told()
    run_sync(progress=progress)
    assert progress.steps[:2] == ["Loading", "Building the models"]
    assert any(re.search("Building the models: .*subscribers", step) for step in progress.steps)
    progress.step = "Loading"
    assert re.fullmatch(
        r"Loading, 45 of 45 days, 1 events, 0\.0 MB, [\d,]+ events/s", progress.text
    )


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_log_has_a_line_every_few_seconds(mixpanel, warehouse, run_sync, monkeypatch, caplog):
    monkeypatch.setattr(progress_module, "_LOG_SECONDS", 0.01)
    mixpanel.add([{"event": "$ae_session", "properties": {"time": int(NOW.timestamp())}}] * 3000)
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, retry_after=2)
    with caplog.at_level(logging.INFO):
        run_sync(progress=LoggedProgress(), skip_transform=True)
    assert re.search(r"waiting until \d\d:\d\d:\d\d UTC, \d s more", caplog.text)
    assert "45 days" in caplog.text


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_terminal_shows_a_live_line(mixpanel, warehouse, monkeypatch):
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        server.add(
            [{"event": "$ae_session", "properties": {"time": int(datetime.now(UTC).timestamp())}}]
        )
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, ROOT / "pipelines" / "run.py"],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
            stdout=subprocess.PIPE,
            stderr=its,
        )
        os.close(its)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:
                break
            if not part:
                break
            shown += part
        os.close(ours)
        assert process.stdout is not None
        summary = process.stdout.read().decode()
        process.stdout.close()
        assert process.wait() == 0
    assert b"Loading, " in shown
    assert b"Building the models: " in shown
    assert "events_new" in summary
    assert "Building" not in summary
