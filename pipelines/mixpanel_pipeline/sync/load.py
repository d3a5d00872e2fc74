"""The load: answers of Mixpanel go into the raw dataset, some at a time in one commit."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.destination.exceptions import DestinationException
from dlt.common.runtime import run_context
from dlt.pipeline.exceptions import PipelineStepFailed

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.engines.destination import DeliveredEvents
from mixpanel_pipeline.engines.positions import row_groups, rows_without
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.events.decoding import HOT_SHARD_EVENT, EventDecoder
from mixpanel_pipeline.project import RAW_DATASET
from mixpanel_pipeline.source import Mode, mixpanel
from mixpanel_pipeline.source.answer import Answer
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.delivered import Delivered, decoded
from mixpanel_pipeline.source.downloads import downloads
from mixpanel_pipeline.source.errors import ExportError
from mixpanel_pipeline.source.plan import Cursor, Request, Stage, arrivals
from mixpanel_pipeline.source.slots import Slot
from mixpanel_pipeline.source.window import (
    Window,
    incremental_window,
    initial_window,
    last_day,
    later,
    parse_instant,
)
from mixpanel_pipeline.sync.dlt_settings import only_ours
from mixpanel_pipeline.sync.new_events import NewEvents

logger = logging.getLogger(__name__)

PIPELINE = "mixpanel"


@dataclass(frozen=True)
class Watermark:
    """Up to where everything is loaded, in the order of `cursor`."""

    cursor: Cursor
    instant: datetime


@dataclass
class Delivery:
    """What the loads of one sync delivered; filled in while they run."""

    events_received: int = 0
    events_new: int = 0
    events_late: int = 0
    """Of the new ones, those that arrived later than the lookback."""
    lines_rejected: int = 0
    newest_processed: datetime | None = None


@dataclass
class Loaded:
    """What a load brought so far; filled in while it runs."""

    mode: Mode | None = None
    cursor: Cursor | None = None
    """The order that the watermark is in."""
    window: Window | None = None
    loaded_to_date: date | None = None
    days_total: int = 0
    days_done: int = 0
    watermark_before: datetime | None = None
    watermark: datetime | None = None
    delivery: Delivery = field(default_factory=Delivery)
    download_seconds: float = 0.0
    load_seconds: float = 0.0


class Loader:
    """Loads from one project into one warehouse; the caller holds the warehouse's lock.

    Some answers at a time are committed, oldest days first, by dlt's row in `_dlt_loads`: before
    it, neither the events nor the watermark count; with it, both do.

    Args:
        warehouse: Where to load.
        settings: The source's configuration.
        client: Where to load from.
        events: The names to ask for; None for all.
        now: The current instant, with a time zone.
        loaded: Filled in with what was loaded.
        committed: Called after each commit.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        settings: MixpanelConfiguration,
        client: MixpanelClient,
        *,
        events: Sequence[str] | None,
        now: datetime,
        loaded: Loaded,
        committed: Callable[[], None],
    ) -> None:
        self._warehouse = warehouse
        self._destination = warehouse.destination
        self._new_events = NewEvents(warehouse)
        self._decoding = threading.Lock()
        self._settings = settings
        self._client = client
        self._events = events
        self._now = now
        self._loaded = loaded
        self._committed = committed

    def load_new(self, *, full_refresh: bool = False) -> None:
        """Load what is new, or the whole initial window when there is no watermark.

        Args:
            full_refresh: Load the whole initial window, and set the watermark anew.

        Raises:
            ExportError: Mixpanel delivered no whole answer; the answers before it are loaded.
            SyncError: The database did not take an answer.
        """
        with only_ours(), self._warehouse.kept_open(), self._opened() as (pipeline, spool):
            watermark = _watermark(pipeline)
            mode: Mode = "full_refresh" if full_refresh else "incremental" if watermark else "first"
            self._begin(mode, watermark)
            for stage in self._stages(None if full_refresh else watermark):
                self._load(pipeline, spool, stage)

    def load_days(self, days: Window, mode: Mode, *, already: date | None = None) -> None:
        """Load whole days again; the watermark stays where it is.

        Args:
            days: The days.
            mode: What this is called in the summary.
            already: The last of the days that an earlier run of the same committed.

        Raises:
            ExportError: Mixpanel delivered no whole answer; the answers before it are loaded.
            SyncError: The database did not take an answer.
        """
        with only_ours(), self._warehouse.kept_open(), self._opened() as (pipeline, spool):
            self._begin(mode, _watermark(pipeline))
            if mode == "backfill":
                self._loaded.loaded_to_date = already
            stage = Stage(days.after(already), None, self._now)
            self._load(pipeline, spool, stage, window=days)

    def _begin(self, mode: Mode, watermark: Watermark | None) -> None:
        if self._loaded.mode is None:
            self._loaded.mode = mode
            self._loaded.watermark_before = watermark.instant if watermark else None
        self._loaded.watermark = watermark.instant if watermark else None

    def _stages(self, watermark: Watermark | None) -> Iterator[Stage]:
        settings, zone = self._settings, self._settings.zone
        last = last_day(self._now, zone, settings.end_day)
        if watermark and watermark.cursor == settings.cursor == "processed_at":
            yield self._arrivals_since(watermark.instant)
            return
        if watermark is None:
            days = initial_window(last, settings.initial_window_days)
        else:
            # Either cursor vouches only for its own order. When it changes, an event that neither
            # has seen occurred at most `arrival_days` before.
            changes = watermark.cursor != settings.cursor
            days = incremental_window(
                watermark.instant - settings.lookback,
                last,
                zone,
                days_before=settings.arrival_days if changes else 0,
            )
        restarts = watermark is None or watermark.cursor != "occurred_at"
        yield Stage(days, "occurred_at", self._now, restarts=restarts)
        # From here on by arrival: what those days delivered says since when.
        newest = self._loaded.delivery.newest_processed
        if settings.cursor == "processed_at" and newest is not None:
            yield self._arrivals_since(newest)

    def _arrivals_since(self, instant: datetime) -> Stage:
        return arrivals(
            instant,
            self._now,
            lookback=self._settings.lookback,
            arrival_days=self._settings.arrival_days,
            timezone=self._settings.zone,
            last_event_day=last_day(self._now, self._settings.zone, self._settings.end_day),
        )

    def _load(
        self, pipeline: dlt.Pipeline, spool: Path, stage: Stage, window: Window | None = None
    ) -> None:
        loaded = self._loaded
        if loaded.window is None:
            loaded.window = window or stage.window
        loaded.cursor = stage.cursor or loaded.cursor
        loaded.days_total += stage.days.length
        received_before = loaded.delivery.events_received
        started = time.monotonic()
        parallel = self._settings.parallel_downloads
        for download in downloads(stage, self._fetch, spool, parallel=parallel):
            arrived = time.monotonic()
            loaded.download_seconds += arrived - started
            # Days without events need no commit.
            if not download.delivered.is_empty:
                has_moved = loaded.delivery.events_received > received_before
                sets_back = stage.restarts and not has_moved
                self._commit(pipeline, stage, download.delivered, sets_back=sets_back)
            download.delivered.remove()
            loaded.days_done += download.days.length
            loaded.loaded_to_date = max(
                download.days.to_date, loaded.loaded_to_date or download.days.to_date
            )
            self._committed()
            started = time.monotonic()
            loaded.load_seconds += started - arrived

    def _create_tables(self, pipeline: dlt.Pipeline, spool: Path) -> None:
        """Load an empty answer: the models want the tables even if nothing ever happened."""
        answer = Answer(spool / "nothing", is_gzip=False)
        answer.path.touch()
        today = Window(self._now.date(), self._now.date())
        delivered = self._decoded(answer, today)
        self._commit(pipeline, Stage(today, None, self._now), delivered, sets_back=False)

    def _fetch(self, request: Request, path: Path, slot: Slot) -> Delivered:
        # Renamed events are asked for as well: their own names are in their properties.
        names = self._events and [*self._events, HOT_SHARD_EVENT]

        def read(answer: Answer) -> Delivered:
            # One at a time: side by side they would take as long, and more memory.
            with self._decoding:
                return self._decoded(answer, request.window)

        return self._client.fetch(request, names, path, read, slot)

    def _decoded(self, answer: Answer, window: Window) -> Delivered:
        decoder = EventDecoder(
            self._settings.zone,
            holds_nul=self._warehouse.holds_nul,
            only_day=window.only_day,
            names=self._events,
        )
        return decoded(answer, decoder)

    def _commit(
        self, pipeline: dlt.Pipeline, stage: Stage, delivered: Delivered, *, sets_back: bool
    ) -> None:
        before = _watermark(pipeline)
        keeps = before and before.cursor == stage.cursor and not sets_back
        source = mixpanel(delivered, stage, watermark=before.instant if before and keeps else None)
        not_new = self._new_events.not_new(delivered.events)
        self._destination.delivered = DeliveredEvents(delivered.events, not_new)
        # Arrow keeps what decoding has freed, and now the database needs memory.
        pa.default_memory_pool().release_unused()
        try:
            pipeline.extract(source, loader_file_format="parquet")
            pipeline.normalize()
            for load_id in pipeline.list_normalized_load_packages():
                self._new_events.begin(load_id)
            pipeline.load()
        except PipelineStepFailed as error:
            raise _cause(error) from error
        self._count(delivered, not_new)
        self._warehouse.tune()
        after = _watermark(pipeline)
        self._loaded.watermark = after.instant if after else None

    def _count(self, delivered: Delivered, not_new: pa.Array) -> None:
        delivery = self._loaded.delivery
        delivery.events_received += delivered.event_count
        delivery.events_new += delivered.event_count - len(not_new)
        delivery.lines_rejected += delivered.rejected_count
        delivery.newest_processed = later(delivery.newest_processed, delivered.newest_processed)
        lookback = pa.scalar(self._settings.lookback)
        groups = row_groups(delivered.events)
        for rows in rows_without(groups, not_new, ["occurred_at", "processed_at"]):
            late = pc.greater(pc.subtract(rows["processed_at"], rows["occurred_at"]), lookback)
            delivery.events_late += pc.sum(late).as_py() or 0

    @contextmanager
    def _opened(self) -> Iterator[tuple[dlt.Pipeline, Path]]:
        """The pipeline with the destination's state, and a directory for answers.

        Afterwards the tables are there, whatever was loaded.
        """
        # The destination alone says what was loaded. Working files of a run that died are of no
        # use: dlt would finish that run's load first and leave the new answer unread.
        data_directory = Path(run_context.active().data_dir)
        directory = data_directory / "pipelines" / f"mixpanel-{self._warehouse.fingerprint}"
        shutil.rmtree(directory, ignore_errors=True)
        spool = directory / "spool"
        spool.mkdir(parents=True)
        try:
            pipeline = dlt.pipeline(
                PIPELINE,
                destination=self._destination,
                dataset_name=RAW_DATASET,
                pipelines_dir=str(directory),
            )
            pipeline = _restored(pipeline, self._warehouse)
            self._new_events.remove_unfinished()
            yield pipeline, spool
            if not _has_loaded(pipeline):
                self._create_tables(pipeline, spool)
        except BaseException:
            # Downloads that are under way would write into what is removed now.
            self._client.stop()
            raise
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _restored(pipeline: dlt.Pipeline, warehouse: Warehouse) -> dlt.Pipeline:
    """The pipeline with the destination's state and schema; without state if it is unreadable."""
    try:
        pipeline.sync_destination()
        if _is_readable(pipeline):
            return pipeline
    except PipelineStepFailed as error:
        if isinstance(error.__cause__, DestinationException):
            raise _cause(error) from error
    logger.warning("The watermark cannot be read: loading the full initial window.")
    warehouse.execute(f"delete from {RAW_DATASET}._dlt_pipeline_state")
    pipeline = pipeline.drop()
    pipeline.sync_destination()
    return pipeline


