"""Removing events by a condition, with the counts of those who did them."""

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from mixpanel_pipeline import project
from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs import sweeps
from mixpanel_pipeline.runs.transform import call_dbt, in_one_line

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
    warehouse.check_removal()
    with warehouse.lock():
        if not warehouse.has_table(warehouse.marts, EVENTS):
            raise SyncError(
                f"There is no {warehouse.marts}.{EVENTS} to find events in. Build the models "
                f"first: {project.COMMAND} --skip-load"
            )
        with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
            # No parameters: a % of the condition is its own.
            cursor.execute(
                "select count(*), count(distinct subscriber_id) "
                f"from {warehouse.marts}.{EVENTS} where ({condition})"
            )
            events, subscribers = cursor.fetchone()
        if dry_run or not events:
            return Removal(events, subscribers, is_done=not dry_run)
        with warehouse.kept_open():
            sweeps.prepare(warehouse)
        arguments = [
            "run-operation",
            "mixpanel.remove_events",
            "--args",
            json.dumps({"condition": condition}),
        ]
        said = []

        def listen(event: Any) -> None:
            # The result of an operation does not say why it failed.
            if event.info.name.startswith("RunningOperation"):
                said.append(event.data.exc)

        result = call_dbt(warehouse, arguments, [listen])
        if not result.success:
            reason = in_one_line("; ".join(said) or str(result.exception))
            raise SyncError(f"Nothing was removed: {reason}.")
        return Removal(events, subscribers, is_done=True)
