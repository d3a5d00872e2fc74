"""A folder or bucket of Parquet, Delta or Iceberg: raw events without a database.

dlt's own destination writes it. No transaction holds its files together, so what is loaded is what
lies there: events are known by the keys in the files, whatever became of the load that wrote them.
"""

import fcntl
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.exceptions import MissingDependencyException
from dlt.common.schema import Schema
from dlt.common.schema.utils import new_table
from dlt.destinations import filesystem
from dlt.destinations.impl.filesystem.configuration import (
    FilesystemDestinationClientConfiguration,
)

from mixpanel_pipeline import project
from mixpanel_pipeline.engines.schemas import Schemas
from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError
from mixpanel_pipeline.events.decoding import EVENTS, EVENTS_TABLE, REJECTED_LINES_TABLE
from mixpanel_pipeline.exact_configuration import configured_value
from mixpanel_pipeline.redaction import hide, redacted
from mixpanel_pipeline.source.errors import ConfigurationError

NAME = "filesystem"
SCHEMA = "mixpanel"
_SECTION = ("destination", NAME)
_WHERE = ".".join(_SECTION)
# The time of the load, by which files are told that can hold what happened in some days.
_LAYOUT = "{table_name}/{load_id}.{file_id}.{ext}"
_LOADED_AT = re.compile(r"\d+\.\d+")
# An export has no events of days that have not begun, in whatever time zone.
_AHEAD = timedelta(days=2)
# The files' names and what is in them are ours.
_FIXED = ("layout", "extra_placeholders", "current_datetime", "read_only")
_GIVEN = (
    "kwargs",
    "client_kwargs",
    "config_kwargs",
    "max_state_files",
    "deltalake_storage_options",
    "deltalake_configuration",
    "iceberg_table_properties",
    "iceberg_namespace_properties",
)
_PACKAGES = {"parquet": (), "delta": ("deltalake",), "iceberg": ("pyiceberg", "sqlalchemy")}
_SECRET = re.compile(r"secret|key|token|password|connection_string")