def _has_loaded(pipeline: dlt.Pipeline) -> bool:
    return "events" in pipeline.default_schema.tables if pipeline.default_schema_name else False


def _is_readable(pipeline: dlt.Pipeline) -> bool:
    incremental = _state_of_events(pipeline).get("incremental", {})
    stored = [cursor.get("last_value") for cursor in incremental.values()]
    return all(value is None or parse_instant(value) is not None for value in stored)


def _watermark(pipeline: dlt.Pipeline) -> Watermark | None:
    state = _state_of_events(pipeline)
    cursor: Cursor = state.get("cursor", "occurred_at")
    stored = state.get("incremental", {}).get(cursor, {}).get("last_value")
    instant = parse_instant(stored)
    return Watermark(cursor, instant) if instant else None


def _state_of_events(pipeline: dlt.Pipeline) -> dict[str, Any]:
    found: Any = pipeline.state.get("sources", {})
    for key in (PIPELINE, "resources", "events"):
        found = found.get(key, {})
    return dict(found)


def _cause(error: BaseException) -> Exception:
    """The failure that dlt's exceptions are wrapped around, as one of ours."""
    innermost: BaseException = error
    while True:
        if isinstance(innermost, ExportError):
            return innermost
        if isinstance(innermost, KeyboardInterrupt):
            raise innermost
        inner = innermost.__cause__ or innermost.__context__
        if inner is None:
            break
        innermost = inner
    step = error.step if isinstance(error, PipelineStepFailed) else "load"
    return SyncError(
        f"Loading failed in step {step}: {' '.join(str(innermost).split())} What it brought does "
        "not count, and the watermark is where it was: run again."
    )
