"""dbt as its users call it: the same database, from the root or from inside the project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NOW
from tests.warehouses import subscribers

ROOT = Path(__file__).parents[1]
DBT = Path(sys.executable).with_name("dbt")
SESSION = {
    "event": "$ae_session",
    "properties": {"time": int(NOW.timestamp()), "distinct_id": "ada"},
}


def dbt(*arguments, directory=ROOT, environment=None):
    done = subprocess.run(
        [DBT, *arguments],
        cwd=directory,
        env=os.environ | (environment or {}),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def loaded(mixpanel, run_sync):
    mixpanel.add([SESSION])
    assert run_sync(skip_transform=True).events_new == 1


def test_from_the_root(warehouse, loaded):
    dbt("run", "--full-refresh", "--project-dir", "dbt_project")
    assert set(subscribers(warehouse)) == {"ada"}


def test_from_inside_the_project(warehouse, loaded):
    dbt("run", "--full-refresh", directory=ROOT / "dbt_project")
    assert set(subscribers(warehouse)) == {"ada"}


def test_the_connection_may_stand_in_toml_files(warehouse, loaded, monkeypatch, tmp_path):
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
    dbt("run", "--project-dir", "dbt_project")
    assert set(subscribers(warehouse)) == {"ada"}


def test_a_whole_build_passes_with_every_test(warehouse, loaded):
    # What is loaded happened long ago.
    output = dbt(
        "--warn-error", "build", "--exclude", "tag:freshness", "--project-dir", "dbt_project"
    )
    assert "ERROR=0" in output
    assert "unit_test" in output or "PASS" in output


def test_a_rebuild_equals_what_was_added_up(warehouse, loaded, mixpanel, run_sync):
    mixpanel.add([SESSION])
    run_sync()
    before = subscribers(warehouse)
    dbt("run", "--full-refresh", "--project-dir", "dbt_project")
    assert subscribers(warehouse) == before
    assert before["ada"]["app_sessions"] == 2
