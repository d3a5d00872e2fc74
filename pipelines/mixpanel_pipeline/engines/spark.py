"""Spark with Apache Iceberg: a cluster that a company operates, for what no one machine holds.

Events are rows of an Iceberg table, written here without Spark, and the models are built by Spark.
Iceberg's catalog is a PostgreSQL database. What has to change together with the record of loads
stands there: it has transactions, which Iceberg's tables have not among them. So the lock, the
watermark and the record of runs are those of the engine for PostgreSQL; events count once the row
of their load is in that database.
"""

import hashlib
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
from dlt.common.schema.typing import TSchemaTables, TTableSchemaColumns

from mixpanel_pipeline.engines.destination import EventsJob, NewEvents
from mixpanel_pipeline.engines.positions import row_groups, rows_without, view_delivered
from mixpanel_pipeline.engines.postgres import Postgres, PostgresDestination, _PostgresClient
from mixpanel_pipeline.engines.postgres_connection import configured_credentials
from mixpanel_pipeline.engines.schemas import Schemas
from mixpanel_pipeline.engines.warehouse import KEYS_MEMORY, DestinationName, around
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.events.decoding import EVENTS, EVENTS_TABLE
from mixpanel_pipeline.exact_configuration import configured_value
from mixpanel_pipeline.source.errors import ConfigurationError

_SECTION = ("destination", "spark")
_LOAD_ID = pa.field("_dlt_load_id", pa.string(), nullable=False)
_STORED = pa.schema([*EVENTS, _LOAD_ID])
# In the summary of the snapshot that a load made.
_OF_LOAD = "mixpanel.load-id"
# Of Arrow, in memory: a tenth of it compressed, and files of less are slow to plan and to open.
_FILE_BYTES = 256_000_000
_ANSWERS_WITHIN = 10
# The catalog by which Spark reads the catalog's own database; macros name it so too.
_RECORD = "record"
# What PyHive begins each of its connections with.
_DEFAULT_NAMESPACE = "default"
_PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.delete.isolation-level": "serializable",
    "write.update.isolation-level": "serializable",
    "write.merge.isolation-level": "serializable",
    # Each commit writes a new file of metadata, of which nobody reads the older ones.
    "write.metadata.delete-after-commit.enabled": "true",
}
_NOT_INSTALLED = (
    "The packages of the destination spark are not installed: "
    "pip install 'dbt-spark[PyHive]' 'pyiceberg[pyiceberg-core,sql-postgres]'"
)


