"""What the report says, in numbers: read from the models and the record of runs, in one snapshot.

The databases add up; what comes from them are rows per day, week, metric or step, and ten people.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo

from mixpanel_pipeline import declaration
from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.engines.snapshot import Snapshot, snapshot
from mixpanel_pipeline.runs.status import Status, status
from mixpanel_pipeline.source.errors import ConfigurationError

# As wide as a page can show them beside each other: a quarter.
WEEKS = 13
TOP = 10
# More steps than these are chosen by somebody who knows what they mean.
_CHOSEN_STEPS = 4
_WEEK = timedelta(days=7)
_DAY = timedelta(days=1)


@dataclass
class Metric:
    """What a metric counted.

    Attributes:
        people: How many people it counted something of, in the days of the report.
        by_day: Of each of those days: its events; of a flag, the people with such an event.
    """

    name: str
    event: str
    is_flag: bool
    description: str
    people: int = 0
    by_day: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Its events on all days; of a flag, its people."""
        return self.people if self.is_flag else sum(self.by_day)


@dataclass
class Step:
    """A step of the funnel, and how many people came to it."""

    metric: str
    people: int


@dataclass
class Cohort:
    """Whoever was first active in a week.

    Attributes:
        retained: How many of them were active so many weeks later; None of weeks to come.
        weeks_over: For how many of those weeks the number stands.
    """

    week: date
    people: int
    retained: list[int | None] = field(default_factory=list)
    weeks_over: int = 0


@dataclass
class Numbers:
    """All that the report says. What is not known is None.

    Attributes:
        timezone: Of days and weeks.
        is_built: Whether the models are there.
        first_day: Of the first tracked event.
        from_date: The first day of the report.
        to_date: Its last day: today, or up to where syncs could find events.
        whole_to: The last day that is over; None when none is.
        days: `daily_activity`, from `from_date` to `to_date`.
        not_counted: Metrics that were declared after the last build.
        funnel_is_chosen: Whether somebody chose the steps.
        subscribers: How many people there are altogether.
        top: Those with the most events.
        syncs: What runs did, by the day (UTC) on which they began.
    """

    read_at: datetime
    health: Status
    project_id: str | None = None
    timezone: str | None = None
    is_built: bool = False
    first_day: date | None = None
    from_date: date | None = None
    to_date: date | None = None
    whole_to: date | None = None
    days: list[dict[str, Any]] = field(default_factory=list)
    cohorts: list[Cohort] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    not_counted: list[str] = field(default_factory=list)
    funnel: list[Step] = field(default_factory=list)
    funnel_is_chosen: bool = False
    subscribers: int | None = None
    top: list[dict[str, Any]] = field(default_factory=list)
    syncs: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> str:
        """One JSON object on one line; days and instants in ISO 8601."""
        return json.dumps(asdict(self), default=lambda value: value.isoformat())


def read(
    warehouse: Warehouse,
    *,
    now: datetime,
    days: int,
    funnel: Sequence[str] = (),
    with_ids: bool = False,
    max_age: timedelta,
) -> Numbers:
    """Read the numbers; nothing is written.

    Args:
        warehouse: Where.
        now: The current instant, with a time zone.
        days: How many days, the last one included.
        funnel: The metrics that are its steps; by default some are chosen.
        with_ids: Whether to say who the people with the most events are.
        max_age: How long ago the last successful sync may be, before somebody has to look.

    Raises:
        ConfigurationError: The declaration of metrics is wrong, or a step is no metric.
        SyncError: Somebody else has the database open, and did not let go of it in time.
    """
    declared = declaration.metrics()
    for step in funnel:
        if step not in declared:
            near = get_close_matches(step, declared, 1)
            raise ConfigurationError(
                f"--funnel {step}: no such metric is declared"
                + (f"; did you mean {near[0]}?" if near else ".")
            )
    numbers = Numbers(now, status(warehouse, now=now, max_age=max_age))
    reader = warehouse.for_reading()
    if reader is not None:
        with snapshot(reader) as seen:
            _read_syncs(seen, numbers, now - timedelta(days=days))
            _read_days(seen, numbers, days)
            if numbers.days:
                if not numbers.health.last_runs:
                    # Whoever may read the models alone does not see that anything was loaded.
                    numbers.health.problems.clear()
                _read_cohorts(seen, numbers)
                _read_metrics(seen, numbers, declared)
                _read_funnel(seen, numbers, declared, funnel)
                _read_top(seen, numbers, declared, with_ids=with_ids)
    return numbers


