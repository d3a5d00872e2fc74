"""The lines that the command writes to stderr."""

import json
import logging
import subprocess
import sys
import warnings
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from mixpanel_pipeline.cli.logs import Logs
from mixpanel_pipeline.project import folder, version
from tests.lines import parsed

LOGGER = logging.getLogger("mixpanel_pipeline.test")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root, ours = logging.getLogger(), logging.getLogger("mixpanel_pipeline")
    level = ours.level
    logging.captureWarnings(False)
    yield
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, Logs)]
    ours.setLevel(level)


def test_every_line_has_time_level_and_run(capsys):
    before = datetime.now().astimezone().replace(microsecond=0)
    Logs("12.5")
    LOGGER.info("It is loading %s", "Café")
    LOGGER.error("Two\nlines")
    lines = parsed(capsys.readouterr().err)
    assert [(line["level"], line["run_id"], line["message"]) for line in lines] == [
        ("INFO", "12.5", "It is loading Café"),
        ("ERROR", "12.5", "Two"),
        ("ERROR", "12.5", "lines"),
    ]
    assert before <= datetime.fromisoformat(lines[0]["time"]) <= datetime.now().astimezone()


def test_json_is_an_object_a_line(capsys):
    Logs("12.5", log_format="json")
    LOGGER.warning("Two\nlines")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert list(told) == ["time", "level", "run_id", "message"]
    assert told | {"time": ""} == {
        "time": "",
        "level": "warning",
        "run_id": "12.5",
        "message": "Two\nlines",
    }
    assert datetime.fromisoformat(told["time"]).tzinfo is not None


@pytest.mark.parametrize(
    ("level", "told"),
    [
        (logging.WARNING, ["WARNING"]),
        (logging.INFO, ["INFO", "WARNING"]),
        (logging.DEBUG, ["DEBUG", "INFO", "WARNING"]),
    ],
)
def test_what_is_told_follows_the_level_and_libraries_only_warn(capsys, level, told):
    Logs(level=level)
    for severity in (logging.DEBUG, logging.INFO, logging.WARNING):
        LOGGER.log(severity, "ours")
        logging.getLogger("urllib3").log(severity - 10, "a request of a library")
    assert [line["level"] for line in parsed(capsys.readouterr().err)] == told


def test_lines_of_dlt_warnings_and_mistakes_of_ours_have_the_form_too(capsys):
    from dlt.common.configuration.specs import RuntimeConfiguration
    from dlt.common.runtime.init import initialize_runtime

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        Logs("12.5")
        initialize_runtime("dlt", RuntimeConfiguration(dlthub_telemetry=False, log_level="WARNING"))
        logging.getLogger("dlt").warning("of dlt")
        warnings.warn("of Python", stacklevel=1)
        sys.excepthook(ValueError, ValueError("of ours"), None)
        logging.captureWarnings(False)
    messages = [line["message"] for line in parsed(capsys.readouterr().err)]
    assert messages[0] == "of dlt"
    assert any("of Python" in message for message in messages)
    assert messages[-1] == "ValueError: of ours"


def test_a_line_that_cannot_be_written_ends_nothing(monkeypatch):
    was_told = False
    with suppress(OSError), Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        Logs()
        LOGGER.warning("Nobody reads it")
        was_told = True
    assert was_told


def test_a_line_of_a_library_tells_no_password(capsys):
    Logs()
    logging.getLogger("dlt").critical("no way to postgresql://me:s3cr3t@db/events")
    (line,) = parsed(capsys.readouterr().err)
    assert line["message"] == "no way to postgresql://me:***@db/events"


def test_the_version_is_that_of_the_wheel_where_there_is_no_checkout(tmp_path):
    """As pip installs it into a folder of another project."""
    site = tmp_path / "vendored"
    (site / "mixpanel_pipeline" / "source").mkdir(parents=True)
    for name in ("project.py", "source/errors.py"):
        source = folder() / "pipelines" / "mixpanel_pipeline" / name
        (site / "mixpanel_pipeline" / name).write_bytes(source.read_bytes())
    metadata = site / "mixpanel_pipeline-9.8.7.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.1\nName: mixpanel-pipeline\nVersion: 9.8.7\n", encoding="utf-8"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "another"\nversion = "1"\n', encoding="utf-8"
    )
    ask = "from mixpanel_pipeline.project import version; print(version())"
    told = subprocess.check_output([sys.executable, "-c", ask], cwd=site, text=True)
    assert told == "9.8.7\n"


def test_the_command_tells_its_version():
    command = [sys.executable, str(folder() / "pipelines" / "run.py"), "--version"]
    assert subprocess.check_output(command, text=True) == f"mixpanel-pipeline {version()}\n"
