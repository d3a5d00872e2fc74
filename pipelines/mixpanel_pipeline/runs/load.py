"""The load: answers of Mixpanel go into the raw dataset, some at a time in one commit."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import dlt
import pyarrow as pa
from dlt.common.runtime import signals
from dlt.pipeline.exceptions import PipelineStepFailed

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.events.decoding import EVENTS, EVENTS_TABLE, REJECTED_LINES_TABLE, Rules
from mixpanel_pipeline.events.suppression import Suppression
from mixpanel_pipeline.runs import rekeyed_ids, suppressed_ids
from mixpanel_pipeline.runs.decided import arrivals_since, days_again, what_is_new
from mixpanel_pipeline.runs.dlt_settings import only_ours
from mixpanel_pipeline.runs.new_events import NewEvents
from mixpanel_pipeline.runs.state import PIPELINE, Watermark, restored, watermark_of
from mixpanel_pipeline.runs.working_directory import state_directory, working_directory
from mixpanel_pipeline.source import Mode, mixpanel
from mixpanel_pipeline.source.answer import Answer
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.delivered import Delivered
from mixpanel_pipeline.source.downloads import Download, downloads
from mixpanel_pipeline.source.errors import ExportError
from mixpanel_pipeline.source.fetcher import Fetcher
from mixpanel_pipeline.source.plan import Cursor, Stage
from mixpanel_pipeline.source.window import Window, later


@dataclass
class Delivery:
    """What the loads of one sync delivered; filled in while they run."""

    events_received: int = 0
    events_new: int = 0
    events_late: int = 0
    """Of the new ones, those that arrived later than the lookback."""
    lines_rejected: int = 0
    newest_processed: datetime | None = None
    hidden: list[pa.Table] = field(default_factory=list)
    """The events of people who were forgotten: `event_key`, `event` and `occurred_at`."""


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
    days_downloaded: int = 0
    events_downloaded: int = 0
    """Of the answers that are there, committed or not."""
    watermark_before: datetime | None = None
    watermark: datetime | None = None
    delivery: Delivery = field(default_factory=Delivery)
    download_seconds: float = 0.0
    load_seconds: float = 0.0

    def came(self, download: Download) -> None:
        """An answer is there, and will be loaded."""
        self.days_downloaded += download.days.length
        self.events_downloaded += download.delivered.event_count


class Loader:
    """Loads from one project into one warehouse; the caller holds the warehouse's lock.

    Some answers at a time are committed, oldest days first, by dlt's row in `_dlt_loads`: before
    it, neither the events nor the watermark count; with it, both do.

    Args:
        warehouse: Where to load.
        settings: The source's configuration.
        client: Where to load from.
        events: The names to ask for; None for all.
        links: Whether to ask what events of other names say of who is who as well.
        rules: Those of the dataset.
        suppression: Tells what is not to be loaded; None for nothing.
        now: The current instant, with a time zone.
        loaded: Filled in with what was loaded.
        committed: Called after each commit.

    Raises:
        ConfigurationError: The state folder cannot be written.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        settings: MixpanelConfiguration,
        client: MixpanelClient,
        *,
        events: Sequence[str] | None,
        links: bool,
        rules: Rules,
        suppression: Suppression | None,
        now: datetime,
        loaded: Loaded,
        committed: Callable[[], None],
    ) -> None:
        self._warehouse = warehouse
        self._parent = state_directory("pipelines")
        self._destination = warehouse.destination
        self._new_events = NewEvents(warehouse)
        self._destination.new_events = self._new_events
        self._settings = settings
        self._client = client
        self._fetcher = Fetcher(
            client,
            events,
            links=links,
            holds_nul=warehouse.holds_nul,
            rules=rules,
            suppression=suppression,
        )
        self._now = now
        self._loaded = loaded
        self._committed = committed

    def load_new(
        self,
        *,
        full_refresh: bool = False,
        since: date | None = None,
        recorded: datetime | None = None,
    ) -> None:
        """Load what is new, or the whole initial window when there is no watermark.

        Args:
            full_refresh: Load the whole initial window, and what is new when that begins earlier;
                set the watermark anew.
            since: A day that a full refresh begins at, when it is earlier.
            recorded: The watermark by the record of runs, for when the state does not tell one.

        Raises:
            ExportError: Mixpanel delivered no whole answer; the answers before it are loaded.
            SyncError: The database did not take an answer.
        """
        with only_ours(), self._opened() as (pipeline, spool):
            watermark = watermark_of(pipeline)
            settings, now = self._settings, self._now
            decided = what_is_new(
                settings,
                now,
                watermark,
                full_refresh=full_refresh,
                since=since,
                recorded=recorded,
            )
            self._begin(decided.mode, watermark)
            for stage in decided.stages:
                self._load(pipeline, spool, stage, decided.window)
            # From here on by arrival: what those days delivered says since when.
            newest = self._loaded.delivery.newest_processed
            if decided.goes_on_by_arrival and newest is not None:
                self._load(pipeline, spool, arrivals_since(settings, now, newest), decided.window)

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
        with only_ours(), self._opened() as (pipeline, spool):
            self._begin(mode, watermark_of(pipeline))
            if mode == "backfill":
                self._loaded.loaded_to_date = already
            self._load(pipeline, spool, days_again(days, already, self._now), days)

    def _begin(self, mode: Mode, watermark: Watermark | None) -> None:
        if self._loaded.mode is None:
            self._loaded.mode = mode
            self._loaded.watermark_before = watermark.instant if watermark else None
        self._loaded.watermark = watermark.instant if watermark else None

    def _load(self, pipeline: dlt.Pipeline, spool: Path, stage: Stage, window: Window) -> None:
        loaded = self._loaded
        loaded.window = loaded.window or window
        loaded.cursor = stage.cursor or loaded.cursor
        loaded.days_total += stage.days.length
        received_before = loaded.delivery.events_received
        started = time.monotonic()
        parallel = self._settings.parallel_downloads
        fetch, came = self._fetcher.fetch, loaded.came
        for download in downloads(stage, fetch, spool, parallel=parallel, came=came):
            arrived = time.monotonic()
            loaded.download_seconds += arrived - started
            with self._warehouse.kept_open():
                # Before the days count as read: nobody may tell it a second time.
                suppressed_ids.keep_linked(self._warehouse, download.delivered.linked)
                if stage.cursor is None:
                    loaded.delivery.hidden += download.delivered.hidden
                # Days without events need no commit.
                if not download.delivered.is_empty:
                    has_moved = loaded.delivery.events_received > received_before
                    sets_back = stage.restarts and not has_moved
                    self._commit(pipeline, stage, download.delivered, sets_back=sets_back)
                download.delivered.remove()
                loaded.days_done += download.days.length
                if stage.arrival is None or stage.cursor is not None:
                    loaded.loaded_to_date = max(
                        download.days.to_date, loaded.loaded_to_date or download.days.to_date
                    )
                self._committed()
            started = time.monotonic()
            loaded.load_seconds += started - arrived

    def _create_tables(self, pipeline: dlt.Pipeline, spool: Path) -> None:
        """Load an empty answer: the models want the tables even if nothing ever happened."""
        answer = Answer(spool / "answer-0", is_gzip=False)
        answer.path.touch()
        today = Window(self._now.date(), self._now.date())
        delivered = self._fetcher.decode(answer, today)
        with self._warehouse.kept_open():
            self._commit(pipeline, Stage(today, None, self._now), delivered, sets_back=False)

    def _commit(
        self, pipeline: dlt.Pipeline, stage: Stage, delivered: Delivered, *, sets_back: bool
    ) -> None:
        before = watermark_of(pipeline)
        keeps = before and before.cursor == stage.cursor and not sets_back
        source = mixpanel(delivered, stage, watermark=before.instant if before and keeps else None)
        if keeps and before and self._changes_nothing(pipeline, before, stage, delivered):
            self._count(delivered, [])
            return
        self._new_events.links = delivered.links
        # Within each of its steps dlt puts signals off, and afterwards forgets one that came.
        with signals.intercepted_signals():
            try:
                pipeline.extract(source, loader_file_format="parquet")
                pipeline.normalize()
                self._new_events.refuse_known(pipeline.list_normalized_load_packages())
                load_ids = pipeline.load().loads_ids
            except PipelineStepFailed as error:
                raise _cause(error, self._warehouse) from error
            self._warehouse.tune()
            self._count(delivered, load_ids)
            after = watermark_of(pipeline)
            self._loaded.watermark = after.instant if after else None
            signals.raise_if_signalled()

    def _changes_nothing(
        self, pipeline: dlt.Pipeline, watermark: Watermark, stage: Stage, delivered: Delivered
    ) -> bool:
        """Whether a load would leave everything as it is, so that none is needed."""
        by_arrival = stage.cursor == "processed_at"
        newest = delivered.newest_processed if by_arrival else delivered.newest_occurred
        moves = newest is not None and min(newest, stage.until) > watermark.instant
        tables = pipeline.default_schema.tables if _has_loaded(pipeline) else {}
        columns = tables.get(EVENTS_TABLE, {}).get("columns", {})
        # By arrival, the state also says which days of events could be asked for.
        asks_further = by_arrival and stage.last_event_day != watermark.asked_to
        if (
            moves
            or asks_further
            or delivered.rejected_count
            or REJECTED_LINES_TABLE not in tables
            or not columns.keys() >= set(EVENTS.names)
        ):
            return False
        return (
            len(self._new_events.not_new(delivered.events)) == delivered.event_count
            # Copies may tell of an identity that the events themselves did not.
            and not rekeyed_ids.unknown(self._warehouse, delivered.events, delivered.links)
        )

    def _count(self, delivered: Delivered, load_ids: Sequence[str]) -> None:
        delivery = self._loaded.delivery
        new, late = self._new_events.count(load_ids, self._settings.lookback)
        delivery.events_received += delivered.event_count
        delivery.events_new += new
        delivery.events_late += late
        delivery.lines_rejected += delivered.rejected_count
        delivery.newest_processed = later(delivery.newest_processed, delivered.newest_processed)

    @contextmanager
    def _opened(self) -> Iterator[tuple[dlt.Pipeline, Path]]:
        """The pipeline with the destination's state, and a directory for answers.

        Afterwards the tables are there, whatever was loaded.
        """
        # The destination alone says what was loaded. Working files of a run that died are of no
        # use: dlt would finish that run's load first and leave the new answer unread.
        name = f"mixpanel-{self._warehouse.fingerprint}"
        with working_directory(self._parent, name) as directory:
            spool = directory / "spool"
            spool.mkdir()
            try:
                pipeline = dlt.pipeline(
                    PIPELINE,
                    destination=self._destination,
                    dataset_name=self._warehouse.raw,
                    pipelines_dir=str(directory),
                )
                with self._warehouse.kept_open():
                    try:
                        pipeline = restored(pipeline, self._warehouse, self._now)
                    except PipelineStepFailed as error:
                        raise _cause(error, self._warehouse) from error
                    self._new_events.remove_unfinished()
                yield pipeline, spool
                if not _has_loaded(pipeline):
                    self._create_tables(pipeline, spool)
            except BaseException:
                # Downloads that are under way would write into what is removed now.
                self._client.stop()
                raise


def _has_loaded(pipeline: dlt.Pipeline) -> bool:
    return "events" in pipeline.default_schema.tables if pipeline.default_schema_name else False


def _cause(error: BaseException, warehouse: Warehouse) -> Exception:
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
        f"Loading failed in step {step}: {warehouse.told(innermost)} What it brought does "
        "not count, and the watermark is where it was."
    )
