"""The database that is synced into: where it is, how it is reached, and its lock."""

import fcntl
import hashlib
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import dlt
import psycopg2
import pyarrow as pa
from dlt.common.configuration import resolve_configuration
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from mixpanel_export.errors import ConfigurationError
from sync.destinations import DuckDBDestination, EventsDestination, PostgresDestination
from sync.errors import AnotherSyncIsRunning
from sync.positions import keys, view_delivered
from sync.project import MART_SCHEMA, RAW_DATASET, ROOT

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
    secrets: list[str]
    """What may never be printed."""

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
        """Spares the database to be opened anew for every statement."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Holds the raw dataset against other syncs; a holder that dies lets go of it.

        Raises:
            AnotherSyncIsRunning: Somebody else holds it.
        """

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

    @property
    def fingerprint(self) -> str:
        """A name for the database that can be a file's name."""
        return hashlib.sha256(self.location.encode()).hexdigest()[:16]

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What `query` returns; each %s in it stands for a parameter."""
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(query.replace("%s", self.placeholder), parameters)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def value(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row that `query` returns."""
        return self.rows(query, parameters)[0][0]

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Run one statement in a transaction of its own; each %s in it stands for a parameter."""
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(statement.replace("%s", self.placeholder), parameters)
            connection.commit()

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


@dataclass
class DuckDB(Warehouse):
    path: Path
    # DuckDB takes 80 % of the machine's memory otherwise; beyond the limit it spills to disk.
    # It has to hold 2,048 events at once: less would fail when a thousand of them are 1 MB large.
    memory_limit: str = "2GB"

    name = "duckdb"
    holds_nul = True
    placeholder = "?"

    def __post_init__(self) -> None:
        self.secrets = []
        if self.path.stem in (RAW_DATASET, f"{RAW_DATASET}_staging", MART_SCHEMA):
            raise ConfigurationError(
                f"The DuckDB file cannot be called {self.path.name}: DuckDB would take the schema "
                f"{self.path.stem} for it. Name it otherwise, like warehouse.duckdb."
            )

    @property
    def location(self) -> str:
        return str(self.path)

    @property
    def destination(self) -> EventsDestination:
        credentials = DuckDbCredentials(str(self.path))
        credentials.global_config = {
            "memory_limit": self.memory_limit,
            # It would keep whole files waiting in memory for those before them.
            "preserve_insertion_order": False,
        }
        return DuckDBDestination(credentials)

    @property
    def environment(self) -> dict[str, str]:
        return {"DESTINATION__DUCKDB__CREDENTIALS": str(self.path)}

    def connect(self) -> Any:
        import duckdb

        return duckdb.connect(self.path)

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        # Whoever closes a DuckDB file last writes a checkpoint, and dlt closes it after each job.
        with closing(self.connect()) as connection:
            yield
            # Row groups that are only partly filled are written anew now.
            connection.execute(f"set memory_limit = '{KEYS_MEMORY}'")

    @contextmanager
    def lock(self) -> Iterator[None]:
        # DuckDB locks its file only while it is open, and dlt opens it several times a sync.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f"{self.path.name}.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise AnotherSyncIsRunning(file.read().strip() or "its process is new") from None
            self._remove_unfinished()
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {_now()}")
            file.flush()
            yield

    def _remove_unfinished(self) -> None:
        """Remove a file whose creation was cut off, by a kill or a full disk.

        DuckDB could not open it. Its files begin with three headers of 4,096 bytes; what lacks
        one of them never held anything.
        https://duckdb.org/docs/stable/internals/storage
        """
        if self.path.exists() and self.path.stat().st_size < 3 * 4096:
            with self.path.open("rb") as file:
                is_duckdb = file.read(12)[8:] == b"DUCK"
            if is_duckdb:
                self.path.unlink()

    def tune(self) -> None:
        pass

    def query_delivered(self, delivered: Sequence[Path], query: str) -> pa.Array:
        with closing(self.connect()) as connection:
            connection.execute(f"set memory_limit = '{KEYS_MEMORY}'")
            connection.execute("set enable_progress_bar = false")
            view_delivered(connection, delivered)
            found = connection.sql(query).to_arrow_table()
            connection.execute(f"set memory_limit = '{self.memory_limit}'")
        return found.column(0).combine_chunks()

    def is_missing(self, column: str, name: str) -> str:
        return f"json_extract_string({column}, '/{name}') is null"


@dataclass
class Postgres(Warehouse):
    credentials: PostgresCredentials

    name = "postgres"
    holds_nul = False
    placeholder = "%s"

    def __post_init__(self) -> None:
        self.secrets = [str(self.credentials.password)] if self.credentials.password else []

    @property
    def location(self) -> str:
        found = self.credentials
        return f"postgresql://{found.host}:{found.port}/{found.database}"

    @property
    def destination(self) -> EventsDestination:
        return PostgresDestination(self.credentials)

    @property
    def environment(self) -> dict[str, str]:
        prefix = "DESTINATION__POSTGRES__CREDENTIALS__"
        names = ("host", "port", "username", "password", "database")
        return {prefix + name.upper(): str(self.credentials[name]) for name in names}

    def connect(self) -> Any:
        return psycopg2.connect(
            self.credentials.to_native_representation(),
            application_name=f"mixpanel sync, process {os.getpid()} on {socket.gethostname()}",
        )

    def kept_open(self) -> AbstractContextManager[object]:
        return nullcontext()

    @contextmanager
    def lock(self) -> Iterator[None]:
        key = f"hashtext('sync of {RAW_DATASET}')"
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            # An open transaction would keep vacuum from cleaning up for as long as the sync runs.
            connection.autocommit = True
            # The server has to notice when the machine of a sync has gone: in two minutes.
            cursor.execute("set tcp_keepalives_idle = 60")
            cursor.execute("set tcp_keepalives_interval = 10")
            cursor.execute("set tcp_keepalives_count = 6")
            cursor.execute(f"select pg_try_advisory_lock({key})")
            if not cursor.fetchone()[0]:
                cursor.execute(
                    "select application_name || ', since ' || "
                    "to_char(backend_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC') "
                    "from pg_stat_activity where pid in (select pid from pg_locks "
                    "where locktype = 'advisory' and granted and database = "
                    "(select oid from pg_database where datname = current_database()) "
                    f"and objid = ({key}::bigint & 4294967295)::oid)"
                )
                holder = cursor.fetchone()
                raise AnotherSyncIsRunning(holder[0] if holder else "it has just ended")
            # Closing the connection would do, but the server may take a moment to see it.
            unlock = f"select pg_advisory_unlock({key})"
            try:
                yield
            except BaseException:
                # What it ended of is what to tell, also when the server has gone.
                with suppress(psycopg2.Error):
                    cursor.execute(unlock)
                raise
            cursor.execute(unlock)

    def tune(self) -> None:
        # Loads stand one behind the other in the table, so block ranges find them; the audit asks
        # for the events of some days. A range that is not summarised is read by every query.
        events = f"{RAW_DATASET}.events"
        self.execute(
            f"create unique index if not exists events_event_key on {events} (event_key);"
            f"create index if not exists events_dlt_load_id on {events} using brin (_dlt_load_id);"
            f"create index if not exists events_occurred_at on {events} using brin (occurred_at);"
            f"select brin_summarize_new_values('{RAW_DATASET}.events_dlt_load_id');"
            f"select brin_summarize_new_values('{RAW_DATASET}.events_occurred_at')"
        )

    def query_delivered(self, delivered: Sequence[Path], query: str) -> pa.Array:
        from adbc_driver_postgresql import dbapi

        uri = self.credentials.to_native_representation()
        with dbapi.connect(uri) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("delivered", keys(delivered), mode="create", temporary=True)
            # Without statistics it would read all events to find a few.
            cursor.execute("analyze delivered")
            cursor.execute(query)
            found = cursor.fetch_arrow_table()
        return found.column(0).combine_chunks()

    def is_missing(self, column: str, name: str) -> str:
        return f"({column} ->> '{name}') is null"


def configured_destination() -> str:
    """The `destination_type` of dlt's configuration, DuckDB by default."""
    return dlt.config.get("destination_type", str) or "duckdb"


