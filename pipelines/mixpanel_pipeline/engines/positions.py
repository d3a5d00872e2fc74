"""Delivered events by their positions, which go on from one file to the next, from 0 on."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_KEYS = pa.schema([("position", pa.int64()), ("event_key", pa.string())])


@dataclass(frozen=True)
class RowGroup:
    """A part of a Parquet file that can be read alone.

    Attributes:
        path: The file.
        number: Which of the file's row groups it is, from 0 on.
        metadata: The file's, of the row group.
        positions: The positions of its rows.
    """

    path: Path
    number: int
    metadata: pq.RowGroupMetaData
    positions: range


def row_groups(files: Iterable[Path]) -> list[RowGroup]:
    """All row groups of some Parquet files."""
    found, start = [], 0
    for path in files:
        file = pq.read_metadata(path)
        for number in range(file.num_row_groups):
            metadata = file.row_group(number)
            end = start + metadata.num_rows
            found.append(RowGroup(path, number, metadata, range(start, end)))
            start = end
    return found


def rows_without(
    groups: Iterable[RowGroup], positions: pa.Array, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of each row group, without those at some positions.

    Args:
        groups: Row groups, those of a file one after the other.
        positions: Rows to leave out, in ascending order.
        columns: What to read of the rows; None for all.
    """
    for path, of_file in groupby(groups, lambda group: group.path):
        with pq.ParquetFile(path) as file:
            for group in of_file:
                start, end = group.positions.start, group.positions.stop
                dropped = positions[_place(positions, start) : _place(positions, end)].to_pylist()
                if len(dropped) < end - start:
                    rows = file.read_row_group(group.number, columns)
                    if dropped:
                        is_kept = [True] * rows.num_rows
                        for position in dropped:
                            is_kept[position - start] = False
                        rows = rows.filter(pa.array(is_kept))
                    yield rows


def _place(positions: pa.Array, position: int) -> int:
    return bisect_left(positions, position, key=lambda found: found.as_py())


def keys(files: Iterable[Path]) -> pa.RecordBatchReader:
    """The positions and the keys of the events in some files, as a stream."""

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for path in files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["event_key"]):
                    end = start + batch.num_rows
                    positions = pa.array(range(start, end), pa.int64())
                    yield pa.record_batch([positions, batch["event_key"]], schema=_KEYS)
                    start = end

    return pa.RecordBatchReader.from_batches(_KEYS, batches())


def view_delivered(connection: Any, files: Iterable[Path]) -> None:
    """Show files of events to a DuckDB connection: as the view `delivered`.

    Beside the events' columns it has their `position` and the number of their `file`.
    """
    paths, numbers, starts, start = [], [], [], 0
    for number, path in enumerate(files):
        paths.append("'" + str(path).replace("'", "''") + "'")
        numbers.append(f"when {paths[-1]} then {number}")
        starts.append(f"when {paths[-1]} then {start}")
        start += pq.read_metadata(path).num_rows
    # As one scan: a union of several would hold them in memory side by side.
    connection.execute(
        "create or replace temporary view delivered as "
        f"select file_row_number + case filename {' '.join(starts)} end as position, "
        f"case filename {' '.join(numbers)} end as file, "
        "* exclude (file_row_number, filename) "
        f"from read_parquet([{', '.join(paths)}], file_row_number = true, filename = true)"
    )
