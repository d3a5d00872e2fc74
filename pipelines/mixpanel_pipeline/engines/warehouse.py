"""What a database can do for a sync; each engine says how."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from mixpanel_pipeline.engines.destination import EventsDestination

DestinationName = Literal["duckdb", "postgres"]

# Keys of a day of any size are compared within it; beyond it DuckDB spills to disk.
KEYS_MEMORY = "100MB"


class Warehouse(ABC):
    """A database that holds the raw dataset and the models."""

    name: DestinationName
    holds_nul: bool
    """Whether text and JSON can hold NUL characters."""
    placeholder: str
    """What stands for a parameter in the driver's SQL."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the database is, without secrets; the same for every way to write it."""

    @property
    @abstractmethod
    def destination(self) -> EventsDestination:
        """What dlt loads into."""

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The variables from which dbt's profile reads the same connection."""

    @abstractmethod
    def connect(self) -> Any:
        """A DB-API connection, to be closed by the caller."""

    @abstractmethod
    def kept_open(self) -> AbstractContextManager[object]:
        """Spares the database to be opened anew for every statement.

        Nobody else may be able to open it meanwhile: hold it to write, never to wait for Mixpanel.

        Raises:
            SyncError: Somebody else has it open, and did not let go of it in time.
        """

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Holds the raw dataset against other syncs; a holder that dies lets go of it.

        Raises:
            AnotherSyncIsRunning: Somebody else holds it.
            ConfigurationError: A sync cannot be right in this database, or lacks rights there.
        """

    @abstractmethod
    def check_rights_to_transform(self) -> None:
        """Make sure that the models can be built.

        Raises:
            ConfigurationError: Rights are missing; the message says which, and how to give them.
        """

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection for own statements, which is left as it was found."""
        with closing(self.connect()) as connection:
            yield connection

    @abstractmethod
    def tune(self) -> None:
        """Create the indexes that the merge and the models need, where there are none yet."""

    @abstractmethod
    def is_missing(self, column: str, name: str) -> str:
        """The SQL condition that a JSON column has no such property."""

    @abstractmethod
    def query_delivered(self, delivered: Sequence[Path], query: str) -> pa.Array:
        """The first column of what `query` returns.

        Args:
            delivered: Parquet files of events.
            query: SQL that finds the files' rows in the table `delivered`, with the columns
                `position` (from 0 on, through all files) and `event_key`.
        """

    def told(self, error: BaseException) -> str:
        """What a failure of the database says, in one line, and what to do about it."""
        return " ".join(str(error).split())

    @property
    def fingerprint(self) -> str:
        """A name for the database that can be a file's name."""
        return hashlib.sha256(self.location.encode()).hexdigest()[:16]

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What `query` returns; each %s in it stands for a parameter."""
        with self.connected() as connection, closing(connection.cursor()) as cursor:
            cursor.execute(query.replace("%s", self.placeholder), parameters)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def value(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row that `query` returns."""
        return self.rows(query, parameters)[0][0]

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Run one statement in a transaction of its own; each %s in it stands for a parameter."""
        with self.connected() as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement.replace("%s", self.placeholder), parameters)
            connection.commit()

    def execute_held(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Run statements with their parameters in one transaction, if the lock is still held.

        What removes rows goes this way: without the lock they may be another sync's.

        Raises:
            SyncError: The lock was lost; nothing was changed.
        """
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("begin transaction")
            for statement, parameters in statements:
                cursor.execute(statement.replace("%s", self.placeholder), parameters)
            cursor.execute("commit")

    def create_schema(self, name: str) -> None:
        """Create a schema where there is none; to try it takes a right, even if there is one."""
        found = self.rows(
            "select 1 from information_schema.schemata where schema_name = %s", [name]
        )
        if not found:
            self.execute(f"create schema if not exists {name}")

    def columns(self, schema: str, table: str) -> set[str]:
        """The names of the table's columns; none when there is no such table."""
        found = self.rows(
            "select column_name from information_schema.columns "
            "where table_schema = %s and table_name = %s",
            [schema, table],
        )
        return {name for (name,) in found}

    def has_table(self, schema: str, table: str) -> bool:
        return bool(self.columns(schema, table))


def utc_now() -> str:
    """The current instant, for people."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