@dataclass
class Spark(Postgres):
    """`credentials` are those of the catalog's database.

    Attributes:
        warehouse: The URL of the folder or bucket that the tables lie in.
        catalog: What Iceberg's catalog is called, in Spark too.
        host: Where Spark's Thrift server listens.
        port: On which port.
        username: As whom dbt connects.
    """

    warehouse: str = ""
    catalog: str = "lake"
    host: str = "localhost"
    port: int = 10000
    username: str = "mixpanel"

    name: ClassVar[DestinationName] = "spark"
    is_transactional: ClassVar[bool] = False

    @property
    def location(self) -> str:
        return f"{self.warehouse}, catalog {super().location}"

    @property
    def destination(self) -> "SparkDestination":
        destination = SparkDestination(self.credentials)
        destination.warehouse = self
        return destination

    @property
    def environment(self) -> dict[str, str]:
        return self._thrift | super().environment

    def environment_in(self, folder: Path) -> dict[str, str]:
        # Only there: it is of now.
        seen = {"DESTINATION__SPARK__RECORD": self._columns_of_record()}
        return self._thrift | seen | super().environment_in(folder)

    def _columns_of_record(self) -> str:
        """Tells whether views of the record are still of its columns."""
        told = self.rows(
            "select table_name, column_name, data_type from information_schema.columns "
            "where table_schema = %s order by table_name, column_name",
            [self.raw],
        )
        return hashlib.md5(repr(told).encode(), usedforsecurity=False).hexdigest()

    @property
    def _thrift(self) -> dict[str, str]:
        return {
            "DESTINATION__SPARK__CATALOG": self.catalog,
            "DESTINATION__SPARK__HOST": self.host,
            "DESTINATION__SPARK__PORT": str(self.port),
            "DESTINATION__SPARK__USERNAME": self.username,
        }

    @cached_property
    def iceberg(self) -> Any:
        """Iceberg's catalog.

        Raises:
            ConfigurationError: Its package is not installed.
        """
        try:
            from pyiceberg.catalog.sql import SqlCatalog
            from sqlalchemy import URL
        except ImportError as error:
            raise ConfigurationError(_NOT_INSTALLED) from error
        parameters = self.credentials.parameters()
        url = URL.create(
            "postgresql+psycopg2",
            username=parameters.pop("user", None),
            password=parameters.pop("password", None),
            host=parameters.pop("host", None),
            port=int(parameters.pop("port", 5432)),
            database=parameters.pop("dbname", None),
            query=parameters,
        )
        return SqlCatalog(
            self.catalog,
            uri=url.render_as_string(hide_password=False),
            warehouse=self.warehouse,
            # Its connections may be of before the server was restarted.
            pool_pre_ping="true",
        )

    @property
    def record(self) -> Postgres:
        """The catalog's database, as what it is."""
        return Postgres(self.credentials, self.schemas)

    def check(self, *, loads: bool = True, builds: bool = True) -> None:
        super().check(loads=loads, builds=False)
        if builds:
            # A session asks for a namespace, which is there once something was loaded.
            try:
                socket.create_connection((self.host, self.port), timeout=_ANSWERS_WITHIN).close()
            except OSError as error:
                raise self._does_not_answer(error) from error

    def check_rights_to_transform(self) -> None:
        try:
            from pyhive import hive
            from pyhive.exc import Error
            from thrift.transport.TTransport import TTransportException
        except ImportError as error:
            raise ConfigurationError(_NOT_INSTALLED) from error
        try:
            connection = hive.connect(host=self.host, port=self.port, username=self.username)
            with closing(connection), closing(connection.cursor()) as cursor:
                for catalog in (self.catalog, _RECORD):
                    cursor.execute(f"show namespaces in {catalog}")
        except TTransportException as error:
            raise self._does_not_answer(error) from error
        except Error as error:
            raise ConfigurationError(
                f"{self._thrift_server} lacks one of the catalogs {self.catalog} and {_RECORD}, or "
                f"cannot read them: {_said(error)} Its spark-defaults.conf has to configure them."
            ) from error

    @property
    def _thrift_server(self) -> str:
        return f"Spark's Thrift server at {self.host}:{self.port}"

    def _does_not_answer(self, error: Exception) -> SyncError:
        return SyncError(
            f"{self._thrift_server} does not answer: {error}. Nothing was loaded; start it, or "
            f"check {'.'.join(_SECTION)}.host and port, and run again."
        )

    @contextmanager
    def lock(self, *, loads: bool = True) -> Iterator[None]:
        with super().lock(loads=loads):
            with _failures_told():
                for name in (_DEFAULT_NAMESPACE, self.raw, self.marts):
                    self.iceberg.create_namespace_if_not_exists(name)
            yield

    @contextmanager
    def dbt_connections(self) -> Iterator[None]:
        from dbt.adapters.contracts.connection import ConnectionState
        from dbt.adapters.exceptions.connection import FailedToConnectError
        from dbt.adapters.spark.connections import SparkConnectionManager
        from dbt.adapters.spark.impl import SparkAdapter

        idle: list[Any] = []
        failed: list[Any] = []

        class SharedSessions(SparkConnectionManager):  # type: ignore[misc]
            """Each has catalogs of its own, whose connections outlive it until Java tidies up.

            One for each node, as dbt would have, are more than the catalog's database takes.
            """

            @classmethod
            def open(cls, connection: Any) -> Any:
                if connection.state == ConnectionState.OPEN or not idle:
                    try:
                        return super().open(connection)
                    except FailedToConnectError as error:
                        said = _said(error.__cause__ or error)
                        raise FailedToConnectError(f"failed to connect: {said}") from None
                connection.handle, connection.state = idle.pop(), ConnectionState.OPEN
                return connection

            @contextmanager
            def exception_handler(self, sql: str) -> Iterator[None]:
                try:
                    with super().exception_handler(sql):
                        yield
                except BaseException:
                    # Whatever was wrong may be so with all that is asked of this session later.
                    if (handle := self._open_handle()) is not None:
                        failed.append(handle)
                    raise

            def release(self) -> None:
                handle = self._open_handle()
                if handle is None or handle in failed:
                    super().release()
                    return
                idle.append(handle)
                connection = self.get_if_exists()
                connection.handle, connection.state = None, ConnectionState.CLOSED

            def _open_handle(self) -> Any:
                connection = self.get_if_exists()
                is_open = connection is not None and connection.state == ConnectionState.OPEN
                # Asked for it, one that is not open opens.
                return connection.handle if is_open else None

        SparkAdapter.ConnectionManager = SharedSessions
        try:
            yield
        finally:
            SparkAdapter.ConnectionManager = SparkConnectionManager
            for handle in idle:
                handle.close()

    @property
    def begin_snapshot(self) -> Sequence[str]:
        raise SyncError(
            f"The models of the destination {self.name} cannot be read as of one instant, so there "
            "is no report of them. Nothing was changed."
        )

    def events_table(self) -> Any:
        """The Iceberg table of events as it is now; None when there is none."""
        from pyiceberg.exceptions import NoSuchTableError

        try:
            return self.iceberg.load_table((self.raw, EVENTS_TABLE))
        except NoSuchTableError:
            return None

    def create_events_table(self) -> Any:
        """The table of events, by days, which is created when it is not there."""
        from pyiceberg.transforms import DayTransform

        found = self.events_table()
        if found is not None:
            return found
        with (
            self.iceberg.create_table_transaction(
                (self.raw, EVENTS_TABLE), schema=_STORED, properties=_PROPERTIES
            ) as transaction,
            transaction.update_spec() as spec,
        ):
            spec.add_field("occurred_at", DayTransform(), "occurred_day")
        return self.events_table()

    def columns(self, schema: str, table: str) -> set[str]:
        if (schema, table) == (self.raw, EVENTS_TABLE):
            events = self.events_table()
            return set() if events is None else {column.name for column in events.schema().columns}
        return super().columns(schema, table)

    def tune(self) -> None:
        self.execute(
            f"create index if not exists rekeyed_ids_before on {self.raw}.rekeyed_ids "
            "using hash (distinct_id_before_identity);"
            f"create index if not exists profiles_change_id on {self.raw}.profiles (change_id)"
        )

    def append(self, load_id: str, files: Sequence[Path], not_new: pa.Array) -> None:
        """Write the events of a load in one commit, once, however often it is asked for.

        Args:
            load_id: The load.
            files: Parquet files of events.
            not_new: The positions of those not to be written.
        """
        table = self.create_events_table()
        if any((one.summary or {}).get(_OF_LOAD) == load_id for one in table.snapshots()):
            return
        with table.transaction() as transaction:
            for rows in _in_files(rows_without(row_groups(files), not_new)):
                load_ids = pa.repeat(pa.scalar(load_id), rows.num_rows)
                transaction.append(
                    rows.append_column(_LOAD_ID, load_ids).select(_STORED.names).cast(_STORED),
                    snapshot_properties={_OF_LOAD: load_id},
                )

    def discard(self, load_ids: Sequence[str]) -> None:
        from pyiceberg.expressions import In

        self.check_held()
        table, of_loads = self.events_table(), In("_dlt_load_id", set(load_ids))
        # All rows of a file are of one load: whole files go, and none is read.
        with _failures_told():
            if any(table.scan(of_loads).plan_files()):
                table.delete(of_loads)

    def check_held(self) -> None:
        """Make sure that the lock is held.

        Raises:
            SyncError: It was lost.
        """
        with self.transaction_held():
            pass

    def loaded(self, delivered: Sequence[Path], earliest: datetime, latest: datetime) -> pa.Array:
        since, until = around(earliest, latest)
        scan = self._scan(["event_key", "_dlt_load_id"], since=since, until=until)
        with _in_memory() as connection:
            view_delivered(connection, delivered)
            # Who lost the lock may still write rows of a load that cannot complete.
            connection.register("completed", self._completed())
            connection.register("stored", scan)
            return (
                connection.sql(
                    "select position from delivered where event_key in (select event_key "
                    "from stored where _dlt_load_id in (select load_id from completed))"
                )
                .to_arrow_table()
                .column(0)
                .combine_chunks()
            )

    def rows_of_events(
        self,
        query: str,
        parameters: Sequence[Any] = (),
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        load_ids: Sequence[str] | None = None,
    ) -> list[tuple[Any, ...]]:
        # What is asked as a sync runs is about a part of the events; DuckDB reads that from
        # Iceberg in less time than a cluster takes to begin, and the cluster need not be there.
        if self.events_table() is None:
            raise SyncError(f"There is no table {self.raw}.{EVENTS_TABLE} in {self.location}.")
        columns = [name for name in _STORED.names if re.search(rf"\b{name}\b", query)]
        scan = self._scan(columns or ["event_key"], since=since, until=until, load_ids=load_ids)
        with _in_memory() as connection:
            connection.execute(f"create schema {self.raw}")
            connection.register("completed", self._completed())
            connection.register("stored", scan)
            connection.execute(
                f"create view {self.raw}._dlt_loads as "
                "select load_id, 'mixpanel' as schema_name, 0 as status from completed"
            )
            query = query.replace(f"{self.raw}.{EVENTS_TABLE}", "stored").replace("%s", "?")
            return list(connection.execute(query, list(parameters)).fetchall())

    def property_text(self, name: str) -> str:
        return f"json_extract_string(properties, '/{name}')"

    def _completed(self) -> pa.Table:
        found = self.rows(self.completed_loads) if self.has_table(self.raw, "_dlt_loads") else []
        return pa.table({"load_id": pa.array([one for (one,) in found], pa.string())})

    def _scan(
        self,
        columns: Sequence[str],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        load_ids: Sequence[str] | None = None,
    ) -> pa.RecordBatchReader:
        """Columns of events, a batch at a time, of the files that may have what is asked for."""
        from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, In, LessThanOrEqual

        condition: Any = AlwaysTrue()
        if since is not None:
            condition = And(condition, GreaterThanOrEqual("occurred_at", since.isoformat()))
        if until is not None:
            condition = And(condition, LessThanOrEqual("occurred_at", until.isoformat()))
        if load_ids is not None:
            condition = And(condition, In("_dlt_load_id", set(load_ids)))
        events = self.events_table()
        return events.scan(condition, selected_fields=tuple(columns)).to_arrow_batch_reader()

    def has_models(self) -> bool:
        return any(self._kept_in(self.marts))

    @property
    def beside_models(self) -> str:
        return self.raw

    def has_all_models(self) -> bool:
        return "subscribers" in self._kept_in(self.marts)

    def models_left(self) -> tuple[object, object]:
        # The catalog names a file for all that a table or view is, another one after each change.
        models = self._kept_in(self.marts)
        views = {name: file for name, (kind, file) in models.items() if kind == "VIEW"}
        loaded = self.rows(
            f"select (select count(*) from ({self.completed_loads}) as completed), "
            f"(select max(load_id) from ({self.completed_loads}) as completed), "
            f"(select count(*) from {self.raw}.rekeyed_ids), "
            f"(select max(change_id) from {self.raw}.profiles)"
        )
        events = self._kept_in(self.raw).get(EVENTS_TABLE)
        tables = {name: kept for name, kept in models.items() if name not in views}
        return [loaded, events, tables], views

    def has_loads_to_count(self) -> bool:
        # What is loaded is part of what `models_left` tells.
        return False

    def _kept_in(self, schema: str) -> dict[str, tuple[str, str]]:
        """Of each table and view, by name, which of the two it is, and the file that says all."""
        if self.value("select to_regclass('iceberg_tables')") is None:
            return {}
        found = self.rows(
            "select table_name, coalesce(iceberg_type, 'TABLE'), metadata_location "
            "from iceberg_tables where catalog_name = %s and table_namespace = %s "
            "order by table_name",
            [self.catalog, schema],
        )
        return {name: (kind, file) for name, kind, file in found}

    def model_rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.session() as cursor:
            cursor.execute(query, list(parameters) or None)
            return [tuple(row) for row in cursor.fetchall()]

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A cursor of Spark itself, rather than of the catalog's database."""
        from pyhive import hive

        connection = hive.connect(
            host=self.host,
            port=self.port,
            username=self.username,
            configuration={"spark.sql.session.timeZone": "UTC"},
        )
        with closing(connection), closing(connection.cursor()) as cursor:
            yield cursor

    def subscriber_count(self) -> int | None:
        from pyiceberg.exceptions import NoSuchTableError
        from pyiceberg.expressions import IsNull

        try:
            # Beside its rows it has those of its ledger.
            stored = self.iceberg.load_table((self.marts, "subscribers__stored"))
        except NoSuchTableError:
            return None
        return int(stored.scan(IsNull("_counted_load")).count())


