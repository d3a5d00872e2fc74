"""dbt as its users call it: through the command, or plainly by the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import children
from tests.conftest import NOW
from tests.lines import told
from tests.warehouses import rows, subscribers

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "dbt_project"
COMMAND = [sys.executable, ROOT / "pipelines/run.py", "dbt"]
PLAINLY = [Path(sys.executable).with_name("dbt")]
AS_A_MODULE = [sys.executable, "-m", "dbt.cli.main"]
AS_A_LIBRARY = [
    sys.executable,
    "-c",
    "import sys; from dbt.cli.main import dbtRunner; "
    "sys.exit(not dbtRunner().invoke(sys.argv[1:]).success)",
]
SESSION = {
    "event": "$ae_session",
    "properties": {"time": int(NOW.timestamp()), "distinct_id": "ada"},
}


def call(command, *arguments, directory=ROOT):
    return subprocess.run(
        [*command, *arguments],
        cwd=directory,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def succeeded(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def loaded(mixpanel, run_sync):
    mixpanel.add([SESSION])
    assert run_sync(skip_transform=True).events_new == 1


@pytest.fixture
def in_toml_files(warehouse, monkeypatch, tmp_path):
    """The connection stands there, and not in the environment."""
    prefix = f"DESTINATION__{warehouse.name.upper()}__CREDENTIALS"
    settings = tmp_path / "project" / ".dlt"
    if warehouse.name == "duckdb":
        secrets = f'[destination.duckdb]\ncredentials = "{warehouse.path}"\n'
    else:
        names = ("host", "port", "username", "password", "database")
        secrets = "[destination.postgres.credentials]\n" + "".join(
            f'{name} = "{os.environ[f"{prefix}__{name.upper()}"]}"\n' for name in names
        )
    (settings / "secrets.toml").write_text(secrets, encoding="utf-8")
    (settings / "config.toml").write_text(
        f'destination_type = "{warehouse.name}"\n', encoding="utf-8"
    )
    for name in [name for name in os.environ if name.startswith(prefix)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("DESTINATION_TYPE")


def test_the_command_passes_the_connection_on_from_anywhere(
    warehouse, loaded, in_toml_files, tmp_path
):
    succeeded(children.command("dbt", "run", directory=tmp_path))
    assert set(subscribers(warehouse)) == {"ada"}


def test_the_command_gives_dbts_own_exit_code_and_output(warehouse):
    done = call(COMMAND, "run", "--no-such-option")
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_the_command_without_a_connection_says_what_to_set(monkeypatch):
    monkeypatch.setenv("DESTINATION_TYPE", "postgres")
    done = children.command("dbt", "run")
    assert done.returncode == 2
    (error,) = told(done.stderr, "ERROR")
    assert "DESTINATION__POSTGRES__CREDENTIALS__HOST" in error


@pytest.mark.parametrize(
    ("warehouse", "command"),
    [
        pytest.param("duckdb", PLAINLY, id="duckdb-dbt"),
        pytest.param("postgres", PLAINLY, id="postgres-dbt"),
        # They differ in how dbt starts.
        pytest.param("duckdb", AS_A_MODULE, id="duckdb-module"),
        pytest.param("duckdb", AS_A_LIBRARY, id="duckdb-library"),
    ],
    indirect=["warehouse"],
)
def test_plain_dbt_works_by_the_environment(warehouse, loaded, command):
    if command != PLAINLY:
        succeeded(call(command, "run", "--select", "stg_mixpanel__events", directory=PROJECT))
        assert rows(warehouse, "select distinct_id from mixpanel.stg_mixpanel__events") == [
            ("ada",)
        ]
        return
    succeeded(call(command, "run", directory=PROJECT))
    assert set(subscribers(warehouse)) == {"ada"}


def test_plain_dbt_from_the_root_finds_a_relative_path(warehouse, loaded, monkeypatch):
    if warehouse.name == "duckdb":
        path = os.path.relpath(warehouse.path, ROOT)
        monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
        monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS__DATABASE", path)
    folders = ("--project-dir", "dbt_project", "--profiles-dir", "dbt_project")
    succeeded(children.plain_dbt("run", *folders))
    assert set(subscribers(warehouse)) == {"ada"}


def test_plain_dbt_never_creates_another_database(warehouse, loaded, in_toml_files):
    before = set(ROOT.iterdir())
    done = children.plain_dbt("run", directory=PROJECT)
    assert done.returncode != 0
    assert "Env var required but not provided" in done.stdout + done.stderr
    assert set(ROOT.iterdir()) == before


def test_a_whole_build_passes_with_every_test(warehouse, loaded):
    # What is loaded happened long ago.
    output = succeeded(
        children.command("dbt", "--warn-error", "build", "--exclude", "tag:freshness")
    )
    assert "ERROR=0" in output
    assert "unit_test" in output or "PASS" in output


def test_a_rebuild_equals_what_was_added_up(warehouse, loaded, mixpanel, run_sync):
    mixpanel.add([SESSION])
    run_sync()
    before = subscribers(warehouse)
    succeeded(children.command("dbt", "run", "--full-refresh"))
    assert subscribers(warehouse) == before
    assert before["ada"]["app_sessions"] == 2
