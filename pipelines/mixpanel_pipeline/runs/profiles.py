"""The tables `profiles` and `profile_history`: who the people are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.runs.sweeps import Statement, Sweep
from mixpanel_pipeline.source.profiles import Profile


@dataclass
class ProfileCounts:
    """What committed pages of profiles brought."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0


class Profiles:
    """All profiles, to be swept. Only what changed is written.

    Args:
        warehouse: Where to.
        now: The current instant, with a time zone.
        keep_history: Whether `profile_history` is kept.
    """

    cohort_id = None

    def __init__(self, warehouse: Warehouse, now: datetime, *, keep_history: bool) -> None:
        self.form: dict[str, str] = {}
        self._warehouse = warehouse
        self._now = now
        self._keeps_history = keep_history
        self._page = ProfileCounts()
        self.counts = ProfileCounts()

    def page(self, profiles: Sequence[Profile], sweep: Sweep) -> Iterable[Statement]:
        """What a page changes."""
        stored = {
            distinct_id: (content_hash, is_deleted)
            for distinct_id, content_hash, is_deleted in self._warehouse.rows(
                "select distinct_id, content_hash, is_deleted "
                f"from {self._warehouse.raw}.profiles "
                "where distinct_id in (select unnest(cast(%s as text[])))",
                [[profile.distinct_id for profile in profiles]],
            )
        }
        changed = [
            profile
            for profile in profiles
            if stored.get(profile.distinct_id) != (profile.content_hash, False)
        ]
        new = sum(profile.distinct_id not in stored for profile in changed)
        self._page = ProfileCounts(new, len(changed) - new, len(profiles) - len(changed))
        if not changed:
            return
        yield (
            f"insert into {self._warehouse.raw}.profiles "
            "select unnest(cast(%s as text[])), "
            f"cast(unnest(cast(%s as text[])) as {self._warehouse.json_type}), "
            "unnest(cast(%s as text[])), cast(%s as timestamp with time zone), "
            "cast(%s as timestamp with time zone), false, %s "
            "on conflict (distinct_id) do update set properties = excluded.properties, "
            "content_hash = excluded.content_hash, last_changed = excluded.last_changed, "
            "is_deleted = excluded.is_deleted, change_id = excluded.change_id",
            [
                [profile.distinct_id for profile in changed],
                [profile.properties for profile in changed],
                [profile.content_hash for profile in changed],
                self._now,
                self._now,
                sweep.change_id,
            ],
        )

    def end(self, sweep: Sweep) -> Iterable[Statement]:
        """Who was on no page has no profile any more."""
        raw = self._warehouse.raw
        yield (
            f"update {raw}.profiles set is_deleted = true, last_changed = %s, change_id = %s where "
            f"not is_deleted and not exists (select 1 from {raw}.swept_ids as swept "
            "where swept.distinct_id = profiles.distinct_id)",
            [self._now, sweep.change_id],
        )
        if not self._keeps_history:
            return
        # By what is stored, so that it is whole also when it was not kept for a while.
        yield (
            f"update {raw}.profile_history set valid_to = profiles.last_changed "
            f"from {raw}.profiles as profiles where valid_to is null "
            "and profile_history.distinct_id = profiles.distinct_id "
            "and (profiles.is_deleted or profile_history.content_hash <> profiles.content_hash)",
            [],
        )
        yield (
            f"insert into {raw}.profile_history select distinct_id, properties, content_hash, "
            f"last_changed, null from {raw}.profiles as profiles where not is_deleted "
            f"and not exists (select 1 from {raw}.profile_history as kept "
            "where valid_to is null and kept.distinct_id = profiles.distinct_id)",
            [],
        )

    def count(self, sweep: Sweep, *, is_last: bool) -> None:
        """Take note that the page is committed."""
        self.counts.new += self._page.new
        self.counts.changed += self._page.changed
        self.counts.unchanged += self._page.unchanged
        self._page = ProfileCounts()
        if is_last:
            self.counts.deleted += self._warehouse.value(
                f"select count(*) from {self._warehouse.raw}.profiles "
                "where is_deleted and change_id = %s",
                [sweep.change_id],
            )
