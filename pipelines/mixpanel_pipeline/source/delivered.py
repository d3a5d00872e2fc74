"""What answers delivered, decoded into Parquet files."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixpanel_pipeline.events.decoding import EVENTS, REJECTED_LINES, EventDecoder
from mixpanel_pipeline.events.links import LINKS, links
from mixpanel_pipeline.source.ahead import ahead
from mixpanel_pipeline.source.answer import Answer
from mixpanel_pipeline.source.window import later

# Which of the answers a file is of: the first of those that hold an event decides what it is.
_ANSWER = b"answer"


@dataclass(frozen=True)
class Delivered:
    """A whole answer, or several.

    Attributes:
        events: Parquet files with the schema `EVENTS`, one of each answer.
        rejected_lines: Parquet files with the schema `REJECTED_LINES`, one of each answer.
        event_count: How many events there are, copies included.
        rejected_count: How many lines are no events.
        newest_occurred: The newest `occurred_at`; None without events.
        newest_processed: The newest `processed_at`; None when none has one.
        answer_bytes: The size of the answers as they came, compressed.
        links: Parquet files with the schema `LINKS`, of events that are not loaded themselves.
        link_count: How many rows those have.
        hidden: The events of people who were forgotten, which are not loaded.
        linked: Ids that turned out to be of such people.
    """

    events: tuple[Path, ...]
    rejected_lines: tuple[Path, ...]
    event_count: int
    rejected_count: int
    newest_occurred: datetime | None
    newest_processed: datetime | None
    answer_bytes: int
    links: tuple[Path, ...] = ()
    link_count: int = 0
    hidden: tuple[pa.Table, ...] = ()
    linked: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in their days."""
        return not (self.event_count or self.rejected_count or self.link_count)

    def remove(self) -> None:
        """Give back the disk space."""
        for file in self.events + self.rejected_lines + self.links:
            file.unlink()


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
    number = answer.path.name.rpartition("-")[2].encode()
    rejected_lines = answer.path.with_suffix(".rejected")
    with (
        pq.ParquetWriter(
            events,
            EVENTS.with_metadata({_ANSWER: number}),
            compression="lz4",
            use_dictionary=["event", "distinct_id", "distinct_id_before_identity"],
            write_statistics=["occurred_at", "distinct_id_before_identity"],
        ) as events_writer,
        pq.ParquetWriter(rejected_lines, REJECTED_LINES) as rejected_writer,
    ):
        for batch in ahead(decoder.decode(ahead(answer.blocks()))):
            if batch.events.num_rows:
                event_count += batch.events.num_rows
                occurred = later(occurred, pc.max(batch.events["occurred_at"]).as_py())
                processed = later(processed, pc.max(batch.events["processed_at"]).as_py())
                events_writer.write_table(batch.events)
            if batch.rejected_lines.num_rows:
                rejected_count += batch.rejected_lines.num_rows
                rejected_writer.write_table(batch.rejected_lines)
    return Delivered(
        (events,),
        (rejected_lines,),
        event_count,
        rejected_count,
        occurred,
        processed,
        answer.size,
        hidden=(decoder.hidden,),
        linked=frozenset(decoder.linked),
    )


def decoded_links(answer: Answer, decoder: EventDecoder, loaded: Collection[str]) -> Delivered:
    """Decode an answer into a file of what its events say of who is who, and nothing else.

    Args:
        answer: The answer.
        decoder: Decodes its events.
        loaded: The names of those that are loaded themselves.

    Raises:
        BrokenAnswer: The answer is not whole.
        OSError: The file cannot be written.
    """
    path, count = answer.path.with_suffix(".links"), 0
    with pq.ParquetWriter(path, LINKS) as writer:
        for batch in ahead(decoder.decode(ahead(answer.blocks()))):
            found = links(batch.events, loaded)
            if found.num_rows:
                count += found.num_rows
                writer.write_table(found)
    linked = frozenset(decoder.linked)
    return Delivered((), (), 0, 0, None, None, answer.size, (path,), count, linked=linked)


def in_order(files: Iterable[Path]) -> list[Path]:
    """Files of events in the order in which their answers were asked for."""
    return sorted(files, key=lambda file: int((pq.read_metadata(file).metadata or {})[_ANSWER]))


def joined(answers: Sequence[Delivered]) -> Delivered:
    """What several answers delivered, as if it had been one."""
    return Delivered(
        tuple(file for answer in answers for file in answer.events),
        tuple(file for answer in answers for file in answer.rejected_lines),
        sum(answer.event_count for answer in answers),
        sum(answer.rejected_count for answer in answers),
        later(*(answer.newest_occurred for answer in answers)),
        later(*(answer.newest_processed for answer in answers)),
        sum(answer.answer_bytes for answer in answers),
        tuple(file for answer in answers for file in answer.links),
        sum(answer.link_count for answer in answers),
        tuple(table for answer in answers for table in answer.hidden),
        frozenset(one for answer in answers for one in answer.linked),
    )
