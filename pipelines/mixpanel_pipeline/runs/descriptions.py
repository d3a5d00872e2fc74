"""The descriptions of the raw tables, which the models document as their source, as comments.

dbt writes those of the models. The raw tables are another role's, where roles are apart.
"""

from contextlib import closing
from typing import Any

import yaml

from mixpanel_pipeline import project
from mixpanel_pipeline.engines import Warehouse

_SOURCES = ("models", "staging", "_mixpanel__sources.yml")


def describe(warehouse: Warehouse) -> None:
    """Write them into the database, of the tables and columns that are there.

    Args:
        warehouse: Where; the caller owns the tables.
    """
    found = warehouse.rows(
        "select table_name, column_name from information_schema.columns where table_schema = %s",
        [warehouse.raw],
    )
    columns = {(table, column) for table, column in found}
    tables = {table for table, _ in found}
    statements = []
    for table in _documented():
        name = f'{warehouse.raw}."{table["name"]}"'
        if table["name"] in tables:
            statements.append(f"comment on table {name} is {_literal(table)}")
        statements += [
            f'comment on column {name}."{column["name"]}" is {_literal(column)}'
            for column in table["columns"]
            if (table["name"], column["name"]) in columns
        ]
    with warehouse.connected() as connection, closing(connection.cursor()) as cursor:
        # No parameters: a % is the text's own.
        cursor.execute("; ".join(["begin", *statements, "commit"]))


def _documented() -> list[dict[str, Any]]:
    text = project.DBT_PACKAGE.joinpath(*_SOURCES).read_text(encoding="utf-8")
    (source,) = yaml.safe_load(text)["sources"]
    tables: list[dict[str, Any]] = source["tables"]
    return tables


def _literal(documented: dict[str, Any]) -> str:
    return "'{}'".format(documented["description"].strip().replace("'", "''"))
