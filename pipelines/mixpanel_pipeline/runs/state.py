"""dlt's state in the raw dataset: the watermark, and what becomes of a state that says none."""

import logging
import zlib
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import dlt
from dlt.common.versioned_state import decompress_state
from dlt.pipeline.exceptions import PipelineStepFailed

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.source.plan import Cursor
from mixpanel_pipeline.source.window import parse_instant

logger = logging.getLogger(__name__)

PIPELINE = "mixpanel"

_STATES = "_dlt_pipeline_state"
_SET_ASIDE = "_dlt_pipeline_state_unreadable"
_COLUMNS = "version, engine_version, pipeline_name, state, created_at, version_hash, _dlt_load_id"
_DLT_NEEDS = {
    "_state_version",
    "_version_hash",
    "_state_engine_version",
    "pipeline_name",
    "dataset_name",
    "schema_names",
}
_CURSORS = ("occurred_at", "processed_at")
_UNDECODABLE = "undecodable"


@dataclass(frozen=True)
class Watermark:
    """Up to where everything is loaded, in the order of `cursor`.

    Attributes:
        cursor: The order.
        instant: Up to where.
        asked_to: By `processed_at`, the last day of events that was asked for, as far as is known.
    """

    cursor: Cursor
    instant: datetime
    asked_to: date | None = None


def restored(pipeline: dlt.Pipeline, warehouse: Warehouse, now: datetime) -> dlt.Pipeline:
    """The pipeline with the destination's state and schema.

    Only a state that was read and says nothing is set aside: then it is without one.

    Raises:
        PipelineStepFailed: The state could not be read.
    """
    try:
        pipeline.sync_destination()
    except PipelineStepFailed as error:
        if isinstance(error.__cause__, KeyboardInterrupt) or _stored_is_readable(warehouse):
            raise
    else:
        if _is_readable(pipeline.state):
            return pipeline
    _set_aside(warehouse, now)
    pipeline = pipeline.drop()
    pipeline.sync_destination()
    return pipeline


def watermark_of(pipeline: dlt.Pipeline) -> Watermark | None:
    """The watermark that the pipeline's state holds; None before the first event."""
    return _watermark(pipeline.state)


def stored_watermark(warehouse: Warehouse) -> Watermark | None:
    """The watermark that `restored` would bring; None when it would be set aside as well."""
    state = _stored(warehouse)
    return _watermark(state) if state is not None and _is_readable(state) else None


def _watermark(state: Any) -> Watermark | None:
    state = _of_events(state)
    cursor: Cursor = state.get("cursor", "occurred_at")
    stored = state.get("incremental", {}).get(cursor, {}).get("last_value")
    instant = parse_instant(stored)
    asked_to = state.get("asked_to")
    return (
        Watermark(cursor, instant, asked_to and date.fromisoformat(asked_to)) if instant else None
    )


def _stored_is_readable(warehouse: Warehouse) -> bool:
    """Whether the state that dlt restores can be decoded; also when there is none."""
    state = _stored(warehouse)
    return state is None or _is_readable(state)


def _stored(warehouse: Warehouse) -> Any:
    """The state that dlt restores, whatever it is; None when there is none."""
    if not warehouse.has_table(warehouse.raw, _STATES):
        return None
    stored = warehouse.rows(
        f"select state from {warehouse.raw}.{_STATES} as states "
        f"inner join {warehouse.raw}._dlt_loads as loads on loads.load_id = states._dlt_load_id "
        "where states.pipeline_name = %s and loads.status = 0 order by loads.load_id desc limit 1",
        [PIPELINE],
    )
    try:
        return decompress_state(stored[0][0]) if stored else None
    except (ValueError, KeyError, TypeError, zlib.error):
        return _UNDECODABLE


def _is_readable(state: Any) -> bool:
    try:
        if not state.keys() >= _DLT_NEEDS:
            return False
        of_events = _of_events(state)
        incremental = of_events.get("incremental", {})
        values = [cursor.get("last_value") for cursor in incremental.values()]
        date.fromisoformat(of_events.get("asked_to", "2000-01-01"))
    except (AttributeError, TypeError, ValueError):
        return False
    return of_events.get("cursor", "occurred_at") in _CURSORS and all(
        value is None or parse_instant(value) is not None for value in values
    )


def _of_events(state: Any) -> dict[str, Any]:
    found: Any = state.get("sources", {})
    for key in (PIPELINE, "resources", "events"):
        found = found.get(key, {})
    return dict(found)


def _set_aside(warehouse: Warehouse, now: datetime) -> None:
    """Keep the stored states where dlt does not find them."""
    states, kept = f"{warehouse.raw}.{_STATES}", f"{warehouse.raw}.{_SET_ASIDE}"
    logger.warning(
        "The watermark cannot be read: it is kept in %s, and days are loaded again.", kept
    )
    warehouse.execute(
        f"create table if not exists {kept} as select {_COLUMNS}, "
        f"cast(null as timestamp with time zone) as set_aside_at from {states} where 1 = 0"
    )
    warehouse.execute(
        f"insert into {kept} ({_COLUMNS}, set_aside_at) "
        f"select {_COLUMNS}, %s from {states} where pipeline_name = %s",
        [now, PIPELINE],
    )
    warehouse.execute(f"delete from {states} where pipeline_name = %s", [PIPELINE])
