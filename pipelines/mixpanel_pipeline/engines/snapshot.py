"""A database as it is at one instant, for who reads several things that have to agree."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from mixpanel_pipeline.engines.warehouse import COLUMNS, Warehouse


@dataclass
class Snapshot:
    """One transaction that only reads."""

    raw: str
    marts: str
    _cursor: Any
    _placeholder: str

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What `query` returns; each %s in it stands for a parameter."""
        self._cursor.execute(query.replace("%s", self._placeholder), parameters)
        found: list[tuple[Any, ...]] = self._cursor.fetchall()
        return found

    def records(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The same, by the names of the columns."""
        found = self.rows(query, parameters)
        names = [column[0] for column in self._cursor.description]
        return [dict(zip(names, row, strict=True)) for row in found]

    def columns(self, schema: str, table: str) -> set[str]:
        """The names of the table's columns that may be read; none when there is no such table."""
        return {name for (name,) in self.rows(COLUMNS, [schema, table])}


@contextmanager
def snapshot(warehouse: Warehouse) -> Iterator[Snapshot]:
    """All that is read of it is of one instant, whatever a sync commits meanwhile.

    Args:
        warehouse: What `Warehouse.for_reading` returned.

    Raises:
        SyncError: It is a file that another process has open, and did not close in time.
    """
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        for statement in warehouse.begin_snapshot:
            cursor.execute(statement)
        yield Snapshot(warehouse.raw, warehouse.marts, cursor, warehouse.placeholder)
