"""DuckDB: a file on this machine, embedded."""

import errno
import fcntl
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import dlt
import pyarrow as pa
from dlt.common.destination import PreparedTableSchema
from dlt.common.schema.typing import TColumnSchema
from dlt.destinations import duckdb
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.impl.duckdb.duck import DuckDbClient, DuckDbCopyJob

from mixpanel_pipeline import exact_configuration, project
from mixpanel_pipeline.engines.destination import (
    LOAD_THREADS,
    EventsClient,
    EventsDestination,
    EventsJob,
)
from mixpanel_pipeline.engines.positions import RowGroup, row_groups, view_delivered
from mixpanel_pipeline.engines.schemas import Schemas
from mixpanel_pipeline.engines.warehouse import KEYS_MEMORY, Warehouse, utc_now
from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError
from mixpanel_pipeline.source.errors import ConfigurationError

logger = logging.getLogger(__name__)

# Whoever looks something up has the file open for less, and nobody notices the difference.
_LOCK_RETRY_SECONDS = 0.25
# Whoever asks how things stand is told so, rather than kept waiting.
_READER_WAITS_SECONDS = 5.0
# In what DuckDB says of a file that another process has open: its program, its id and its user.
_HOLDER = re.compile(r"lock is held in (.*?PID \d+\)?(?: by user \S+?)?)\.(?:\s|$)")
_LOAD_BYTES = 128_000_000
# https://duckdb.org/docs/stable/internals/vector
_VECTOR_ROWS = 2048
# Each of DuckDB's threads leaves a row group partly filled, and with fewer full ones than this
# between them it writes them all anew later: twice the work, and a file half as large again.
_ROW_GROUPS_APART = 3
# https://duckdb.org/docs/stable/internals/storage
_ROW_GROUP_ROWS = 122_880
_RANDOM_TEXTS = ("event_key", "insert_id")
_DUCKDB_SCHEMAS = ("main", "temp", "system", "information_schema")
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST}
_UNFIT_IN_PATHS = set("#?\\")
_UNFIT_IN_NAMES = set("'\";")
_TAKES = (
    "It takes the path of a DuckDB file, like warehouse.duckdb, which is made when it is not there."
)


