"""The audit: what is loaded, compared with what Mixpanel itself counts; and its repair.

An answer that is cut so cleanly that nothing shows it, and an event that came later than any
lookback, are found here and nowhere else.
"""

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Literal

from mixpanel_pipeline.events.decoding import HOT_SHARD_EVENT
from mixpanel_pipeline.runs import suppressed_ids
from mixpanel_pipeline.runs.run import Run
from mixpanel_pipeline.source.client import EventCounts, batches
from mixpanel_pipeline.source.errors import ExportError
from mixpanel_pipeline.source.window import Window, last_day

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

Status = Literal["equal", "healed", "differing", "impossible"]

DEFAULT_DAYS = 7
# How many queries to expect for all events of a project.
_BATCHES_OF_ALL = 5

_SHORT = "arrived late, or lost to a cut"
_NOT_YET = "came since the last sync, or lost to a cut"
_ARRIVING = "still arriving"
_FORGOTTEN = "of people who were forgotten here"
_COMPACTED = "copies: one $insert_id on one day"
_GONE = "deleted or hidden at Mixpanel"
# Of today, Mixpanel may count what arrived while we were reading: seconds of a day.
_ARRIVING_SHARE = 0.01


@dataclass(frozen=True)
class Difference:
    """An event and day of which Mixpanel counts another number than is loaded."""

    day: date
    event: str
    at_mixpanel: int
    loaded: int
    cause: str
    is_explained: bool
    """Whether the cause is one for which there is nothing to do."""

    @property
    def is_short(self) -> bool:
        """Whether events are missing here."""
        return self.loaded < self.at_mixpanel


@dataclass
class Audit:
    """What an audit found."""

    status: Status
    from_date: date | None = None
    to_date: date | None = None
    events_at_mixpanel: int = 0
    events_loaded: int = 0
    events_healed: int = 0
    healed_days: list[date] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    """Those that are left."""
    error: str | None = None

    @property
    def to_look_at(self) -> list[Difference]:
        """The differences for which there is something to do."""
        return [each for each in self.differences if not each.is_explained]

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self), default=lambda value: value.isoformat())

    def print(self, console: "Console") -> None:
        """Print the table of differences and the outcome."""
        from rich.table import Table

        if self.differences:
            table = Table("day", "event", "Mixpanel", "loaded", "differ by", "cause")
            table.columns[1].overflow = "fold"
            for column in table.columns[2:5]:
                column.justify = "right"
            for found in self.differences:
                numbers = found.at_mixpanel, found.loaded, found.loaded - found.at_mixpanel
                cells = [f"{number:,}" for number in numbers[:2]] + [f"{numbers[2]:+,}"]
                table.add_row(str(found.day), found.event, *cells, found.cause)
            console.print(table)
        if self.healed_days:
            days = ", ".join(map(str, self.healed_days))
            console.print(f"Loaded again: {days}; {self.events_healed:,} events were missing.")
        if self.from_date:
            console.print(
                f"{self.status}: {self.events_at_mixpanel:,} events at Mixpanel, "
                f"{self.events_loaded:,} loaded, {self.from_date} to {self.to_date}"
            )


def compare(run: Run, days: int, *, heal: bool = False) -> Audit:
    """Compare the last `days` days, today included, with Mixpanel's own counts.

    Args:
        run: The run that this is a part of.
        days: How many days.
        heal: Export the days again of which events are missing, and compare once more.

    Raises:
        NotInPlan: The project's plan lacks the Query API.
        ExportError: Mixpanel gave no counts, or no whole answer.
        SyncError: The database did not take an answer.
    """
    zone, settings = run.settings.report_zone, run.settings
    last = last_day(run.now, zone, settings.end_day)
    window = Window(last - timedelta(days=days - 1), last)
    found = _compare(run, window)
    short = {each.day for each in found.differences if each.is_short and not each.is_explained}
    if not heal or not short:
        return found
    new_before = run.loaded.delivery.events_new
    for stretch in _stretches(sorted(_export_days(run, short))):
        run.load_again(stretch)
    _keep_hidden(run, short)
    after = _compare(run, window)
    after.healed_days = sorted(short)
    after.events_healed = run.loaded.delivery.events_new - new_before
    if after.status == "equal":
        after.status = "healed"
    return after


