"""A sync into files: what is new is loaded, once, and nothing is counted."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dlt
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from dlt.common.runtime import signals
from dlt.pipeline.exceptions import PipelineStepFailed

from mixpanel_pipeline import interruption
from mixpanel_pipeline.declaration import identity_events, tracked_events
from mixpanel_pipeline.engines.filesystem import NAME, Files
from mixpanel_pipeline.engines.positions import row_groups, rows_without, view_delivered
from mixpanel_pipeline.engines.warehouse import KEYS_MEMORY, around
from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError, what_to_do
from mixpanel_pipeline.events.decoding import (
    EVENTS,
    EVENTS_TABLE,
    KEY_RULES,
    REJECTED_LINES_TABLE,
    Rules,
)
from mixpanel_pipeline.redaction import redacted
from mixpanel_pipeline.runs.decided import arrivals_since, days_again, what_is_new
from mixpanel_pipeline.runs.dlt_settings import only_ours
from mixpanel_pipeline.runs.load import Loaded
from mixpanel_pipeline.runs.new_events import COPIES
from mixpanel_pipeline.runs.notifications import tell
from mixpanel_pipeline.runs.progress import Progress
from mixpanel_pipeline.runs.state import PIPELINE, watermark_of
from mixpanel_pipeline.runs.summary import Summary, new_run_id
from mixpanel_pipeline.runs.working_directory import state_directory, working_directory
from mixpanel_pipeline.source import mixpanel
from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.delivered import Delivered
from mixpanel_pipeline.source.downloads import Download, downloads
from mixpanel_pipeline.source.errors import AccessRefused, ConfigurationError, ExportError
from mixpanel_pipeline.source.fetcher import Fetcher
from mixpanel_pipeline.source.plan import Stage
from mixpanel_pipeline.source.window import Window, later

logger = logging.getLogger(__name__)

# What the events were loaded with, and so have to be loaded with.
_DATASET = ("project_id", "timezone", "region")


def sync_files(
    files: Files,
    settings: MixpanelConfiguration,
    *,
    now: datetime,
    backfill: Window | None = None,
    run_id: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Load Mixpanel's events into `files`.

    Args:
        files: Where to load.
        settings: The source's configuration.
        now: The current instant, with a time zone.
        backfill: Load these days instead of what is new.
        run_id: The run's id; a new one by default.
        progress: Is told what is going on.

    Returns:
        The summary. Failures that can be expected are told in it, not raised.

    Raises:
        ConfigurationError: The settings are not those that the events were loaded with, or the
            state folder cannot be written.
    """
    run = _FilesRun(files, settings, now, run_id or new_run_id(), progress or Progress())
    run.summary.mode = "backfill" if backfill else "incremental"
    run.perform(backfill)
    tell(run)
    return run.summary


