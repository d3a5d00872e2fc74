"""One run against a warehouse: its lock, its steps, its failures and its row in `sync_runs`."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property

import duckdb
import psycopg2

from mixpanel_pipeline import interruption, project
from mixpanel_pipeline.declaration import identity_events, refuse_what_needs, tracked_events
from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError
from mixpanel_pipeline.events.decoding import Rules
from mixpanel_pipeline.events.suppression import Suppression
from mixpanel_pipeline.redaction import redacted
from mixpanel_pipeline.runs import (
    cohorts,
    lexicon,
    rekeyed_ids,
    removal_in_steps,
    suppressed_ids,
    sweeps,
)
from mixpanel_pipeline.runs.built import Missing, forget_build, keep_build, to_build
from mixpanel_pipeline.runs.coverage import missing
from mixpanel_pipeline.runs.dataset import Dataset
from mixpanel_pipeline.runs.descriptions import describe
from mixpanel_pipeline.runs.forgetting import forget_linked
from mixpanel_pipeline.runs.load import Loaded, Loader
from mixpanel_pipeline.runs.profiles import Profiles
from mixpanel_pipeline.runs.progress import Progress
from mixpanel_pipeline.runs.summary import Summary, new_run_id
from mixpanel_pipeline.runs.sync_runs import SyncRuns, described
from mixpanel_pipeline.runs.transform import build_arguments, transform
from mixpanel_pipeline.runs.unknown_names import absent_names, names_to_check, tell_unknown
from mixpanel_pipeline.source import Mode
from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import MixpanelConfiguration, withheld_names
from mixpanel_pipeline.source.errors import (
    AccessRefused,
    ConfigurationError,
    ExportError,
    NotInPlan,
)
from mixpanel_pipeline.source.lexicon import fetch_lexicon
from mixpanel_pipeline.source.profiles import fetch_cohorts
from mixpanel_pipeline.source.window import Window

logger = logging.getLogger(__name__)

# What can be expected to fail; anything else is a mistake of ours and keeps its traceback.
_EXPECTED = (ExportError, SyncError, duckdb.Error, psycopg2.Error, OSError)


class Run:
    """A run; its steps are taken inside `perform`.

    Args:
        warehouse: Where to load and build.
        settings: The source's configuration; None when nothing is asked of Mixpanel.
        mode: What the run is for.
        now: The current instant, with a time zone.
        run_id: Its id; a new one by default.
        progress: Is told what is going on.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        settings: MixpanelConfiguration | None,
        mode: Mode,
        *,
        now: datetime,
        run_id: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.warehouse = warehouse
        self.now = now
        self.summary = Summary(
            status="ok",
            mode=mode,
            destination=warehouse.name,
            run_id=run_id or new_run_id(),
            started_at=now.astimezone(UTC),
        )
        self.loaded = Loaded()
        self.reason: str | None = None
        """Why it failed, as others than the people of the database may be told."""
        self.failures = 0
        """How many runs before it have failed since one succeeded, since `failing_since`."""
        self.failing_since: datetime | None = None
        self._settings = settings
        self._rules = Rules()
        self._suppression: Suppression | None = None
        self._recorded: datetime | None = None
        self._progress = progress or Progress()
        self._runs = SyncRuns(warehouse)
        self._is_entered = False
        self._event_names: str | None = None
        self._absent: list[str] | None = None
        self.denied: frozenset[str] = frozenset()
        self._started = time.monotonic()
        self._transform_seconds: float | None = None

    @property
    def settings(self) -> MixpanelConfiguration:
        """The source's configuration."""
        if self._settings is None:
            raise RuntimeError("a run without settings asks nothing of Mixpanel")
        return self._settings

    @property
    def source_settings(self) -> MixpanelConfiguration | None:
        """`settings`, if there are any."""
        return self._settings

    @cached_property
    def wanted(self) -> list[str] | None:
        """The names of the events that somebody wants for themselves; None for all."""
        names = self.settings.event_names
        if names == "all":
            return None
        return self.settings.without_denied(tracked_events() if names == "tracked" else names)

    @cached_property
    def events(self) -> list[str] | None:
        """The names of the events to load, those that say who is who too; None for all."""
        if self.wanted is None:
            return None
        more = self.settings.without_denied(identity_events())
        return [*self.wanted, *(name for name in more if name not in self.wanted)]

    @property
    def asks_for_links(self) -> bool:
        """Whether events of other names are asked what they say of who is who."""
        is_asked = self.settings.evidence_of_all_events and self.events is not None
        return is_asked and bool(identity_events())

    @cached_property
    def client(self) -> MixpanelClient:
        """Mixpanel, with what is left of the hour's requests."""
        spent = self._runs.requests_ago(self.now)
        return MixpanelClient(self.settings, RequestBudget(self.settings.requests_per_hour, spent))

    @property
    def _requests(self) -> int | None:
        return self.client.requests_sent if "client" in vars(self) else None

    def perform(self, steps: Callable[[], None]) -> None:
        """Take the steps under the lock; then the summary, and the run's row, say how it went.

        Raises:
            ConfigurationError: There are no events to ask for, a metric needs what is kept from
                being loaded, the settings are not those that the dataset was loaded with, or its
                schemas or the state folder cannot be used.
        """
        self.check_declaration()
        try:
            with self.warehouse.lock(loads=self._settings is not None):
                try:
                    with self.warehouse.kept_open():
                        self._runs.start(self.summary.run_id, self.now, self.summary.mode)
                        self._is_entered = True
                        self.failures, self.failing_since = self._runs.failures_before(
                            self.summary.run_id, self.summary.mode
                        )
                        self._prepare()
                    with self._progress.shown():
                        self._finish_removals()
                        steps()
                        interruption.check()
                        if self.summary.subscribers is None:
                            self._count_subscribers()
                except BaseException as error:
                    self._fail(error)
                    raise
                finally:
                    self._tell()
                    self._finish()
        except AnotherSyncIsRunning as holder:
            self.summary.status = "skipped"
            logger.warning("Another sync of this database is running: %s.", holder)
        except (*_EXPECTED, KeyboardInterrupt) as error:
            self._fail(error)
            if not self._is_entered:
                self._note()
        except Exception as error:
            if not interruption.came():
                raise
            self._fail(error)
        finally:
            self.summary.duration_seconds = round(time.monotonic() - self._started, 3)

    def check_declaration(self) -> None:
        """Check what can be without the database.

        Raises:
            ConfigurationError: There are no events to ask for, or a metric needs what is kept from
                being loaded.
        """
        withheld = withheld_names(self._settings)
        self.denied = withheld["events_denied"]
        refuse_what_needs(withheld)
        if self._settings is not None:
            _ = self.events

    def _prepare(self) -> None:
        self._runs.reconsider(self.denied)
        if self._settings is not None:
            self._rules = Dataset(self.warehouse, self._settings).check()
            suppressed_ids.prepare(self.warehouse)
            secret = self._settings.hash_secret
            self._suppression = suppressed_ids.suppression(self.warehouse, secret)
            # Here, as it asks the database, which need not be opened for it once more.
            _ = self.client
            self._recorded = self._runs.last_watermark()
        rekeyed_ids.prepare(self.warehouse)
        sweeps.prepare(self.warehouse)
        lexicon.prepare(self.warehouse)

    def load_new(self, *, full_refresh: bool = False) -> None:
        """Load what is new; see `Loader.load_new`. A full refresh loads also what is missing."""
        lacks = missing(self.warehouse, self.events) if full_refresh else None
        self._loader().load_new(
            full_refresh=full_refresh,
            since=lacks.since if lacks else None,
            recorded=self._recorded,
        )
        with self.warehouse.kept_open():
            # Tables of which it says nothing are made by later versions alone.
            if self.loaded.mode in ("first", "full_refresh"):
                describe(self.warehouse)
            self._tell_missing()

    def load_backfill(self, days: Window) -> None:
        """Load `days`, from where a backfill of the same days and events came to."""
        loader = self._loader()
        already = self._runs.progress_of(days, described(self.events), self.now)
        if already:
            logger.warning(
                "Going on with the backfill after %s, where it came to; for the days before, "
                "backfill them alone.",
                already,
            )
        loader.load_days(days, "backfill", already=already)
        self._tell_missing()

    def check_names(self) -> None:
        """Tell which names Mixpanel does not have; see `tell_unknown`.

        Once for a list of names: who changes it may have mistyped another one, and the events of
        a table are searched for a name no more often than that.
        """
        if self._absent is not None and tell_unknown(self.client, self._absent):
            names = described(names_to_check(self.events))
            self._runs.update(self.summary.run_id, names_checked=names)

    def unchecked_names(self, runs: SyncRuns) -> list[str] | None:
        """The names of which no event is loaded; None when their list was checked before.

        Args:
            runs: The record of runs.
        """
        names = names_to_check(self.events)
        if not names or runs.has_checked(described(names)):
            return None
        if not self.warehouse.has_table(self.warehouse.raw, "events"):
            return names
        return absent_names(self.warehouse, names)

    def load_profiles(self) -> ExportError | None:
        """Sweep profiles and cohorts, where they are asked for and due; see `Sweeper.sweep`.

        Returns:
            What it failed of, to be raised when everything else is done: that is no reason not to
            count. A project whose plan lacks the API is only warned of.
        """
        if not (self.settings.profiles or self.settings.cohorts):
            return None
        self._progress.step = "Loading profiles"
        profiles = Profiles(self.warehouse, self.now, keep_history=self.settings.profile_history)
        try:
            self._sweep(profiles)
        except NotInPlan as error:
            logger.warning("Profiles and cohorts are not loaded: %s", error)
        except ExportError as error:
            return error
        finally:
            if self.settings.profiles:
                self.summary.profiles_new = profiles.counts.new
                self.summary.profiles_changed = profiles.counts.changed
                self.summary.profiles_unchanged = profiles.counts.unchanged
                self.summary.profiles_deleted = profiles.counts.deleted
        return None

    def _sweep(self, profiles: Profiles) -> None:
        sweeper = sweeps.Sweeper(
            self.warehouse,
            self.settings,
            self.client,
            suppression=self._suppression,
            now=self.now,
        )
        everything: list[sweeps.Swept] = [profiles] if self.settings.profiles else []
        if self.settings.cohorts and sweeper.has_room:
            found = fetch_cohorts(self.client, holds_nul=self.warehouse.holds_nul)
            with self.warehouse.kept_open():
                cohorts.keep(self.warehouse, found, self.now)
            everything += [cohorts.CohortMembers(self.warehouse, one.id, self.now) for one in found]
        sweeper.sweep(everything)

    def load_lexicon(self) -> None:
        """Keep what Mixpanel's Lexicon says, where it is asked for and due.

        No sync fails of it: what it said before stays, with a warning.
        """
        if not self.settings.lexicon:
            return
        with self.warehouse.kept_open():
            if not lexicon.is_due(self.warehouse, self.now):
                return
        try:
            found = fetch_lexicon(self.client, holds_nul=self.warehouse.holds_nul)
        except ExportError as error:
            logger.warning("The Lexicon is not loaded; what it said before stays: %s", error)
            return
        with self.warehouse.kept_open():
            lexicon.keep(self.warehouse, found, self.now)

    def load_again(self, days: Window) -> None:
        """Load days that turned out to lack events."""
        self._loader().load_days(days, "audit")

    def transform(self, *, full_refresh: bool = False) -> None:
        """Build the models; not, when a sync loaded nothing that they lack. See `transform`."""
        self._progress.step = "Building the models"
        started = time.monotonic()
        try:
            with self.warehouse.kept_open():
                self._build(full_refresh=full_refresh)
                self._forget_linked()
                self._count_subscribers()
        finally:
            self._transform_seconds = time.monotonic() - started

    def _finish_removals(self) -> None:
        """Before anything is loaded that was not meant."""
        if removal_in_steps.finish(self.warehouse) is not None:
            logger.warning("A removal that was interrupted is finished now.")

    def tell_linked(self) -> None:
        """Tell of ids that may have to be forgotten, where this run is not one that does it."""
        with self.warehouse.kept_open():
            number = suppressed_ids.linked(self.warehouse)
        if number:
            logger.warning(
                "%d ids may be of people who were forgotten, and are not forgotten yet: a sync "
                "that loads and builds does that, and so does `%s forget` of any id.",
                number,
                project.COMMAND,
            )

    def _forget_linked(self) -> None:
        """See `forget_linked`."""
        if self._settings is None:
            self.tell_linked()
        if self._suppression is None:
            return
        found = forget_linked(self.warehouse, self.settings.hash_secret)
        if found is not None:
            logger.warning(
                "Some ids turned out to be of people who were forgotten, and were forgotten as "
                "well: %s.",
                found,
            )

    def _tell_missing(self) -> None:
        with self.warehouse.kept_open():
            lacks = missing(self.warehouse, self.events)
            # Here, as the database need not be opened for it once more.
            self._absent = self.unchecked_names(self._runs)
        if lacks is not None:
            self.summary.days_missing, self.summary.missing_since = lacks.days, lacks.since
            logger.warning("%s: --full-refresh loads them.", lacks)

    def to_build(self, *, full_refresh: bool) -> Missing:
        """What dbt has to build as things stand."""
        if full_refresh or self._settings is None:
            return "everything"
        return to_build(self.warehouse, build_arguments(), self.now)

    def _build(self, *, full_refresh: bool) -> None:
        arguments = build_arguments()
        lacks = self.to_build(full_refresh=full_refresh)
        if lacks == "nothing":
            return
        forget_build(self.warehouse)
        transform(
            self.warehouse,
            full_refresh=full_refresh,
            with_views=lacks == "everything",
            progress=self._progress,
        )
        keep_build(self.warehouse, arguments, self.now)

    def _loader(self) -> Loader:
        self._event_names = described(self.events)
        self._progress.watch(self.loaded, self.client)
        return Loader(
            self.warehouse,
            self.settings,
            self.client,
            events=self.events,
            links=self.asks_for_links,
            rules=self._rules,
            suppression=self._suppression,
            now=self.now,
            loaded=self.loaded,
            committed=self._committed,
        )

    def _count_subscribers(self) -> None:
        with self.warehouse.kept_open():
            self.summary.subscribers = self.warehouse.subscriber_count()

    def _fail(self, error: BaseException) -> None:
        self.summary.status = "failed"
        # Whatever fails after a signal fails of it: DuckDB and dbt make errors of their own of it.
        if isinstance(error, KeyboardInterrupt) or interruption.came():
            self.summary.error = interruption.MESSAGE
        elif isinstance(error, ConfigurationError | ExportError | SyncError):
            self.summary.error = self.without_secrets(str(error))
            self.summary.is_misconfigured = isinstance(error, AccessRefused)
        else:
            what = type(error).__name__
            if isinstance(error, duckdb.Error | psycopg2.Error):
                what = f"{self.warehouse.name} at {self.warehouse.location} failed"
            said = self.warehouse.told(error)
            self.summary.error = self.without_secrets(f"{what}: {said}")
        self.reason = self.summary.error
        if not isinstance(error, ConfigurationError | ExportError | KeyboardInterrupt):
            # What a database says, or dbt or Python, may have values of events in it.
            what, colon, _ = self.summary.error.partition(": ")
            more = f"; the record of runs says more: {project.COMMAND} status"
            self.reason = f"{what}{more if colon else ''}"

    def without_secrets(self, text: str) -> str:
        """The text as it may be shown and kept."""
        text = self._settings.without_secrets(text) if self._settings else redacted(text)
        # PostgreSQL's text cannot hold NUL.
        return text.replace("\0", "")

    def _tell(self) -> None:
        summary, loaded = self.summary, self.loaded
        summary.requests = self._requests
        if loaded.mode is None:
            return
        summary.mode = loaded.mode
        if loaded.window is not None:
            summary.from_date, summary.to_date = loaded.window.from_date, loaded.window.to_date
        summary.watermark = loaded.watermark
        summary.events_received = loaded.delivery.events_received
        summary.events_new = loaded.delivery.events_new
        summary.events_duplicate = loaded.delivery.events_received - loaded.delivery.events_new
        summary.lines_rejected = loaded.delivery.lines_rejected

    def _committed(self) -> None:
        logger.debug(
            "Loaded until %s: %s events so far, %s new",
            self.loaded.loaded_to_date,
            f"{self.loaded.delivery.events_received:,}",
            f"{self.loaded.delivery.events_new:,}",
        )
        self._keep()
        interruption.check()

    def _keep(self, **outcome: object) -> None:
        """Enter what there is to say so far, or in the end."""
        if not self._is_entered:
            return
        loaded = self.loaded
        values: dict[str, object] = {"transform_seconds": self._transform_seconds}
        if loaded.mode is not None:
            window, delivery = loaded.window, loaded.delivery
            values |= {
                "mode": loaded.mode,
                "cursor_column": loaded.cursor,
                "event_names": self._event_names,
                "events_denied": described(sorted(self.denied)) if self.denied else None,
                "from_date": window and window.from_date,
                "to_date": window and window.to_date,
                "loaded_to_date": loaded.loaded_to_date,
                "watermark_before": loaded.watermark_before,
                "watermark_after": loaded.watermark,
                "events_received": delivery.events_received,
                "events_new": delivery.events_new,
                "events_duplicate": delivery.events_received - delivery.events_new,
                "events_late": delivery.events_late,
                "lines_rejected": delivery.lines_rejected,
                "download_seconds": loaded.download_seconds,
                "load_seconds": loaded.load_seconds,
            }
        if self._requests is not None:
            values["requests"] = self._requests
            values["bytes"] = self.client.bytes_received
        self._runs.update(self.summary.run_id, **values, **outcome)

    def _finish(self) -> None:
        if not self._is_entered:
            return
        try:
            self._keep(**self._outcome())
        except (duckdb.Error, psycopg2.Error, SyncError, ConfigurationError):
            # The database is what the run failed of, mostly.
            self._note()

    def _note(self) -> None:
        """Leave it to the next run to enter what became of this one; the summary tells it now."""
        with suppress(OSError, ConfigurationError):
            self._runs.note(self.summary.run_id, self.now, self.summary.mode, **self._outcome())

    def _outcome(self) -> dict[str, object]:
        return {
            "status": self.summary.status,
            "error": self.summary.error,
            "finished_at": self.now + timedelta(seconds=time.monotonic() - self._started),
        }