def configured_spark(schemas: Schemas) -> Spark:
    """What is configured, in `destination.spark` and `destination.postgres.credentials`.

    Raises:
        ConfigurationError: A setting is missing or cannot be what it is; the message names it.
    """
    given = {
        name: str(value)
        for name in ("warehouse", "catalog", "host", "port", "username")
        if (value := configured_value(name, str, _SECTION)) not in (None, "")
    }
    where = ".".join(_SECTION)
    if "warehouse" not in given:
        raise ConfigurationError(
            f"{where}.warehouse is not set: the URL of the folder or bucket that the tables lie "
            "in, like file:///data/lake or s3://bucket/lake."
        )
    if not re.match(r"[a-z][a-z0-9]*://", given["warehouse"]):
        raise ConfigurationError(
            f"{where}.warehouse is {given['warehouse']!r}: it takes a URL, like "
            "file:///data/lake or s3://bucket/lake."
        )
    if not given.get("port", "10000").isdecimal():
        raise ConfigurationError(f"{where}.port is {given['port']!r}: it takes a number.")
    port = int(given.pop("port", Spark.port))
    return Spark(configured_credentials(), schemas, port=port, **given)


def _said(error: BaseException) -> str:
    """What a failure of Spark's server says, without the places in its code."""
    status = getattr(error.args[0], "status", None) if error.args else None
    return str(getattr(status, "errorMessage", error)).partition("\n")[0]


