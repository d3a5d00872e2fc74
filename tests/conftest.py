import gc
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import yaml
from dlt.common.runtime import run_context

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline import declaration, project
from mixpanel_pipeline.engines import DuckDB, Warehouse, open_warehouse
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.summary import Summary
from mixpanel_pipeline.source import budget
from mixpanel_pipeline.source.configuration import load_configuration
from tests.postgresql import Server, postgresql_server
from tests.same_again import work_out_once

work_out_once()

# The clock of most tests.
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)

_DATABASE = "warehouse"
_DATABASES = ["duckdb", "postgres"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches a test, and no test leaves files behind elsewhere."""
    for name in os.environ:
        if name.startswith(("SOURCES__", "DESTINATION", "DLT_", "DBT_", "RUNTIME__")):
            monkeypatch.delenv(name)
    settings = tmp_path / "project" / ".dlt"
    settings.mkdir(parents=True)
    (settings / "config.toml").write_text(
        '[runtime]\nlog_level = "CRITICAL"\ndlthub_telemetry = false\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("DLT_PROJECT_DIR", str(settings.parent))
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("DBT_LOG_PATH", str(tmp_path / "dbt"))
    run_context.active().reload()
    # The command sets it for its process, and tests call it in theirs.
    logging.getLogger("mixpanel_pipeline").setLevel(logging.NOTSET)


def point_at(server: LocalMixpanel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the environment configure `server` as the Mixpanel to load from."""
    for name, value in {
        "BASE_URL": server.url,
        "PROJECT_ID": server.project_id,
        "SERVICE_ACCOUNT_USERNAME": server.username,
        "SERVICE_ACCOUNT_SECRET": server.secret,
        "RETRY_PAUSE_SECONDS": "0",
        # Tests of requests count them; those of who is who ask for it.
        "EVIDENCE_OF_ALL_EVENTS": "false",
    }.items():
        monkeypatch.setenv(f"SOURCES__MIXPANEL__{name}", value)


@pytest.fixture
def mixpanel(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMixpanel]:
    """A local Mixpanel whose today is `NOW`'s, and the environment that points at it."""
    # It has no limit of its own, and tests no time to keep to Mixpanel's.
    monkeypatch.setattr(budget, "_PER_SECOND", 1000)
    with LocalMixpanel(today=lambda: NOW.date()) as server:
        point_at(server, monkeypatch)
        yield server


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with postgresql_server(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture(params=_DATABASES)
def warehouse(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Warehouse]:
    """An empty database of each kind, configured in the environment."""
    monkeypatch.setenv("DESTINATION_TYPE", request.param)
    # dbt keeps what it parsed for the next run against the same database: all have one name.
    target = tmp_path_factory.getbasetemp() / f"dbt-{request.param}"
    monkeypatch.setenv("DBT_TARGET_PATH", str(target))
    if request.param == "duckdb":
        directory = tmp_path_factory.getbasetemp() / "duckdb"
        directory.mkdir()
        monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(directory / "warehouse.duckdb"))
        yield open_warehouse(None)
        shutil.rmtree(directory)
        return
    server: Server = request.getfixturevalue("postgresql")
    server.create_database(_DATABASE)
    for name, value in server.environment(_DATABASE).items():
        monkeypatch.setenv(name, value)
    yield open_warehouse(None)
    server.drop_database(_DATABASE)


@pytest.fixture
def run_sync(mixpanel: LocalMixpanel, warehouse: Warehouse) -> Callable[..., Summary]:
    """Syncs `mixpanel` into `warehouse`; takes the arguments of `sync`."""

    def run_sync(now: datetime = NOW, **arguments: Any) -> Summary:
        return sync(warehouse, load_configuration(), now=now, **arguments)

    return run_sync


@pytest.fixture
def built(
    request: pytest.FixtureRequest,
    warehouse: Warehouse,
    run_sync: Callable[..., Summary],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The models are there, of a project in which nothing has happened yet.

    Their first build takes twice as long as another one, and is done once for all who do not care.
    """
    kept = tmp_path_factory.getbasetemp() / f"built-{warehouse.name}"
    if not kept.exists():
        assert run_sync().status == "ok"
    if isinstance(warehouse, DuckDB):
        shutil.copyfile(*((kept, warehouse.path) if kept.exists() else (warehouse.path, kept)))
        return
    server: Server = request.getfixturevalue("postgresql")
    if kept.exists():
        server.drop_database(_DATABASE)
        server.create_database(_DATABASE, template="built")
    else:
        server.create_database("built", template=_DATABASE)
        kept.touch()


@pytest.fixture
def dbt_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A copy of the dbt project that syncs in this process use, to be changed."""
    copy = tmp_path / "dbt_project"
    ignored = shutil.ignore_patterns("target", "logs")
    shutil.copytree(project.DBT_PACKAGE, copy, ignore=ignored)
    monkeypatch.setattr(project, "DBT_PACKAGE", copy)
    monkeypatch.setattr(project, "_dbt_project", copy)
    target = tmp_path / "target"
    target.mkdir()
    # What dbt has parsed of the project is the same of its copy, until that is changed.
    parsed = Path(os.environ.get("DBT_TARGET_PATH", ""), "partial_parse.msgpack")
    if parsed.exists():
        shutil.copy(parsed, target)
    monkeypatch.setenv("DBT_TARGET_PATH", str(target))
    declaration.declared.cache_clear()
    yield copy
    declaration.declared.cache_clear()


@pytest.fixture
def metrics(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Changes the metrics; takes a function that does so in a dictionary, and the invariants."""

    def change(edit: Callable[[dict[str, Any]], object], invariants: Sequence[str] = ()) -> None:
        # What is built before is built by the project that dbt has parsed already.
        path: Path = request.getfixturevalue("dbt_project") / "dbt_project.yml"
        declared = yaml.safe_load(path.read_bytes())
        edit(declared["vars"]["metrics"])
        declared["vars"]["invariants"] = list(invariants)
        path.write_text(yaml.safe_dump(declared, sort_keys=False), encoding="utf-8")
        declaration.declared.cache_clear()

    return change


@pytest.fixture
def as_of_now(dbt_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models' today is that of `NOW`; a sync begins with a hundred days."""
    path = dbt_project / "dbt_project.yml"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("\nvars:\n", f"\nvars:\n  as_of: {NOW.date()}\n"), encoding="utf-8"
    )
    monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "100")


def pytest_collection_finish() -> None:
    """Spare the search for garbage what is there to stay: as the command does, and more of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_sessionfinish() -> None:
    # Libraries complain at the end of what is still there.
    gc.unfreeze()


_LONG = {"test_docs", "test_histories", "test_crashes", "test_installed"}
# About what is decided before any database is asked: on one of them is enough, mostly on that
# which a load takes half as long into.
_IN_TURN = {
    "test_audit",
    "test_coverage",
    "test_cursor",
    "test_long_windows",
    "test_state",
    "test_sync_runs",
    "test_timezones",
    "test_unknown_names",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--databases",
        choices=["both", "one", "other"],
        default="both",
        help="run tests of both databases on both, on one, or, where it matters, on the other",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Halve the tests that are of both databases: the tests in turn on one of them.

    Those that take longest begin, so that no processor waits for another in the end.
    """
    items.sort(key=lambda item: item.path.stem not in _LONG)
    part = config.getoption("--databases")
    if part == "both":
        return
    found = [(item, *_database(item)) for item in items]
    databases: dict[str, set[str]] = {}
    for _, test, database in found:
        databases.setdefault(test, set()).add(database)
    chosen: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item, test, database in found:
        is_in_turn = item.path.stem in _IN_TURN
        turn = crc32(test.encode()) % (4 if is_in_turn else 2)
        is_first = len(databases[test]) < 2 or database == _DATABASES[min(turn, 1)]
        is_chosen = is_first if part == "one" else not (is_first or is_in_turn)
        (chosen if is_chosen else left).append(item)
    items[:] = chosen
    config.hook.pytest_deselected(items=left)


def _database(item: pytest.Item) -> tuple[str, str]:
    """A test's id without the database that it is of, and that."""
    name, _, parameters = item.nodeid.partition("[")
    found = re.search(rf"\b({'|'.join(_DATABASES)})\b", parameters)
    if found is None:
        return item.nodeid, ""
    return f"{name}[{parameters[: found.start()]}{parameters[found.end() :]}", found[0]


def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor: half of the time a sync waits for a database or for Mixpanel."""
    return 2 * (os.cpu_count() or 1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the random histories did, so that nobody trusts those that did nothing."""
    did = Counter[str]()
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "did":
                did.update(value)
    for action, times in sorted(did.items()):
        terminalreporter.write_line(f"{times:6} {action.replace('_', ' ')}")
