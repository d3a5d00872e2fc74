"""Which days were loaded for which names, as the runs of the past tell."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.source.window import Window

# A run enters the days it has loaded after it committed them, so a crash claims too little.
# What an audit loads again are single days, and not all between them.
_RUNS = """
    select
        event_names,
        from_date,
        case when by_arrival then to_date else least(loaded_to_date, to_date) end,
        by_arrival
    from (
        select *, mode = 'incremental' and cursor_column = 'processed_at' as by_arrival
        from {raw}.sync_runs
        where mode <> 'audit' and event_names is not null and loaded_to_date is not null
    ) as runs
    order by id
"""


@dataclass(frozen=True)
class Missing:
    """Days that were loaded for other names than those asked for now.

    Attributes:
        days: How many.
        since: The first of them.
        names: Those that some of the days lack; None when they may lack any.
    """

    days: int
    since: date
    names: list[str] | None

    def __str__(self) -> str:
        what = "events of other names" if self.names is None else ", ".join(self.names)
        return f"Of the days since {self.since}, {self.days} were loaded without {what}"


def missing(warehouse: Warehouse, names: Sequence[str] | None) -> Missing | None:
    """What of the days loaded so far was not asked for.

    A run that does not ask for a name leaves its days without it, until whole days are read that
    include it. By arrival, a run reads no whole days: what arrived before, others have read.

    Args:
        warehouse: Where; its `sync_runs` tells.
        names: The names that are asked for now; None for all.
    """
    wanted: list[str | None] = [None] if names is None else list(names)
    lacking: dict[str | None, set[date]] = {name: set() for name in wanted}
    for described, first, last, by_arrival in warehouse.rows(_RUNS.format(raw=warehouse.raw)):
        if first > last:
            continue
        asked = None if described == "all" else json.loads(described)
        for name, days in lacking.items():
            if asked is not None and name not in asked:
                days.update(Window(first, last).days)
            elif days and not by_arrival:
                days.difference_update(Window(first, last).days)
    days = set[date]().union(*lacking.values())
    if not days:
        return None
    of_names = [name for name, lacks in lacking.items() if name is not None and lacks]
    return Missing(len(days), min(days), of_names or None)