@dataclass
class _FilesRun:
    files: Files
    source_settings: MixpanelConfiguration
    now: datetime
    run_id: str
    progress: Progress
    reason: str | None = None
    # Of runs before it nothing is recorded.
    failures: int = 0
    failing_since: datetime | None = None
    summary: Summary = field(init=False)
    loaded: Loaded = field(default_factory=Loaded)

    def __post_init__(self) -> None:
        self.summary = Summary(
            status="ok",
            mode="incremental",
            destination=NAME,
            run_id=self.run_id,
            started_at=self.now.astimezone(UTC),
        )
        budget = RequestBudget(self.source_settings.requests_per_hour)
        self._client = MixpanelClient(self.source_settings, budget)

    def perform(self, backfill: Window | None) -> None:
        started = time.monotonic()
        parent = state_directory("pipelines")
        try:
            with (
                self.files.lock(state_directory(f"{NAME}-{self.files.fingerprint}")),
                working_directory(parent, f"mixpanel-{self.files.fingerprint}") as directory,
                only_ours(),
                self.progress.shown(),
            ):
                self.progress.watch(self.loaded, self._client)
                try:
                    self._load(directory, backfill)
                finally:
                    # Downloads that are under way would write into what is removed now.
                    self._client.stop()
            interruption.check()
        except AnotherSyncIsRunning as holder:
            self.summary.status = "skipped"
            logger.warning("Another sync is running: %s.", holder)
        except (ExportError, SyncError, OSError, duckdb.Error, KeyboardInterrupt) as error:
            self._fail(error)
        except Exception as error:
            if not interruption.came():
                raise
            self._fail(error)
        finally:
            self._tell()
            self.summary.duration_seconds = round(time.monotonic() - started, 3)

    def _load(self, directory: Path, backfill: Window | None) -> None:
        pipeline = dlt.pipeline(
            PIPELINE,
            destination=self.files.destination,
            dataset_name=self.files.dataset_name,
            pipelines_dir=str(directory),
        )
        settings = self.source_settings
        if settings.profiles or settings.cohorts or settings.lexicon:
            logger.warning("Profiles, cohorts and the Lexicon are loaded into databases only.")
        self.files.remove_unfinished()
        with self._failures_told():
            pipeline.sync_destination()
        rules = self._rules(pipeline)
        fetcher = Fetcher(self._client, _names(self.source_settings), holds_nul=True, rules=rules)
        spool = directory / "spool"
        spool.mkdir()
        watermark = watermark_of(pipeline)
        self.loaded.watermark = watermark.instant if watermark else None
        if backfill is not None:
            self.loaded.mode, self.loaded.window = "backfill", backfill
            self._stage(pipeline, fetcher, spool, days_again(backfill, None, self.now))
            return
        decided = what_is_new(self.source_settings, self.now, watermark)
        self.loaded.mode, self.loaded.window = decided.mode, decided.window
        for stage in decided.stages:
            self._stage(pipeline, fetcher, spool, stage)
        newest = self.loaded.delivery.newest_processed
        if decided.goes_on_by_arrival and newest is not None:
            stage = arrivals_since(self.source_settings, self.now, newest)
            self._stage(pipeline, fetcher, spool, stage)

    def _rules(self, pipeline: dlt.Pipeline) -> Rules:
        """What the events are loaded by, since their first load.

        Raises:
            ConfigurationError: The settings are not those of that load.
        """
        configured = {name: getattr(self.source_settings, name) for name in _DATASET}
        with pipeline.managed_state() as state:
            of_source: Any = state.setdefault("sources", {}).setdefault(PIPELINE, {})
            new = configured | {
                "table_format": self.files.table_format,
                "event_keys": KEY_RULES[-1],
                "time_in_ms": True,
            }
            kept = of_source.setdefault("dataset", new)
            if kept["table_format"] != self.files.table_format:
                raise ConfigurationError(
                    f"destination.{NAME}.table_format is {self.files.table_format!r}, but "
                    f"{self.files.location} has tables of {kept['table_format']}. Nothing was "
                    "requested or changed. Put it back, or load elsewhere: another bucket_url or "
                    "dataset_name."
                )
            for name, value in configured.items():
                if kept[name] is not None and value is not None and kept[name] != value:
                    raise ConfigurationError(
                        f"sources.mixpanel.{name} is {value!r}, but the events in "
                        f"{self.files.location} were loaded with {kept[name]!r}, and the two "
                        "cannot be told apart there. Nothing was requested or changed. Put it "
                        "back, or load elsewhere: another bucket_url or dataset_name."
                    )
            return Rules(kept["event_keys"], time_in_ms=kept["time_in_ms"])

    def _stage(self, pipeline: dlt.Pipeline, fetcher: Fetcher, spool: Path, stage: Stage) -> None:
        loaded = self.loaded
        loaded.cursor = stage.cursor or loaded.cursor
        loaded.days_total += stage.days.length
        # Set anew where another cursor begins.
        restarts = stage.restarts
        parallel = self.source_settings.parallel_downloads
        for download in downloads(stage, fetcher.fetch, spool, parallel=parallel, came=loaded.came):
            self._commit(pipeline, stage, download, spool, restarts=restarts)
            restarts = False
            interruption.check()

    def _commit(
        self,
        pipeline: dlt.Pipeline,
        stage: Stage,
        download: Download,
        spool: Path,
        *,
        restarts: bool,
    ) -> None:
        delivered, before = download.delivered, watermark_of(pipeline)
        new = self._new(delivered, spool)
        keeps = before is not None and before.cursor == stage.cursor and not restarts
        newest = (
            delivered.newest_processed
            if stage.cursor == "processed_at"
            else delivered.newest_occurred
        )
        moves = (
            newest is not None
            and stage.cursor is not None
            and not (keeps and before is not None and min(newest, stage.until) <= before.instant)
        )
        if moves or not new.is_empty:
            source = mixpanel(new, stage, watermark=before.instant if before and keeps else None)
            names = [EVENTS_TABLE] + ([REJECTED_LINES_TABLE] if new.rejected_count else [])
            source = source.with_resources(*names)
            for name in names:
                _as_files(source.resources[name], self.files.table_format)
            # Within each of its steps dlt puts signals off, and afterwards forgets one that came.
            with self._failures_told(), signals.intercepted_signals():
                pipeline.run(source, loader_file_format="parquet")
                signals.raise_if_signalled()
        delivery, after = self.loaded.delivery, watermark_of(pipeline)
        delivery.events_received += delivered.event_count
        delivery.events_new += new.event_count
        delivery.lines_rejected += delivered.rejected_count
        delivery.newest_processed = later(delivery.newest_processed, delivered.newest_processed)
        self.loaded.watermark = after.instant if after else None
        self.loaded.days_done += download.days.length
        delivered.remove()

    def _new(self, delivered: Delivered, spool: Path) -> Delivered:
        """What of it is not in the files yet, in files beside its own."""
        # Beyond the limit DuckDB spills to disk.
        limits: dict[str, Any] = {"memory_limit": KEYS_MEMORY, "temp_directory": str(spool)}
        with closing(duckdb.connect(config=limits)) as connection:
            events, event_count = self._new_events(connection, delivered, spool)
            lines, line_count = self._new_lines(connection, delivered, spool)
        return replace(
            delivered,
            events=events,
            event_count=event_count,
            rejected_lines=lines,
            rejected_count=line_count,
        )

    def _new_events(
        self, connection: Any, delivered: Delivered, spool: Path
    ) -> tuple[tuple[Path, ...], int]:
        groups = row_groups(delivered.events)
        if not groups:
            return (), 0
        view_delivered(connection, delivered.events)
        not_new = [_positions(connection, COPIES)]
        column = EVENTS.get_field_index("occurred_at")
        times = [group.metadata.column(column).statistics for group in groups]
        since, until = around(min(one.min for one in times), max(one.max for one in times))
        with self.files.stored(EVENTS_TABLE, ["event_key"], since=since, until=until) as stored:
            if stored is not None:
                connection.register("stored", stored)
                known = "select position from delivered where event_key in (from stored)"
                not_new.append(_positions(connection, known))
        dropped = pa.concat_arrays(not_new).unique().sort()
        count = delivered.event_count - len(dropped)
        if not count:
            return (), 0
        path = spool / "new-events"
        with pq.ParquetWriter(path, EVENTS, compression="lz4") as writer:
            for rows in rows_without(groups, dropped):
                writer.write_table(rows.cast(EVENTS))
        return (path,), count

    def _new_lines(
        self, connection: Any, delivered: Delivered, spool: Path
    ) -> tuple[tuple[Path, ...], int]:
        if not delivered.rejected_count:
            return (), 0
        paths = [str(path) for path in delivered.rejected_lines]
        connection.read_parquet(paths).create_view("lines")
        found = "select line, reason, min(day) as day from lines group by line, reason"
        with self.files.stored(REJECTED_LINES_TABLE, ["line", "reason"]) as stored:
            if stored is not None:
                connection.register("stored_lines", stored)
                found += " having (line, reason) not in (select (line, reason) from stored_lines)"
            lines = connection.sql(found).to_arrow_table()
        if not lines.num_rows:
            return (), 0
        path = spool / "new-lines"
        pq.write_table(lines, path)
        return (path,), lines.num_rows

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """dlt's exceptions as the failure that they are wrapped around, as one of ours."""
        try:
            yield
        except PipelineStepFailed as error:
            innermost: BaseException = error
            while (inner := innermost.__cause__ or innermost.__context__) is not None:
                innermost = inner
            if isinstance(innermost, ExportError | SyncError | KeyboardInterrupt):
                raise innermost from None
            said = redacted(" ".join(str(innermost).split()))
            if isinstance(innermost, ImportError):
                raise ConfigurationError(
                    f"A package that {self.files.location} needs is not installed: {said}. "
                    "Nothing was loaded."
                ) from error
            if error.step == "sync":
                raise SyncError(
                    f"The watermark in {self.files.location} cannot be read: "
                    f"{type(innermost).__name__}: {said} Nothing was loaded; run again. If a file "
                    "of _dlt_pipeline_state or _dlt_version is damaged, move it away: days are "
                    "loaded again then, and no event twice."
                ) from error
            raise SyncError(
                f"Loading into {self.files.location} failed in step {error.step}: "
                f"{type(innermost).__name__}: {said} The watermark is where it was, and what was "
                f"written is not written again. {what_to_do(innermost)}"
            ) from error

    def _fail(self, error: BaseException) -> None:
        self.summary.status = "failed"
        if isinstance(error, KeyboardInterrupt) or interruption.came():
            said = interruption.MESSAGE
        elif isinstance(error, ExportError | SyncError):
            said = str(error)
        else:
            said = f"{type(error).__name__}: {error}. {what_to_do(error)}"
        self.summary.error = redacted(self.source_settings.without_secrets(said))
        self.summary.is_misconfigured = isinstance(error, AccessRefused)
        self.reason = self.summary.error

    def _tell(self) -> None:
        summary, loaded = self.summary, self.loaded
        summary.requests = self._client.requests_sent
        if loaded.mode is None or loaded.window is None:
            return
        summary.mode = loaded.mode
        summary.from_date, summary.to_date = loaded.window.from_date, loaded.window.to_date
        summary.watermark = loaded.watermark
        summary.events_received = loaded.delivery.events_received
        summary.events_new = loaded.delivery.events_new
        summary.events_duplicate = summary.events_received - summary.events_new
        summary.lines_rejected = loaded.delivery.lines_rejected


def _names(settings: MixpanelConfiguration) -> Sequence[str] | None:
    """The names of the events to load; None for all."""
    names = settings.event_names
    if names == "all":
        return None
    wanted = tracked_events() if names == "tracked" else names
    everything = dict.fromkeys([*wanted, *identity_events()])
    return settings.without_denied(list(everything))


def _as_files(resource: Any, table_format: str) -> None:
    """Have dlt only add what it is given: what is new was told before."""
    resource.apply_hints(
        write_disposition="append",
        # What dlt warns of: JSON is text there, and nothing is merged.
        columns={"properties": {"data_type": "text"}, "copy_order": {"dedup_sort": None}}
        if resource.name == EVENTS_TABLE
        else None,
        table_format=None if table_format == "parquet" else table_format,
    )
    if table_format == "iceberg" and resource.name == EVENTS_TABLE:
        from dlt.destinations.adapters import iceberg_adapter, iceberg_partition

        iceberg_adapter(resource, partition=iceberg_partition.day("occurred_at"))


def _positions(connection: Any, query: str) -> pa.Array:
    return connection.sql(query).to_arrow_table().column(0).cast(pa.int64()).combine_chunks()
