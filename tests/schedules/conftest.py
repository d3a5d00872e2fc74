"""A project of one's own, made and run by the installed command."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from local_mixpanel import LocalMixpanel
from tests.postgresql import Server, postgresql_server

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
# Not in Airflow's environment: dlt would ask Airflow's database for every setting.
PROGRAMS = ROOT / ".venv-dagster" / "bin"


@dataclass
class OwnProject:
    """What `init` made, and the Mixpanel that it is configured for."""

    folder: Path
    mixpanel: LocalMixpanel

    def happen(self, *people: str, hours: int = 3) -> None:
        """An event of each at Mixpanel."""
        moment = int((datetime.now(UTC) - timedelta(hours=hours)).timestamp())
        self.mixpanel.add(
            {"event": "$ae_session", "properties": {"time": moment, "distinct_id": one}}
            for one in people
        )

    def copy(self, example: str, folder: Path | None = None) -> Path:
        """An example in this folder or another, with our places for those of somebody's machine."""
        text = (EXAMPLES / example).read_text(encoding="utf-8")
        places = {"/srv/mixpanel": self.folder, "/home/mixpanel/.local/bin": PROGRAMS}
        for theirs, ours in places.items():
            text = text.replace(theirs, str(ours))
        path = (folder or self.folder) / example
        path.write_text(text, encoding="utf-8")
        return path

    def run(self, *arguments: str) -> None:
        subprocess.run([PROGRAMS / "mixpanel-pipeline", *arguments], cwd=self.folder, check=True)

    def counted(self) -> list[tuple[Any, ...]]:
        """Subscribers and their sessions, in the DuckDB file that `init` configures."""
        with duckdb.connect(self.folder / "warehouse.duckdb", read_only=True) as connection:
            return connection.sql(COUNTED).fetchall()


COUNTED = "select subscriber_id, app_sessions from mixpanel.subscribers order by 1"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches a test, and no test leaves files behind elsewhere."""
    for name in os.environ:
        if name.startswith(("SOURCES__", "DESTINATION", "DLT_", "DBT_", "RUNTIME__")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))


@pytest.fixture(scope="session")
def initial_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("initial")
    subprocess.run([PROGRAMS / "mixpanel-pipeline", "init", folder], check=True)
    return folder


@pytest.fixture
def own(
    initial_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OwnProject]:
    folder = tmp_path / "mixpanel"
    shutil.copytree(initial_project, folder)
    with LocalMixpanel() as mixpanel:
        secrets = {
            "base_url": mixpanel.url,
            "project_id": mixpanel.project_id,
            "service_account_username": mixpanel.username,
            "service_account_secret": mixpanel.secret,
            "retry_pause_seconds": 0,
            # dlt's own would be the machine's, for root.
            "state_directory": str(tmp_path / "state"),
        }
        text = "".join(f"{name} = {value!r}\n" for name, value in secrets.items())
        path = folder / ".dlt" / "secrets.toml"
        path.write_text(f"[sources.mixpanel]\n{text}", encoding="utf-8")
        monkeypatch.setenv("DLT_PROJECT_DIR", str(folder))
        yield OwnProject(folder, mixpanel)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with postgresql_server(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def counted_in_postgresql(postgresql: Server) -> Iterator[Any]:
    """An empty database `analytics`; returns what asks it for subscribers and their sessions."""
    postgresql.create_database("analytics")

    def counted() -> list[tuple[Any, ...]]:
        with (
            closing(postgresql.connect("analytics")) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(COUNTED)
            return cursor.fetchall()

    yield counted
    postgresql.drop_database("analytics")
