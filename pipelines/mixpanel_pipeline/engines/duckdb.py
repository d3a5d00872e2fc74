"""DuckDB: a file on this machine, embedded."""

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.configuration import resolve_configuration
from dlt.common.destination import PreparedTableSchema
from dlt.common.destination.client import LoadJob
from dlt.common.schema.typing import TColumnSchema
from dlt.destinations import duckdb
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.impl.duckdb.duck import DuckDbClient, DuckDbCopyJob

from mixpanel_pipeline.engines.destination import (
    LOAD_THREADS,
    DeliveredEvents,
    EventsDestination,
    EventsJob,
)
from mixpanel_pipeline.engines.positions import RowGroup, row_groups, view_delivered
from mixpanel_pipeline.engines.warehouse import KEYS_MEMORY, Warehouse, utc_now
from mixpanel_pipeline.errors import AnotherSyncIsRunning
from mixpanel_pipeline.project import MART_SCHEMA, RAW_DATASET, ROOT
from mixpanel_pipeline.source.errors import ConfigurationError

_LOAD_BYTES = 128_000_000
# https://duckdb.org/docs/stable/internals/vector
_VECTOR_ROWS = 2048
# Each of DuckDB's threads leaves a row group partly filled, and with fewer full ones than this
# between them it writes them all anew later: twice the work, and a file half as large again.
_ROW_GROUPS_APART = 3
# https://duckdb.org/docs/stable/internals/storage
_ROW_GROUP_ROWS = 122_880
_RANDOM_TEXTS = ("event_key", "insert_id")


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
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {utc_now()}")
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

    def check_rights_to_transform(self) -> None:
        pass

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


def configured_path() -> Path:
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


class _DuckDBEvents(EventsJob, DuckDbCopyJob):
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
    is_large = rows >= LOAD_THREADS * _ROW_GROUPS_APART * _ROW_GROUP_ROWS
    load_threads = LOAD_THREADS if is_large else 1
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
