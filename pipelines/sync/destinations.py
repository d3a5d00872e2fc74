"""dlt's destinations, loading of delivered events what is new."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from dlt.common.destination import Destination, PreparedTableSchema
from dlt.common.destination.client import LoadJob, RunnableLoadJob
from dlt.common.schema import Schema
from dlt.common.schema.typing import TColumnSchema
from dlt.destinations import duckdb, postgres
from dlt.destinations.impl.duckdb.duck import DuckDbClient, DuckDbCopyJob
from dlt.destinations.impl.postgres.postgres import PostgresClient, PostgresParquetCopyJob

from mixpanel_export.events import EVENTS
from sync.positions import RowGroup, row_groups, rows_without, view_delivered

# Decoding keeps no more threads busy, and each of DuckDB's wants memory of its own.
_LOAD_THREADS = 2
_LOAD_BYTES = 128_000_000
# https://duckdb.org/docs/stable/internals/vector
_VECTOR_ROWS = 2048
# Each of DuckDB's threads leaves a row group partly filled, and with fewer full ones than this
# between them it writes them all anew later: twice the work, and a file half as large again.
_ROW_GROUPS_APART = 3
# https://duckdb.org/docs/stable/internals/storage
_ROW_GROUP_ROWS = 122_880
_RANDOM_TEXTS = ("event_key", "insert_id")
_LOAD_ID = pa.field("_dlt_load_id", pa.string(), nullable=False)


@dataclass(frozen=True)
class DeliveredEvents:
    """Events, and which of them to load.

    Attributes:
        files: Parquet files with the schema `EVENTS`.
        not_new: The positions of the events that are left out, ascending.
    """

    files: Sequence[Path]
    not_new: pa.Array


class EventsDestination(Destination[Any, Any]):
    """A destination of events.

    Attributes:
        delivered: What the next load brings, whatever file dlt has for it.
    """

    delivered = DeliveredEvents((), pa.array([], pa.int64()))

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        """What loads into it, told what to load."""
        client = super().client(schema, initial_config)
        client.delivered = self.delivered
        return client


class _EventsJob(RunnableLoadJob):
    def __init__(self, file_path: str, load_id: str, delivered: DeliveredEvents) -> None:
        super().__init__(file_path)
        self._load_id = load_id
        self._delivered = delivered


class _DuckDBEvents(_EventsJob, DuckDbCopyJob):
    def run(self) -> None:
        """Insert the events that are new, with the id of this load."""
        client = self._job_client.sql_client
        connection = client.native_connection
        files, not_new = self._delivered.files, self._delivered.not_new
        connection.register("not_new", pa.table({"position": not_new}))
        view_delivered(connection, files)
        table = client.make_qualified_table_name(self.load_table_name)
        with _bounded_memory(connection, row_groups(files)):
            client.execute_sql(
                f"insert into {table} by name select * exclude (position, file), "
                f"'{self._load_id}' as _dlt_load_id from delivered "
                + ("where position not in (from not_new)" if len(not_new) else "")
            )


@contextmanager
def _bounded_memory(connection: Any, groups: Sequence[RowGroup]) -> Iterator[None]:
    """Let DuckDB hold what loading them takes, and no more; beyond it spills to disk."""
    sizes = [group.metadata.total_byte_size for group in groups]
    largest = max(
        (size / len(group.positions) for size, group in zip(sizes, groups, strict=True)), default=0
    )
    rows = sum(len(group.positions) for group in groups)
    is_large = rows >= _LOAD_THREADS * _ROW_GROUPS_APART * _ROW_GROUP_ROWS
    load_threads = _LOAD_THREADS if is_large else 1
    # Each thread holds the rows of a vector at once.
    needed = _LOAD_BYTES + int(load_threads * min(_VECTOR_ROWS * largest, sum(sizes)))
    threads, limit, allowed = connection.execute(
        "select current_setting('threads'), current_setting('memory_limit'), "
        "parse_formatted_bytes(current_setting('memory_limit'))"
    ).fetchone()
    connection.execute(f"set threads = {min(threads, load_threads)}")
    connection.execute(f"set memory_limit = '{min(allowed, needed)}B'")
    try:
        yield
    finally:
        connection.execute(f"set memory_limit = '{limit}'")
        connection.execute(f"set threads = {threads}")


class _DuckDBClient(DuckDbClient):
    delivered: DeliveredEvents

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, DuckDbCopyJob) and table["name"] == "events":
            return _DuckDBEvents(file_path, load_id, self.delivered)
        return job

    def _get_column_def_sql(self, c: TColumnSchema, table: PreparedTableSchema = None) -> str:  # type: ignore[assignment]
        sql = super()._get_column_def_sql(c, table)
        # Payloads are half as large as by what DuckDB chooses itself, and written in half the time;
        # of random texts the choice alone takes longer.
        is_zstd = c["data_type"] == "json" or c["name"] in _RANDOM_TEXTS
        return f"{sql} using compression zstd" if is_zstd else sql


class DuckDBDestination(EventsDestination, duckdb):
    """`dlt.destinations.duckdb` in all else."""

    @property
    def client_class(self) -> type[DuckDbClient]:
        """What loads into it."""
        return _DuckDBClient


class _PostgresEvents(_EventsJob, PostgresParquetCopyJob):
    def run(self) -> None:
        """Copy the events that are new, with the id of this load.

        A part on each of some connections, as PostgreSQL uses a processor for each: what a load
        wrote counts once the load is complete, not with a transaction of its own.
        """
        groups = row_groups(self._delivered.files)
        parts = [groups[start::_LOAD_THREADS] for start in range(_LOAD_THREADS)]
        with ThreadPoolExecutor(_LOAD_THREADS) as threads:
            for _ in threads.map(self._copy, filter(None, parts)):
                pass

    def _copy(self, groups: Sequence[RowGroup]) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            _, schema = self._set_catalog_and_schema()
            loaded = EVENTS.append(_LOAD_ID)
            # As a stream: dlt would hold a whole file in memory.
            events = pa.RecordBatchReader.from_batches(loaded, self._batches(groups))
            cursor.adbc_ingest(self.load_table_name, events, mode="append", db_schema_name=schema)
            connection.commit()

    def _batches(self, groups: Sequence[RowGroup]) -> Iterator[pa.RecordBatch]:
        for rows in rows_without(groups, self._delivered.not_new):
            load_ids = pa.repeat(pa.scalar(self._load_id), rows.num_rows)
            yield from rows.append_column(_LOAD_ID, load_ids).to_batches()


class _PostgresClient(PostgresClient):
    delivered: DeliveredEvents

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, PostgresParquetCopyJob):
            if table["name"] == "events":
                return _PostgresEvents(file_path, load_id, self.delivered)
            # dlt would fail when the file has no rows.
            job._ingest_per_rowgroup = True
        return job


class PostgresDestination(EventsDestination, postgres):
    """`dlt.destinations.postgres` in all else."""

    @property
    def client_class(self) -> type[PostgresClient]:
        """What loads into it."""
        return _PostgresClient
