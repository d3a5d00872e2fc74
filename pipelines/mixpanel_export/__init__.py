"""A dlt source for Mixpanel's Raw Event Export."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import dlt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dlt.common.storages.load_package import load_package_state
from dlt.extract import DltResource
from dlt.extract.hints import TResourceHints

from mixpanel_export.ahead import ahead
from mixpanel_export.downloads import Download
from mixpanel_export.events import EVENTS, REJECTED_LINES, EventDecoder
from mixpanel_export.plan import Stage
from mixpanel_export.window import later

__all__ = ["Delivery", "Mode", "mixpanel"]

Mode = Literal["first", "incremental", "full_refresh", "backfill", "audit"]


@dataclass
class Delivery:
    """What the loads of one sync delivered; filled in while they run."""

    events_received: int = 0
    events_new: int = 0
    events_late: int = 0
    """Of the new ones, those that arrived later than the lookback."""
    lines_rejected: int = 0
    newest_processed: datetime | None = None


@dlt.source(name="mixpanel", section="mixpanel")
def mixpanel(
    download: Download,
    stage: Stage,
    *,
    timezone: ZoneInfo,
    events: Sequence[str] | None,
    watermark: datetime | None,
    lookback: timedelta,
    select_new: Callable[[Path], Iterator[pa.Table]],
    begin: Callable[[str], None],
    holds_nul: bool,
    delivery: Delivery | None = None,
) -> DltResource:
    """The events of an answer of Mixpanel, and the watermark that they stand for.

    Loads two tables: `events`, what `select_new` makes of those delivered, and
    `rejected_lines`, the lines of whole answers that are no events. The watermark is the newest
    value of the stage's cursor that was loaded (never later than the stage's `until`), kept in
    dlt's incremental state.

    Args:
        download: The answer; it is removed once it is read.
        stage: What the answer is a part of; it says which watermark moves, and how far.
        timezone: The project's.
        events: The names that were asked for; None for all.
        watermark: What the watermark does not go back behind; None when it is set anew.
        lookback: What arrives later than that after it happened is late.
        select_new: Yields the rows of a Parquet file of events that are to be loaded.
        begin: Called with dlt's load id before there is anything to load.
        holds_nul: Whether the destination can hold NUL characters.
        delivery: Filled in with what was delivered.
    """
    delivery = delivery if delivery is not None else Delivery()
    as_events = _hints(
        "events",
        EVENTS,
        "append",
        columns={"properties": {"data_type": "json"}},
    )
    # A line is kept once, however often its day is read.
    as_rejected_lines = _hints(
        "rejected_lines",
        REJECTED_LINES,
        {"disposition": "merge", "strategy": "delete-insert"},
        primary_key=["line", "reason"],
    )
    column = stage.cursor or "occurred_at"

    @dlt.resource(name="events")
    def export(
        cursor: dlt.sources.incremental[datetime] = dlt.sources.incremental(
            column, on_cursor_value_missing="include"
        ),
    ) -> Iterator[Any]:
        # dlt would drop rows older than the watermark. The API delivers whole days, and an event
        # of such a day that is not in the table yet is new, however old it is.
        cursor.advance(None)  # type: ignore[arg-type]
        begin(load_package_state()["load_id"])
        if "events" not in dlt.current.source_schema().tables:
            # Both tables exist from the first load on, whatever it brings.
            yield _to(as_events, EVENTS.empty_table())
            yield _to(as_rejected_lines, REJECTED_LINES.empty_table())
        newest: datetime | None = None
        only_day = download.request.window.only_day
        decoder = EventDecoder(timezone, holds_nul=holds_nul, only_day=only_day, names=events)
        delivered = download.answer.path.with_suffix(".parquet")
        with pq.ParquetWriter(
            delivered, EVENTS, compression="lz4", use_dictionary=["event", "distinct_id"]
        ) as writer:
            for batch in ahead(decoder.decode(download.answer)):
                delivery.events_received += batch.events.num_rows
                delivery.lines_rejected += batch.rejected_lines.num_rows
                if batch.events.num_rows:
                    newest = later(newest, pc.max(batch.events[column]).as_py())
                    processed = pc.max(batch.events["processed_at"]).as_py()
                    delivery.newest_processed = later(delivery.newest_processed, processed)
                    writer.write_table(batch.events)
                if batch.rejected_lines.num_rows:
                    yield _to(as_rejected_lines, batch.rejected_lines)
        download.answer.path.unlink()
        for rows in select_new(delivered):
            delivery.events_new += rows.num_rows
            delivery.events_late += _count_late(rows, lookback)
            yield _to(as_events, rows)
        delivered.unlink()

        if stage.cursor is not None and newest is not None:
            # An event dated in the future must not move the watermark past those still to come.
            newest = min(newest, stage.until)
            cursor.advance(max(newest, watermark) if watermark else newest)
            dlt.current.resource_state()["cursor"] = stage.cursor

    return export


def _count_late(rows: pa.Table, lookback: timedelta) -> int:
    late = pc.greater(pc.subtract(rows["processed_at"], rows["occurred_at"]), pa.scalar(lookback))
    return pc.sum(late).as_py() or 0


def _hints(
    table: str,
    schema: pa.Schema,
    disposition: Any,
    *,
    primary_key: list[str] | None = None,
    columns: dict[str, dict[str, Any]] | None = None,
) -> TResourceHints:
    hints: Any = {
        field.name: {"nullable": field.nullable} | (columns or {}).get(field.name, {})
        for field in schema
    }
    return dlt.mark.make_hints(
        table_name=table, primary_key=primary_key, write_disposition=disposition, columns=hints
    )


def _to(hints: TResourceHints, rows: pa.Table) -> Any:
    return dlt.mark.with_hints(rows, hints, create_table_variant=True)
