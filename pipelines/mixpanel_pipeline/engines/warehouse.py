"""What a database can do for a sync; each engine says how."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from mixpanel_pipeline.engines.destination import EventsDestination
from mixpanel_pipeline.engines.schemas import Schemas
from mixpanel_pipeline.errors import what_to_do
from mixpanel_pipeline.source.errors import ConfigurationError

DestinationName = Literal["duckdb", "postgres", "spark"]

# Keys of a day of any size are compared within it; beyond it DuckDB spills to disk.
KEYS_MEMORY = "100MB"

# The names of a table's columns that may be read, by its schema and name.
COLUMNS = (
    "select column_name from information_schema.columns where table_schema = %s and table_name = %s"
)

# How far a corrected time zone of the project, 26 hours at most, moves events.
_AROUND = timedelta(days=2)
_LOADED = """
    select position
    from delivered
    where exists (
        select 1
        from {raw}.events as events
        where
            events.event_key = delivered.event_key
            and events.occurred_at >= timestamp with time zone '{since}'
            and events.occurred_at <= timestamp with time zone '{until}'
    )
"""

# The dataset that a view reads.
_LOADS = re.compile(r'(\w+)"?\."?_dlt_loads\b')


def around(earliest: datetime, latest: datetime) -> tuple[datetime, datetime]:
    """From when to when the same events as those delivered can have been loaded.

    A key stands for one time on Mixpanel's clock.
    """
    end = datetime.max.replace(tzinfo=UTC)
    return earliest - _AROUND, latest + min(_AROUND, end - latest)


class Warehouse(ABC):
    """A database that holds the raw dataset and the models."""

    name: ClassVar[DestinationName]
    holds_nul: bool
    """Whether text and JSON can hold NUL characters."""
    json_type: str
    """The type of a column of JSON."""
    placeholder: str
    """What stands for a parameter in the driver's SQL."""
    schemas: Schemas
    is_transactional: ClassVar[bool] = True
    """Whether one transaction can hold events, the record of loads and the models."""

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
        """The variables from which dbt reads the same connection and schemas."""

    def environment_in(self, folder: Path) -> dict[str, str]:
        """`environment`; what variables cannot say stands in a file in `folder`."""
        _ = folder
        return self.environment

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
    def lock(self, *, loads: bool = True) -> AbstractContextManager[None]:
        """Holds the raw dataset against other syncs; a holder that dies lets go of it.

        Args:
            loads: Whether it is held to load, or to change what is loaded; who only builds the
                models needs fewer rights.

        Raises:
            AnotherSyncIsRunning: Somebody else holds it.
            ConfigurationError: A sync cannot be right in this database or these schemas, or lacks
                rights there.
        """

    @abstractmethod
    def check(self, *, loads: bool = True, builds: bool = True) -> None:
        """Make sure that a sync can be right here and has its rights; nothing is written.

        Args:
            loads: Whether it loads.
            builds: Whether it builds the models.

        Raises:
            ConfigurationError: Not so; the message says what to do.
            SyncError: Nobody can say now.
        """

    @abstractmethod
    def holder(self) -> str | None:
        """Who holds the lock, as people are told; None when nobody does."""

    @abstractmethod
    def for_reading(self) -> "Warehouse | None":
        """The same for who only reads, and gets in nobody's way; None when there is nothing yet."""

    @property
    @abstractmethod
    def begin_snapshot(self) -> Sequence[str]:
        """The statements after which a new connection sees what it reads as of one instant."""

    @abstractmethod
    def estimated_rows(self, schema: str) -> dict[str, int]:
        """About how many rows the tables of a schema have, as the database knows anyway."""

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
    def dbt_connections(self) -> AbstractContextManager[None]:
        """Within, dbt's adapter may be used in this process; after it none of its connections is
        open.
        """

    @abstractmethod
    def tune(self) -> None:
        """Create the indexes that the merge and the models need, where there are none yet."""

    @abstractmethod
    def property_text(self, name: str) -> str:
        """The SQL expression for a property of an event as text; null when it has none."""

    @abstractmethod
    def query_delivered(self, delivered: Sequence[Path], query: str) -> pa.Array:
        """The first column of what `query` returns.

        Args:
            delivered: Parquet files of events.
            query: SQL that finds the files' rows in the table `delivered`, with the columns
                `position` (from 0 on, through all files) and `event_key`.
        """

    @abstractmethod
    def query_told(self, told: pa.Table, query: str) -> list[tuple[Any, ...]]:
        """What `query` returns; it finds rows of our own in the table `told`."""

    def loaded(self, delivered: Sequence[Path], earliest: datetime, latest: datetime) -> pa.Array:
        """The positions of the events that are loaded already.

        Args:
            delivered: Parquet files of events.
            earliest: When the first of them happened.
            latest: When the last did.
        """
        since, until = around(earliest, latest)
        return self.query_delivered(
            delivered,
            _LOADED.format(raw=self.raw, since=since.isoformat(), until=until.isoformat()),
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
        """`rows`, of a query that reads `events`.

        Args:
            query: The query, which reads `_dlt_loads` beside it at most.
            parameters: What stands for each %s in it.
            since: The query is about events from then on only.
            until: And about none after this.
            load_ids: And about those of these loads.
        """
        _ = since, until, load_ids
        return self.rows(query, parameters)

    def discard(self, load_ids: Sequence[str]) -> None:
        """Remove the events of loads that did not complete; the caller holds the lock.

        Raises:
            SyncError: The lock was lost; nothing was changed.
        """
        self.execute_held(
            [
                (f"delete from {self.raw}.events where _dlt_load_id = %s", [load_id])
                for load_id in load_ids
            ]
        )

    def subscriber_count(self) -> int | None:
        """How many rows `subscribers` has; None when it is not built."""
        if not self.has_table(self.marts, "subscribers"):
            return None
        number: int = self.value(f"select count(*) from {self.marts}.subscribers")
        return number

    def has_models(self) -> bool:
        """Whether there are models to find events in."""
        return self.has_table(self.marts, "stg_mixpanel__events")

    @property
    def beside_models(self) -> str:
        """The schema of what a sync keeps to know its last build by."""
        return self.marts

    def has_all_models(self) -> bool:
        """Whether a build came to its end, this one or another."""
        return all(
            self.has_table(self.marts, name)
            for name in ("counted_loads", "counted_profiles", "subscribers")
        )

    def models_left(self) -> tuple[object, object]:
        """What tells whether somebody touched the models: of their tables, and of their views.

        That is: who counted which loads and when, how many rows there are, and all relations.
        """
        counted = self.rows(
            f"select model, count(*), min(counted_at), max(counted_at), max(load_id), "
            f"min(definition_hash), max(definition_hash) "
            f"from {self.marts}.counted_loads group by model order by model"
        )
        views = dict(
            self.rows(
                "select table_name, view_definition from information_schema.views "
                "where table_schema = %s order by table_name",
                [self.marts],
            )
        )
        columns = self.rows(
            "select table_name, column_name, data_type from information_schema.columns "
            "where table_schema = %s order by table_name, column_name",
            [self.marts],
        )
        of_views = [column for column in columns if column[0] in views]
        of_tables = [column for column in columns if column[0] not in views]
        return [counted, self.subscriber_count(), of_tables], [list(views.items()), of_views]

    def has_loads_to_count(self) -> bool:
        """Whether what is loaded is not counted, or a counted load no longer there."""
        counted = f"{self.marts}.counted_loads"
        completed = self.completed_loads
        return bool(
            self.value(
                f"select exists (select 1 from {counted} where load_id not in ({completed}))"
                + "".join(
                    f" or exists (select 1 from {self.raw}.{table} where _dlt_load_id in "
                    f"({completed} and load_id not in (select load_id from {counted} "
                    "where model = 'subscribers')))"
                    for table in ("events", "rekeyed_ids")
                )
                + f" or exists (select 1 from {self.raw}.profiles where change_id > "
                f"(select coalesce(max(change_id), 0) from {self.marts}.counted_profiles))"
            )
        )

    def model_rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """`rows`, of a query that reads models; without parameters, a % is its own."""
        if parameters:
            return self.rows(query, parameters)
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def told(self, error: BaseException) -> str:
        """What a failure of the database says, in one line, and what to do about it."""
        text = " ".join(str(error).split())
        return f"{text if text.endswith(('.', '!')) else f'{text}.'} {what_to_do(error)}"

    @property
    def fingerprint(self) -> str:
        """A name for the raw dataset, wherever it is, that can be a file's name."""
        dataset = self.schemas.dataset_name
        # The default has the name that it had when there was no other.
        named = "" if dataset == Schemas.dataset_name else f" {dataset}"
        return hashlib.sha256(f"{self.location}{named}".encode()).hexdigest()[:16]

    @property
    def raw(self) -> str:
        """The raw dataset's schema."""
        return self.schemas.dataset_name

    @property
    def marts(self) -> str:
        """The models' schema."""
        return self.schemas.mart_schema

    @property
    def completed_loads(self) -> str:
        """The query for the loads that dlt finished: the rows of any other do not count.

        The models have the same in the macro `completed_loads`.
        """
        return (
            f"select load_id from {self.raw}._dlt_loads "
            "where schema_name = 'mixpanel' and status = 0"
        )

    def check_schemas(self) -> None:
        """Make sure that the schemas are not those of another dataset.

        Raises:
            ConfigurationError: One of them is.
        """
        found = self.rows(
            "select table_schema from information_schema.tables "
            "where (table_schema = %s and table_name = '_dlt_loads') "
            "or (table_schema = %s and table_name = 'counted_loads')",
            [self.marts, self.raw],
        )
        for (schema,) in found:
            key, holds = (
                ("mart_schema", "raw events")
                if schema == self.marts
                else ("dataset_name", "counts")
            )
            raise ConfigurationError(
                f"sources.mixpanel.{key} is {schema!r}, but in {self.location} that schema holds "
                f"{holds}. Nothing was changed; give it another name."
            )
        views = self.rows(
            "select view_definition from information_schema.views "
            "where table_schema = %s and table_name = 'stg_mixpanel__events'",
            [self.marts],
        )
        # Its own owner alone sees a view's definition.
        read = {name for (view,) in views for name in _LOADS.findall(view or "")}
        if read and self.raw not in read:
            raise ConfigurationError(
                f"sources.mixpanel.mart_schema is {self.marts!r}, but in {self.location} that "
                f"schema counts the events of {', '.join(sorted(read))}, and dataset_name is "
                f"{self.raw!r}. Nothing was changed; set another mart_schema, or drop that one if "
                "its counts are no longer wanted."
            )

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
        return {name for (name,) in self.rows(COLUMNS, [schema, table])}

    def has_table(self, schema: str, table: str) -> bool:
        return bool(self.columns(schema, table))


def utc_now() -> str:
    """The current instant, for people."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
