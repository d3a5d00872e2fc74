"""The report's page: one HTML file that asks nobody for anything."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from mixpanel_pipeline import project
from mixpanel_pipeline.report import charts
from mixpanel_pipeline.report.numbers import Cohort, Numbers
from mixpanel_pipeline.source.errors import ConfigurationError

_HERE = Path(__file__).parent
# The grid's shades, in `page.css`.
_SHADES = 10
# A week with fewer people than this part of the largest one's says little.
_FEW = 10
# As many columns as a table of people has room for.
_TOP_METRICS = 3
_WEEK = timedelta(days=7)


def check_installed() -> None:
    """Make sure that charts can be drawn.

    Raises:
        ConfigurationError: What draws them is not installed; the message says how it is.
    """
    try:
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"The report's charts are drawn by vl-convert-python, and {error.name} is not "
            "installed. Install the package with its extra `report`, like "
            "`uv tool install 'mixpanel-pipeline[report]'`, or beside it: "
            f"`pip install vl-convert-python`. The numbers alone need neither: {project.COMMAND} "
            "report --json"
        ) from error


@dataclass
class _Tile:
    """A number to begin with, and what it was a week before."""

    name: str
    value: str
    told: str


@dataclass
class _Series:
    """A name in the legend, its column in `days`, and what it is."""

    name: str
    column: str
    meaning: str


@dataclass
class _Chart:
    """A chart in both widths, and what it shows in words."""

    wide: str
    narrow: str
    series: Sequence[_Series]
    told: str


@dataclass
class _Table:
    """What a table says; the first cell of a row is its heading."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


_DAY_COLUMNS = (
    ("Day", "event_date"),
    ("Active", "active_subscribers"),
    ("New", "new_subscribers"),
    ("Returning", "returning_subscribers"),
    ("Resurrected", "resurrected_subscribers"),
    ("Churned", "churned_subscribers"),
    ("In 7 days", "active_7_days"),
    ("In 28 days", "active_28_days"),
)
_SYNC_COLUMNS = (
    ("Day (UTC)", "day"),
    ("Runs", "runs"),
    ("Failed", "failed"),
    ("Audits", "audits"),
    ("New", "new"),
    ("Of them late", "late"),
    ("Again", "duplicate"),
    ("Lines rejected", "rejected"),
)
_ACTIVE = (
    _Series("28 days", "active_28_days", "active on the day or the 27 before"),
    _Series("7 days", "active_7_days", "active on the day or the 6 before"),
    _Series("1 day", "active_subscribers", "active on the day"),
)
_WHO = (
    _Series("returning", "returning_subscribers", "active within the 28 days before"),
    _Series("new", "new_subscribers", "active for the first time"),
    _Series("resurrected", "resurrected_subscribers", "active before, but not for 28 days"),
)
_EVENTS = (
    _Series("new", "in_time", "stored, and in time"),
    _Series("new, late", "late", "stored, later than lookback_hours after they happened"),
    _Series("again", "duplicate", "delivered before, so not stored twice"),
)


