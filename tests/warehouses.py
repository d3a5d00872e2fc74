"""What the tests do with a warehouse beyond what the project does."""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

from mixpanel_pipeline.engines import DuckDB, Postgres, Warehouse
from tests.recount import Row


def rows(warehouse: Warehouse, query: str) -> list[tuple[Any, ...]]:
    return warehouse.rows(query)


def subscribers(warehouse: Warehouse) -> dict[str, Row]:
    """`mixpanel.subscribers` in the form of `recount.subscribers`."""
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("select * from mixpanel.subscribers")
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
