"""How dlt loads events: of what a load package brings, what is new.

dlt's own merge would copy each event into a staging table, and from there into `events`. Here the
package's Parquet files are compared with the table by their keys, once all of them are there, and
only what is new is written, once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from dlt.common.destination import (
    Destination,
    DestinationCapabilitiesContext,
    PreparedTableSchema,
)
from dlt.common.destination.client import (
    FollowupJobRequest,
    HasFollowupJobs,
    LoadJob,
    RunnableLoadJob,
)
from dlt.common.schema import Schema
from dlt.common.storages.load_package import LoadJobInfo
from dlt.destinations.job_impl import ReferenceFollowupJobRequest

from mixpanel_pipeline.events.decoding import EVENTS_TABLE
from mixpanel_pipeline.source.delivered import in_order

# Decoding keeps no more threads busy, and each of DuckDB's wants memory of its own.
LOAD_THREADS = 2


class NewEvents(Protocol):
    """Tells which events are new."""

    def begin(self, load_id: str) -> None:
        """Record that a load writes events from now on: they count once it is completed."""

    def not_new(self, delivered: Sequence[Path]) -> pa.Array:
        """The positions of the events that are copies or loaded already, in ascending order."""

    def keep_rekeyed(self, delivered: Sequence[Path], load_id: str) -> None:
        """Keep which ids Mixpanel exported under others."""


class EventsDestination(Destination[Any, Any]):
    """A destination of events.

    Attributes:
        new_events: Tells which of a package's events are to be written.
    """

    new_events: NewEvents

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        """What loads into it, told which events are new."""
        client = super().client(schema, initial_config)
        client.new_events = self.new_events
        return client

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        capabilities = super()._raw_capabilities()  # type: ignore[safe-super]
        # A list of files, which `EventsJob` loads.
        formats = capabilities.supported_loader_file_formats or ()
        capabilities.supported_loader_file_formats = [*formats, "reference"]
        return capabilities


class _WaitingJob(RunnableLoadJob, HasFollowupJobs):
    """A file of events, which waits for the others.

    Of a job that is completed without having run, dlt would learn a second later.
    """

    def run(self) -> None:
        """Leave it to `EventsJob`."""


class EventsJob(RunnableLoadJob):
    """Writes the new events of all of a package's files.

    Args:
        file_path: A list of the files.
        load_id: The load's id.
        new_events: Tells which of the events to write.
    """

    def __init__(self, file_path: str, load_id: str, new_events: NewEvents) -> None:
        super().__init__(file_path)
        self._load_id = load_id
        self._new_events = new_events

    def run(self) -> None:
        """Write what is new, with the id of this load."""
        paths = ReferenceFollowupJobRequest.resolve_references(self._file_path)
        files = in_order(map(Path, paths))
        not_new = self._new_events.not_new(files)
        self._new_events.begin(self._load_id)
        self._new_events.keep_rekeyed(files, self._load_id)
        # Arrow keeps what was freed, and now the database needs memory.
        pa.default_memory_pool().release_unused()
        self.append(files, not_new)

    def append(self, files: Sequence[Path], not_new: pa.Array) -> None:
        """Write the events in the files, but those at some positions."""
        raise NotImplementedError


class EventsClient:
    """A mixin for dlt's clients of databases that take Parquet."""

    new_events: NewEvents

    def events_job(self, file_path: str, load_id: str) -> EventsJob:
        """The job for the list of all files of events."""
        raise NotImplementedError

    def should_load_data_to_staging_dataset(self, table_name: str) -> bool:
        """Whether dlt's merge is used."""
        if table_name == EVENTS_TABLE:
            return False
        used: bool = super().should_load_data_to_staging_dataset(table_name)  # type: ignore[misc]
        return used

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        """The job for one of a package's files."""
        if table["name"] == EVENTS_TABLE:
            if ReferenceFollowupJobRequest.is_reference_job(file_path):
                return self.events_job(file_path, load_id)
            return _WaitingJob(file_path)
        job: LoadJob = super().create_load_job(table, file_path, load_id, restore)  # type: ignore[misc]
        return job

    def create_table_chain_completed_followup_jobs(
        self,
        table_chain: Sequence[PreparedTableSchema],
        completed_table_chain_jobs: Sequence[LoadJobInfo] | None = None,
    ) -> list[FollowupJobRequest]:
        """What is to be done when all files of a table are there."""
        if table_chain[0]["name"] == EVENTS_TABLE:
            files = [job.file_path for job in completed_table_chain_jobs or ()]
            # Once they are loaded, the list of them is one of the completed jobs.
            is_loaded = any(map(ReferenceFollowupJobRequest.is_reference_job, files))
            if is_loaded or not files:
                return []
            return [ReferenceFollowupJobRequest(Path(files[0]).name, files)]
        requests: list[FollowupJobRequest] = super().create_table_chain_completed_followup_jobs(  # type: ignore[misc]
            table_chain, completed_table_chain_jobs
        )
        return requests
