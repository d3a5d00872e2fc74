"""dlt's hints for the columns of the tables that are loaded."""

from typing import Any

import pyarrow as pa

from mixpanel_pipeline.events.decoding import EVENTS, REJECTED_LINES


def _columns(schema: pa.Schema, **hints: dict[str, Any]) -> Any:
    """dlt's hints for what a schema does not tell it."""
    return {
        field.name: {"nullable": field.nullable} | hints.get(field.name, {}) for field in schema
    }


EVENT_COLUMNS = _columns(EVENTS, properties={"data_type": "json"})
REJECTED_LINE_COLUMNS = _columns(REJECTED_LINES)
