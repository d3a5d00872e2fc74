"""Syncs in processes of their own, to be killed, starved or raced: started in milliseconds."""

import multiprocessing
import os
import resource
import sys
from contextlib import closing
from datetime import datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# The fork server imports this by the current folder alone: what it cannot import then, each child
# would import for itself.
sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

import dbt.adapters.duckdb.connections  # noqa: F401
import dbt.adapters.postgres.connections  # noqa: F401
import dbt.cli.main  # noqa: F401
import dlt.destinations.impl.duckdb.duck  # noqa: F401
import dlt.destinations.impl.postgres.postgres  # noqa: F401
from dlt.common.runtime import run_context

from mixpanel_pipeline.engines import Warehouse, open_warehouse
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.source import plan
from mixpanel_pipeline.source.configuration import load_configuration

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
        args=(dict(os.environ), plan.COMMIT_BYTES, now, file_bytes, arguments),
        daemon=True,
    )
    process.start()
    return process


def _sync(
    environment: dict[str, str],
    commit_bytes: int,
    now: datetime,
    file_bytes: int | None,
    arguments: dict[str, Any],
) -> None:
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
