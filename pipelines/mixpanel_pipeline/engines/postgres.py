"""PostgreSQL: a server that a team shares."""

import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import psycopg2
import pyarrow as pa
from dlt.common.destination import DestinationCapabilitiesContext, PreparedTableSchema
from dlt.common.destination.client import LoadJob
from dlt.common.schema import Schema
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient, PostgresParquetCopyJob
from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient

from mixpanel_pipeline.engines.destination import (
    LOAD_THREADS,
    EventsClient,
    EventsDestination,
    EventsJob,
    NewEvents,
)
from mixpanel_pipeline.engines.positions import RowGroup, keys, row_groups, rows_without
from mixpanel_pipeline.engines.postgres_connection import (
    Credentials,
    check_rights_to_load,
    check_rights_to_read,
    check_rights_to_transform,
    check_server,
    refusal,
    told,
)
from mixpanel_pipeline.engines.schemas import Schemas
from mixpanel_pipeline.engines.warehouse import DestinationName, Warehouse
from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError
from mixpanel_pipeline.events.decoding import EVENTS

# A part of a load is copied in a few seconds; whoever takes much longer hangs.
_TAKEOVER_SECONDS = 60
_LOAD_ID = pa.field("_dlt_load_id", pa.string(), nullable=False)


@dataclass
class _Hold:
    """A sync's hold of the raw dataset.

    Attributes:
        connection: What holds the advisory lock, and what loads are completed on.
        token: What stands in `sync_lock` until another sync takes the lock.
    """

    connection: Any
    token: str


