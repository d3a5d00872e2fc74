"""What an answer delivered, decoded into Parquet files."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixpanel_export.ahead import ahead
from mixpanel_export.answer import Answer
from mixpanel_export.events import EVENTS, REJECTED_LINES, EventDecoder
from mixpanel_export.window import later


@dataclass(frozen=True)
class Delivered:
    """A whole answer.

    Attributes:
        events: A Parquet file with the schema `EVENTS`.
        rejected_lines: A Parquet file with the schema `REJECTED_LINES`.
        event_count: How many events there are, copies included.
        rejected_count: How many lines are no events.
        newest_occurred: The newest `occurred_at`; None without events.
        newest_processed: The newest `processed_at`; None when none has one.
        answer_bytes: The size of the answer as it came, compressed.
    """

    events: Path
    rejected_lines: Path
    event_count: int
    rejected_count: int
    newest_occurred: datetime | None
    newest_processed: datetime | None
    answer_bytes: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in its days."""
        return not (self.event_count or self.rejected_count)

    def remove(self) -> None:
        """Give back the disk space."""
        self.events.unlink()
        self.rejected_lines.unlink()


def decoded(answer: Answer, decoder: EventDecoder) -> Delivered:
    """Decode an answer into files beside it, in memory that does not grow with it.

    Raises:
        BrokenAnswer: The answer is not whole.
        OSError: The files cannot be written.
    """
    event_count = rejected_count = 0
    occurred: datetime | None = None
    processed: datetime | None = None
    events = answer.path.with_suffix(".events")
    rejected_lines = answer.path.with_suffix(".rejected")
    with (
        pq.ParquetWriter(
            events,
            EVENTS,
            compression="lz4",
            use_dictionary=["event", "distinct_id"],
            write_statistics=["occurred_at"],
        ) as events_writer,
        pq.ParquetWriter(rejected_lines, REJECTED_LINES) as rejected_writer,
    ):
        for batch in ahead(decoder.decode(answer)):
            if batch.events.num_rows:
                event_count += batch.events.num_rows
                occurred = later(occurred, pc.max(batch.events["occurred_at"]).as_py())
                processed = later(processed, pc.max(batch.events["processed_at"]).as_py())
                events_writer.write_table(batch.events)
            if batch.rejected_lines.num_rows:
                rejected_count += batch.rejected_lines.num_rows
                rejected_writer.write_table(batch.rejected_lines)
    return Delivered(
        events,
        rejected_lines,
        event_count,
        rejected_count,
        occurred,
        processed,
        answer.path.stat().st_size,
    )
