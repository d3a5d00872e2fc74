"""A dlt source for Mixpanel's Raw Event Export."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import dlt
import pyarrow as pa
import pyarrow.compute as pc
from dlt.extract import DltResource
from dlt.extract.hints import TResourceHints

from mixpanel_export.client import ExportClient
from mixpanel_export.configuration import MixpanelConfiguration
from mixpanel_export.events import EVENTS, REJECTED_LINES, EventDecoder
from mixpanel_export.window import (
    Window,
    incremental_window,
    initial_window,
    last_day,
    later,
    parse_instant,
)

__all__ = ["Delivery", "Mode", "mixpanel"]

Mode = Literal["first", "incremental", "full_refresh", "backfill"]

# An event is new unless a load that completed delivered it. Rows of one that did not are
# replaced when they are delivered again, so a crash leaves nothing behind that counts.
# dlt evaluates the condition beside `event_key` of the delivered rows.
_NOT_YET_LOADED = """
not exists (
    select 1
    from (
        select events.event_key as loaded_key
        from {dataset}.events as events
        inner join {dataset}._dlt_loads as loads on events._dlt_load_id = loads.load_id
        where loads.status = 0
    ) as loaded
    where loaded_key = event_key
)
"""


@dataclass
class Delivery:
    """What one extraction delivered; filled in while it runs."""

    mode: Mode | None = None
    window: Window | None = None
    events_received: int = 0
    lines_rejected: int = 0


@dlt.source(name="mixpanel", section="mixpanel")
def mixpanel(
    settings: MixpanelConfiguration,
    *,
    events: Sequence[str] | None,
    now: datetime,
    dataset_name: str,
    holds_nul: bool,
    spool: Path,
    backfill: Window | None = None,
    full_refresh: bool = False,
    delivery: Delivery | None = None,
) -> DltResource:
    """Mixpanel's events since the watermark, less the lookback, in whole days.

    Loads two tables: `events`, one row for an event however often it is delivered, and
    `rejected_lines`, the lines of whole answers that are no events. The watermark is the newest
    `occurred_at` that was loaded (never later than `now`), kept in dlt's incremental state.

    Args:
        settings: The checked configuration.
        events: The names to ask for; None for all.
        now: The current instant, with a time zone.
        dataset_name: The dataset loaded into: an event that it already holds stays as it is.
        holds_nul: Whether the destination can hold NUL characters.
        spool: A directory for answers on their way; they are removed once they are read.
        backfill: Export these days instead; the watermark stays where it is.
        full_refresh: Export the whole initial window again, and set the watermark anew.
        delivery: Filled in with what was delivered.

    Raises:
        ExportError: While it is extracted: no whole answer came. Nothing is loaded then.
    """
    delivery = delivery if delivery is not None else Delivery()
    zone = settings.zone
    lookback_seconds = settings.lookback_hours * 3600
    as_events = _hints(
        "events",
        EVENTS,
        primary_key="event_key",
        source_filter=_NOT_YET_LOADED.format(dataset=dataset_name),
        columns={"properties": {"data_type": "json"}, "copy_order": {"dedup_sort": "desc"}},
    )
    # A line is kept once, however often its day is read.
    as_rejected_lines = _hints("rejected_lines", REJECTED_LINES, primary_key=["line", "reason"])

    @dlt.resource(name="events")
    def export(
        occurred_at: dlt.sources.incremental[datetime] = dlt.sources.incremental(
            "occurred_at", lag=lookback_seconds
        ),
    ) -> Iterator[Any]:
        start = parse_instant(occurred_at.start_value)
        # dlt would drop rows older than its start value. The API delivers whole days, and an
        # event of such a day that is not in the table yet is new, however old it is.
        occurred_at.advance(None)  # type: ignore[arg-type]
        last = last_day(now, zone, settings.end_day)
        if backfill is not None:
            delivery.mode, window = "backfill", backfill
        elif start is None or full_refresh:
            delivery.mode = "full_refresh" if full_refresh else "first"
            window = initial_window(last, settings.initial_window_days)
        else:
            delivery.mode, window = "incremental", incremental_window(start, last, zone)
        delivery.window = window

        # Empty tables first: both exist from the first load on, whatever it brings.
        yield _to(as_events, EVENTS.empty_table())
        yield _to(as_rejected_lines, REJECTED_LINES.empty_table())
        newest: datetime | None = None
        answer = ExportClient(settings).fetch(window, events, spool / "answer")
        decoder = EventDecoder(zone, holds_nul=holds_nul, only_day=window.only_day)
        for batch in decoder.decode(answer):
            delivery.events_received += batch.events.num_rows
            delivery.lines_rejected += batch.rejected_lines.num_rows
            if batch.events.num_rows:
                newest = later(newest, pc.max(batch.events["occurred_at"]).as_py())
                yield _to(as_events, batch.events)
            if batch.rejected_lines.num_rows:
                yield _to(as_rejected_lines, batch.rejected_lines)
        answer.path.unlink()

        if backfill is None and newest is not None:
            # An event dated in the future must not move the watermark past those still to come.
            watermark = min(newest, now)
            if start is not None and not full_refresh:
                watermark = max(watermark, start + timedelta(seconds=lookback_seconds))
            occurred_at.advance(watermark)

    return export


def _hints(
    table: str,
    schema: pa.Schema,
    *,
    primary_key: str | list[str],
    columns: dict[str, dict[str, Any]] | None = None,
    source_filter: str | None = None,
) -> TResourceHints:
    disposition: Any = {"disposition": "merge", "strategy": "delete-insert"}
    if source_filter:
        disposition["source_filter"] = source_filter
    hints: Any = {
        field.name: {"nullable": field.nullable} | (columns or {}).get(field.name, {})
        for field in schema
    }
    return dlt.mark.make_hints(
        table_name=table, primary_key=primary_key, write_disposition=disposition, columns=hints
    )


def _to(hints: TResourceHints, rows: pa.Table) -> Any:
    return dlt.mark.with_hints(rows, hints, create_table_variant=True)