def _read_syncs(seen: Snapshot, numbers: Numbers, since: datetime) -> None:
    if {"project_id", "timezone"} <= seen.columns(seen.raw, "dataset"):
        found = seen.rows(f"select project_id, timezone from {seen.raw}.dataset")
        for numbers.project_id, timezone in found:
            # As the models take it.
            numbers.timezone = timezone or "UTC"
    if "status" not in seen.columns(seen.raw, "sync_runs"):
        return
    numbers.syncs = seen.records(
        f"""
        select
            cast(started_at at time zone 'UTC' as date) as day,
            count(*) as runs,
            count(case when status = 'failed' then 1 end) as failed,
            count(case when mode = 'audit' then 1 end) as audits,
            cast(coalesce(sum(events_new), 0) as bigint) as new,
            cast(coalesce(sum(events_late), 0) as bigint) as late,
            cast(coalesce(sum(events_duplicate), 0) as bigint) as duplicate,
            cast(coalesce(sum(lines_rejected), 0) as bigint) as rejected
        from {seen.raw}.sync_runs
        where started_at > %s
        group by 1
        order by 1
        """,
        [since],
    )


def _read_days(seen: Snapshot, numbers: Numbers, days: int) -> None:
    columns = [seen.columns(seen.marts, name) for name in ("daily_activity", "subscribers")]
    numbers.is_built = all(columns)
    if not numbers.is_built:
        return
    numbers.subscribers = seen.rows(f"select count(*) from {seen.marts}.subscribers")[0][0]
    found = seen.records(f"select * from {seen.marts}.daily_activity order by event_date")
    if not found:
        return
    numbers.first_day = found[0]["event_date"]
    # Later days look empty to whoever does not know that no sync asked for them.
    reached = _reached(seen, numbers.timezone) or found[-1]["event_date"]
    numbers.to_date = max(min(found[-1]["event_date"], reached), numbers.first_day)
    numbers.from_date = max(numbers.first_day, numbers.to_date - (days - 1) * _DAY)
    before = numbers.to_date - _DAY
    numbers.whole_to = before if before >= numbers.first_day else None
    numbers.days = [
        row for row in found if numbers.from_date <= row["event_date"] <= numbers.to_date
    ]


def _reached(seen: Snapshot, timezone: str | None) -> date | None:
    """The day up to which syncs could find events."""
    if timezone is None or "quiet_hours" not in seen.columns(seen.marts, "sync_health"):
        return None
    instants: list[datetime] = [
        watermark + timedelta(hours=quiet or 0)
        for watermark, quiet in seen.rows(
            f"select watermark, quiet_hours from {seen.marts}.sync_health"
        )
        if watermark is not None
    ]
    return max(instants).astimezone(ZoneInfo(timezone)).date() if instants else None


def _read_cohorts(seen: Snapshot, numbers: Numbers) -> None:
    assert numbers.from_date
    assert numbers.to_date
    this_week = _monday(numbers.to_date)
    first = max(_monday(numbers.from_date), this_week - (WEEKS - 1) * _WEEK)
    by_week: dict[date, Cohort] = {}
    for week, later, people, retained in seen.rows(
        "select cohort_week, weeks_later, cohort_subscribers, retained_subscribers "
        f"from {seen.marts}.retention_weekly where cohort_week between %s and %s "
        "order by cohort_week, weeks_later",
        [first, this_week],
    ):
        if week not in by_week:
            weeks = (this_week - week) // _WEEK
            # Where there is no row, nobody came back. This week is not over.
            by_week[week] = Cohort(week, people, [0] * (weeks + 1), weeks)
        if later < len(by_week[week].retained):
            by_week[week].retained[later] = retained
    numbers.cohorts = list(by_week.values())


def _monday(day: date) -> date:
    return day - day.weekday() * _DAY


