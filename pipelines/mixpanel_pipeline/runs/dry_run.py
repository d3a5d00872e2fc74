"""What a sync would do now: decided by what decides it in a sync, with nothing written or asked."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from mixpanel_pipeline.declaration import refuse_list_that_lacks
from mixpanel_pipeline.engines import DuckDB, Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs import lexicon, sweeps, unknown_names
from mixpanel_pipeline.runs.audit import requests_needed
from mixpanel_pipeline.runs.built import Missing as ToBuild
from mixpanel_pipeline.runs.coverage import lacking
from mixpanel_pipeline.runs.dataset import Dataset
from mixpanel_pipeline.runs.decided import Decided, arrivals_since, days_again, what_is_new
from mixpanel_pipeline.runs.run import Run
from mixpanel_pipeline.runs.state import Watermark, stored_watermark
from mixpanel_pipeline.runs.suppressed_ids import suppression
from mixpanel_pipeline.runs.sync_runs import LoadedDays, SyncRuns, described
from mixpanel_pipeline.source import Mode
from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.client import batches
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.fetcher import asked_for
from mixpanel_pipeline.source.plan import Stage, requests_expected
from mixpanel_pipeline.source.window import Window

if TYPE_CHECKING:
    from rich.console import Console

_KINDS = {
    "events": "{:,} for events",
    "evidence": "{:,} for what events of other names say of who is who",
    "audit": "{:,} for the audit, more if events are missing",
    "event_names": "{:,} for event names, unless all have events",
    "cohorts": "{:,} for the list of cohorts",
    "profiles": "about {:,} for profiles and members of cohorts",
    "lexicon": "{:,} for the Lexicon, which is none of the hour's",
}


@dataclass
class Plan:
    """What a sync would do. What does not apply or is not known is None.

    Attributes:
        running: Who holds the lock: a sync would be skipped.
        unread: Why the database could not be read; then nothing more is known.
        mode: None when nothing would be loaded.
        why: The reason for the mode and the days.
        requests: How many requests of each kind there would be: exports of `events`; those of
            `evidence`, of what events of other names say of who is who; an `audit`;
            `event_names`, which is one that is not sent when all names turn out to have events;
            `cohorts` and `profiles`; and one for the `lexicon`.
        is_at_least: The requests are as many when answers are small: no run like this is recorded.
        names: The event names of each export of the same days; None for all events.
        expected_events: By `compared_runs` runs like this one, of the same names; copies included.
        expected_mb: The same, compressed as it comes, in units of a million bytes.
        requests_left: Of `requests_per_hour`, those that the runs of the last hour have not sent.
        waits: What would have to wait, or be left out.
        days_missing: Days that lack names that are asked for now, and would after the sync.
        build: What dbt would build if nothing new came.
        build_of_new: What it would build otherwise.
        build_why: Why everything would be built.
        sweeps: Of profiles and cohorts: what would become of their sweeps.
    """

    destination: str
    location: str
    read_at: datetime
    running: str | None = None
    unread: str | None = None
    mode: Mode | None = None
    why: str | None = None
    watermark: datetime | None = None
    from_date: date | None = None
    to_date: date | None = None
    requests: dict[str, int] = field(default_factory=dict)
    is_at_least: bool = False
    names: list[list[str]] | None = None
    expected_events: int | None = None
    expected_mb: float | None = None
    compared_runs: int = 0
    requests_left: int | None = None
    waits: list[str] = field(default_factory=list)
    days_missing: int | None = None
    missing_since: date | None = None
    missing: str | None = None
    build: ToBuild | None = None
    build_of_new: ToBuild | None = None
    build_why: str | None = None
    sweeps: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        """One JSON object on one line; instants in ISO 8601."""
        return json.dumps(asdict(self), default=lambda value: value.isoformat())

    def print(self, console: "Console") -> None:
        """For people."""
        from rich.table import Table
        from rich.text import Text

        facts = Table(show_header=False)
        facts.add_column(style="bold")
        facts.add_column(overflow="fold")
        for name, value in self._facts():
            if value:
                # The name of an event may look like markup.
                facts.add_row(name, Text(value))
        console.print(facts)
        told = [f"A sync would be skipped now: one is running, {self.running}."]
        for line in [*(told if self.running else ()), *filter(None, [self.unread]), *self.waits]:
            console.print(Text(line, style="yellow"), soft_wrap=True)
        console.print("Nothing was written, and nothing was asked of Mixpanel.")

    def _facts(self) -> Iterable[tuple[str, str | None]]:
        yield self.destination, self.location
        yield "mode", self.mode or ("nothing is loaded" if self.why else None)
        yield "why", self.why
        if self.from_date:
            length = Window(self.from_date, self.to_date or self.from_date).length
            yield "days", f"{self.from_date} to {self.to_date} ({length:,})"
        yield "requests", self._told_requests()
        if self.requests:
            yield "event names", self._told_names()
            yield "expected", self._told_amount()
        yield "days missing", self.missing
        yield "profiles", "; ".join(f"{name}: {told}" for name, told in self.sweeps.items())
        yield "dbt builds", self._told_build()

    def _told_requests(self) -> str | None:
        if not self.requests:
            return None
        least = "at least " if self.is_at_least else ""
        told = ", ".join(_KINDS[kind].format(number) for kind, number in self.requests.items())
        return f"{least}{told}; the hour has {self.requests_left:,} left"

    def _told_names(self) -> str:
        if self.names is None:
            return "all"
        parts = [", ".join(asked) for asked in self.names]
        if len(parts) == 1:
            return parts[0]
        return "; ".join(f"export {number}: {part}" for number, part in enumerate(parts, start=1))

    def _told_amount(self) -> str:
        if self.expected_events is None or self.expected_mb is None:
            return "not known: no run like this one has succeeded yet"
        runs = "run" if self.compared_runs == 1 else "runs"
        size = f"{self.expected_mb:,.1f} MB" if self.expected_mb >= 0.1 else "less than 0.1 MB"
        return (
            f"about {self.expected_events:,} events, {size}, "
            f"by {self.compared_runs} {runs} like this one"
        )

    def _told_build(self) -> str | None:
        if self.build_why:
            return f"{self.build}: {self.build_why}"
        if self.build == self.build_of_new:
            return self.build
        return f"{self.build} if nothing new comes, else {self.build_of_new}"


def plan(
    warehouse: Warehouse,
    settings: MixpanelConfiguration | None,
    *,
    now: datetime,
    backfill: Window | None = None,
    full_refresh: bool = False,
    skip_transform: bool = False,
) -> Plan:
    """What `sync` would do with the same arguments; nothing is written, or asked of Mixpanel.

    Args:
        warehouse: Where a sync would load.
        settings: The source's configuration; None when nothing would be loaded.
        now: The current instant, with a time zone.
        backfill: Days to load instead of what is new.
        full_refresh: Load the initial window again, and rebuild the models.
        skip_transform: Only load.

    Raises:
        ConfigurationError: A sync would be refused; the message is that of the sync.
        SyncError: The database cannot be read.
    """
    if settings is not None and not skip_transform:
        refuse_list_that_lacks(settings.event_names)
    found = Plan(warehouse.name, warehouse.location, now)
    mode: Mode = "full_refresh" if full_refresh else "backfill" if backfill else "incremental"
    Run(warehouse, settings, mode, now=now).check_declaration()
    found.running = warehouse.holder()
    try:
        warehouse.check()
        # What nothing was ever loaded into is read as one that is empty.
        reader = warehouse.for_reading() or DuckDB(Path(":memory:"), schemas=warehouse.schemas)
        with reader.kept_open():
            if not skip_transform:
                reader.check_rights_to_transform()
            run = Run(reader, settings, mode, now=now)
            run.check_declaration()
            if settings is None:
                found.why = "--skip-load: only the models are built"
            else:
                _plan_load(found, run, backfill)
            if not skip_transform:
                found.build = run.to_build(full_refresh=full_refresh)
                # A load that is not counted is one of the reasons to build the tables.
                may_be_new = settings is not None and found.build == "nothing"
                found.build_of_new = "tables" if may_be_new else found.build
                if found.build == "everything":
                    is_asked_for = full_refresh or settings is None
                    found.build_why = "asked for" if is_asked_for else _why_everything(reader)
    except SyncError as error:
        # While a sync writes into a DuckDB file, nobody else can read it.
        if found.running is None:
            raise
        found.unread = str(error)
    return found


def _why_everything(warehouse: Warehouse) -> str:
    built = f"{warehouse.marts}.built"
    is_built = warehouse.has_table(warehouse.marts, "built") and warehouse.rows(f"table {built}")
    if not is_built:
        return "nothing is known to be built"
    return (
        "the dbt project, its settings or what it built has changed. If a metric has, the sync "
        "fails and asks for --full-refresh"
    )


def _plan_load(found: Plan, run: Run, backfill: Window | None) -> None:
    warehouse, settings = run.warehouse, run.settings
    Dataset(warehouse, settings).compare()
    suppression(warehouse, settings.hash_secret)
    runs = SyncRuns(warehouse).for_reading(run.denied)
    loaded_days = runs.loaded_days()
    decided, found.watermark, found.why = _decided(run, runs, loaded_days, backfill)
    found.mode = decided.mode
    found.from_date, found.to_date = decided.window.from_date, decided.window.to_date
    lacks = lacking([*loaded_days, *_days_to_load(decided, described(run.events))], run.events)
    if lacks is not None:
        found.missing = f"{lacks}: --full-refresh loads them"
        found.days_missing, found.missing_since = lacks.days, lacks.since
    bytes_expected = _expect(found, runs, run, decided)
    asked = asked_for(run.events)
    found.names = [names for names in asked if names is not None] or None
    exports = 0
    for stage in _stages(decided, run):
        # Others are of a few days, and of little.
        is_main = stage is decided.stages[-1]
        bytes_per_day = bytes_expected / stage.days.length if is_main else 0.0
        exports += len(requests_expected(stage, bytes_per_day))
    found.requests["events"] = len(asked) * exports
    if run.asks_for_links:
        found.requests["evidence"] = exports
    _plan_rest(found, run, runs)


def _decided(
    run: Run, runs: SyncRuns, loaded_days: Sequence[LoadedDays], backfill: Window | None
) -> tuple[Decided, datetime | None, str]:
    """What is asked for, from which watermark on, and why."""
    watermark = stored_watermark(run.warehouse)
    instant = watermark.instant if watermark else None
    if backfill is not None:
        already = runs.progress_of(backfill, described(run.events), run.now)
        why = "asked for; the watermark stays where it is"
        if already:
            why += f". An earlier backfill of these days came to {already}: it is gone on with"
        stage = days_again(backfill, already, run.now)
        return Decided("backfill", backfill, (stage,)), instant, why
    full_refresh = run.summary.mode == "full_refresh"
    lacks = lacking(loaded_days, run.events) if full_refresh else None
    recorded = runs.last_watermark()
    decided = what_is_new(
        run.settings,
        run.now,
        watermark,
        full_refresh=full_refresh,
        since=lacks.since if lacks else None,
        recorded=recorded,
    )
    return decided, instant, _why(run.settings, decided, watermark, recorded, lacks is not None)


def _why(
    settings: MixpanelConfiguration,
    decided: Decided,
    watermark: Watermark | None,
    recorded: datetime | None,
    is_lacking: bool,
) -> str:
    initial = f"the initial window of {settings.initial_window_days} days"
    if decided.mode == "full_refresh":
        since = ", what is new since the watermark" if watermark else ""
        days = ", and the days that lack names that are asked for now" if is_lacking else ""
        return f"asked for: {initial}{since}{days}"
    if watermark is None and recorded is not None:
        return (
            f"there is no watermark that can be read: {initial}, and from the one that the record "
            f"of runs has, {_told(recorded)}"
        )
    if watermark is None:
        return f"there is no watermark yet: {initial}"
    since = f"watermark {_told(watermark.instant)}, less {settings.lookback_hours:g} h of lookback"
    before = f"arrival_days = {settings.arrival_days} before"
    if decided.stages[-1].cursor == "processed_at":
        return f"{since}: what arrived since then, of the days from {before} on"
    if watermark.cursor != settings.cursor:
        changed = f"cursor was changed from {watermark.cursor} to {settings.cursor}"
        return f"{since}: {changed}, so whole days from {before} on"
    if settings.cursor == "processed_at":
        return f"{since}: whole days from {before} on"
    return f"{since}: whole days from there on"


def _days_to_load(decided: Decided, names: str) -> Iterable[LoadedDays]:
    """What the record of the run would say, once it has succeeded."""
    by_arrival = decided.mode == "incremental" and (
        decided.goes_on_by_arrival or decided.stages[-1].cursor == "processed_at"
    )
    yield LoadedDays(names, decided.window.from_date, decided.window.to_date, by_arrival)


def _stages(decided: Decided, run: Run) -> Iterable[Stage]:
    """All stages; what will have arrived since the newest event did is taken to be of today."""
    yield from decided.stages
    if decided.goes_on_by_arrival:
        yield arrivals_since(run.settings, run.now, run.now)


def _expect(found: Plan, runs: SyncRuns, run: Run, decided: Decided) -> float:
    """Tell what earlier runs lead to expect; returns how many bytes that is."""
    by_arrival = decided.mode == "incremental" and decided.stages[-1].cursor == "processed_at"
    comparable = runs.amounts(described(run.events), by_arrival=by_arrival)
    # The days of syncs that follow each other are partly over, those of others mostly whole.
    is_incremental = decided.mode == "incremental"
    alike = [one for one in comparable if (one.mode == "incremental") == is_incremental]
    comparable = alike or comparable
    found.compared_runs = len(comparable)
    if not comparable:
        found.is_at_least = True
        return 0.0
    days = decided.window.length if by_arrival else sum(one.days.length for one in decided.stages)
    lengths = [Window(one.first, one.last).length for one in comparable]
    pairs = list(zip(comparable, lengths, strict=True))
    found.expected_events = round(days * median(one.events / length for one, length in pairs))
    bytes_expected = days * median(one.bytes / length for one, length in pairs)
    found.expected_mb = round(bytes_expected / 1e6, 3)
    return bytes_expected


def _plan_rest(found: Plan, run: Run, runs: SyncRuns) -> None:
    """What follows the events, with the requests that they leave."""
    settings = run.settings
    spent = runs.requests_ago(run.now)
    left = max(0, settings.requests_per_hour - len(spent))
    found.requests_left = left
    exports = sum(found.requests.values())
    if wait := _told_wait(settings, spent, exports, run.now):
        found.waits.append(wait)
    left = max(0, left - exports)
    if settings.audit_after_sync:
        needed = requests_needed(run.events)
        if left < needed:
            told = f"The audit is left out: it needs {needed} requests, and the hour has {left}."
            found.waits.append(told)
        else:
            found.requests["audit"] = len(list(batches(run.events))) if run.events else 2
            left -= found.requests["audit"]
    if run.unchecked_names(runs) and unknown_names.has_room(settings, left):
        found.requests["event_names"] = 1
        left -= 1
    if found.mode != "backfill" and (settings.profiles or settings.cohorts):
        _plan_sweeps(found, run, left)
    if found.mode != "backfill" and settings.lexicon and _is_lexicon_due(run):
        found.requests["lexicon"] = 1


def _is_lexicon_due(run: Run) -> bool:
    has_one = run.warehouse.has_table(run.warehouse.raw, lexicon.NAME)
    return not has_one or lexicon.is_due(run.warehouse, run.now)


def _told_wait(
    settings: MixpanelConfiguration, spent: Sequence[float], exports: int, now: datetime
) -> str | None:
    """How long the exports wait for the hour's requests, by the budget itself and its clock."""
    waiting = len(spent) + exports - settings.requests_per_hour
    if waiting <= 0:
        return None
    seconds = longest = 0.0
    budget = RequestBudget(settings.requests_per_hour, spent, clock=lambda: seconds)
    for _ in range(exports):
        began = seconds
        while pause := budget.take():
            seconds += pause
        longest = max(longest, seconds - began)
    until = _told(now + timedelta(seconds=seconds))
    told = (
        f"{min(waiting, exports)} of {exports} exports wait for the hour's requests, "
        f"until about {until}."
    )
    if longest > settings.max_wait_minutes * 60:
        told += (
            f" The sync would give up, as one waits for longer than {settings.max_wait_minutes:g} "
            "minutes (max_wait_minutes)."
        )
    return told


