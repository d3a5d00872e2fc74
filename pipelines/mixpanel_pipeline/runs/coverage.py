"""Which days were loaded for which names, as the runs of the past tell."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.runs.sync_runs import LoadedDays, SyncRuns
from mixpanel_pipeline.source.window import Window


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
    return lacking(SyncRuns(warehouse).loaded_days(), names)


def lacking(loaded: Iterable[LoadedDays], names: Sequence[str] | None) -> Missing | None:
    """`missing`, of days that were loaded one after the other."""
    wanted: list[str | None] = [None] if names is None else list(names)
    lacks: dict[str | None, set[date]] = {name: set() for name in wanted}
    for described, first, last, by_arrival in loaded:
        if first > last:
            continue
        asked = None if described == "all" else json.loads(described)
        for name, days in lacks.items():
            if asked is not None and name not in asked:
                days.update(Window(first, last).days)
            elif days and not by_arrival:
                days.difference_update(Window(first, last).days)
    days = set[date]().union(*lacks.values())
    if not days:
        return None
    of_names = [name for name, days_of in lacks.items() if name is not None and days_of]
    return Missing(len(days), min(days), of_names or None)