def open_warehouse(name: str | None) -> Warehouse:
    """The warehouse called `name`, or the configured one (`destination_type`, default DuckDB).

    Raises:
        ConfigurationError: The destination is unknown or its connection is not configured.
    """
    for key in ("dataset_name", "pipelines.mixpanel.dataset_name"):
        dataset = dlt.config.get(key, str)
        if dataset not in (None, RAW_DATASET):
            raise ConfigurationError(
                f"{key} is {dataset!r}: the raw dataset is always {RAW_DATASET}, which the models "
                "read. To keep two projects apart, give each a database of its own."
            )
    name = name or configured_destination()
    try:
        if name == "duckdb":
            limit = dlt.config.get("destination.duckdb.memory_limit", str)
            return DuckDB(_duckdb_path(), limit or DuckDB.memory_limit)
        if name == "postgres":
            return Postgres(
                resolve_configuration(PostgresCredentials(), sections=("destination", "postgres"))
            )
    except ConfigurationException as error:
        variables = "DESTINATION__POSTGRES__CREDENTIALS__HOST, __PORT, __USERNAME, __PASSWORD"
        raise ConfigurationError(
            f"The connection to {name} is not configured. Set [destination.postgres.credentials] "
            f"in .dlt/secrets.toml, or {variables} and __DATABASE in the environment."
        ) from error
    raise ConfigurationError(f"destination_type is {name!r}, it can be duckdb or postgres")


def _duckdb_path() -> Path:
    configured: object = dlt.secrets.get("destination.duckdb.credentials")
    if configured == ":memory:":
        raise ConfigurationError("DuckDB needs a file: what is in memory is gone after the sync.")
    if configured is None:
        database = "warehouse.duckdb"
    else:
        # A path, a URL, or a table with the key `database`: dlt knows all its own forms.
        sections = ("destination", "duckdb")
        database = resolve_configuration(DuckDbCredentials(), sections=sections).database
    return (ROOT / Path(database).expanduser()).resolve()


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
