"""The source alone: Mixpanel's events into any destination of dlt, by a pipeline of one's own."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.parquet as pq
from dlt.extract import DltResource, DltSource

from mixpanel_pipeline.events.decoding import EVENTS, REJECTED_LINES
from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import MixpanelConfiguration, load_configuration
from mixpanel_pipeline.source.delivered import Delivered
from mixpanel_pipeline.source.downloads import downloads
from mixpanel_pipeline.source.errors import ConfigurationError
from mixpanel_pipeline.source.fetcher import Fetcher
from mixpanel_pipeline.source.plan import Stage
from mixpanel_pipeline.source.tables import EVENTS_RESOURCE, REJECTED_LINES_RESOURCE, imported
from mixpanel_pipeline.source.window import (
    Window,
    incremental_window,
    initial_window,
    last_day,
    parse_instant,
)

# Others are not known to hold NUL characters in text.
_HOLD_NUL = ("duckdb", "ducklake", "filesystem", "motherduck")


def mixpanel_source(
    *,
    events: Sequence[str] | None = None,
    from_date: date | None = None,
    to_date: date | None = None,
    **settings: Any,
) -> DltSource:
    """A dlt source of Mixpanel's raw events, for a pipeline and a destination of one's own.

        pipeline = dlt.pipeline("mixpanel", destination="duckdb", dataset_name="mixpanel_raw")
        pipeline.run(mixpanel_source())

    The first run loads `initial_window_days`, each later one whole days from `lookback_hours`
    before the newest event on, which is the incremental cursor of the resource `events`. Days are
    read again, so a destination that merges (by `event_key`) has each event once; one that can
    only append, such as Parquet files, has it once a run, and `event_key` tells the copies.

    Resources:
        events: a row per event; see `EVENTS`.
        rejected_lines: a row per line of a whole answer that is no event, with the reason.

    Args:
        events: The names of the events to load; by default the list that is configured, or all.
        from_date: Load whole days from this one on, and leave the cursor where it is.
        to_date: The last of those days.
        settings: Settings by name, instead of those in section `sources.mixpanel` of dlt's
            configuration; see `MixpanelConfiguration`.

    Raises:
        ConfigurationError: A setting is missing or cannot be what it is; the message names it.
        ExportError: While it runs: Mixpanel delivered no whole answer. Nothing is loaded then.
    """
    if (from_date is None) != (to_date is None):
        raise ConfigurationError("from_date and to_date go together")
    backfill = Window(from_date, to_date) if from_date and to_date else None
    configuration = load_configuration(settings, exactly=False)
    if events is None and not isinstance(configuration.event_names, str):
        events = configuration.event_names
    if events is not None:
        events = configuration.without_denied(events)
    source: DltSource = _mixpanel(configuration, events, backfill)
    return source


@dataclass(frozen=True)
class _Answers:
    """Answers on disk; the directory is gone with the last one."""

    delivered: Delivered
    until: datetime
    spool: "_Spool"


class _Spool:
    """A directory that is removed when nobody refers to it any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mixpanel-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dlt.source(name="mixpanel", section="mixpanel")
def _mixpanel(
    configuration: MixpanelConfiguration, names: Sequence[str] | None, backfill: Window | None
) -> tuple[DltResource, ...]:
    @dlt.resource(name="answers", selected=False)
    def answers() -> Iterator[_Answers]:
        now = datetime.now(UTC)
        spool = _Spool()
        client = MixpanelClient(configuration, RequestBudget(configuration.requests_per_hour))
        holds_nul = _destination().destination_type.rpartition(".")[2] in _HOLD_NUL
        fetcher = Fetcher(client, names, holds_nul=holds_nul)
        stage = Stage(backfill or _days(configuration, now), "occurred_at", now)
        parallel = configuration.parallel_downloads
        try:
            for download in downloads(stage, fetcher.fetch, spool.path, parallel=parallel):
                yield _Answers(download.delivered, now, spool)
        finally:
            client.stop()

    @dlt.transformer(data_from=answers, **EVENTS_RESOURCE)
    def exported(
        found: _Answers,
        cursor: dlt.sources.incremental[datetime] = dlt.sources.incremental(
            "occurred_at", lag=configuration.lookback_hours * 3600
        ),
    ) -> Iterator[Any]:
        # dlt would drop rows older than the cursor. Whole days are delivered, and an event of such
        # a day that is not loaded yet is new, however old it is.
        cursor.advance(None)  # type: ignore[arg-type]
        for path in found.delivered.events:
            yield from _tables(path, EVENTS)
        newest = found.delivered.newest_occurred
        if newest is not None and backfill is None:
            # An event dated in the future must not move the cursor past those still to come.
            reached, before = min(newest, found.until), parse_instant(cursor.last_value)
            cursor.advance(max(reached, before) if before else reached)

    @dlt.transformer(data_from=answers, **REJECTED_LINES_RESOURCE)
    def rejected_lines(found: _Answers) -> Iterator[Any]:
        for path in found.delivered.rejected_lines:
            yield from _tables(path, REJECTED_LINES)

    return exported, rejected_lines


def _days(configuration: MixpanelConfiguration, now: datetime) -> Window:
    """The days that a run asks for: from the lookback before the cursor on, or the initial ones."""
    last = last_day(now, configuration.zone, configuration.end_day)
    state: Any = dlt.current.resource_state("events")
    cursor = state.get("incremental", {}).get("occurred_at", {})
    watermark = parse_instant(cursor.get("last_value"))
    if watermark is None:
        return initial_window(last, configuration.initial_window_days)
    return incremental_window(watermark - configuration.lookback, last, configuration.zone)


def _destination() -> Any:
    return dlt.current.pipeline().destination


def _tables(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """A file's rows: as it is where the destination takes Parquet, else a row group at a time."""
    with pq.ParquetFile(path) as file:
        rows = file.metadata.num_rows
        if rows and "parquet" in _destination().capabilities().supported_loader_file_formats:
            yield imported(path, schema)
        elif rows:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)
    path.unlink()
