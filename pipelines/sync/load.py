"""The load: what the source extracts goes into the raw dataset, or nothing does."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import dlt
from dlt.common.destination.exceptions import DestinationException
from dlt.common.runtime import run_context
from dlt.pipeline.exceptions import PipelineStepFailed

from mixpanel_export import Delivery, mixpanel
from mixpanel_export.configuration import MixpanelConfiguration
from mixpanel_export.errors import ExportError
from mixpanel_export.window import Window, parse_instant
from sync.errors import SyncError
from sync.project import RAW_DATASET
from sync.warehouse import Warehouse

logger = logging.getLogger(__name__)

PIPELINE = "mixpanel"


@dataclass
class Loaded:
    """What a load brought, and the watermark after it."""

    delivery: Delivery
    events_new: int
    watermark: datetime | None


def load(
    warehouse: Warehouse,
    settings: MixpanelConfiguration,
    *,
    events: Sequence[str] | None,
    now: datetime,
    backfill: Window | None = None,
    full_refresh: bool = False,
) -> Loaded:
    """Export and load once; the caller holds the warehouse's lock.

    The load is committed by dlt's row in `_dlt_loads`: before it, neither the events nor the
    watermark count; with it, both do.

    Raises:
        ExportError: Mixpanel delivered no whole answer.
        SyncError: The database did not take the load.
    """
    _configure_dlt()
    # The destination alone says what was loaded. Working files of a run that died are of no use:
    # dlt would finish that run's load first and leave the new answer unread.
    data_directory = Path(run_context.active().data_dir)
    directory = data_directory / "pipelines" / f"mixpanel-{warehouse.fingerprint}"
    shutil.rmtree(directory, ignore_errors=True)
    spool = directory / "spool"
    spool.mkdir(parents=True)
    try:
        pipeline = _restored(
            dlt.pipeline(
                PIPELINE,
                destination=warehouse.destination,
                dataset_name=RAW_DATASET,
                pipelines_dir=str(directory),
            ),
            warehouse,
        )
        delivery = Delivery()
        source = mixpanel(
            settings,
            events=events,
            now=now,
            dataset_name=RAW_DATASET,
            holds_nul=warehouse.holds_nul,
            spool=spool,
            backfill=backfill,
            full_refresh=full_refresh,
            delivery=delivery,
        )
        try:
            (load_id,) = pipeline.run(source, loader_file_format="parquet").loads_ids
        except PipelineStepFailed as error:
            raise _cause(error) from error
        warehouse.tune()
        events_new = warehouse.value(
            f"select count(*) from {RAW_DATASET}.events where _dlt_load_id = '{load_id}'"
        )
        return Loaded(delivery, events_new, parse_instant(_cursor(pipeline).get("last_value")))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _configure_dlt() -> None:
    """What correctness or memory depends on, and so is not the user's to change."""
    dlt.config["normalize.parquet_normalizer.add_dlt_load_id"] = True
    # An Arrow table is a batch already; collecting 5,000 rows of 1 MB would take 5 GB.
    dlt.config["data_writer.buffer_max_items"] = 1
    dlt.config["data_writer.file_max_items"] = 100_000
    dlt.config["data_writer.file_max_bytes"] = 64 * 2**20


def _restored(pipeline: dlt.Pipeline, warehouse: Warehouse) -> dlt.Pipeline:
    """The pipeline with the destination's state and schema; without state if it is unreadable."""
    try:
        pipeline.sync_destination()
        stored = _cursor(pipeline).get("last_value")
        if stored is None or parse_instant(stored) is not None:
            return pipeline
    except PipelineStepFailed as error:
        if isinstance(error.__cause__, DestinationException):
            raise _cause(error) from error
    logger.warning("The watermark cannot be read: loading the full initial window.")
    warehouse.execute(f"delete from {RAW_DATASET}._dlt_pipeline_state")
    pipeline = pipeline.drop()
    pipeline.sync_destination()
    return pipeline


def _cursor(pipeline: dlt.Pipeline) -> dict[str, Any]:
    found: Any = pipeline.state.get("sources", {})
    for key in (PIPELINE, "resources", "events", "incremental", "occurred_at"):
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
