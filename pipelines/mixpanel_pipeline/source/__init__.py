"""A dlt source for Mixpanel's Raw Event Export."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import dlt
import pyarrow as pa
import pyarrow.parquet as pq
from dlt.extract import DltResource

from mixpanel_pipeline.events.decoding import EVENTS, REJECTED_LINES
from mixpanel_pipeline.source.delivered import Delivered
from mixpanel_pipeline.source.plan import Stage
from mixpanel_pipeline.source.tables import EVENTS_RESOURCE, REJECTED_LINES_RESOURCE, imported

__all__ = ["Mode", "mixpanel"]

Mode = Literal["first", "incremental", "full_refresh", "backfill", "audit"]


@dlt.source(name="mixpanel", section="mixpanel")
def mixpanel(
    delivered: Delivered, stage: Stage, *, watermark: datetime | None
) -> tuple[DltResource, ...]:
    """What answers of Mixpanel delivered, and the watermark that they stand for.

    Loads two tables: `events`, of which the destination takes what is new and adds the load's id,
    and `rejected_lines`, the lines of whole answers that are no events. The watermark is the
    newest value of the stage's cursor that was delivered (never later than the stage's `until`),
    kept in dlt's incremental state.

    Args:
        delivered: The decoded answers.
        stage: What the answers are a part of; it says which watermark moves, and how far.
        watermark: What the watermark does not go back behind; None when it is set anew.
    """

    @dlt.resource(**EVENTS_RESOURCE)
    def exported(
        cursor: dlt.sources.incremental[datetime] = dlt.sources.incremental(
            stage.cursor or "occurred_at",
            on_cursor_value_missing="include",
            # A scheduler's interval would set the watermark.
            allow_external_schedulers=False,
        ),
    ) -> Iterator[Any]:
        # dlt would drop rows older than the watermark. The API delivers whole days, and an event
        # of such a day that is not in the table yet is new, however old it is.
        cursor.advance(None)  # type: ignore[arg-type]
        for path in delivered.events:
            yield imported(path, EVENTS)

        by_arrival = stage.cursor == "processed_at"
        newest = delivered.newest_processed if by_arrival else delivered.newest_occurred
        if stage.cursor is not None and newest is not None:
            # An event dated in the future must not move the watermark past those still to come.
            newest = min(newest, stage.until)
            cursor.advance(max(newest, watermark) if watermark else newest)
            state = dlt.current.resource_state()
            state["cursor"] = stage.cursor
            if by_arrival and stage.last_event_day is not None:
                state["asked_to"] = stage.last_event_day.isoformat()

    @dlt.resource(**REJECTED_LINES_RESOURCE)
    def rejected_lines() -> Iterator[pa.Table]:
        # The table exists from the first load on, whatever it brings.
        yield REJECTED_LINES.empty_table()
        for path in delivered.rejected_lines:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group)

    return exported, rejected_lines
