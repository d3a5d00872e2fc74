"""What dlt loads into: of delivered events, what is new."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from dlt.common.destination import Destination
from dlt.common.destination.client import RunnableLoadJob
from dlt.common.schema import Schema

# Decoding keeps no more threads busy, and each of DuckDB's wants memory of its own.
LOAD_THREADS = 2


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


class EventsJob(RunnableLoadJob):
    def __init__(self, file_path: str, load_id: str, delivered: DeliveredEvents) -> None:
        super().__init__(file_path)
        self._load_id = load_id
        self._delivered = delivered