@dataclass
class DuckDB(Warehouse):
    path: Path
    # DuckDB takes 80 % of the machine's memory otherwise; beyond the limit it spills to disk.
    # It has to hold 2,048 events at once: less would fail when a thousand of them are 1 MB large.
    memory_limit: str = "2GB"
    # A query of an analyst ends within it; who waits longer should be told by whom it is held.
    lock_wait_seconds: float = 60
    schemas: Schemas = field(default_factory=Schemas)
    is_read_only: bool = False
    _gave_up: bool = field(default=False, init=False, repr=False, compare=False)

    name = "duckdb"
    holds_nul = True
    json_type = "json"
    placeholder = "?"

    def __post_init__(self) -> None:
        problem = _name_problem(self.path, self.schemas)
        if problem:
            raise ConfigurationError(
                f"The DuckDB file cannot be called {str(self.path)!r}: {problem} Name it "
                "otherwise, like warehouse.duckdb; a file that is there already can be renamed."
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
        return {"DESTINATION__DUCKDB__CREDENTIALS": str(self.path)} | self.schemas.environment

    def connect(self) -> Any:
        """A connection to the file; waits for another process that has it open.

        Raises:
            SyncError: It has been open elsewhere for `lock_wait_seconds`.
        """
        import duckdb

        # What follows a wait in vain, as the record of the failure, does not wait once more.
        deadline = time.monotonic() + (0 if self._gave_up else self.lock_wait_seconds)
        is_told = False
        while True:
            try:
                connection = duckdb.connect(self.path, read_only=self.is_read_only)
            except duckdb.IOException as error:
                found = _HOLDER.search(str(error))
                if found is None:
                    raise
                if time.monotonic() >= deadline:
                    self._gave_up = True
                    raise SyncError(
                        f"The DuckDB file {self.path} is open in another process, {found[1]}, "
                        f"which did not close it for {self.lock_wait_seconds:g} seconds. Close it "
                        "there and run again, or let a sync wait for longer: "
                        "destination.duckdb.lock_wait_seconds."
                    ) from None
                if not is_told:
                    logger.warning(
                        "Waiting up to %g seconds for %s, which has %s open.",
                        self.lock_wait_seconds,
                        found[1],
                        self.path,
                    )
                    is_told = True
                time.sleep(_LOCK_RETRY_SECONDS)
            else:
                self._gave_up = False
                return connection

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        # Whoever closes a DuckDB file last writes a checkpoint, and dlt closes it after each job.
        # Meanwhile whatever in this process opens it, dlt and dbt too, shares what is open here.
        with closing(self.connect()) as connection:
            yield
            # Row groups that are only partly filled are written anew now.
            connection.execute(f"set memory_limit = '{KEYS_MEMORY}'")

    @contextmanager
    def dbt_connections(self) -> Iterator[None]:
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager

        yield
        # dbt keeps the file, and its lock, until the process ends.
        DuckDBConnectionManager.close_all_connections()  # type: ignore[no-untyped-call]

    def check(self, *, loads: bool = True, builds: bool = True) -> None:
        _ = loads, builds
        folder = next(parent for parent in self.path.parents if parent.exists())
        for path in (folder, self.path):
            if path.exists() and not os.access(path, os.W_OK):
                raise ConfigurationError(
                    f"destination.duckdb.credentials: {path} cannot be written. The DuckDB file "
                    "has to be one that this user may write, and so has its folder."
                )
        reader = self.for_reading()
        if reader is not None:
            with reader.kept_open():
                reader.check_schemas()

    @property
    def _lock_file(self) -> Path:
        is_default = self.raw == Schemas.dataset_name
        return self.path.with_name(
            f"{self.path.name}.lock" if is_default else f"{self.path.name}.{self.raw}.lock"
        )

    def holder(self) -> str | None:
        try:
            with self._lock_file.open(encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read().strip() or "its process is new"
        except FileNotFoundError:
            pass
        return None

    def for_reading(self) -> "DuckDB | None":
        if not self._is_whole():
            return None
        wait = min(self.lock_wait_seconds, _READER_WAITS_SECONDS)
        return replace(self, is_read_only=True, lock_wait_seconds=wait)

    @property
    def begin_snapshot(self) -> Sequence[str]:
        return f"set memory_limit = '{self.memory_limit}'", "begin transaction"

    def estimated_rows(self, schema: str) -> dict[str, int]:
        return dict(
            self.rows(
                "select table_name, estimated_size from duckdb_tables() where schema_name = %s",
                [schema],
            )
        )

    @contextmanager
    def lock(self, *, loads: bool = True) -> Iterator[None]:
        _ = loads
        # DuckDB locks its file only while it is open, and dlt opens it several times a sync.
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened = self._lock_file.open("a+", encoding="utf-8")
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            raise ConfigurationError(
                f"destination.duckdb.credentials: {error.filename} cannot be written: "
                f"{error.strerror}. The DuckDB file has to be in a folder that this user may write."
            ) from error
        with opened as file:
            if not _locked(file):
                file.seek(0)
                raise AnotherSyncIsRunning(file.read().strip() or "its process is new")
            self._make_whole()
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {utc_now()}")
            file.flush()
            with self.kept_open():
                self.check_schemas()
            yield

    def _make_whole(self) -> None:
        """Create the file; one whose creation was cut off, by a kill or a full disk, goes first.

        DuckDB could not open it. Its files begin with three headers of 4,096 bytes; what lacks
        one of them never held anything, nor did an empty file.
        https://duckdb.org/docs/stable/internals/storage
        """
        if self._is_whole():
            return
        import duckdb

        # A sync of another dataset may be creating it. No dataset's lock has a hyphen in its name.
        with self.path.with_name(f"{self.path.name}.new-file.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self._is_whole():
                # Under another name, so that what is there is always whole.
                new = self.path.with_name(f"{self.path.name}.new")
                new.unlink(missing_ok=True)
                duckdb.connect(new).close()
                new.replace(self.path)

    def _is_whole(self) -> bool:
        if not self.path.exists():
            return False
        if self.path.stat().st_size >= 3 * 4096:
            return True
        with self.path.open("rb") as file:
            beginning = file.read(12)
        # What is no file of DuckDB's, it refuses itself.
        return bool(beginning) and beginning[8:] != b"DUCK"

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

    def query_told(self, told: pa.Table, query: str) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            connection.register("told", told)
            try:
                found: list[tuple[Any, ...]] = connection.execute(query).fetchall()
                return found
            finally:
                connection.unregister("told")

    def property_text(self, name: str) -> str:
        return f"json_extract_string(properties, '/{name}')"


def _locked(file: IO[str]) -> bool:
    """Take the lock; `holder` may have it for an instant."""
    for pause in (0.05, 0.1, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause is not None:
                time.sleep(pause)
        else:
            return True
    return False


def configured_path() -> Path:
    """The DuckDB file that is configured, `warehouse.duckdb` by default.

    Raises:
        ConfigurationError: What is configured cannot be a DuckDB file, or the file is another's.
    """
    section = ("destination", "duckdb", "credentials")
    native = exact_configuration.configured_value(section[-1], str, section[:-1])
    # A table of a file; its keys are read one by one.
    native = None if isinstance(native, Mapping) else native
    values = exact_configuration.configured(DuckDbCredentials, section)
    database = values.get("database")
    if native is None and database is None:
        return project.folder() / "warehouse.duckdb"
    for value in (native, database):
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{'.'.join(section)}: it has to be text. {_TAKES}")
    part = "__".join((*section, "database")).upper()
    # dlt would follow the whole one without a word.
    if native is not None and os.environ.get(part, native) != native:
        raise ConfigurationError(
            f"{'.'.join(section)} and environment variable {part} name two files: leave one out."
        )
    # A path, a URL, or the key `database`: dlt knows all its own forms.
    text = database if native is None else native
    path = str(text or "").removeprefix("duckdb:///")
    problem = _place_problem(path)
    if problem is None:
        if native is not None:
            path = exact_configuration.resolved(
                DuckDbCredentials(), section, values, native
            ).database
        found = (project.folder() / Path(path).expanduser()).resolve()
        problem = _file_problem(found)
        if problem is None:
            return found
    raise ConfigurationError(f"{'.'.join(section)}: {problem} {_TAKES}")


def configured_memory_limit() -> str:
    """What a load may use of memory at most.

    Raises:
        ConfigurationError: What is configured is no amount of memory.
    """
    configured = dlt.config.get("destination.duckdb.memory_limit", str)
    if not configured:
        return DuckDB.memory_limit
    import duckdb

    with closing(duckdb.connect(":memory:")) as connection:
        try:
            connection.execute("set memory_limit = '{}'".format(configured.replace("'", "''")))
        except duckdb.Error as error:
            raise ConfigurationError(
                f"destination.duckdb.memory_limit is {configured!r}: it takes a number and a unit, "
                "like 512MB or 2GB."
            ) from error
    return configured


def configured_lock_wait() -> float:
    """The seconds to wait for another process that has the file open.

    Raises:
        ConfigurationError: What is configured is no number of seconds.
    """
    configured: object = dlt.config.get("destination.duckdb.lock_wait_seconds")
    if configured is None:
        return DuckDB.lock_wait_seconds
    try:
        seconds = float(str(configured))
    except ValueError:
        seconds = -1
    # Python cannot sleep for longer than a century, and `nan` is no duration.
    if not 0 <= seconds <= 3_000_000_000:
        raise ConfigurationError(
            f"destination.duckdb.lock_wait_seconds is {configured!r}: it takes a number of "
            "seconds, 0 or more."
        )
    return seconds


def _place_problem(path: str) -> str | None:
    """Why what is configured is no path; None when it is one."""
    if not path.strip():
        return "it is empty."
    if path.startswith(":"):
        return "DuckDB needs a file: what is in memory is gone after the sync."
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", path)
    if scheme is None:
        return None
    if scheme[1].lower() in ("md", "motherduck"):
        return "MotherDuck is not supported, only a DuckDB file on this machine."
    # What follows may hold a password.
    return f"what begins with {scheme[0]!r} is no file on this machine."


def _name_problem(path: Path, schemas: Schemas) -> str | None:
    """Why a DuckDB file cannot have this name; None when it can.

    DuckDB calls the database by what stands before the first dot, and tells it from a schema by
    its name alone, in any case. dbt writes that name into its SQL as it is.
    """
    database = path.name.split(".")[0].lower()
    ours = (schemas.dataset_name, schemas.staging, schemas.mart_schema)
    if database in (*ours, *_DUCKDB_SCHEMAS):
        return f"DuckDB would take the schema {database} for it."
    signs = _UNFIT_IN_PATHS & set(str(path)) or _UNFIT_IN_NAMES & set(path.name)
    signs = signs or {sign for sign in path.name if not sign.isprintable()}
    if signs:
        return f"DuckDB or dbt misreads the character {min(signs)!r} in it."
    if database != database.strip():
        return "dbt would leave out the space at its beginning or end."
    return None


def _file_problem(path: Path) -> str | None:
    """Why what is at the path is no DuckDB file; None when it is, or nothing is there."""
    if path.is_dir():
        return f"{path} is a directory."
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            beginning = file.read(12)
    except PermissionError:
        return f"this user may not read {path}."
    # https://duckdb.org/docs/stable/internals/storage
    return f"{path} is no DuckDB database." if beginning and beginning[8:] != b"DUCK" else None


class _DuckDBEvents(EventsJob, DuckDbCopyJob):
    def append(self, files: Sequence[Path], not_new: pa.Array) -> None:
        client = self._job_client.sql_client
        connection = client.native_connection
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


class _DuckDBClient(EventsClient, DuckDbClient):
    def events_job(self, file_path: str, load_id: str) -> EventsJob:
        return _DuckDBEvents(file_path, load_id, self.new_events)

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
