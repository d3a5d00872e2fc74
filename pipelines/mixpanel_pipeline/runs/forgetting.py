"""Forgetting people: all that is stored of them goes, and does not come back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mixpanel_pipeline import project
from mixpanel_pipeline.declaration import is_junk
from mixpanel_pipeline.engines import Spark, Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs import rekeyed_ids, suppressed_ids, sweeps
from mixpanel_pipeline.runs.new_events import NewEvents
from mixpanel_pipeline.runs.removal_in_steps import remove_in_steps
from mixpanel_pipeline.runs.transform import operation

# A query with more parameters gains nothing.
_IDS_AT_ONCE = 1000


@dataclass(frozen=True)
class Forgotten:
    """What is stored of some people, or was."""

    ids: int
    """Those given, and all others of the same people."""
    events: int
    rejected_lines: int
    subscribers: int
    profiles: int
    is_done: bool

    def __str__(self) -> str:
        return (
            f"{self.ids:,} ids, {self.events:,} events, {self.rejected_lines:,} rejected lines, "
            f"{self.profiles:,} profiles and {self.subscribers:,} subscribers"
        )

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self))


def forget(
    warehouse: Warehouse, ids: Sequence[str], secret: str | None, *, dry_run: bool = False
) -> Forgotten:
    """Remove everything of the people that some ids are of, and never load it again.

    In one transaction their events, profiles, rejected lines that name them, counts and evidence
    go, and keyed hashes of their ids are entered in `suppressed_ids`. How much it was, without the
    ids, is recorded in `forgotten`. It may be done again for the same ids. Those that turned out
    meanwhile to be of people who were forgotten before are forgotten too.

    Args:
        warehouse: Where they are.
        ids: Any of the people's ids.
        secret: What the hashes are keyed with; syncs need it from then on.
        dry_run: Only find out how much there is.

    Raises:
        AnotherSyncIsRunning: Somebody loads or removes already.
        ConfigurationError: The secret is missing, short, or not the one of before.
        SyncError: Nothing is built yet, or nothing was removed because of an error.
    """
    with warehouse.lock():
        if warehouse.subscriber_count() is None:
            raise SyncError(
                f"There is no {warehouse.marts}.subscribers to find people in. Build the models "
                f"first: {project.COMMAND} --skip-load"
            )
        suppressed_ids.suppression(warehouse, secret)
        theirs = _of_the_same_people(warehouse, sorted({one for one in ids if one}))
        with warehouse.kept_open():
            rekeyed_ids.prepare(warehouse)
            sweeps.prepare(warehouse)
            suppressed_ids.prepare(warehouse)
            # What a load left that did not complete is theirs too.
            NewEvents(warehouse).remove_unfinished()
            if not dry_run:
                forget_linked(warehouse, secret)
            return _forgotten(warehouse, theirs, secret, dry_run=dry_run)


def forget_linked(warehouse: Warehouse, secret: str | None) -> Forgotten | None:
    """Forget the ids that turned out to be of people who were forgotten, as `forget` does.

    An id of somebody who is known to have signed in is left alone: a device binds nobody who has
    it after another one, and who is forgotten is not found out by it.

    Args:
        warehouse: Where they are, with its models; the caller holds its lock.
        secret: What the hashes are keyed with.

    Returns:
        What was forgotten; None when there was nobody.

    Raises:
        SyncError: Nothing was removed because of an error; the next sync tries again.
    """
    table = f"{warehouse.raw}.{suppressed_ids.LINKED}"
    linked = [one for (one,) in warehouse.rows(f"select distinct_id from {table}")]
    if not linked:
        return None
    found = None
    theirs = [one for one in linked if not is_junk(one) and not _is_somebody(warehouse, one)]
    if theirs:
        found = _forgotten(warehouse, _of_the_same_people(warehouse, sorted(theirs)), secret)
    deletion = f"delete from {table} where distinct_id = %s"
    warehouse.execute_held([(deletion, [one]) for one in linked])
    return found


def _is_somebody(warehouse: Warehouse, one: str) -> bool:
    """Whether an id is known to be of somebody who signed in."""
    identities = f"{warehouse.marts}.identity_map"
    return bool(
        warehouse.model_rows(
            f"select 1 from {identities} as asked inner join {identities} as theirs "
            "on asked.resolved_distinct_id = theirs.resolved_distinct_id "
            f"inner join {warehouse.marts}.identity_edges as edges "
            "on theirs.distinct_id = edges.identified_id "
            "where asked.distinct_id = %s and edges.evidence in ('device', 'identify', 'alias') "
            "limit 1",
            [one],
        )
    )


def _forgotten(
    warehouse: Warehouse, theirs: list[str], secret: str | None, *, dry_run: bool = False
) -> Forgotten:
    hashes = [] if dry_run else suppressed_ids.entries(theirs, secret)
    if isinstance(warehouse, Spark):
        found = _found_in_steps(warehouse, theirs, hashes, dry_run=dry_run)
    else:
        arguments = {"ids": theirs, "hashes": hashes, "dry_run": dry_run}
        found = operation(warehouse, "forget", arguments, failure="Nothing was forgotten")
    return Forgotten(len(theirs), **found, is_done=not dry_run)


def _found_in_steps(
    warehouse: Spark, theirs: list[str], hashes: list[str], *, dry_run: bool
) -> dict[str, int]:
    if not dry_run:
        return remove_in_steps(warehouse, ids=theirs, hashes=hashes)
    arguments: dict[str, Any] = {"ids": theirs, "dry_run": True}
    failure = "Nothing was forgotten"
    found = operation(warehouse, "forget_events", arguments, failure=failure)
    more = arguments | {"found": found}
    return operation(warehouse.record, "forget_record", more, failure=failure)


def _of_the_same_people(warehouse: Warehouse, ids: Sequence[str]) -> list[str]:
    identities = f"{warehouse.marts}.identity_map"
    found = set(ids)
    for start in range(0, len(ids), _IDS_AT_ONCE):
        chunk = ids[start : start + _IDS_AT_ONCE]
        places = ", ".join(["%s"] * len(chunk))
        found |= {
            one
            for (one,) in warehouse.model_rows(
                f"select distinct_id from {identities} where resolved_distinct_id in "
                f"(select resolved_distinct_id from {identities} where distinct_id in ({places}))",
                chunk,
            )
        }
    return sorted(found)
