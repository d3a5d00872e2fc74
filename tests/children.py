"""Syncs and commands in processes of their own, to be killed, starved or raced, or because a
command is the last thing that its process does: started in milliseconds.
"""

import gc
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NoReturn

# The fork server imports this by the current folder alone: what it cannot import then, each child
# would import for itself.
sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

import dbt.adapters.duckdb.connections  # noqa: F401
import dbt.adapters.postgres.connections  # noqa: F401
import dbt.cli.main  # noqa: F401
import dlt.destinations.impl.duckdb.duck  # noqa: F401
import dlt.destinations.impl.postgres.postgres  # noqa: F401
from dlt.common.runtime import run_context

from mixpanel_pipeline import project
from mixpanel_pipeline.engines import Warehouse, open_warehouse
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.source import plan
from mixpanel_pipeline.source.configuration import load_configuration
from tests.same_again import work_out_once

work_out_once()
# As the command does, and what is imported here is there to stay in each child.
gc.freeze()
gc.set_threshold(20_000)

ROOT = Path(__file__).parents[1]
EXIT_CODES = {"ok": 0, "failed": 1, "skipped": 3}

# Imports everything once; each sync is a fork of it.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.children", "tests.documentation"])


def start_sync(now: datetime, *, file_bytes: int | None = None, **arguments: Any) -> BaseProcess:
    """Start a sync of the configured warehouse in a process whose exit code tells its status.

    Args:
        now: Its clock.
        file_bytes: No file that it writes may grow beyond, as when the disk is full.
        arguments: Those of `sync`.
    """
    process = context.Process(
        target=_sync,
        args=(
            dict(os.environ),
            project.dbt_project(),
            plan.COMMIT_BYTES,
            now,
            file_bytes,
            arguments,
        ),
        daemon=True,
    )
    process.start()
    return process


def _sync(
    environment: dict[str, str],
    dbt_project: Path,
    commit_bytes: int,
    now: datetime,
    file_bytes: int | None,
    arguments: dict[str, Any],
) -> None:
    project.DBT_PACKAGE = dbt_project
    project.use_dbt_project(dbt_project)
    plan.COMMIT_BYTES = commit_bytes
    os.environ.clear()
    os.environ.update(environment)
    run_context.active().reload()
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    summary = sync(open_warehouse(None), load_configuration(), now=now, **arguments)
    # What follows a sync is of no interest, and atexit handlers could hang where files are full.
    os._exit(EXIT_CODES[summary.status])


def command(*arguments: str, directory: Path = ROOT) -> CompletedProcess[str]:
    """What `python pipelines/run.py` with these arguments does, prints and ends with."""
    return start_command(*arguments, directory=directory)()


def plain_dbt(*arguments: str, directory: Path = ROOT) -> CompletedProcess[str]:
    """The same for dbt as its users start it, by the environment."""
    return _start(_plain_dbt, arguments, directory)()


def start_command(*arguments: str, directory: Path = ROOT) -> Callable[[], CompletedProcess[str]]:
    """Start what `command` waits for; what is returned waits for it."""
    return _start(_command, arguments, directory)


def _start(
    main: Callable[[list[str]], int], arguments: tuple[str, ...], directory: Path
) -> Callable[[], CompletedProcess[str]]:
    outputs = tempfile.TemporaryDirectory()
    files = Path(outputs.name, "stdout"), Path(outputs.name, "stderr")
    process = context.Process(
        target=_in_a_child, args=(main, list(arguments), dict(os.environ), directory, files)
    )
    process.start()

    def wait() -> CompletedProcess[str]:
        process.join()
        with outputs:
            stdout, stderr = (path.read_text(encoding="utf-8") for path in files)
        return CompletedProcess(arguments, process.exitcode or 0, stdout, stderr)

    return wait


def _in_a_child(
    main: Callable[[list[str]], int],
    arguments: list[str],
    environment: dict[str, str],
    directory: Path,
    files: tuple[Path, Path],
) -> None:
    def done() -> int:
        run_context.active().reload()
        return main(arguments)

    in_its_place(done, environment, directory, files)


def in_its_place(
    main: Callable[[], int],
    environment: Mapping[str, str],
    directory: Path,
    files: tuple[Path, Path],
) -> None:
    """Do something as a process of its own would, and end this one, which was forked for it.

    Args:
        main: Returns the exit code.
        environment: All of its environment.
        directory: Where it is.
        files: Its stdout and stderr.
    """
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    # What was imported before has told the root where to log.
    logging.getLogger().handlers.clear()
    code = 1
    try:
        code = main()
    except SystemExit as error:
        code = int(error.code or 0)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(arguments: list[str]) -> int:
    from mixpanel_pipeline.cli.main import main

    def become_dbt(program: str, argv: list[str], environment: dict[str, str]) -> NoReturn:
        os.environ.clear()
        os.environ.update(environment)
        raise SystemExit(_plain_dbt(argv[argv.index("-c") + 2 :]))

    # Instead of another process, whose start takes seconds: dbt is imported already.
    os.execve = become_dbt  # type: ignore[assignment]
    return main(arguments)


def _plain_dbt(arguments: list[str]) -> int:
    from dbt.cli.main import cli

    cli(arguments, prog_name="dbt")
    return 0


def wait_until_quiet(warehouse: Warehouse) -> None:
    """Wait until the database has noticed that the client of a killed sync is gone."""
    if warehouse.name == "duckdb":
        return
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        connection.autocommit = True
        others = 1
        while others:
            cursor.execute(
                "select count(*) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid() "
                "and backend_type = 'client backend'"
            )
            (others,) = cursor.fetchone()