def _read_metrics(
    seen: Snapshot, numbers: Numbers, declared: Mapping[str, Mapping[str, Any]]
) -> None:
    counted = seen.columns(seen.marts, "subscriber_days")
    numbers.not_counted = [name for name in declared if name not in counted]
    numbers.metrics = [
        Metric(
            name,
            metric["event"],
            metric.get("kind") == "flag",
            metric.get("description", ""),
        )
        for name, metric in declared.items()
        if name in counted
    ]
    if not numbers.metrics:
        return
    window = [numbers.from_date, numbers.to_date]
    by_day = ", ".join(
        f'count(distinct case when "{metric.name}" then person end)'
        if metric.is_flag
        else f'cast(sum("{metric.name}") as bigint)'
        for metric in numbers.metrics
    )
    found = {
        day: counts
        for day, *counts in seen.rows(
            f"select event_date, {by_day} from ({_person_days(seen)}) as days group by event_date",
            window,
        )
    }
    nothing = [0] * len(numbers.metrics)
    for day in numbers.days:
        counts = found.get(day["event_date"], nothing)
        for metric, count in zip(numbers.metrics, counts, strict=True):
            metric.by_day.append(count)
    did = ", ".join(f"max({_did(metric)}) as m{n}" for n, metric in enumerate(numbers.metrics))
    people = ", ".join(f"count(case when m{n} = 1 then 1 end)" for n in range(len(numbers.metrics)))
    (reached,) = seen.rows(
        f"select {people} from (select person, {did} from ({_person_days(seen)}) as days "
        "group by person) as people",
        window,
    )
    for metric, count in zip(numbers.metrics, reached, strict=True):
        metric.people = count


def _person_days(seen: Snapshot) -> str:
    """`subscriber_days` within two days, with whose each id is, of people in `subscribers`."""
    return (
        f"select people.subscriber_id as person, days.* from {seen.marts}.subscriber_days as days "
        f"left join {seen.marts}.identity_map as identities "
        "on days.subscriber_id = identities.distinct_id "
        f"inner join {seen.marts}.subscribers as people on people.subscriber_id = "
        "coalesce(identities.resolved_distinct_id, days.subscriber_id) "
        "where days.event_date between %s and %s"
    )


def _did(metric: Metric) -> str:
    """SQL: 1 on a day on which the metric counted something, else 0."""
    is_true = f'"{metric.name}"' if metric.is_flag else f'"{metric.name}" > 0'
    return f"case when {is_true} then 1 else 0 end"


def _read_funnel(
    seen: Snapshot,
    numbers: Numbers,
    declared: Mapping[str, Mapping[str, Any]],
    chosen: Sequence[str],
) -> None:
    metrics = {metric.name: metric for metric in numbers.metrics}
    numbers.funnel_is_chosen = bool(chosen)
    names = list(chosen) or _steps(numbers.metrics, declared)
    if len(names) < 2 or not all(name in metrics for name in names):
        return
    did = [f"{_did(metrics[name])} as did_{n}" for n, name in enumerate(names)]
    # The earliest day of each step leaves the most room for the next one. Not by joins, of whose
    # size PostgreSQL knows nothing: all steps are one sort, by person.
    query = f"select person, event_date, {', '.join(did)} from ({_person_days(seen)}) as counted"
    for n in range(len(names)):
        earlier = f" and event_date >= reached_{n - 1}" if n else ""
        query = (
            f"select *, min(case when did_{n} = 1{earlier} then event_date end) "
            f"over (partition by person) as reached_{n} from ({query}) as days_{n}"
        )
    reached = [f"max(reached_{n}) as reached_{n}" for n in range(len(names))]
    people = ", ".join(f"count(reached_{n})" for n in range(len(names)))
    (found,) = seen.rows(
        f"select {people} from (select person, {', '.join(reached)} from ({query}) as days "
        "group by person) as people",
        [numbers.from_date, numbers.to_date],
    )
    numbers.funnel = [Step(name, count) for name, count in zip(names, found, strict=True)]


def _steps(metrics: Sequence[Metric], declared: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Metrics of whole events, an event each, from the one that most people did."""
    whole: dict[str, Metric] = {}
    for metric in metrics:
        conditions = declared[metric.name].get("where") or declared[metric.name].get("unless")
        if not conditions and metric.people:
            whole.setdefault(metric.event, metric)
    by_reach = sorted(whole.values(), key=lambda metric: -metric.people)
    return [metric.name for metric in by_reach[:_CHOSEN_STEPS]]


def _read_top(
    seen: Snapshot,
    numbers: Numbers,
    declared: Mapping[str, Mapping[str, Any]],
    *,
    with_ids: bool,
) -> None:
    counted = seen.columns(seen.marts, "subscribers")
    metrics = "".join(f', "{name}"' for name in declared if name in counted)
    found = seen.records(
        f"select subscriber_id, events_processed, first_event_at, last_event_at{metrics} "
        f"from {seen.marts}.subscribers order by events_processed desc, subscriber_id limit {TOP}"
    )
    for row in found:
        if not with_ids:
            del row["subscriber_id"]
        for name in ("first_event_at", "last_event_at"):
            row[name] = row[name].astimezone(UTC)
    numbers.top = found