@dataclass(frozen=True)
class Files:
    """Where events lie.

    Attributes:
        destination: dlt's destination.
        dataset_name: The folder of the tables.
        table_format: `parquet`, `delta` or `iceberg`.
        location: Where the folder is, without secrets.
        folder: The folder, if it is one of this machine.
    """

    destination: Any
    dataset_name: str
    table_format: str
    location: str
    folder: Path | None

    @property
    def fingerprint(self) -> str:
        """Tells it from others, in names of files."""
        return f"{zlib.crc32(self.location.encode()):08x}"

    @contextmanager
    def lock(self, otherwise: Path) -> Iterator[None]:
        """Hold it alone: a folder for all of its machine, a bucket for one state folder.

        Args:
            otherwise: A directory to lock for a bucket.

        Raises:
            AnotherSyncIsRunning: It is held.
        """
        if self.folder is None:
            descriptor = os.open(otherwise, os.O_RDONLY)
        else:
            # Beside the folder, which dlt creates itself.
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            beside = self.folder.with_name(f".{self.folder.name}.lock")
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AnotherSyncIsRunning(f"it holds {self.location}") from error
            yield
        finally:
            os.close(descriptor)

    def remove_unfinished(self) -> None:
        """Remove from a folder what loads left that did not complete: it may be cut off.

        Only there files are copied, and the lock is sure; to a bucket they are sent as a whole.
        """
        if self.folder is None or not self.folder.exists():
            return
        with self._opened() as client:
            schema = client.schema
            completed = {
                Path(path).stem.rpartition("__")[2]
                for path in _listed(client, schema.loads_table_name)
            }
            # Their watermarks first: events of which one is there are not asked for again.
            for path in _listed(client, schema.state_table_name):
                if Path(path).stem.split("__")[1] not in completed:
                    client.fs_client.rm(path)
            for path in _listed(client, schema.version_table_name):
                if not _is_json(Path(path)):
                    client.fs_client.rm(path)
            for table in (EVENTS_TABLE, REJECTED_LINES_TABLE):
                if self.table_format == "parquet":
                    for path in _listed(client, table):
                        if _load_id(path) not in completed:
                            client.fs_client.rm(path)
                elif self.table_format == "iceberg":
                    # The newest one is the table. Delta writes what it commits as a whole.
                    for metadata in sorted(self.folder.glob(f"{table}/metadata/*.json"))[-1:]:
                        if not _is_json(metadata):
                            metadata.unlink()

    @contextmanager
    def stored(
        self,
        table: str,
        columns: Sequence[str],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[pa.RecordBatchReader | None]:
        """What a table has, a batch at a time, or None when it is not there.

        Args:
            table: The table.
            columns: Those to read.
            since: Read only what happened since then.
            until: Read only what happened until then.

        Raises:
            SyncError: It cannot be read.
        """
        with self._opened() as client:
            yield self._reader(client, table, columns, since, until)

    def _reader(
        self,
        client: Any,
        table: str,
        columns: Sequence[str],
        since: datetime | None,
        until: datetime | None,
    ) -> pa.RecordBatchReader | None:
        if self.table_format == "iceberg":
            try:
                return _iceberg(client, table, columns, since, until)
            except DestinationUndefinedEntity:
                return None
        if self.table_format == "delta":
            try:
                data = client.load_open_table("delta", table).to_pyarrow_dataset()
            except DestinationUndefinedEntity:
                return None
        else:
            paths = [path for path in _listed(client, table) if _may_have(path, since)]
            if not paths:
                return None
            schema = EVENTS if table == EVENTS_TABLE else None
            data = ds.dataset(paths, schema, format="parquet", filesystem=client.fs_client)
        condition = None
        if since is not None and until is not None:
            occurred = pc.field("occurred_at")
            condition = (occurred >= pa.scalar(since)) & (occurred <= pa.scalar(until))
        return data.scanner(columns=list(columns), filter=condition).to_reader()

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        schema = Schema(SCHEMA)
        for name in (EVENTS_TABLE, REJECTED_LINES_TABLE):
            table_format: Any = None if self.table_format == "parquet" else self.table_format
            schema.update_table(new_table(name, table_format=table_format))
        config = self.destination.spec()._bind_dataset_name(self.dataset_name)
        try:
            with self.destination.client(schema, config) as client:
                yield client
        # Each store and each format has exceptions of its own.
        except Exception as error:
            if isinstance(error, SyncError):
                raise
            said = " ".join(str(error).split())
            raise SyncError(
                f"What is loaded in {self.location} cannot be read: {type(error).__name__}: {said} "
                "Nothing was loaded; run again."
            ) from error


def configured_files(schemas: Schemas) -> Files:
    """What is configured in `destination.filesystem`.

    Raises:
        ConfigurationError: A setting is missing or cannot be what it is, or a package is not
            installed; the message names it.
    """
    for name in _FIXED:
        if configured_value(name, str, _SECTION) is not None:
            raise ConfigurationError(f"{_WHERE}.{name} cannot be set: a sync names its files.")
    table_format = str(configured_value("table_format", str, _SECTION) or "parquet")
    if table_format not in _PACKAGES:
        formats = ", ".join(_PACKAGES)
        raise ConfigurationError(
            f"{_WHERE}.table_format is {table_format!r}, it can be one of {formats}"
        )
    _check_installed(table_format)
    url = str(configured_value("bucket_url", str, _SECTION) or "")
    if not url:
        raise ConfigurationError(
            f"{_WHERE}.bucket_url is not set: the folder or bucket to load into, like /data/lake "
            "or s3://bucket/lake."
        )
    if url.startswith("hf:"):
        raise ConfigurationError(f"{_WHERE}.bucket_url: datasets of Hugging Face are not supported")
    if "://" not in url:
        url = (project.folder() / Path(url).expanduser()).resolve().as_uri()
    try:
        config: Any = filesystem(url, layout=_LAYOUT).configuration(
            FilesystemDestinationClientConfiguration()._bind_dataset_name(schemas.dataset_name)
        )
        for name, value in dict(config.credentials or {}).items():
            if isinstance(value, str) and _SECRET.search(name):
                hide(value)
        given = {name: value for name in _GIVEN if (value := getattr(config, name)) is not None}
        destination = filesystem(
            config.bucket_url, credentials=config.credentials, layout=_LAYOUT, **given
        )
    except (ConfigurationException, MissingDependencyException, ValueError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(redacted(f"{_WHERE} cannot be used: {said}")) from error
    folder = None
    if config.is_local_filesystem:
        folder = Path(config.make_local_path(config.bucket_url)) / schemas.dataset_name
        if table_format == "iceberg" and quote(str(folder)) != str(folder):
            raise ConfigurationError(
                f"{_WHERE}.bucket_url: Iceberg's library writes elsewhere when a folder has spaces "
                f"or other characters that a URL encodes, as {folder} has. Choose another folder."
            )
    location = redacted(f"{config.bucket_url.rstrip('/')}/{schemas.dataset_name}")
    return Files(destination, schemas.dataset_name, table_format, location, folder)


def _check_installed(table_format: str) -> None:
    try:
        for package in _PACKAGES[table_format]:
            __import__(package)
    except ImportError as error:
        raise ConfigurationError(
            f"The packages of {_WHERE}.table_format = {table_format!r} are not installed: "
            "pip install 'mixpanel-pipeline[filesystem]'"
        ) from error


def _listed(client: Any, table: str) -> list[str]:
    try:
        files: list[str] = client.list_table_files(table)
    except DestinationUndefinedEntity:
        return []
    return files


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _load_id(path: str) -> str | None:
    found = _LOADED_AT.match(PurePosixPath(path).name)
    return found[0] if found else None


def _may_have(path: str, since: datetime | None) -> bool:
    """Whether a file may have events that happened since then."""
    load_id = _load_id(path)
    if since is None or load_id is None:
        return True
    return datetime.fromtimestamp(float(load_id), UTC) + _AHEAD >= since


def _iceberg(
    client: Any,
    table: str,
    columns: Sequence[str],
    since: datetime | None,
    until: datetime | None,
) -> pa.RecordBatchReader:
    from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThanOrEqual

    condition: Any = AlwaysTrue()
    if since is not None and until is not None:
        condition = And(
            GreaterThanOrEqual("occurred_at", since.isoformat()),
            LessThanOrEqual("occurred_at", until.isoformat()),
        )
    found = client.load_open_table("iceberg", table)
    return found.scan(condition, selected_fields=tuple(columns)).to_arrow_batch_reader()