def requests_needed(events: Sequence[str] | None) -> int:
    """How many requests the hour has to have left for an audit after a sync.

    Comparing takes a query per batch of names, twice when something is healed, and one for the
    names themselves. A sync does not wait for an hour to pass.
    """
    queries = len(list(batches(events))) if events else _BATCHES_OF_ALL
    return 2 * queries + 3


def heal_after_sync(run: Run, days: int) -> None:
    """Audit and heal the last `days` days as a part of a sync; 0 for none.

    What keeps the audit from being done does not fail the sync: its events are loaded.
    """
    if not days:
        return
    needed = requests_needed(run.events)
    if run.client.budget.left < needed:
        logger.warning(
            "No audit after this sync: of this hour's requests fewer than %s are left.", needed
        )
        return
    try:
        found = compare(run, days, heal=True)
    except ExportError as error:
        said = run.without_secrets(str(error))
        logger.warning("The audit after the sync could not be done: %s", said)
        return
    if found.events_healed:
        logger.warning(
            "The audit found %s events that were missing, and loaded them: %s.",
            f"{found.events_healed:,}",
            ", ".join(map(str, found.healed_days)),
        )
    if found.status == "differing":
        logger.warning(
            "Mixpanel still counts otherwise than what is loaded; see: run.py audit --days %s", days
        )


def _compare(run: Run, window: Window) -> Audit:
    today = last_day(run.now, run.settings.report_zone, "today")
    loaded, hidden = _loaded(run, window), _hidden(run, window)
    names = run.events
    # Its reports may leave out those that only say who is who.
    may_be_hidden = set(names or ()) - set(run.wanted or ())
    if names is None:
        names = sorted({*run.client.event_names(), *(name for name, _ in loaded)})
    # What has this name there has, mostly, its own name here.
    names = [name for name in run.settings.without_denied(names) if name != HOT_SHARD_EVENT]
    counts: EventCounts = {}
    for batch in batches(names):
        counts |= run.client.count_events(batch, window)
    result = Audit("equal", window.from_date, window.to_date)
    for name in names:
        by_day = counts.get(name, {})
        for day in window.days:
            at_mixpanel = by_day.get(str(day), 0)
            distinct, by_calendar_day = loaded.get((name, day), (0, 0))
            result.events_at_mixpanel += at_mixpanel
            result.events_loaded += distinct
            if at_mixpanel < distinct and name in may_be_hidden:
                continue
            if at_mixpanel != distinct:
                if at_mixpanel - distinct == hidden.get((name, day), 0):
                    found = Difference(day, name, at_mixpanel, distinct, _FORGOTTEN, True)
                    result.differences.append(found)
                    continue
                cause, is_explained = _cause(
                    at_mixpanel, distinct, by_calendar_day, is_today=day == today
                )
                result.differences.append(
                    Difference(day, name, at_mixpanel, distinct, cause, is_explained)
                )
    result.differences.sort(key=lambda found: (found.day, found.event))
    if not all(difference.is_explained for difference in result.differences):
        result.status = "differing"
    return result


def _cause(
    at_mixpanel: int, distinct: int, by_calendar_day: int, *, is_today: bool
) -> tuple[str, bool]:
    missing = at_mixpanel - distinct
    if missing > 0 and is_today:
        is_arriving = missing <= at_mixpanel * _ARRIVING_SHARE
        return (_ARRIVING, True) if is_arriving else (_NOT_YET, False)
    if missing > 0:
        return _SHORT, False
    if at_mixpanel >= by_calendar_day:
        return _COMPACTED, True
    return _GONE, False


