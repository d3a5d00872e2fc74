"""dlt's destinations, loading of a file of delivered events what is new."""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dlt.common.destination import Destination, PreparedTableSchema
from dlt.common.destination.client import LoadJob, RunnableLoadJob
from dlt.common.schema import Schema
from dlt.common.schema.typing import TColumnSchema
from dlt.destinations import duckdb, postgres
from dlt.destinations.impl.duckdb.duck import DuckDbClient, DuckDbCopyJob
from dlt.destinations.impl.postgres.postgres import PostgresClient, PostgresParquetCopyJob

# Decoding keeps no more threads busy, and each of DuckDB's wants memory of its own.
_LOAD_THREADS = 2
_LOAD_BYTES = 128_000_000
# https://duckdb.org/docs/stable/internals/vector
_VECTOR_ROWS = 2048
_RANDOM_TEXTS = ("event_key", "insert_id")
_LOAD_ID = pa.field("_dlt_load_id", pa.string(), nullable=False)


class EventsDestination(Destination[Any, Any]):
    """A destination of events.

    Attributes:
        not_new: The positions of the events in the next file that it leaves out, ascending.
    """

    not_new: pa.Array = pa.array([], pa.int64())

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        """What loads into it, told what to leave out."""
        client = super().client(schema, initial_config)
        client.not_new = self.not_new
        return client


class _EventsJob(RunnableLoadJob):
    def __init__(self, file_path: str, load_id: str, not_new: pa.Array) -> None:
        super().__init__(file_path)
        self._load_id = load_id
        self._not_new = not_new


class _DuckDBEvents(_EventsJob, DuckDbCopyJob):
    def run(self) -> None:
        """Insert the file's events that are new, with the id of this load."""
        client = self._job_client.sql_client
        connection = client.native_connection
        connection.register("not_new", pa.table({"position": self._not_new}))
        table = client.make_qualified_table_name(self.load_table_name)
        path = self._file_path.replace("'", "''")
        with _bounded_memory(connection, pq.read_metadata(self._file_path)):
            client.execute_sql(
                f"insert into {table} by name "
                f"select * exclude (file_row_number), '{self._load_id}' as _dlt_load_id "
                f"from read_parquet('{path}', file_row_number = true) "
                + ("where file_row_number not in (from not_new)" if len(self._not_new) else "")
            )


@contextmanager
def _bounded_memory(connection: Any, file: pq.FileMetaData) -> Iterator[None]:
    """Let DuckDB hold what loading the file takes, and no more; beyond it spills to disk."""
    groups = [file.row_group(group) for group in range(file.num_row_groups)]
    largest = max((group.total_byte_size / group.num_rows for group in groups), default=0)
    # Each thread holds the rows of a vector at once.
    rows = min(_VECTOR_ROWS * largest, sum(group.total_byte_size for group in groups))
    needed = _LOAD_BYTES + int(_LOAD_THREADS * rows)
    threads, limit, allowed = connection.execute(
        "select current_setting('threads'), current_setting('memory_limit'), "
        "parse_formatted_bytes(current_setting('memory_limit'))"
    ).fetchone()
    connection.execute(f"set threads = {min(threads, _LOAD_THREADS)}")
    connection.execute(f"set memory_limit = '{min(allowed, needed)}B'")
    try:
        yield
    finally:
        connection.execute(f"set memory_limit = '{limit}'")
        connection.execute(f"set threads = {threads}")


class _DuckDBClient(DuckDbClient):
    not_new: pa.Array

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, DuckDbCopyJob) and table["name"] == "events":
            return _DuckDBEvents(file_path, load_id, self.not_new)
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
        """Copy the file's events that are new, with the id of this load.

        A part on each of some connections, as PostgreSQL uses a processor for each: what a load
        wrote counts once the load is complete, not with a transaction of its own.
        """
        groups = range(pq.read_metadata(self._file_path).num_row_groups)
        parts = [groups[start::_LOAD_THREADS] for start in range(_LOAD_THREADS)]
        with ThreadPoolExecutor(_LOAD_THREADS) as threads:
            for _ in threads.map(self._copy, filter(None, parts)):
                pass

    def _copy(self, groups: Collection[int]) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            _, schema = self._set_catalog_and_schema()
            loaded = pq.read_schema(self._file_path).append(_LOAD_ID)
            # As a stream: dlt would hold the whole file in memory.
            events = pa.RecordBatchReader.from_batches(loaded, self._batches(groups))
            cursor.adbc_ingest(self.load_table_name, events, mode="append", db_schema_name=schema)
            connection.commit()

    def _batches(self, groups: Collection[int]) -> Iterator[pa.RecordBatch]:
        for rows in rows_without(Path(self._file_path), self._not_new, groups=groups):
            load_ids = pa.repeat(pa.scalar(self._load_id), rows.num_rows)
            yield from rows.append_column(_LOAD_ID, load_ids).to_batches()


class _PostgresClient(PostgresClient):
    not_new: pa.Array

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, PostgresParquetCopyJob):
            if table["name"] == "events":
                return _PostgresEvents(file_path, load_id, self.not_new)
            # dlt would fail when the file has no rows.
            job._ingest_per_rowgroup = True
        return job


class PostgresDestination(EventsDestination, postgres):
    """`dlt.destinations.postgres` in all else."""

    @property
    def client_class(self) -> type[PostgresClient]:
        """What loads into it."""
        return _PostgresClient


def rows_without(
    delivered: Path,
    positions: pa.Array,
    columns: Sequence[str] | None = None,
    groups: Collection[int] | None = None,
) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file by its row groups, without those at some positions.

    Args:
        delivered: The file.
        positions: Rows to leave out, from 0 on, in ascending order.
        columns: What to read of the rows; None for all.
        groups: Which of the row groups, from 0 on; None for all.
    """
    with pq.ParquetFile(delivered) as file:
        end = 0
        for group in range(file.num_row_groups):
            start, end = end, end + file.metadata.row_group(group).num_rows
            if groups is not None and group not in groups:
                continue
            dropped = positions[_place(positions, start) : _place(positions, end)].to_pylist()
            if len(dropped) < end - start:
                rows = file.read_row_group(group, columns)
                if dropped:
                    is_kept = [True] * rows.num_rows
                    for position in dropped:
                        is_kept[position - start] = False
                    rows = rows.filter(pa.array(is_kept))
                yield rows


def _place(positions: pa.Array, position: int) -> int:
    return bisect_left(positions, position, key=lambda found: found.as_py())
