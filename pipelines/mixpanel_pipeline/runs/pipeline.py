"""What the command does: one sync, or one audit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mixpanel_pipeline.declaration import refuse_list_that_lacks
from mixpanel_pipeline.engines import Warehouse, open_warehouse
from mixpanel_pipeline.runs.audit import DEFAULT_DAYS, Audit, compare, heal_after_sync
from mixpanel_pipeline.runs.notifications import tell, tell_refusal
from mixpanel_pipeline.runs.progress import Progress
from mixpanel_pipeline.runs.run import Run
from mixpanel_pipeline.runs.summary import Summary, new_run_id
from mixpanel_pipeline.runs.transform import dbt_folders
from mixpanel_pipeline.settings import check_settings
from mixpanel_pipeline.source import Mode
from mixpanel_pipeline.source.configuration import MixpanelConfiguration, load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from mixpanel_pipeline.source.window import Window


def sync(
    warehouse: Warehouse | None = None,
    settings: MixpanelConfiguration | None = None,
    *,
    now: datetime | None = None,
    backfill: Window | None = None,
    full_refresh: bool = False,
    skip_load: bool = False,
    skip_transform: bool = False,
    run_id: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Load Mixpanel's events into `warehouse`, then build the models.

    Args:
        warehouse: Where to load and build; what is configured by default.
        settings: The source's configuration; what is configured by default.
        now: The current instant, with a time zone; by the machine's clock by default.
        backfill: Load these days instead of what is new; a backfill of the same days that did not
            come to its end is gone on with.
        full_refresh: Load the whole initial window again and rebuild the models.
        skip_load: Only build; nothing is asked of Mixpanel.
        skip_transform: Only load.
        run_id: The run's id in `sync_runs`, where ids sort by time; a new one by default.
        progress: Is told what is going on.

    Returns:
        The summary. Failures that can be expected are told in it, not raised.

    Raises:
        ConfigurationError: A setting is missing or cannot be what it is, or the settings are not
            those that the dataset was loaded with.
    """
    now, run_id = now or datetime.now(UTC), run_id or new_run_id()
    mode: Mode = "full_refresh" if full_refresh else "backfill" if backfill else "incremental"
    with _refusals_told(settings, warehouse, run_id=run_id, now=now, mode=mode):
        warehouse = warehouse or _configured_warehouse()
        settings = None if skip_load else settings or load_configuration()
        if settings is not None and not skip_transform:
            refuse_list_that_lacks(settings.event_names)
    run = Run(warehouse, settings, mode, now=now, run_id=run_id, progress=progress)

    def steps() -> None:
        failure = None
        if not skip_transform:
            # Better before than after hours of loading.
            warehouse.check_rights_to_transform()
            dbt_folders(warehouse)
        if settings is not None:
            if backfill:
                run.load_backfill(backfill)
            else:
                run.load_new(full_refresh=full_refresh)
            heal_after_sync(run, settings.audit_after_sync)
            run.check_names()
            if backfill is None:
                failure = run.load_profiles()
                run.load_lexicon()
        if not skip_transform:
            run.transform(full_refresh=full_refresh)
        else:
            run.tell_linked()
        if failure is not None:
            raise failure

    _perform(run, steps)
    tell(run)
    return run.summary


def audit(
    warehouse: Warehouse | None = None,
    settings: MixpanelConfiguration | None = None,
    *,
    now: datetime | None = None,
    days: int = DEFAULT_DAYS,
    heal: bool = False,
    skip_transform: bool = False,
    run_id: str | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Compare what is loaded with Mixpanel's own counts; `heal` loads what is missing.

    Args:
        warehouse: What to compare; what is configured by default.
        settings: The source's configuration; what is configured by default.
        now: The current instant, with a time zone; by the machine's clock by default.
        days: How many days, today included.
        heal: Export the days again of which events are missing, and count them.
        skip_transform: Count nothing after healing.
        run_id: The run's id in `sync_runs`, where ids sort by time; a new one by default.
        progress: Is told what is going on.

    Returns:
        What was found. Failures that can be expected are told in it, not raised.

    Raises:
        ConfigurationError: As `sync`.
    """
    now, run_id = now or datetime.now(UTC), run_id or new_run_id()
    with _refusals_told(settings, warehouse, run_id=run_id, now=now, mode="audit"):
        warehouse = warehouse or _configured_warehouse()
        settings = settings or load_configuration()
    run = Run(warehouse, settings, "audit", now=now, run_id=run_id, progress=progress)
    found = Audit("impossible", error="Another sync is running: try again when it has ended.")

    def steps() -> None:
        nonlocal found
        found = compare(run, days, heal=heal)
        if found.healed_days and not skip_transform:
            run.transform()
        if found.status == "differing":
            number = len(found.to_look_at)
            noun = "count differs" if number == 1 else "counts differ"
            run.summary.error = f"{number:,} {noun} from Mixpanel's own"

    _perform(run, steps)
    if run.summary.status == "failed":
        # What was healed before the failure is healed.
        found.status, found.error = "impossible", run.summary.error
    tell(run)
    return found


def _configured_warehouse() -> Warehouse:
    """For who leaves it to the configuration, of which all is to be right then."""
    check_settings()
    return open_warehouse(None)


def _perform(run: Run, steps: Callable[[], None]) -> None:
    """`Run.perform`; of what it raises are told who are told of failures."""
    summary = run.summary
    refused = _refusals_told(
        run.source_settings,
        run.warehouse,
        run_id=summary.run_id,
        now=run.now,
        mode=summary.mode,
    )
    with refused:
        try:
            run.perform(steps)
        except BaseException as error:
            # Otherwise it had not begun.
            if summary.status == "failed":
                tell(run)
                if isinstance(error, ConfigurationError):
                    error.is_told = True
            raise


@contextmanager
def _refusals_told(
    settings: MixpanelConfiguration | None,
    warehouse: Warehouse | None,
    *,
    run_id: str,
    now: datetime,
    mode: Mode,
) -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        tell_refusal(
            error,
            settings=settings,
            destination=warehouse,
            run_id=run_id,
            now=now,
            mode=mode,
        )
        raise
