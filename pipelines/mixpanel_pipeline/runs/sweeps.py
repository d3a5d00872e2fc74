"""Sweeps through everything that Mixpanel has of a kind, page by page.

A page is a thousand people and takes a request, and the hour has sixty for everything: a sweep
takes what the hour has left, keeps what it found after each page, and the next sync goes on from
there. Only at its end is it known who is not there any more.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.events.suppression import Suppression
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.errors import ExportError, NotInPlan
from mixpanel_pipeline.source.profiles import Profile, ProfilePage, fetch_page

logger = logging.getLogger(__name__)

# The share of the hour's requests that sweeps leave to the syncs that follow within it.
_LEFT_FOR_EVENTS = 6
# Mixpanel forgets a session some time; a sweep is of one, so that its pages fit together.
_RESUMED_WITHIN = timedelta(hours=24)

Statement = tuple[str, Sequence[Any]]


@dataclass(frozen=True)
class Sweep:
    """A sweep, and where it came to.

    Attributes:
        id: Rises from sweep to sweep.
        session_id: What Mixpanel keeps the pages together by.
        next_page: The page to ask for next; 0 to begin again, in a session of its own.
        found: How many people its pages had.
        change_id: The number of its last page; pages are numbered as they commit.
    """

    id: int
    session_id: str
    next_page: int
    found: int
    change_id: int


class Swept(Protocol):
    """What is swept."""

    @property
    def cohort_id(self) -> int | None:
        """The cohort whose members are; None for all profiles."""

    @property
    def form(self) -> Mapping[str, str]:
        """What a page is asked for with."""

    def page(self, profiles: Sequence[Profile], sweep: Sweep) -> Iterable[Statement]:
        """What a page changes."""

    def end(self, sweep: Sweep) -> Iterable[Statement]:
        """What follows from that `swept_ids` has everybody."""

    def count(self, sweep: Sweep, *, is_last: bool) -> None:
        """Take note that the page is committed."""


def prepare(warehouse: Warehouse) -> None:
    """Create the tables of sweeps, and of what they find, where there are none.

    Args:
        warehouse: Where; the caller holds its lock.
    """
    if warehouse.has_table(warehouse.raw, "sweeps"):
        return
    raw, instant = warehouse.raw, "timestamp with time zone"
    content = f"properties {warehouse.json_type} not null, content_hash text not null"
    warehouse.execute_held(
        [
            (f"create table if not exists {raw}.{table}", [])
            for table in (
                f"profiles (distinct_id text primary key, {content}, first_seen {instant} not null,"
                f" last_changed {instant} not null, is_deleted boolean not null, "
                "change_id bigint not null)",
                f"profile_history (distinct_id text not null, {content}, "
                f"valid_from {instant} not null, valid_to {instant})",
                "cohorts (id bigint primary key, name text, description text, "
                f"first_seen {instant} not null, last_changed {instant} not null, "
                "is_deleted boolean not null)",
                "cohort_members (cohort_id bigint not null, distinct_id text not null, "
                f"valid_from {instant} not null, valid_to {instant})",
                "swept_ids (distinct_id text primary key)",
                "sweeps (id bigint primary key, cohort_id bigint, session_id text not null, "
                "next_page integer not null, found bigint not null, change_id bigint not null, "
                f"started_at {instant} not null, finished_at {instant})",
            )
        ]
    )


def has_room(settings: MixpanelConfiguration, requests_left: int) -> bool:
    """Whether the hour has requests left for a sweep, beside those for the events."""
    return requests_left > settings.requests_per_hour // _LEFT_FOR_EVENTS


def under_way(warehouse: Warehouse, cohort_id: int | None, now: datetime) -> Sweep | None:
    """The sweep that is gone on with, of a cohort or of all profiles."""
    found = warehouse.rows(
        f"select id, session_id, next_page, found, change_id from {warehouse.raw}.sweeps "
        "where finished_at is null and started_at > %s and coalesce(cohort_id, 0) = %s",
        [now - _RESUMED_WITHIN, cohort_id or 0],
    )
    return Sweep(*found[0]) if found else None


def due_at(
    warehouse: Warehouse, cohort_id: int | None, now: datetime, every: timedelta
) -> datetime | None:
    """When a new sweep is due; None when it is."""
    begun: datetime | None = warehouse.value(
        f"select max(started_at) from {warehouse.raw}.sweeps "
        "where finished_at is not null and coalesce(cohort_id, 0) = %s",
        [cohort_id or 0],
    )
    # One that a wrong clock dated in the future does not put off those to come.
    return begun + every if begun is not None and now - every < begun <= now else None


class Sweeper:
    """Sweeps, one thing after the other.

    Args:
        warehouse: Where to; the caller holds its lock.
        settings: The source's configuration.
        client: Mixpanel.
        suppression: Who is not to be loaded.
        now: The current instant, with a time zone.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        settings: MixpanelConfiguration,
        client: MixpanelClient,
        *,
        suppression: Suppression | None,
        now: datetime,
    ) -> None:
        self._warehouse = warehouse
        self._every = timedelta(hours=settings.profiles_every_hours)
        self._settings = settings
        self._client = client
        self._suppression = suppression
        self._now = now
        self._raw = warehouse.raw

    @property
    def has_room(self) -> bool:
        """Whether the hour has requests left for a sweep."""
        return has_room(self._settings, self._client.budget.left)

    def sweep(self, everything: Sequence[Swept]) -> None:
        """Sweep what is due, first of all what is under way.

        Raises:
            NotInPlan: The project's plan lacks the API.
            ExportError: Mixpanel gave no whole page, or fewer people than it said there are. What
                pages before brought stays, nobody counts as gone, and the next sync goes on.
        """
        with self._warehouse.kept_open():
            begun = self._warehouse.rows(
                f"select cohort_id from {self._raw}.sweeps where finished_at is null"
            )
        for swept in sorted(everything, key=lambda swept: (swept.cohort_id,) not in begun):
            with self._warehouse.kept_open():
                sweep = under_way(self._warehouse, swept.cohort_id, self._now)
                is_due = sweep is not None or (
                    due_at(self._warehouse, swept.cohort_id, self._now, self._every) is None
                )
            if is_due and not self._go_on(swept, sweep):
                return

    def _go_on(self, swept: Swept, sweep: Sweep | None) -> bool:
        """Sweep to the end, or as long as the hour has requests; whether it is the end."""
        is_last = False
        while not is_last:
            if not self.has_room:
                logger.warning(
                    "Profiles: %s of this sweep so far; the next sync goes on, as this hour's "
                    "requests are used up.",
                    f"{sweep.found if sweep else 0:,}",
                )
                return False
            page, sweep = self._next(swept, sweep)
            is_last = len(page.profiles) < page.page_size
            with self._warehouse.kept_open():
                sweep = self._keep(swept, sweep, page, is_last=is_last)
        return True

    def _next(self, swept: Swept, sweep: Sweep | None) -> tuple[ProfilePage, Sweep | None]:
        """The sweep's next page, or the first one of a new sweep."""
        holds_nul = self._warehouse.holds_nul
        if sweep is not None and sweep.next_page > 0:
            form = {**swept.form, "session_id": sweep.session_id, "page": str(sweep.next_page)}
            try:
                return fetch_page(self._client, form, holds_nul=holds_nul), sweep
            except NotInPlan:
                raise
            except ExportError as error:
                # Of a session that Mixpanel has forgotten nothing more comes.
                logger.warning("The sweep of profiles begins again: %s", error)
        return fetch_page(self._client, {**swept.form, "page": "0"}, holds_nul=holds_nul), None

    def _keep(
        self, swept: Swept, sweep: Sweep | None, page: ProfilePage, *, is_last: bool
    ) -> Sweep:
        """Store what a page brings, and where the sweep is now, in one transaction."""
        statements: list[Statement] = []
        if sweep is None:
            sweep = self._new(page.session_id)
            statements += [
                (f"delete from {self._raw}.swept_ids", []),
                (f"delete from {self._raw}.sweeps where finished_at is null", []),
                (
                    f"insert into {self._raw}.sweeps values (%s, %s, %s, 0, 0, %s, %s, null)",
                    [sweep.id, swept.cohort_id, sweep.session_id, sweep.change_id, self._now],
                ),
            ]
        sweep = replace(
            sweep,
            next_page=sweep.next_page + 1,
            found=sweep.found + len(page.profiles),
            change_id=sweep.change_id + 1,
        )
        if is_last and sweep.found < page.total:
            # The session's pages will not fit together later either.
            self._warehouse.execute_held(
                [(f"update {self._raw}.sweeps set next_page = 0 where id = %s", [sweep.id])]
            )
            raise ExportError(
                f"Mixpanel told of {page.total:,} profiles and delivered {sweep.found:,}. Nobody "
                "was marked as deleted; the next sync sweeps again."
            )
        # Of a person who comes twice on a page, the last.
        profiles = {one.distinct_id: one for one in page.profiles if not self._is_hidden(one)}
        if profiles:
            statements.append(
                (
                    f"insert into {self._raw}.swept_ids "
                    "select unnest(cast(%s as text[])) on conflict do nothing",
                    [list(profiles)],
                )
            )
            statements += swept.page(list(profiles.values()), sweep)
        if is_last:
            statements += swept.end(sweep)
            statements.append((f"delete from {self._raw}.swept_ids", []))
        statements.append(
            (
                f"update {self._raw}.sweeps set next_page = %s, found = %s, change_id = %s, "
                "finished_at = %s where id = %s",
                [
                    sweep.next_page,
                    sweep.found,
                    sweep.change_id,
                    self._now if is_last else None,
                    sweep.id,
                ],
            )
        )
        self._warehouse.execute_held(statements)
        swept.count(sweep, is_last=is_last)
        return sweep

    def _new(self, session_id: str) -> Sweep:
        last_id, last_change = self._warehouse.rows(
            f"select coalesce(max(id), 0), coalesce(max(change_id), 0) from {self._raw}.sweeps"
        )[0]
        return Sweep(last_id + 1, session_id, 0, 0, last_change)

    def _is_hidden(self, profile: Profile) -> bool:
        return self._suppression is not None and (
            self._suppression.hides_id(profile.distinct_id)
            or self._suppression.hides(profile.properties.encode())
        )


def places(width: int, number: int) -> str:
    """Places for so many rows of parameters."""
    row = f"({', '.join(['%s'] * width)})"
    return ", ".join([row] * number)
