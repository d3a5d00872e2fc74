"""The tables `cohorts` and `cohort_members`: the groups of people that are saved at Mixpanel."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.runs.sweeps import Statement, Sweep, places
from mixpanel_pipeline.source.profiles import Cohort, Profile


class CohortMembers:
    """The members of a cohort, to be swept.

    Args:
        warehouse: Where to.
        cohort_id: The cohort.
        now: The current instant, with a time zone.
    """

    def __init__(self, warehouse: Warehouse, cohort_id: int, now: datetime) -> None:
        self.cohort_id = cohort_id
        # Their profiles are swept otherwise; members without one count too.
        self.form = {
            "filter_by_cohort": json.dumps({"id": cohort_id}),
            "include_all_users": "true",
            "output_properties": "[]",
        }
        self._raw = warehouse.raw
        self._now = now

    def page(self, profiles: Sequence[Profile], sweep: Sweep) -> Iterable[Statement]:
        """A page alone changes nothing: `swept_ids` collects the members."""
        return ()

    def end(self, sweep: Sweep) -> Iterable[Statement]:
        """Who is a member now, and who was."""
        members = f"{self._raw}.cohort_members"
        current = f"cohort_id = {self.cohort_id} and valid_to is null"
        yield (
            f"update {members} set valid_to = %s where {current} "
            f"and not exists (select 1 from {self._raw}.swept_ids as swept "
            "where swept.distinct_id = cohort_members.distinct_id)",
            [self._now],
        )
        yield (
            f"insert into {members} select {self.cohort_id}, distinct_id, "
            f"cast(%s as timestamp with time zone), null from {self._raw}.swept_ids as swept "
            f"where not exists (select 1 from {members} as members where {current} "
            "and members.distinct_id = swept.distinct_id)",
            [self._now],
        )

    def count(self, sweep: Sweep, *, is_last: bool) -> None:
        """Nothing is told of it."""


def keep(warehouse: Warehouse, cohorts: Sequence[Cohort], now: datetime) -> None:
    """Keep which cohorts there are; one that is gone has no members any more.

    Args:
        warehouse: Where; the caller holds its lock.
        cohorts: All that Mixpanel has.
        now: The current instant, with a time zone.
    """
    raw = warehouse.raw
    stored = {
        cohort_id: tuple(said)
        for cohort_id, *said in warehouse.rows(
            f"select id, name, description, is_deleted from {raw}.cohorts"
        )
    }
    changed = [one for one in cohorts if stored.get(one.id) != (one.name, one.description, False)]
    gone = sorted(
        cohort_id
        for cohort_id, (*_, is_deleted) in stored.items()
        if not is_deleted and cohort_id not in {one.id for one in cohorts}
    )
    statements: list[Statement] = []
    if changed:
        statements.append(
            (
                f"insert into {raw}.cohorts values {places(6, len(changed))} "
                "on conflict (id) do update set name = excluded.name, "
                "description = excluded.description, last_changed = excluded.last_changed, "
                "is_deleted = excluded.is_deleted",
                [
                    value
                    for one in changed
                    for value in (one.id, one.name, one.description, now, now, False)
                ],
            )
        )
    for cohort_id in gone:
        statements += [
            (
                f"update {raw}.cohorts set is_deleted = true, last_changed = %s where id = %s",
                [now, cohort_id],
            ),
            (
                f"update {raw}.cohort_members set valid_to = %s "
                "where valid_to is null and cohort_id = %s",
                [now, cohort_id],
            ),
        ]
    if statements:
        warehouse.execute_held(statements)
