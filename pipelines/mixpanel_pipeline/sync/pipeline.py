"""What the command does: one sync, or one audit."""

from datetime import datetime

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.source import Mode
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.window import Window
from mixpanel_pipeline.sync.audit import Audit, audit, heal_after_sync
from mixpanel_pipeline.sync.progress import Progress
from mixpanel_pipeline.sync.run import Run
from mixpanel_pipeline.sync.summary import Summary
from mixpanel_pipeline.sync.transform import dbt_folders


def sync(
    warehouse: Warehouse,
    settings: MixpanelConfiguration | None,
    *,
    now: datetime,
    backfill: Window | None = None,
    full_refresh: bool = False,
    skip_transform: bool = False,
    run_id: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Load Mixpanel's events into `warehouse`, then build the models.

    Args:
        warehouse: Where to load and build.
        settings: The source's configuration; None to only transform.
        now: The current instant, with a time zone.
        backfill: Load these days instead of what is new; a backfill of the same days that did not
            come to its end is gone on with.
        full_refresh: Load the whole initial window again and rebuild the models.
        skip_transform: Only load.
        run_id: The run's id in `sync_runs`; a new one by default.
        progress: Is told what is going on.

    Returns:
        The summary. Failures that can be expected are told in it, not raised.

    Raises:
        ConfigurationError: The settings are not those that the dataset was loaded with.
    """
    mode: Mode = "full_refresh" if full_refresh else "backfill" if backfill else "incremental"
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
        if not skip_transform:
            run.transform(full_refresh=full_refresh)
        if failure is not None:
            raise failure

    run.perform(steps)
    return run.summary


def audit_only(
    warehouse: Warehouse,
    settings: MixpanelConfiguration,
    *,
    now: datetime,
    days: int,
    heal: bool = False,
    skip_transform: bool = False,
    run_id: str | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Compare what is loaded with Mixpanel's own counts; `heal` loads what is missing.

    Args:
        warehouse: What to compare.
        settings: The source's configuration.
        now: The current instant, with a time zone.
        days: How many days, today included.
        heal: Export the days again of which events are missing, and count them.
        skip_transform: Count nothing after healing.
        run_id: The run's id in `sync_runs`; a new one by default.
        progress: Is told what is going on.

    Returns:
        What was found. Failures that can be expected are told in it, not raised.

    Raises:
        ConfigurationError: The settings are not those that the dataset was loaded with.
    """
    run = Run(warehouse, settings, "audit", now=now, run_id=run_id, progress=progress)
    found = Audit("impossible", error="Another sync is running: try again when it has ended.")

    def steps() -> None:
        nonlocal found
        found = audit(run, days, heal=heal)
        if found.healed_days and not skip_transform:
            run.transform()

    run.perform(steps)
    if run.summary.status == "failed":
        # What was healed before the failure is healed.
        found.status, found.error = "impossible", run.summary.error
    return found