def _keep_hidden(run: Run, days: Collection[date]) -> None:
    """Keep how many events of people who were forgotten Mixpanel exported of some days, just now.

    Mixpanel counts them until they are deleted there. What it counts beyond them is missing.
    """
    found = Counter[tuple[date, str]]()
    seen = set[str]()
    for row in (row for table in run.loaded.delivery.hidden for row in table.to_pylist()):
        day = row["occurred_at"].astimezone(run.settings.report_zone).date()
        if day in days and row["event_key"] not in seen:
            seen.add(row["event_key"])
            found[day, row["event"]] += 1
    table = f"{run.warehouse.raw}.{suppressed_ids.HIDDEN}"
    statements: list[tuple[str, list[object]]] = [
        (f"delete from {table} where day = %s", [day]) for day in sorted(days)
    ]
    statements += [
        (f"insert into {table} values (%s, %s, %s)", [day, event, number])
        for (day, event), number in sorted(found.items())
    ]
    run.warehouse.execute_held(statements)


def _hidden(run: Run, window: Window) -> dict[tuple[str, date], int]:
    """What `_keep_hidden` kept, by event and day."""
    return {
        (event, day): events
        for day, event, events in run.warehouse.rows(
            f"select day, event, events from {run.warehouse.raw}.{suppressed_ids.HIDDEN} "
            "where day between %s and %s",
            [window.from_date, window.to_date],
        )
    }


def _loaded(run: Run, window: Window) -> dict[tuple[str, date], tuple[int, int]]:
    """Distinct loaded events by name and day of the project: by time, and by calendar day.

    Mixpanel's reports tell copies by event, distinct_id, time and $insert_id; its compaction
    later by the calendar day instead of the time. What is renamed for a hot shard is counted
    there under another name.
    """
    if not run.warehouse.has_table(run.warehouse.raw, "events"):
        return {}
    days = " union all ".join(
        f"select date '{day}' as day, timestamp with time zone '{since.isoformat()}' as since, "
        f"timestamp with time zone '{until.isoformat()}' as until"
        for day, (since, until) in ((day, _bounds(run, day)) for day in window.days)
    )
    found = run.warehouse.rows_of_events(
        f"""
        with days as ({days}),
        found as (
            select days.day, events.event, events.distinct_id, events.insert_id, events.event_key
            from {run.warehouse.raw}.events as events
            inner join days on events.occurred_at >= days.since and events.occurred_at < days.until
            where events.occurred_at >= (select min(since) from days)
                and events.occurred_at < (select max(until) from days)
                and events._dlt_load_id in ({run.warehouse.completed_loads})
                and {run.warehouse.property_text("mp_original_event_name")} is null
        )
        select
            event,
            day,
            count(distinct event_key),
            count(distinct case when insert_id is null then event_key
                else coalesce(distinct_id, '') || ' ' || insert_id end)
        from found
        group by event, day
        """,
        since=_bounds(run, window.from_date)[0],
        until=_bounds(run, window.to_date)[1],
    )
    return {(event, day): (distinct, by_day) for event, day, distinct, by_day in found}


def _bounds(run: Run, day: date) -> tuple[datetime, datetime]:
    """The first instant of a day of Mixpanel's reports, and the one after its last."""
    zone = run.settings.report_zone
    since, until = (
        datetime.combine(day + timedelta(days=days), time(), zone).astimezone(UTC)
        for days in (0, 1)
    )
    return since, until


def _export_days(run: Run, days: Collection[date]) -> set[date]:
    """The days of exports that hold these days of reports."""
    found = set[date]()
    for day in days:
        since, until = _bounds(run, day)
        for instant in (since, until - timedelta(microseconds=1)):
            found.add(instant.astimezone(run.settings.zone).date())
    return {day for day in found if day <= last_day(run.now, run.settings.zone, "today")}


def _stretches(days: Sequence[date]) -> Iterator[Window]:
    """Days in order, as windows of those that follow each other."""
    first = previous = days[0]
    for day in days[1:]:
        if day != previous + timedelta(days=1):
            yield Window(first, previous)
            first = day
        previous = day
    yield Window(first, previous)