def _plan_sweeps(found: Plan, run: Run, left: int) -> None:
    warehouse, settings = run.warehouse, run.settings
    every = timedelta(hours=settings.profiles_every_hours)
    if not sweeps.has_room(settings, left):
        told = "Profiles and cohorts are left to a later sync, as the hour's requests are used up."
        found.waits.append(told)
    elif settings.cohorts:
        found.requests["cohorts"] = 1
        left -= 1
    has_swept = warehouse.has_table(warehouse.raw, "sweeps")
    everything: dict[int | None, str] = {None: "all profiles"} if settings.profiles else {}
    if settings.cohorts and has_swept:
        listed = f"select id from {warehouse.raw}.cohorts where not is_deleted order by id"
        everything |= {one: f"cohort {one}" for (one,) in warehouse.rows(listed)}
    if settings.cohorts:
        found.sweeps["cohorts"] = "those that Mixpanel has anew are swept too"
    pages = 0
    for cohort_id, name in everything.items():
        sweep = sweeps.under_way(warehouse, cohort_id, run.now) if has_swept else None
        due = sweeps.due_at(warehouse, cohort_id, run.now, every) if has_swept else None
        if sweep is not None:
            found.sweeps[name] = f"gone on with at page {sweep.next_page + 1}"
        elif due is not None:
            found.sweeps[name] = f"not due until {_told(due)}"
            continue
        else:
            found.sweeps[name] = "due"
        done = sweep.next_page if sweep else 0
        pages += max(1, (_pages(warehouse, cohort_id) if has_swept else 0) - done)
    # A sweep leaves the next syncs a share of the hour, and is gone on with by them.
    while pages and sweeps.has_room(settings, left):
        found.requests["profiles"] = found.requests.get("profiles", 0) + 1
        left, pages = left - 1, pages - 1
    if pages and "profiles" in found.requests:
        told = f"Sweeps: about {pages} pages are left to later syncs, by the hour's requests."
        found.waits.append(told)


def _pages(warehouse: Warehouse, cohort_id: int | None) -> int:
    """How many pages the last whole sweep had; 0 when there was none."""
    found = warehouse.rows(
        f"select next_page from {warehouse.raw}.sweeps "
        "where finished_at is not null and coalesce(cohort_id, 0) = %s order by id desc limit 1",
        [cohort_id or 0],
    )
    return int(found[0][0]) if found else 0


def _told(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