@contextmanager
def _failures_told() -> Iterator[None]:
    """What Iceberg's library and its catalog's raise is a failure that can be expected."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("pyiceberg", "sqlalchemy"):
            raise
        said = " ".join(str(error).split())
        raise SyncError(f"Iceberg failed: {said} Nothing was loaded; run again.") from error


@contextmanager
def _in_memory() -> Iterator[Any]:
    """A DuckDB of no file, which spills to disk beyond what keys may take."""
    with (
        TemporaryDirectory(prefix="mixpanel-keys-") as spill,
        closing(
            duckdb.connect(config={"memory_limit": KEYS_MEMORY, "temp_directory": spill})
        ) as connection,
    ):
        connection.execute("set enable_progress_bar = false")
        connection.execute("set TimeZone = 'UTC'")
        yield connection


def _in_files(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, as many at once as a file should have."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.nbytes for one in held) >= _FILE_BYTES:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


class _IcebergEvents(EventsJob):
    def __init__(
        self, file_path: str, load_id: str, new_events: NewEvents, warehouse: Spark
    ) -> None:
        super().__init__(file_path, load_id, new_events)
        self._warehouse = warehouse

    def append(self, files: Sequence[Path], not_new: pa.Array) -> None:
        self._warehouse.check_held()
        self._warehouse.append(self._load_id, files, not_new)


class _SparkClient(_PostgresClient):
    """All but the events goes into the catalog's database."""

    warehouse: Spark

    def events_job(self, file_path: str, load_id: str) -> EventsJob:
        return _IcebergEvents(file_path, load_id, self.new_events, self.warehouse)

    def _build_schema_update_sql(self, storage_tables: Any) -> tuple[list[str], TSchemaTables]:
        kept: list[tuple[str, TTableSchemaColumns]] = []
        for name, columns in storage_tables:
            if name == EVENTS_TABLE:
                self.warehouse.create_events_table()
            else:
                kept.append((name, columns))
        return super()._build_schema_update_sql(kept)


class SparkDestination(PostgresDestination):
    """`PostgresDestination` in all but events.

    Attributes:
        warehouse: Its lock is held while something is loaded.
    """

    warehouse: Spark

    @property
    def client_class(self) -> type[_PostgresClient]:
        """What loads into it."""
        return _SparkClient
