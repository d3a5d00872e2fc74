"""What the tests do with a warehouse beyond what the project does."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

from mixpanel_pipeline.engines import DuckDB, Postgres, Warehouse
from tests.recount import Row


def rows(warehouse: Warehouse, query: str) -> list[tuple[Any, ...]]:
    return warehouse.rows(query)


def subscribers(warehouse: Warehouse) -> dict[str, Row]:
    """`subscribers` in the form of `recount.subscribers`."""
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"select * from {warehouse.marts}.subscribers")
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    for row in found:
        del row["updated_at"]
        for name, value in row.items():
            if isinstance(value, datetime):
                row[name] = int(value.timestamp())
    return {row.pop("subscriber_id"): row for row in found}


@contextmanager
def copy_of(warehouse: Warehouse) -> Iterator[Warehouse]:
    """A copy to try things on, gone afterwards."""
    target = os.environ["DBT_TARGET_PATH"]
    # dbt would parse everything anew each time that the database changes.
    os.environ["DBT_TARGET_PATH"] = f"{target}-copy"
    try:
        if isinstance(warehouse, DuckDB):
            path = warehouse.path.with_name("copy.duckdb")
            shutil.copyfile(warehouse.path, path)
            yield DuckDB(path)
            path.unlink()
        else:
            assert isinstance(warehouse, Postgres)
            with _copy_of_database(warehouse) as copy:
                yield copy
    finally:
        os.environ["DBT_TARGET_PATH"] = target


@contextmanager
def _copy_of_database(warehouse: Postgres) -> Iterator[Postgres]:
    original = warehouse.credentials.database
    credentials, administrator = warehouse.credentials.copy(), warehouse.credentials.copy()
    credentials.database, administrator.database = f"{original}_copy", "postgres"
    with (
        closing(Postgres(administrator).connect()) as connection,
        closing(connection.cursor()) as cursor,
    ):
        connection.autocommit = True
        cursor.execute(f"create database {credentials.database} template {original}")
        yield Postgres(credentials)
        cursor.execute(f"drop database {credentials.database} with (force)")


@contextmanager
def reader(warehouse: Warehouse, *, seconds: float) -> Iterator[None]:
    """Somebody who reads `mixpanel.subscribers`.

    On PostgreSQL the transaction stays open to the end; on DuckDB another process has the file
    open for so many seconds, as longer would keep every sync out.
    """
    query = "select count(*) from mixpanel.subscribers"
    if isinstance(warehouse, Postgres):
        with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(query)
            yield
        return
    assert isinstance(warehouse, DuckDB)
    program = (
        "import sys, duckdb\n"
        "with duckdb.connect(sys.argv[1], read_only=True) as connection:\n"
        f"    connection.sql({query!r}).fetchall()\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(warehouse.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"open\n"
        closer = threading.Timer(seconds, process.stdin.close)
        closer.start()
        yield
        closer.join()
