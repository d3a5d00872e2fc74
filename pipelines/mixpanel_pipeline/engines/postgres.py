"""PostgreSQL: a server that a team shares."""

import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
from dlt.common.destination import PreparedTableSchema
from dlt.common.destination.client import LoadJob
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.configuration import PostgresCredentials
from dlt.destinations.impl.postgres.postgres import PostgresClient, PostgresParquetCopyJob

from mixpanel_pipeline.engines.destination import (
    LOAD_THREADS,
    EventsClient,
    EventsDestination,
    EventsJob,
)
from mixpanel_pipeline.engines.positions import RowGroup, keys, row_groups, rows_without
from mixpanel_pipeline.engines.warehouse import Warehouse
from mixpanel_pipeline.errors import AnotherSyncIsRunning
from mixpanel_pipeline.events.decoding import EVENTS
from mixpanel_pipeline.project import RAW_DATASET

_LOAD_ID = pa.field("_dlt_load_id", pa.string(), nullable=False)


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
        try:
            with dbapi.connect(uri) as connection, connection.cursor() as cursor:
                cursor.adbc_ingest("delivered", keys(delivered), mode="create", temporary=True)
                # Without statistics it would read all events to find a few.
                cursor.execute("analyze delivered")
                cursor.execute(query)
                found = cursor.fetch_arrow_table()
        except dbapi.Error as error:
            # The failures of one database are told in one way, whichever driver met them.
            raise psycopg2.OperationalError(str(error)) from error
        return found.column(0).combine_chunks()

    def is_missing(self, column: str, name: str) -> str:
        return f"({column} ->> '{name}') is null"


class _PostgresEvents(EventsJob, PostgresParquetCopyJob):
    def append(self, files: Sequence[Path], not_new: pa.Array) -> None:
        # A part on each of some connections, as PostgreSQL uses a processor for each: what a load
        # wrote counts once the load is complete, not with a transaction of its own.
        groups = row_groups(files)
        parts = [groups[start::LOAD_THREADS] for start in range(LOAD_THREADS)]
        with ThreadPoolExecutor(LOAD_THREADS) as threads:
            for _ in threads.map(partial(self._copy, not_new), filter(None, parts)):
                pass

    def _copy(self, not_new: pa.Array, groups: Sequence[RowGroup]) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            _, schema = self._set_catalog_and_schema()
            loaded = EVENTS.append(_LOAD_ID)
            # As a stream: dlt would hold a whole file in memory.
            events = pa.RecordBatchReader.from_batches(loaded, self._batches(groups, not_new))
            cursor.adbc_ingest(self.load_table_name, events, mode="append", db_schema_name=schema)
            connection.commit()

    def _batches(self, groups: Sequence[RowGroup], not_new: pa.Array) -> Iterator[pa.RecordBatch]:
        for rows in rows_without(groups, not_new):
            load_ids = pa.repeat(pa.scalar(self._load_id), rows.num_rows)
            yield from rows.append_column(_LOAD_ID, load_ids).to_batches()


class _PostgresClient(EventsClient, PostgresClient):
    events_job = _PostgresEvents

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, PostgresParquetCopyJob):
            # dlt would fail when the file has no rows.
            job._ingest_per_rowgroup = True
        return job


class PostgresDestination(EventsDestination, postgres):
    """`dlt.destinations.postgres` in all else."""

    @property
    def client_class(self) -> type[PostgresClient]:
        """What loads into it."""
        return _PostgresClient
