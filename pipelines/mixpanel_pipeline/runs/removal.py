"""Removing events by a condition, with the counts of those who did them."""

import json
from dataclasses import asdict, dataclass

from mixpanel_pipeline import project
from mixpanel_pipeline.engines import Spark, Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs import sweeps
from mixpanel_pipeline.runs.removal_in_steps import remove_in_steps
from mixpanel_pipeline.runs.transform import operation

EVENTS = "stg_mixpanel__events"


@dataclass(frozen=True)
class Removal:
    """How much a condition is about."""

    events: int
    subscribers: int
    """Who did them, or some of them."""
    is_done: bool

    def __str__(self) -> str:
        return f"{self.events:,} events of {self.subscribers:,} subscribers"

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self))


def remove_events(warehouse: Warehouse, condition: str, *, dry_run: bool = False) -> Removal:
    """Remove the loaded events for which `condition` is true, and count without them.

    In one transaction the events go and those who did them are counted again; who has no events
    left is gone from the counts. Events that Mixpanel still exports are loaded again by the next
    sync, audit or backfill of their days, and then counted again, once.

    Args:
        warehouse: Where they are.
        condition: SQL on the columns of `stg_mixpanel__events`.
        dry_run: Only find out how many there are.

    Raises:
        AnotherSyncIsRunning: Somebody loads or removes already.
        SyncError: There is nothing to remove from, or nothing was removed because of an error.
    """
    with warehouse.lock():
        if not warehouse.has_models():
            raise SyncError(
                f"There is no {warehouse.marts}.{EVENTS} to find events in. Build the models "
                f"first: {project.COMMAND} --skip-load"
            )
        ((events, subscribers),) = warehouse.model_rows(
            "select count(*), count(distinct subscriber_id) "
            f"from {warehouse.marts}.{EVENTS} where ({condition})"
        )
        if dry_run or not events:
            return Removal(events, subscribers, is_done=not dry_run)
        with warehouse.kept_open():
            sweeps.prepare(warehouse)
        if isinstance(warehouse, Spark):
            remove_in_steps(warehouse, condition=condition)
        else:
            operation(
                warehouse,
                "remove_events",
                {"condition": condition},
                failure="Nothing was removed",
            )
        return Removal(events, subscribers, is_done=True)