@dataclass
class Postgres(Warehouse):
    """A lock that the server takes back when its connection ends cannot alone keep a second sync
    away from a first one that goes on. So whoever takes the lock also enters a token in the table
    `sync_lock`; and what writes events, completes a load or removes rows looks in its own
    transaction whether its token still stands there, with a row lock that a second sync waits for.
    """

    credentials: Credentials
    schemas: Schemas = field(default_factory=Schemas)

    name: ClassVar[DestinationName] = "postgres"
    holds_nul = False
    json_type = "jsonb"
    placeholder = "%s"

    def __post_init__(self) -> None:
        self._hold: _Hold | None = None
        self._copying: list[Any] | None = None

    @property
    def location(self) -> str:
        found = self.credentials
        return f"postgresql://{found.host}:{found.port}/{found.database}"

    @property
    def destination(self) -> EventsDestination:
        destination = PostgresDestination(self.credentials)
        destination.warehouse = self
        return destination

    @property
    def environment(self) -> dict[str, str]:
        return self.credentials.environment() | self.schemas.environment

    def environment_in(self, folder: Path) -> dict[str, str]:
        return self.credentials.environment_in(folder) | self.schemas.environment

    def connect(self) -> Any:
        """A connection to the server.

        Raises:
            ConfigurationError: It is refused for what is configured.
        """
        name = f"mixpanel sync, process {os.getpid()} on {socket.gethostname()}"
        parameters: dict[str, Any] = self.credentials.parameters() | {"application_name": name}
        try:
            return psycopg2.connect(**parameters)
        except (psycopg2.Error, ValueError) as error:
            if refused := refusal(error, self.location):
                raise refused from error
            raise

    @contextmanager
    def connected(self) -> Iterator[Any]:
        # A sync opens few connections: what holds its lock serves its statements as well. Without
        # it there is still to be told what it failed of.
        if self._hold is not None and not self._hold.connection.closed:
            yield self._hold.connection
        else:
            with closing(self.connect()) as connection:
                yield connection

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        if self._copying is not None:
            yield
            return
        self._copying = []
        try:
            yield
        finally:
            idle, self._copying = self._copying, None
            for connection in idle:
                connection.close()

    @contextmanager
    def dbt_connections(self) -> Iterator[None]:
        from dbt.adapters.contracts.connection import ConnectionState
        from dbt.adapters.postgres.connections import PostgresConnectionManager
        from dbt.adapters.postgres.impl import PostgresAdapter

        idle: list[Any] = []

        class SharedConnections(PostgresConnectionManager):
            """Those of dbt's own are closed after each node, and the next one opens another."""

            @classmethod
            def open(cls, connection: Any) -> Any:
                if connection.state == ConnectionState.OPEN or not idle:
                    return super().open(connection)  # type: ignore[no-untyped-call]
                connection.handle, connection.state = idle.pop(), ConnectionState.OPEN
                return connection

            def release(self) -> None:
                connection = self.get_if_exists()
                is_open = connection is not None and connection.state == ConnectionState.OPEN
                if connection is None or not is_open or connection.handle.closed:
                    super().release()
                    return
                self.rollback_if_open()  # type: ignore[no-untyped-call]
                # psycopg2 begins transactions that dbt does not know of.
                connection.handle.rollback()
                idle.append(connection.handle)
                connection.handle, connection.state = None, ConnectionState.CLOSED

        PostgresAdapter.ConnectionManager = SharedConnections
        try:
            yield
        finally:
            PostgresAdapter.ConnectionManager = PostgresConnectionManager
            for handle in idle:
                handle.close()

    @contextmanager
    def copying(self) -> Iterator[Any]:
        """An ADBC connection for Arrow's rows; what is not committed in it is rolled back."""
        from adbc_driver_postgresql import dbapi

        connection = None
        try:
            if self._copying:
                connection = self._copying.pop()
            else:
                connection = dbapi.connect(self.credentials.to_native_representation())
                with connection.cursor() as cursor:
                    # It waits for downloads of any length.
                    cursor.execute("set idle_session_timeout = 0")
                connection.commit()
            yield connection
            connection.rollback()
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, dbapi.Error):
                # Failures of one database are told in one way, whichever driver met them.
                raise psycopg2.OperationalError(str(error)) from error
            raise
        if self._copying is None:
            connection.close()
        else:
            self._copying.append(connection)

    def check(self, *, loads: bool = True, builds: bool = True) -> None:
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            connection.autocommit = True
            check_server(connection, self.connect, self.location)
            self._check_rights(cursor, loads=loads)
            if builds:
                check_rights_to_transform(cursor, self.schemas)
        self.check_schemas()

    def _check_rights(self, cursor: Any, *, loads: bool) -> None:
        (check_rights_to_load if loads else check_rights_to_read)(cursor, self.schemas)

    @property
    def _lock_key(self) -> str:
        return f"hashtext('sync of {self.raw}')"

    def holder(self) -> str | None:
        with self.connected() as connection, closing(connection.cursor()) as cursor:
            return self._holder(cursor)

    def _holder(self, cursor: Any) -> str | None:
        cursor.execute(
            # Since when, is shown to the same role and to who may see all.
            "select concat_ws(', since ', application_name, "
            "to_char(backend_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')) "
            "from pg_stat_activity where pid in (select pid from pg_locks "
            "where locktype = 'advisory' and granted and database = "
            "(select oid from pg_database where datname = current_database()) "
            f"and objid = ({self._lock_key}::bigint & 4294967295)::oid)"
        )
        found = cursor.fetchone()
        return None if found is None else str(found[0])

    def for_reading(self) -> "Postgres | None":
        return self

    @property
    def begin_snapshot(self) -> Sequence[str]:
        # psycopg2 has begun the transaction by then.
        return ("set transaction isolation level repeatable read read only",)

    def estimated_rows(self, schema: str) -> dict[str, int]:
        # -1 until the table was first analysed.
        return dict(
            self.rows(
                "select relname, greatest(reltuples, 0)::bigint from pg_class "
                "where relnamespace = (select oid from pg_namespace where nspname = %s) "
                "and relkind = 'r' and has_table_privilege(oid, 'SELECT') "
                "and has_schema_privilege(relnamespace, 'USAGE')",
                [schema],
            )
        )

    @contextmanager
    def lock(self, *, loads: bool = True) -> Iterator[None]:
        key = self._lock_key
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            # An open transaction would keep vacuum from cleaning up for as long as the sync runs.
            connection.autocommit = True
            check_server(connection, self.connect, self.location)
            # The server has to notice when the machine of a sync has gone: in two minutes.
            cursor.execute("set tcp_keepalives_idle = 60")
            cursor.execute("set tcp_keepalives_interval = 10")
            cursor.execute("set tcp_keepalives_count = 6")
            # Downloads may take longer than the server lets a connection do nothing.
            cursor.execute("set idle_session_timeout = 0")
            cursor.execute(f"select pg_try_advisory_lock({key})")
            if not cursor.fetchone()[0]:
                raise AnotherSyncIsRunning(self._holder(cursor) or "it has just ended")
            # Closing the connection would do, but the server may take a moment to see it.
            unlock = f"select pg_advisory_unlock({key})"
            try:
                self._check_rights(cursor, loads=loads)
                self._hold = _Hold(connection, secrets.token_hex(16))
                self.check_schemas()
                self._enter_token()
                yield
            except BaseException:
                # What it ended of is what to tell, also when the server has gone.
                with suppress(psycopg2.Error):
                    cursor.execute(unlock)
                raise
            finally:
                self._hold = None
            cursor.execute(unlock)

    @property
    def lock_lost(self) -> str:
        """What is told when the lock was lost."""
        return (
            f"The lock on {self.raw} was lost: its connection to the server ended, and another "
            "sync may have begun."
        )

    @property
    def _lock_table(self) -> str:
        return f"{self.raw}.sync_lock"

    def _enter_token(self) -> None:
        """Take the lock from a sync that lost it, once it has written what it is writing."""
        self.create_schema(self.raw)
        # Who may not create it may not try to, even if it is there.
        if not self.has_table(self.raw, "sync_lock"):
            self.execute(
                f"create table if not exists {self._lock_table} "
                "(id integer primary key, token text not null)"
            )
        try:
            self.execute(
                f"set local lock_timeout = '{_TAKEOVER_SECONDS}s'; "
                f"insert into {self._lock_table} values (1, %s) "
                "on conflict (id) do update set token = excluded.token",
                [self._hold.token if self._hold else None],
            )
        except psycopg2.errors.LockNotAvailable:
            raise AnotherSyncIsRunning("it has lost its lock, and is still writing") from None

    @property
    def still_held(self) -> str:
        """The query that returns a row if the lock is held, until its transaction ends."""
        token = self._hold.token if self._hold else ""
        return f"select id from {self._lock_table} where token = '{token}' for share"

    def held_connection(self) -> Any:
        """The connection that holds the lock.

        Raises:
            SyncError: The lock was lost.
        """
        if self._hold is None or self._hold.connection.closed:
            raise SyncError(self.lock_lost)
        return self._hold.connection

    def execute_held(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        with self.transaction_held() as cursor:
            for statement, parameters in statements:
                cursor.execute(statement, parameters)

    @contextmanager
    def transaction_held(self) -> Iterator[Any]:
        """A cursor in a transaction of the connection that holds the lock.

        Raises:
            SyncError: The lock was lost.
        """
        with closing(self.held_connection().cursor()) as cursor:
            cursor.execute("begin")
            try:
                cursor.execute(self.still_held)
                if cursor.fetchone() is None:
                    raise SyncError(self.lock_lost)
                yield cursor
                cursor.execute("commit")
            except BaseException:
                with suppress(psycopg2.Error):
                    cursor.execute("rollback")
                raise

    def columns(self, schema: str, table: str) -> set[str]:
        # Who may read a table is told of its columns, even who cannot reach its schema.
        found = self.rows(
            "select column_name from information_schema.columns "
            "where table_schema = %s and table_name = %s "
            "and has_schema_privilege(table_schema::text, 'USAGE')",
            [schema, table],
        )
        return {name for (name,) in found}

    def told(self, error: BaseException) -> str:
        return told(error)

    def check_rights_to_transform(self) -> None:
        with self.connected() as connection, closing(connection.cursor()) as cursor:
            check_rights_to_transform(cursor, self.schemas)

    def tune(self) -> None:
        # Loads stand one behind the other in the table, so block ranges find them; the audit asks
        # for the events of some days. A range that is not summarised is read by every query.
        events = f"{self.raw}.events"
        self.execute(
            f"create unique index if not exists events_event_key on {events} (event_key);"
            f"create index if not exists events_dlt_load_id on {events} using brin (_dlt_load_id);"
            f"create index if not exists events_occurred_at on {events} using brin (occurred_at);"
            f"create index if not exists rekeyed_ids_before on {self.raw}.rekeyed_ids "
            "using hash (distinct_id_before_identity);"
            f"create index if not exists profiles_change_id on {self.raw}.profiles (change_id);"
            f"select brin_summarize_new_values('{self.raw}.events_dlt_load_id');"
            f"select brin_summarize_new_values('{self.raw}.events_occurred_at')"
        )

    def query_delivered(self, delivered: Sequence[Path], query: str) -> pa.Array:
        with self.copying() as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("delivered", keys(delivered), mode="create", temporary=True)
            # Without statistics it would read all events to find a few.
            cursor.execute("analyze delivered")
            cursor.execute(query)
            found = cursor.fetch_arrow_table()
        return found.column(0).combine_chunks()

    def query_told(self, told: pa.Table, query: str) -> list[tuple[Any, ...]]:
        with self.copying() as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("told", told, mode="create", temporary=True)
            cursor.execute("analyze told")
            cursor.execute(query)
            found: list[tuple[Any, ...]] = cursor.fetchall()
        return found

    def property_text(self, name: str) -> str:
        return f"(properties ->> '{name}')"


class _PostgresEvents(EventsJob):
    def __init__(
        self, file_path: str, load_id: str, new_events: NewEvents, warehouse: Postgres
    ) -> None:
        super().__init__(file_path, load_id, new_events)
        self._warehouse = warehouse

    def append(self, files: Sequence[Path], not_new: pa.Array) -> None:
        # A part on each of some connections, as PostgreSQL uses a processor for each: what a load
        # wrote counts once the load is complete, not with a transaction of its own.
        groups = row_groups(files)
        parts = [groups[start::LOAD_THREADS] for start in range(LOAD_THREADS)]
        with ThreadPoolExecutor(LOAD_THREADS) as threads:
            for _ in threads.map(partial(self._copy, not_new), filter(None, parts)):
                pass

    def _copy(self, not_new: pa.Array, groups: Sequence[RowGroup]) -> None:
        with self._warehouse.copying() as connection, connection.cursor() as cursor:
            # Rows of a load that cannot complete would make their events look loaded.
            cursor.execute(self._warehouse.still_held)
            if cursor.fetchone() is None:
                raise SyncError(self._warehouse.lock_lost)
            # As a stream: dlt would hold a whole file in memory.
            batches = self._batches(groups, not_new, self._columns())
            first = next(batches, None)
            if first is None:
                return
            events = pa.RecordBatchReader.from_batches(first.schema, chain([first], batches))
            cursor.adbc_ingest(
                self.load_table_name, events, mode="append", db_schema_name=self._warehouse.raw
            )
            connection.commit()

    def _columns(self) -> list[str]:
        """The table's columns in their order, by which ADBC finds their types.

        In tables of earlier versions, what was added later stands at the end.
        """
        found = self._warehouse.rows(
            "select column_name from information_schema.columns "
            "where table_schema = %s and table_name = %s order by ordinal_position",
            [self._warehouse.raw, self.load_table_name],
        )
        known = {*EVENTS.names, _LOAD_ID.name}
        return [name for (name,) in found if name in known]

    def _batches(
        self, groups: Sequence[RowGroup], not_new: pa.Array, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        for rows in rows_without(groups, not_new):
            load_ids = pa.repeat(pa.scalar(self._load_id), rows.num_rows)
            yield from rows.append_column(_LOAD_ID, load_ids).select(columns).to_batches()


class _PostgresCopy(PostgresParquetCopyJob):
    """dlt's, on a connection that is open already."""

    # dlt would fail when the file has no rows.
    _ingest_per_rowgroup = True

    def __init__(self, file_path: str, warehouse: Postgres) -> None:
        super().__init__(file_path)
        self._warehouse = warehouse

    def _connect(self) -> Any:
        return self._warehouse.copying()


class _HeldSqlClient(Psycopg2SqlClient):
    """dlt's, on the connection that holds the lock."""

    warehouse: Postgres

    def open_connection(self) -> Any:
        self._conn = self.warehouse.held_connection()
        return self._conn

    def close_connection(self) -> None:
        self._conn = None

    def _reset_connection(self) -> None:
        # dlt's would reset the settings as well.
        self._conn.rollback()
        self._conn.autocommit = True


class _PostgresClient(EventsClient, PostgresClient):
    warehouse: Postgres

    def events_job(self, file_path: str, load_id: str) -> EventsJob:
        return _PostgresEvents(file_path, load_id, self.new_events, self.warehouse)

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, PostgresParquetCopyJob):
            return _PostgresCopy(file_path, self.warehouse)
        return job

    def complete_load(self, load_id: str) -> None:
        """Let the load count, if this sync still holds the lock."""
        with self.warehouse.transaction_held():
            super().complete_load(load_id)


class PostgresDestination(EventsDestination, postgres):
    """`dlt.destinations.postgres` in all else.

    Attributes:
        warehouse: Its lock is held while something is loaded.
    """

    warehouse: Postgres

    @property
    def client_class(self) -> type[PostgresClient]:
        """What loads into it."""
        return _PostgresClient

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        capabilities = super()._raw_capabilities()
        # All jobs share a connection.
        capabilities.max_parallel_load_jobs = 1
        return capabilities

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        """What loads into it, on the warehouse's connections."""
        client = super().client(schema, initial_config)
        sql = client.sql_client
        client.warehouse = self.warehouse
        client.sql_client = _HeldSqlClient(
            sql.dataset_name, sql.staging_dataset_name, sql.credentials, sql.capabilities
        )
        client.sql_client.warehouse = self.warehouse
        return client
