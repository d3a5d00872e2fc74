"""Removing where no transaction holds events, the record and the models: in steps.

What is to be removed is recorded first, together with what keeps it away. Each step after that may
be done again; whoever is interrupted has the next run that loads or builds finish, before it does
anything else.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mixpanel_pipeline.engines import Spark, Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs import suppressed_ids
from mixpanel_pipeline.runs.maintenance import expire
from mixpanel_pipeline.runs.transform import operation, transform

_BEGUN = "removals_begun"
_FINISHED_LATER = "Not all of it is removed yet; the next sync, or the same command, does the rest"


def remove_in_steps(
    warehouse: Warehouse,
    *,
    condition: str | None = None,
    ids: Sequence[str] = (),
    hashes: Sequence[str] = (),
) -> dict[str, int]:
    """Record what is to be removed, from when on it will be, and remove it.

    Args:
        warehouse: Where; the caller holds its lock.
        condition: Events of which it is true, SQL on the columns of `stg_mixpanel__events`.
        ids: Or all that is about these ids.
        hashes: Of the ids, which are kept away from now on.

    Returns:
        How much it was, as `Removal` and `Forgotten` name it.

    Raises:
        SyncError: It is not finished; the next run begins with it.
    """
    suppressed, begun = f"{warehouse.raw}.{suppressed_ids.NAME}", f"{warehouse.raw}.{_BEGUN}"
    warehouse.execute(f"create table if not exists {begun} (condition text, ids text)")
    enters = f"insert into {suppressed} values (%s) on conflict do nothing"
    warehouse.execute_held(
        [(enters, [one]) for one in hashes]
        + [(f"insert into {begun} values (%s, %s)", [condition, json.dumps(list(ids))])]
    )
    try:
        return finish(warehouse) or {}
    except KeyboardInterrupt as interruption:
        raise SyncError(f"Interrupted. {_FINISHED_LATER}.") from interruption


def finish(warehouse: Warehouse) -> dict[str, int] | None:
    """Remove all that was begun to be removed, and build the models without it.

    Args:
        warehouse: Where; the caller holds its lock.

    Returns:
        How much the last one was about, as `Removal` and `Forgotten` name it; None when there was
        nothing to be done.

    Raises:
        SyncError: A step failed; the next run begins with it.
    """
    if not isinstance(warehouse, Spark) or not warehouse.has_table(warehouse.raw, _BEGUN):
        return None
    begun = warehouse.rows(f"select condition, ids from {warehouse.raw}.{_BEGUN}")
    if not begun:
        return None
    found = {}
    for condition, ids in begun:
        found = _removed(warehouse, condition, json.loads(ids))
    transform(warehouse, full_refresh=True)
    expire(warehouse, datetime.now(UTC))
    warehouse.execute_held(
        [
            (
                f"delete from {warehouse.raw}.{_BEGUN} "
                "where condition is not distinct from %s and ids = %s",
                list(row),
            )
            for row in begun
        ]
    )
    return found


def _removed(warehouse: Spark, condition: str | None, ids: list[str]) -> dict[str, int]:
    if condition is not None:
        return _step(warehouse, "remove_events", {"condition": condition})
    found = _step(warehouse, "forget_events", {"ids": ids})
    return _step(warehouse.record, "forget_record", {"ids": ids, "found": found})


def _step(warehouse: Warehouse, macro: str, arguments: dict[str, Any]) -> dict[str, int]:
    return operation(warehouse, macro, arguments, failure=_FINISHED_LATER)
