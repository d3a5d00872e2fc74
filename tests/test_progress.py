"""What whoever waits for a sync gets to see."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from datetime import UTC, date, datetime

import pytest

from local_mixpanel import Fault, LocalMixpanel
from mixpanel_pipeline.runs import progress as progress_module
from mixpanel_pipeline.runs.load import Loaded
from mixpanel_pipeline.runs.progress import LoggedProgress, Progress
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.delivered import Delivered
from mixpanel_pipeline.source.downloads import Download
from mixpanel_pipeline.source.errors import ExportError
from mixpanel_pipeline.source.waiting import Waiting
from mixpanel_pipeline.source.window import Window
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
    assert re.fullmatch(r"Loading, 45 of 45 days, 1 events, 0\.0 MB, [\d,]+/s", progress.text)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_wait_is_told_when_it_begins_and_ends(mixpanel, warehouse, run_sync, monkeypatch, caplog):
    monkeypatch.setattr(progress_module, "_LOG_SECONDS", 0.01)
    mixpanel.add([{"event": "$ae_session", "properties": {"time": int(NOW.timestamp())}}] * 3000)
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, retry_after=2)
    with caplog.at_level(logging.INFO):
        run_sync(progress=LoggedProgress(), skip_transform=True)
    begun = r"rate limit .* is reached: waiting \d s, until \d\d:\d\d:\d\d UTC"
    assert len(re.findall(begun, caplog.text)) == 1
    assert len(re.findall("Going on after waiting", caplog.text)) == 1
    assert "s more" not in caplog.text
    assert "45 of 45 days" in caplog.text


def test_waits_side_by_side_are_one_line_and_so_are_waits_in_a_row(caplog):
    waiting = Waiting()
    with caplog.at_level(logging.INFO), waiting.told("Used up", 3000), waiting.told("Used up", 60):
        pass
    with caplog.at_level(logging.INFO), waiting.told("Used up", 60):
        pass
    with caplog.at_level(logging.INFO), suppress(ExportError), waiting.told("Ends", 60):
        raise ExportError
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(",")[0] for line in lines] == [
        "Used up: waiting 3000 s",
        "Going on after waiting 0 s",
        "Ends: waiting 60 s",
    ]


def test_what_is_downloaded_is_shown_before_it_is_loaded(mixpanel):
    progress, loaded = Progress(), Loaded(days_total=45)
    progress.watch(loaded, MixpanelClient(load_configuration()))
    days = Window(date(2026, 3, 1), date(2026, 3, 10))
    loaded.came(Download(days, Delivered((), (), 120_000, 0, None, None, 0)))
    assert progress.text.startswith("Loading, 0 of 45 days (10 downloaded), 120,000 events, 0.0 MB")
    loaded.days_done = 10
    assert progress.text.startswith("Loading, 10 of 45 days, 120,000 events")


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_terminal_shows_a_live_line(mixpanel, warehouse, monkeypatch):
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        server.add(
            [{"event": "$ae_session", "properties": {"time": int(datetime.now(UTC).timestamp())}}]
        )
        server.fail(Fault.TOO_MANY_REQUESTS, retry_after=2)
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen(
            [sys.executable, ROOT / "pipelines" / "run.py"],
            env={**os.environ, "TERM": "xterm"},
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
    # At the beginning of a line, or of one that was erased: not behind the progress.
    assert re.search(rb"(^|\n|\x1b\[2K|\x1b\[\?25l)\x1b\[33mwarning: .*rate limit", shown)
    assert b"Building the models: " in shown
    assert "events_new" in summary
    assert "Building" not in summary