def page(numbers: Numbers) -> str:
    """The page, as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "number": _number,
        "percent": _percent,
        "people": lambda number: f"{number:,} {'person' if number == 1 else 'people'}",
        "day": _day,
        "instant": _instant,
        "breakable": _breakable,
        "age": lambda instant: _age(numbers.read_at - instant),
    }
    environment.filters.update(filters)
    return environment.get_template("page.html.jinja").render(
        numbers=numbers,
        health=numbers.health,
        command=project.COMMAND,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        tiles=_tiles(numbers) if numbers.days else [],
        activity=_of_days(numbers, _ACTIVE, charts.lines, "Active subscribers"),
        who=_of_days(numbers, _WHO, charts.bars, "Active subscribers by kind"),
        trends=[
            charts.bars(
                [day["event_date"] for day in numbers.days],
                {"": metric.by_day},
                charts.SMALL,
                numbers.to_date,
            )
            if any(metric.by_day)
            else ""
            for metric in numbers.metrics
        ],
        syncs=_of_syncs(numbers),
        average=_average(numbers.cohorts),
        shade=_shade(numbers.cohorts),
        is_first_week=any(
            numbers.first_day and cohort.week <= numbers.first_day for cohort in numbers.cohorts
        ),
        tables=_tables(numbers),
    )


def _of_days(
    numbers: Numbers, series: Sequence[_Series], draw: Callable[..., str], what: str
) -> _Chart | None:
    # A line takes two days that are over.
    if len(numbers.days) < (3 if draw is charts.lines else 1):
        return None
    days = [day["event_date"] for day in numbers.days]
    values = {each.name: [day[each.column] for day in numbers.days] for each in series}
    paler = [numbers.to_date]
    if draw is charts.lines:
        paler = []
        # A line that falls because its last day has only begun misleads.
        days = days[:-1]
        values = {name: found[:-1] for name, found in values.items()}
    names = ", ".join(each.name for each in series)
    return _Chart(
        draw(days, values, charts.WIDE, *paler),
        draw(days, values, charts.NARROW, *paler),
        series,
        f"{what} per day, {_day(days[0])} to {_day(days[-1])}: {names}. "
        "The numbers are in the table below.",
    )


def _of_syncs(numbers: Numbers) -> _Chart | None:
    if not any(row["new"] or row["duplicate"] for row in numbers.syncs):
        return None
    by_day = {row["day"]: row for row in numbers.syncs}
    first, last = numbers.syncs[0]["day"], numbers.read_at.astimezone(UTC).date()
    days = [first + timedelta(days=n) for n in range(max((last - first).days, 0) + 1)]
    none = {"new": 0, "late": 0, "duplicate": 0}
    rows = [by_day.get(day, none) for day in days]
    values = {
        "new": [row["new"] - row["late"] for row in rows],
        "new, late": [row["late"] for row in rows],
        "again": [row["duplicate"] for row in rows],
    }
    return _Chart(
        charts.bars(days, values, charts.WIDE),
        charts.bars(days, values, charts.NARROW),
        _EVENTS,
        f"Events received per day of sync, {_day(days[0])} to {_day(days[-1])}: new in time, new "
        "but late, and delivered again. The numbers are in the table below.",
    )


def _tiles(numbers: Numbers) -> list[_Tile]:
    by_day = {day["event_date"]: day for day in numbers.days}
    end = numbers.whole_to if numbers.whole_to in by_day else numbers.to_date
    assert end
    assert numbers.first_day
    when = f"to {_day(end)}" if end == numbers.whole_to else f"to {_day(end)}, so far"

    def tile(name: str, value: Callable[[date], int], length: int) -> _Tile:
        # Before, some of the days that it is of were not loaded.
        before = end - _WEEK
        is_comparable = before in by_day and before - timedelta(days=length - 1) >= (
            numbers.first_day or end
        )
        change = _change(value(end), value(before)) if is_comparable else None
        return _Tile(name, _number(value(end)), change or when)

    def new(last: date) -> int:
        days = (by_day.get(last - timedelta(days=n)) for n in range(7))
        return sum(day["new_subscribers"] for day in days if day)

    tiles = [
        tile("Active in 7 days", lambda day: int(by_day[day]["active_7_days"]), 7),
        tile("Active in 28 days", lambda day: int(by_day[day]["active_28_days"]), 28),
        tile("New in 7 days", new, 7),
    ]
    average = _average(numbers.cohorts)
    came_back = average[1] if len(average) > 1 else None
    tiles.append(
        _Tile(
            "Back a week later",
            "\N{EN DASH}" if came_back is None else _percent(came_back),
            "no week is over yet" if came_back is None else "of each week's newcomers",
        )
    )
    return tiles


def _change(now: int, before: int) -> str | None:
    if not before:
        return None
    share = now / before - 1
    if round(share, 2) == 0:
        return "as a week before"
    sign = "▲" if share > 0 else "▼"
    return f"{sign} {_percent(abs(share))} on a week before"


def _average(cohorts: Sequence[Cohort]) -> list[float | None]:
    """The share of newcomers that is active so many weeks later, where that week is over."""
    shares: list[float | None] = []
    for later in range(max((len(cohort.retained) for cohort in cohorts), default=0)):
        over = [cohort for cohort in cohorts if later < cohort.weeks_over]
        people = sum(cohort.people for cohort in over)
        retained = sum(cohort.retained[later] or 0 for cohort in over)
        shares.append(retained / people if people else None)
    return shares


def _shade(cohorts: Sequence[Cohort]) -> Callable[[float], int]:
    """Which shade a share has: the largest one after the first week has the darkest.

    Not one of a few people, of whom all may have come back, while other weeks have hundreds.
    """
    many = max((cohort.people for cohort in cohorts), default=0) / _FEW
    shares = [
        (retained or 0) / cohort.people
        for cohort in cohorts
        if cohort.people >= many
        for retained in cohort.retained[1:]
    ]
    largest = max(shares, default=0)
    return lambda share: min(round(share / largest * _SHADES), _SHADES) if largest else 0


def _tables(numbers: Numbers) -> dict[str, _Table]:
    """The numbers beside the charts, the newest first."""
    by_reach = sorted(numbers.metrics, key=lambda metric: -metric.people)
    shown = [metric.name for metric in by_reach[:_TOP_METRICS]]
    zone = ZoneInfo(numbers.timezone or "UTC")
    has_error = any(run["error"] for run in numbers.health.last_runs)
    return {
        "days": _Table(
            [name for name, _ in _DAY_COLUMNS],
            [
                [_day(day["event_date"]), *(_number(day[column]) for _, column in _DAY_COLUMNS[1:])]
                for day in reversed(numbers.days)
            ],
        ),
        "metrics": _Table(
            ["Day", *(metric.name for metric in numbers.metrics)],
            [
                [
                    _day(numbers.days[place]["event_date"]),
                    *(_number(metric.by_day[place]) for metric in numbers.metrics),
                ]
                for place in reversed(range(len(numbers.days)))
            ],
        ),
        "people": _Table(
            ["Person", "Events", *shown, "First", "Last"],
            [
                [
                    person.get("subscriber_id", str(place)),
                    _number(person["events_processed"]),
                    *(_counted(person[name]) for name in shown),
                    *(
                        _day(person[name].astimezone(zone).date())
                        for name in ("first_event_at", "last_event_at")
                    ),
                ]
                for place, person in enumerate(numbers.top, 1)
            ],
        ),
        "syncs": _Table(
            [name for name, _ in _SYNC_COLUMNS],
            [
                [_day(row["day"]), *(_number(row[column]) for _, column in _SYNC_COLUMNS[1:])]
                for row in reversed(numbers.syncs)
            ],
        ),
        "runs": _Table(
            ["Started", "Mode", "Status", "New events", *["Error"] * has_error],
            [
                [
                    _instant(run["started_at"]),
                    run["mode"],
                    run["status"],
                    "" if run["events_new"] is None else _number(run["events_new"]),
                    *[run["error"] or ""] * has_error,
                ]
                for run in numbers.health.last_runs
            ],
        ),
    }


def _counted(value: bool | int) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value)


def _breakable(name: str) -> str:
    """A name that may go on in the next line after an underscore."""
    from markupsafe import Markup, escape

    return escape(name).replace("_", Markup("_<wbr>"))


def _number(value: int | float) -> str:
    return f"{value:,}"


def _percent(share: float) -> str:
    # Nobody is not hardly anybody, and not quite all are not all.
    if 0 < share < 0.005:
        return "<1%"
    if 0.995 <= share < 1:
        return ">99%"
    return f"{share:.0%}"


def _day(day: date) -> str:
    return f"{day.day} {day:%b %Y}"


def _instant(instant: datetime) -> str:
    instant = instant.astimezone(UTC)
    return f"{_day(instant.date())}, {instant:%H:%M} UTC"


def _age(age: timedelta) -> str:
    minutes = max(age.total_seconds() / 60, 0)
    for size, unit in ((60 * 24, "days"), (60, "hours")):
        if minutes >= 2 * size:
            return f"{minutes / size:.0f} {unit}"
    return f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute"
