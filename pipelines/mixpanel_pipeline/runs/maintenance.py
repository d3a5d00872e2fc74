"""What tables need now and then where each commit writes files of its own."""

from datetime import datetime, timedelta

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs.transform import operation

_MACRO = "spark_maintain"
_ORPHANS_KEPT = timedelta(days=3)


def maintain(warehouse: Warehouse, *, now: datetime, keep: timedelta) -> None:
    """Write small files anew as larger ones, and drop what no query can read any more.

    Args:
        warehouse: Where; nobody loads or removes meanwhile.
        now: The current instant.
        keep: For how long back tables can still be read as they were.

    Raises:
        AnotherSyncIsRunning: Somebody loads or removes already.
        SyncError: The destination takes care of itself, or a table could not be maintained; the
            others and all counts are as they were.
    """
    if warehouse.is_transactional:
        raise SyncError(
            f"There is nothing to maintain in {warehouse.location}: the database does it itself."
        )
    with warehouse.lock():
        arguments = {"older_than": _told(now - keep), "compacts": True}
        # Files of a commit that is not made yet are orphans too.
        arguments["orphans_older_than"] = _told(now - max(keep, _ORPHANS_KEPT))
        operation(warehouse, _MACRO, arguments, failure="Not all was maintained")


def expire(warehouse: Warehouse, now: datetime) -> None:
    """Have no table be read any more as it was before `now`, and no build's own tables either."""
    arguments = {"older_than": _told(now), "drops_scratch": True}
    operation(warehouse, _MACRO, arguments, failure="Not all is gone from disk")


def _told(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S")
