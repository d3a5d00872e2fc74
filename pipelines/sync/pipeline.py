"""One sync: load what is new, then transform it."""

import logging
import time
from datetime import datetime

import duckdb
import psycopg2

from mixpanel_export import Mode
from mixpanel_export.configuration import MixpanelConfiguration
from mixpanel_export.errors import ExportError
from mixpanel_export.window import Window
from sync.errors import AnotherSyncIsRunning, SyncError
from sync.load import load
from sync.project import MART_SCHEMA, tracked_events
from sync.summary import Summary
from sync.transform import transform
from sync.warehouse import Warehouse

logger = logging.getLogger(__name__)


def sync(
    warehouse: Warehouse,
    settings: MixpanelConfiguration | None,
    *,
    now: datetime,
    backfill: Window | None = None,
    full_refresh: bool = False,
    skip_transform: bool = False,
) -> Summary:
    """Load Mixpanel's events into `warehouse`, then build the models.

    Args:
        warehouse: Where to load and build.
        settings: The source's configuration; None to only transform.
        now: The current instant, with a time zone.
        backfill: Load these days instead of what is new.
        full_refresh: Load the whole initial window again and rebuild the models.
        skip_transform: Only load.

    Returns:
        The summary. Failures that can be expected are told in it, not raised.
    """
    started = time.monotonic()
    mode: Mode = "full_refresh" if full_refresh else "backfill" if backfill else "incremental"
    summary = Summary(status="ok", mode=mode, destination=warehouse.name)
    try:
        with warehouse.lock():
            if settings is not None:
                _load(summary, warehouse, settings, now, backfill, full_refresh)
            if not skip_transform:
                transform(warehouse, full_refresh=full_refresh)
            if warehouse.has_table(MART_SCHEMA, "subscribers"):
                summary.subscribers = warehouse.value(
                    f"select count(*) from {MART_SCHEMA}.subscribers"
                )
    except AnotherSyncIsRunning as holder:
        summary.status = "skipped"
        logger.warning("Another sync of this database is running: %s.", holder)
    except (ExportError, SyncError) as error:
        summary.status, summary.error = "failed", _without_secrets(str(error), warehouse, settings)
    except (duckdb.Error, psycopg2.Error, OSError) as error:
        summary.status = "failed"
        said = " ".join(str(error).split())
        summary.error = _without_secrets(
            f"{warehouse.name} at {warehouse.location} failed: {said} It is safe to run again.",
            warehouse,
            settings,
        )
    summary.duration_seconds = round(time.monotonic() - started, 3)
    return summary


def _load(
    summary: Summary,
    warehouse: Warehouse,
    settings: MixpanelConfiguration,
    now: datetime,
    backfill: Window | None,
    full_refresh: bool,
) -> None:
    names = settings.event_names
    events = tracked_events() if names == "tracked" else None if names == "all" else list(names)
    loaded = load(
        warehouse,
        settings,
        events=events,
        now=now,
        backfill=backfill,
        full_refresh=full_refresh,
    )
    delivery = loaded.delivery
    summary.mode = delivery.mode or summary.mode
    if delivery.window is not None:
        summary.from_date, summary.to_date = delivery.window.from_date, delivery.window.to_date
    summary.watermark = loaded.watermark
    summary.events_received = delivery.events_received
    summary.events_new = loaded.events_new
    summary.events_duplicate = delivery.events_received - loaded.events_new
    summary.lines_rejected = delivery.lines_rejected


def _without_secrets(
    text: str, warehouse: Warehouse, settings: MixpanelConfiguration | None
) -> str:
    for secret in warehouse.secrets + (settings.secrets if settings else []):
        text = text.replace(secret, "***")
    return text
