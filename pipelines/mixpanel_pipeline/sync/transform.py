"""The transformation: dbt builds what depends on the raw dataset."""

import contextlib
import io
import os
import sys

from mixpanel_pipeline import interruption
from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.project import DBT_PROJECT
from mixpanel_pipeline.sync.progress import Progress


def transform(
    warehouse: Warehouse, *, full_refresh: bool = False, progress: Progress | None = None
) -> None:
    """Run `dbt build` for the models on the raw dataset, in this process.

    Tests that read everything stored are left to `dbt build` by hand and to full refreshes: the
    cost of a sync has to follow what is new.

    Raises:
        SyncError: A model or a test failed; what was loaded stays, the next run counts it.
    """
    # Nobody reads dbt's files of a sync, and writing them takes longer than its models.
    arguments = ["--quiet", "--log-level-file", "none", "--no-write-json"]
    arguments += ["build", "--select", "source:mixpanel+"]
    arguments += ["--exclude", "test_type:unit", "tag:freshness"]
    arguments += ["--full-refresh"] if full_refresh else ["tag:full_scan"]
    arguments += ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
    arguments += ["--target", warehouse.name]
    with _environment(warehouse.environment), contextlib.redirect_stdout(_Told()):
        # Importing dbt takes seconds, which a sync that only loads does not owe; what it says
        # before it has read its arguments goes to the stdout that it was imported with.
        from dbt.cli.main import dbtRunner

        result = dbtRunner(callbacks=[_teller(progress)] if progress else []).invoke(arguments)
    if warehouse.name == "duckdb":
        # dbt keeps the file, and its lock, until the process ends.
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager

        DuckDBConnectionManager.close_all_connections()  # type: ignore[no-untyped-call]
    if isinstance(result.exception, KeyboardInterrupt):
        raise result.exception
    interruption.check()
    if not result.success:
        raise SyncError(
            f"dbt build failed: {_reason(result)} What was loaded is kept and is counted by the "
            "next run that succeeds: mend it and run again."
        )


class _Told(io.TextIOBase):
    """What dbt says; after an interruption it would be the traceback of that."""

    def write(self, text: str) -> int:
        return len(text) if interruption.came() else sys.stderr.write(text)


def _teller(progress: Progress):  # type: ignore[no-untyped-def]
    """A callback that takes dbt's events and tells which node is being built."""

    def tell(event) -> None:  # type: ignore[no-untyped-def]
        if event.info.name == "LogStartLine":
            progress.step = f"Building the models: {event.data.description}"

    return tell


@contextlib.contextmanager
def _environment(variables: dict[str, str]):  # type: ignore[no-untyped-def]
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _reason(result) -> str:  # type: ignore[no-untyped-def]
    if result.exception is not None:
        return " ".join(str(result.exception).split())
    failures = [
        f"{node.node.name}: {' '.join((node.message or str(node.status)).split())}"
        for node in result.result
        if node.status in ("error", "fail", "runtime error")
    ]
    return "; ".join(failures) + "."
