"""Which of the delivered events are new: an event counts once, however often it is delivered.

Only keys are compared, so an event's payload is written to the database once, and only if the
event is new. What a load wrote that did not complete is removed before the next one.
"""

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mixpanel_pipeline.engines.positions import row_groups, view_delivered
from mixpanel_pipeline.engines.warehouse import KEYS_MEMORY, Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.events.decoding import EVENTS
from mixpanel_pipeline.runs import rekeyed_ids

# Of several copies in one answer the last one processed stays. Of those in several answers, as if
# each were committed alone, one of the first.
COPIES = """
    select position
    from (
        select
            position,
            row_number() over (
                partition by event_key order by file, copy_order desc, position desc
            ) as place
        from delivered
        where event_key in (
            select event_key from delivered group by event_key having count(*) > 1
        )
    ) as copies
    where place > 1
"""


class NewEvents:
    """The events that a warehouse lacks; the caller holds the warehouse's lock.

    Args:
        warehouse: What is loaded into.

    Attributes:
        links: Parquet files with the schema `LINKS`, which the next load brings.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._begun = f"{warehouse.raw}.loads_begun"
        self.links: Sequence[Path] = ()

    def remove_unfinished(self) -> None:
        """Remove what loads that did not complete left among the events."""
        warehouse, raw = self._warehouse, self._warehouse.raw
        completed = warehouse.completed_loads
        has_events = warehouse.has_table(raw, "events")
        if not warehouse.has_table(raw, "loads_begun"):
            # Earlier versions did not record what they began.
            if has_events:
                everything = f"delete from {raw}.events where _dlt_load_id not in "
                warehouse.execute_held([(f"{everything}({completed})", [])])
            warehouse.execute(f"create table {self._begun} (load_id text primary key)")
            return
        begun = warehouse.rows(f"select load_id from {self._begun}")
        if not begun:
            return
        unfinished = has_events and warehouse.rows(
            f"select load_id from {self._begun} where load_id not in ({completed})"
        )
        if unfinished:
            warehouse.discard([load_id for (load_id,) in unfinished])
        # Only what nothing is left of is no longer recorded.
        warehouse.execute_held(
            [
                (f"delete from {raw}.{rekeyed_ids.NAME} where _dlt_load_id = %s", [load_id])
                for (load_id,) in unfinished or []
            ]
            + [(f"delete from {self._begun} where load_id = %s", [load_id]) for (load_id,) in begun]
        )

    def refuse_known(self, load_ids: Sequence[str]) -> None:
        """Refuse a load whose id another one has: its events would be taken for counted.

        dlt takes the time for an id, and sees to it that none comes twice in one process. Of two
        processes, between which the clock was set back, it cannot.

        Raises:
            SyncError: The database has one of them.
        """
        warehouse = self._warehouse
        if not load_ids or not warehouse.has_table(warehouse.raw, "_dlt_loads"):
            return
        places = ", ".join("%s" for _ in load_ids)
        known = warehouse.rows(
            f"select load_id from ({warehouse.completed_loads}) as completed "
            f"where load_id in ({places})",
            list(load_ids),
        )
        if known:
            raise SyncError(
                f"The id of this load is that of an earlier one ({known[0][0]}, its time in "
                "seconds since 1970): the clock was set back. Nothing of it was loaded, and the "
                "watermark is where it was: run again."
            )

    def begin(self, load_id: str) -> None:
        """Record that a load writes events from now on: they count once it is completed."""
        self._warehouse.execute(f"insert into {self._begun} values (%s)", [load_id])

    def keep_rekeyed(self, delivered: Sequence[Path], load_id: str) -> None:
        """See `rekeyed_ids.keep`."""
        rekeyed_ids.keep(self._warehouse, delivered, self.links, load_id)

    def count(self, load_ids: Sequence[str], lookback: timedelta) -> tuple[int, int]:
        """How many events some loads wrote, and how many of those came later than the lookback."""
        if not load_ids:
            return 0, 0
        places = ", ".join("%s" for _ in load_ids)
        late = f"processed_at - occurred_at > interval '{lookback.total_seconds()} seconds'"
        ((new, is_late),) = self._warehouse.rows_of_events(
            f"select count(*), count(case when {late} then 1 end) "
            f"from {self._warehouse.raw}.events where _dlt_load_id in ({places})",
            load_ids,
            load_ids=load_ids,
        )
        return new, is_late

    def not_new(self, delivered: Sequence[Path]) -> pa.Array:
        """The positions of the events that are copies or loaded already, in ascending order.

        Args:
            delivered: Parquet files with the schema `EVENTS`; positions go on from one to the next.
        """
        groups = row_groups(delivered)
        if not groups:
            return pa.array([], pa.int64())
        copies = _copies(delivered)
        if not self._warehouse.has_table(self._warehouse.raw, "events"):
            return copies.sort()
        column = EVENTS.get_field_index("occurred_at")
        times = [group.metadata.column(column).statistics for group in groups]
        earliest, latest = min(time.min for time in times), max(time.max for time in times)
        loaded = self._warehouse.loaded(delivered, earliest, latest)
        return pa.concat_arrays([copies, loaded]).unique().sort()


def _copies(delivered: Sequence[Path]) -> pa.Array:
    # Beyond the limit DuckDB spills to disk.
    spill = str(delivered[0].parent)
    limits: dict[str, Any] = {"memory_limit": KEYS_MEMORY, "temp_directory": spill}
    with closing(duckdb.connect(config=limits)) as connection:
        view_delivered(connection, delivered)
        return connection.sql(COPIES).to_arrow_table().column(0).combine_chunks()
