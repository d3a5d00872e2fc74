"""The schedules that call the command: cron, a systemd timer and GitHub Actions."""

import json
import os
import re
import shlex
import shutil
import subprocess
import venv
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path
from sysconfig import get_paths

import pytest
import yaml

from tests.schedules.conftest import EXAMPLES, ROOT


def run(command, environment, folder):
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_cron_syncs_silently_and_mails_what_is_wrong(own, home):
    lines = own.copy("crontab").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    of_cron = {"HOME": str(home), "LOGNAME": "mixpanel", "SHELL": "/bin/sh"}
    own_settings = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    jobs = [line.split(maxsplit=5)[5] for line in lines if not re.match(r"\w+=", line)]
    sync, audit = ([*shlex.split("/bin/sh -c"), job] for job in jobs)
    own.happen("ada", "ada", "eve")
    done = run(sync, of_cron | own_settings, home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert own.counted() == [("ada", 2), ("eve", 1)]
    # Later than any lookback.
    own.happen("zoe", hours=80)
    done = run(audit, of_cron | own_settings, home)
    assert done.returncode == 0, done.stderr
    assert "1 events were missing" in done.stdout
    assert own.counted() == [("ada", 2), ("eve", 1), ("zoe", 1)]
    secrets = own.folder / ".dlt" / "secrets.toml"
    text = secrets.read_text(encoding="utf-8")
    secrets.write_text(text.replace(own.mixpanel.secret, "mistyped"), encoding="utf-8")
    done = run(sync, of_cron | own_settings, home)
    assert (done.returncode, done.stdout) == (2, "")
    [mailed] = done.stderr.splitlines()
    assert "Check the service account's user name and secret" in mailed


def test_systemd_knows_the_units_and_what_they_start_syncs(own, home):
    units = [own.copy("mixpanel.service"), own.copy("mixpanel.timer")]
    if analyse := shutil.which("systemd-analyze"):
        verified = run([analyse, "verify", "--man=no", *units], os.environ, own.folder)
        assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    service, timer = (ConfigParser(interpolation=None) for _ in units)
    for parser, path in zip((service, timer), units, strict=True):
        parser.read(path, encoding="utf-8")
    assert timer["Timer"]["OnCalendar"] == "hourly"
    own.happen("ada")
    of_systemd = {"HOME": str(home), "PATH": os.defpath}
    command = shlex.split(service["Service"]["ExecStart"])
    done = run(command, of_systemd, service["Service"]["WorkingDirectory"])
    assert done.returncode == 0, done.stderr
    assert own.counted() == [("ada", 1)]


def test_github_actions_sync_into_postgresql(
    own, home, postgresql, counted_in_postgresql, tmp_path
):
    path = EXAMPLES / "github-actions.yml"
    [job] = yaml.safe_load(path.read_bytes())["jobs"].values()
    server = postgresql.environment("analytics")
    prefix = "DESTINATION__POSTGRES__CREDENTIALS__"
    part = {name.removeprefix(prefix).lower(): value for name, value in server.items()}
    secrets = {
        "DATABASE_URL": "postgresql://{username}:{password}@{host}:{port}/{database}".format(
            **part
        ),
        "MIXPANEL_PROJECT_ID": own.mixpanel.project_id,
        "MIXPANEL_USERNAME": own.mixpanel.username,
        "MIXPANEL_SECRET": own.mixpanel.secret,
    }
    environment = {
        name: re.sub(r"\$\{\{ secrets\.(\w+) \}\}", lambda found: secrets[str(found[1])], value)
        for name, value in job["env"].items()
    }
    assert not any("${{" in value for value in environment.values())
    # What is not in the repository: the runner's Python, and our Mixpanel.
    python = tmp_path / "python"
    venv.create(python, symlinks=True, with_pip=True)
    [packages] = python.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(get_paths()["purelib"], encoding="utf-8")
    wheel = f"mixpanel_pipeline-{version('mixpanel-pipeline')}-py3-none-any.whl"
    assert environment["WHEEL"].endswith(wheel)
    summary = tmp_path / "summary"
    environment |= {
        "GITHUB_STEP_SUMMARY": str(summary),
        "HOME": str(home),
        "PATH": f"{python / 'bin'}:{os.defpath}",
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FORCE_REINSTALL": "1",
        "SOURCES__MIXPANEL__BASE_URL": own.mixpanel.url,
        "SOURCES__MIXPANEL__STATE_DIRECTORY": str(tmp_path / "state"),
        "WHEEL": str(ROOT / "dist" / wheel),
    }
    (own.folder / ".dlt" / "secrets.toml").unlink()
    own.happen("ada", "ada", "eve")

    def steps():
        for step in job["steps"]:
            if "run" in step:
                shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
                done = run(shell, environment, own.folder)
                if done.returncode:
                    return done
        return done

    assert Path(environment["WHEEL"]).is_file()
    done = steps()
    assert done.returncode == 0, done.stderr
    assert json.loads(summary.read_text(encoding="utf-8"))["events_new"] == 3
    assert counted_in_postgresql() == [("ada", 2), ("eve", 1)]
    environment["SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET"] = "mistyped"
    done = steps()
    assert done.returncode == 2
    assert "Check the service account's user name and secret" in done.stderr
