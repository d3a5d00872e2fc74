"""The installed command in a project of one's own: the sdist's wheel, not this checkout."""

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
import yaml

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline import project
from tests.conftest import point_at


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Where the wheel's command is, in an environment with what it depends on and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    wheels, environment = folder / "wheels", folder / "environment"
    pip = ["pip", "--disable-pip-version-check", "--python", environment / "bin" / "python"]
    build = [sys.executable, "-m", "hatchling", "build", "--target"]
    # From what the sdist has, so that it is known to have all that a wheel needs.
    subprocess.run([*build, "sdist", "--directory", folder], cwd=project.folder(), check=True)
    [sdist] = folder.glob("*.tar.gz")
    shutil.unpack_archive(sdist, folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    subprocess.run([*build, "wheel", "--directory", wheels], cwd=unpacked, check=True)
    venv.create(environment, symlinks=True)
    [wheel] = wheels.iterdir()
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", *pip, *install], check=True)
    [packages] = environment.glob("lib/python*/site-packages")
    dependencies = sysconfig.get_paths()["purelib"]
    (packages / "dependencies.pth").write_text(dependencies, encoding="utf-8")
    return environment / "bin" / "mixpanel-pipeline"


@dataclass
class OwnProject:
    """A folder that the installed command is run in."""

    command: Path
    folder: Path

    def run(self, *arguments: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.command, *arguments],
            cwd=self.folder,
            env=os.environ,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == expected, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    @property
    def declaration(self) -> Path:
        return self.folder / "dbt_project" / "dbt_project.yml"


@pytest.fixture
def own(command, tmp_path, monkeypatch):
    monkeypatch.delenv("DLT_PROJECT_DIR")
    folder = tmp_path / "of_my_own"
    folder.mkdir()
    return OwnProject(command, folder)


def test_init_writes_what_is_missing_and_changes_nothing(own):
    own.run("init")
    secrets = own.folder / ".dlt" / "secrets.toml"
    ignored = own.folder / ".gitignore"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert ".dlt/secrets.toml" in ignored.read_text(encoding="utf-8").splitlines()
    secrets.write_text("# mine", encoding="utf-8")
    ignored.unlink()
    told = own.run("init").stdout
    assert [line for line in told.splitlines() if line.startswith("written")] == [
        "written  .gitignore"
    ]
    assert secrets.read_text(encoding="utf-8") == "# mine"


def test_where_no_project_is_nothing_is_counted(own, mixpanel):
    for arguments in ([], ["dbt", "parse"]):
        told = own.run(*arguments, expected=2).stderr.replace("\n", " ")
        assert f"{own.folder} has no dbt_project/dbt_project.yml" in told
    assert list(own.folder.iterdir()) == []


def test_what_is_wrong_in_ones_own_declaration_has_its_line(own):
    own.run("init")
    text = own.declaration.read_text(encoding="utf-8")
    own.declaration.write_text(text.replace("event: $ae_session", "evnt: x"), encoding="utf-8")
    lines = own.declaration.read_text(encoding="utf-8").splitlines()
    line = 1 + lines.index("      evnt: x")
    assert f"dbt_project/dbt_project.yml, line {line}: " in own.run(expected=2).stderr


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_project_of_ones_own_counts_its_metrics(own, warehouse, mixpanel, monkeypatch):
    for name in ("DBT_TARGET_PATH", "DBT_LOG_PATH", "DESTINATION_TYPE"):
        monkeypatch.delenv(name)
    now = datetime.now(UTC)

    def happen(name, *people, days=0):
        moment = int((now - timedelta(days=days, hours=3)).timestamp())
        server.add(
            {"event": name, "properties": {"time": moment, "distinct_id": one}} for one in people
        )

    def of_duckdb(query):
        with duckdb.connect(own.folder / "warehouse.duckdb") as connection:
            return connection.sql(query).fetchall()

    with LocalMixpanel() as server:
        point_at(server, monkeypatch)
        own.run("init")
        happen("$ae_session", "ada", "ada", "eve")
        happen("Bought", "eve", days=10)
        counted = "select subscriber_id, app_sessions from mixpanel.subscribers order by 1"
        for destination, rows in (("duckdb", of_duckdb), ("postgres", warehouse.rows)):
            summary = json.loads(own.run("--json", "--destination", destination).stdout)
            assert (summary["mode"], summary["events_new"]) == ("first", 3)
            assert rows(counted) == [("ada", 2), ("eve", 1)]
            assert rows("select count(*) from mixpanel.active_subscribers") == [(2,)]
        described = "select obj_description('mixpanel.active_subscribers'::regclass)"
        assert warehouse.value(described).startswith("Subscribers of whom")
        # What hangs on a table of the package outlives that another metric is counted.
        warehouse.execute(
            "create view public.mine as select subscriber_id from mixpanel.subscribers"
        )
        declared = yaml.safe_load(own.declaration.read_bytes())
        declared["vars"]["metrics"]["bought"] = {"event": "Bought"}
        own.declaration.write_text(yaml.safe_dump(declared), encoding="utf-8")
        happen("$ae_session", "zoe")
        monkeypatch.setenv("DESTINATION_TYPE", "postgres")
        refused = own.run(expected=1)
        assert "with: mixpanel-pipeline --full-refresh" in refused.stderr.replace("\n", " ")
        assert json.loads(own.run("--json", "--full-refresh").stdout)["events_new"] == 1
        counted = "select subscriber_id, bought from mixpanel.subscribers order by 1"
        assert warehouse.rows(counted) == [("ada", 0), ("eve", 1), ("zoe", 0)]
        own.run("remove", "--where", "subscriber_id = 'ada'")
        assert warehouse.rows(counted) == [("eve", 1), ("zoe", 0)]
        assert warehouse.rows("select count(*) from public.mine") == [(2,)]
        # Without the macro that takes the package's materializations it would not.
        (own.folder / "dbt_project" / "macros" / "mixpanel.sql").unlink()
        assert "mixpanel-pipeline init" in own.run("--skip-load", expected=2).stderr
    assert not (project.DBT_PACKAGE / "dbt_packages").exists()
