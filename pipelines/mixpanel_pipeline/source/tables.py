"""The tables that are loaded, as dlt knows them."""

from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.parquet as pq

from mixpanel_pipeline.events.decoding import (
    EVENTS,
    EVENTS_TABLE,
    REJECTED_LINES,
    REJECTED_LINES_TABLE,
)


def _columns(schema: pa.Schema, **hints: dict[str, Any]) -> Any:
    """dlt's hints for what a schema does not tell it."""
    return {
        field.name: {"nullable": field.nullable} | hints.get(field.name, {}) for field in schema
    }


# An event counts once, however often it is delivered; of several copies the last one processed.
EVENTS_RESOURCE: Any = {
    "name": EVENTS_TABLE,
    "write_disposition": {"disposition": "merge", "strategy": "delete-insert"},
    "primary_key": "event_key",
    "columns": _columns(
        EVENTS, properties={"data_type": "json"}, copy_order={"dedup_sort": "desc"}
    ),
}
# A line is kept once, however often its day is read.
REJECTED_LINES_RESOURCE: Any = {
    "name": REJECTED_LINES_TABLE,
    "write_disposition": {"disposition": "merge", "strategy": "delete-insert"},
    "primary_key": ["line", "reason"],
    "columns": _columns(REJECTED_LINES),
}


def imported(path: Path, schema: pa.Schema) -> Any:
    """A Parquet file for dlt to load as it is."""
    rows = pq.read_metadata(path).num_rows
    return dlt.mark.with_file_import(str(path), "parquet", rows, schema.empty_table())
