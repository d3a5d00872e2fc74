"""How things stand: what runs, what ran, what is loaded, and whether somebody has to look."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.project import version
from mixpanel_pipeline.runs.coverage import missing
from mixpanel_pipeline.runs.sync_runs import SyncRuns

if TYPE_CHECKING:
    from rich.console import Console

LAST_RUNS = 5
DAYS = 7
_RUN = (
    "id",
    "started_at",
    "finished_at",
    "status",
    "mode",
    "events_new",
    "events_late",
    "error",
)
_PACKAGES = ("dlt", "dbt-core", "duckdb", "psycopg2-binary")
_TABLES = (
    "events",
    "rejected_lines",
    "profiles",
    "cohort_members",
    "subscriber_days",
    "identity_map",
    "subscribers",
)
# Tables of fewer rows are counted: that takes no time, and estimates of them can be far off.
_COUNTED_ROWS = 100_000
# What a scraper finds when there is no such instant.
_NEVER = 0.0


@dataclass
class Status:
    """How things stand in a database. What is not known is None.

    Attributes:
        problems: What somebody has to look at; none when all is well.
        running: Who holds the lock; None when no sync runs.
        last_runs: The last runs, the newest first, as `sync_runs` has them.
        last_success_at: When a sync last succeeded; no audit, no backfill and no build is one.
        last_audit: `ok`, or what the last audit found, or why it failed.
        watermark: Up to where events are loaded.
        lag_seconds: How long ago that is.
        events_late: Of the new events of the last week, the share that came later than
            `lookback_hours` after it happened.
        rows: About how many rows the tables have.
        events_by_day: How many events happened on each of the last days, in UTC.
        days_missing: Days that were loaded for other names than the last run asked for.
    """

    destination: str
    location: str
    read_at: datetime
    problems: list[str] = field(default_factory=list)
    running: str | None = None
    last_runs: list[dict[str, Any]] = field(default_factory=list)
    last_success_at: datetime | None = None
    last_audit_at: datetime | None = None
    last_audit: str | None = None
    watermark: datetime | None = None
    lag_seconds: float | None = None
    events_late: float | None = None
    rows: dict[str, int] = field(default_factory=dict)
    events_by_day: dict[str, int] = field(default_factory=dict)
    days_missing: int = 0
    missing_since: str | None = None
    profiles_swept_at: datetime | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        """Whether nobody has to look."""
        return not self.problems

    def as_json(self) -> str:
        """One JSON object on one line; instants in ISO 8601."""
        return json.dumps(
            {"is_well": self.is_well, **asdict(self)}, default=lambda value: value.isoformat()
        )

    def as_prometheus(self) -> str:
        """For the textfile collector of Prometheus's node exporter; seconds since 1970."""
        metrics: dict[str, tuple[str, float]] = {
            "well": ("1 when nobody has to look", float(self.is_well)),
            "running": ("1 while a sync runs", float(self.running is not None)),
            "last_success_timestamp_seconds": (
                "When a sync last succeeded",
                _seconds(self.last_success_at),
            ),
            "watermark_timestamp_seconds": (
                "Up to where events are loaded",
                _seconds(self.watermark),
            ),
            "days_missing": ("Days loaded for other event names", float(self.days_missing)),
        }
        lines = []
        for name, (meaning, value) in metrics.items():
            lines += [
                f"# HELP mixpanel_pipeline_{name} {meaning}.",
                f"# TYPE mixpanel_pipeline_{name} gauge",
                f"mixpanel_pipeline_{name} {value:.0f}",
            ]
        lines += [
            "# HELP mixpanel_pipeline_rows About how many rows a table has.",
            "# TYPE mixpanel_pipeline_rows gauge",
            *(
                f'mixpanel_pipeline_rows{{table="{table}"}} {number}'
                for table, number in self.rows.items()
            ),
        ]
        return "\n".join(lines) + "\n"

    def print(self, console: "Console") -> None:
        """For people."""
        from rich.table import Table

        facts = Table(show_header=False)
        facts.add_column(style="bold")
        facts.add_column(overflow="fold")
        days = ", ".join(f"{day[5:]}: {number:,}" for day, number in self.events_by_day.items())
        late = None if self.events_late is None else f"{self.events_late:.2%}"
        for name, value in {
            self.destination: self.location,
            "running": self.running or "nothing",
            "last success": _told(self.last_success_at),
            "watermark": self.lag_seconds is not None
            and f"{_told(self.watermark)}, {self.lag_seconds / 3600:.1f} hours ago",
            "late events, last week": late,
            "days missing": self.days_missing or None,
            "last audit": self.last_audit_at and f"{self.last_audit}, {_told(self.last_audit_at)}",
            "profiles swept": _told(self.profiles_swept_at),
            "rows, about": ", ".join(f"{name} {number:,}" for name, number in self.rows.items()),
            "events a day": days,
            "versions": ", ".join(f"{name} {number}" for name, number in self.versions.items()),
        }.items():
            if value:
                facts.add_row(name, str(value))
        console.print(facts)
        if self.last_runs:
            runs = Table("started, UTC", "mode", "status", "new", "error")
            runs.columns[3].justify = "right"
            runs.columns[4].overflow = "fold"
            for run in self.last_runs:
                started = f"{run['started_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S}"
                new = "" if run["events_new"] is None else f"{run['events_new']:,}"
                runs.add_row(started, run["mode"], run["status"], new, run["error"] or "")
            console.print(runs)
        for problem in self.problems:
            console.print(f"[bold red]{problem}[/]")


def status(warehouse: Warehouse, *, now: datetime, max_age: timedelta) -> Status:
    """How things stand; nothing is written, and no sync is kept from its work.

    Args:
        warehouse: Where.
        now: The current instant, with a time zone.
        max_age: How long ago the last success may be.
    """
    found = Status(warehouse.name, warehouse.location, now)
    found.versions = {"mixpanel-pipeline": version(), **{p: version_of(p) for p in _PACKAGES}}
    found.running = warehouse.holder()
    reader = warehouse.for_reading()
    if reader is None:
        found.problems.append("Nothing was ever loaded.")
        return found
    try:
        with reader.kept_open():
            _read(reader, found, now)
    except SyncError as error:
        # While a sync writes into a DuckDB file, nobody else can read it.
        if found.running is None:
            found.problems.append(str(error))
        return found
    _judge(found, now, max_age)
    return found


def _read(warehouse: Warehouse, found: Status, now: datetime) -> None:
    raw = warehouse.raw
    # Before the first run, roles may be granted the table while it has no columns yet.
    if "status" not in warehouse.columns(raw, "sync_runs"):
        return
    runs = f"{raw}.sync_runs"
    found.last_runs = [
        dict(zip(_RUN, row, strict=True))
        for row in warehouse.rows(
            f"select {', '.join(_RUN)} from {runs} order by started_at desc, id desc "
            f"limit {LAST_RUNS}"
        )
    ]
    # As `sync_health` has it.
    found.last_success_at = warehouse.value(
        f"select max(finished_at) from {runs} where status = 'ok' and to_date is not null "
        "and mode in ('first', 'incremental', 'full_refresh')"
    )
    # No audit that went well makes up for a sync that failed before it.
    ended = warehouse.rows(
        f"select status, error from {runs} where mode <> 'audit' and status <> 'running' "
        "order by started_at desc, id desc limit 1"
    )
    if ended and ended[0][0] == "failed":
        found.problems.append(f"The last run failed: {ended[0][1]}")
    audits = warehouse.rows(
        f"select finished_at, coalesce(error, status) from {runs} "
        "where mode = 'audit' and finished_at is not null order by finished_at desc limit 1"
    )
    if audits:
        found.last_audit_at, found.last_audit = audits[0]
    found.watermark = SyncRuns(warehouse).last_watermark()
    if found.watermark is not None:
        found.lag_seconds = round((now - found.watermark).total_seconds(), 1)
    new, late = warehouse.rows(
        f"select sum(events_new), sum(events_late) from {runs} where started_at > %s",
        [now - timedelta(days=DAYS)],
    )[0]
    found.events_late = float(late) / float(new) if new and late is not None else None
    found.rows = {
        name: number
        if number >= _COUNTED_ROWS
        else warehouse.value(f"select count(*) from {schema}.{name}")
        for schema in (raw, warehouse.marts)
        for name, number in sorted(warehouse.estimated_rows(schema).items())
        if name in _TABLES
    }
    if warehouse.has_table(raw, "events"):
        day = "cast(occurred_at at time zone 'UTC' as date)"
        found.events_by_day = {
            str(one): number
            for one, number in warehouse.rows_of_events(
                f"select {day}, count(*) from {raw}.events where occurred_at > %s "
                f"and occurred_at <= %s group by {day} order by {day}",
                [now - timedelta(days=DAYS), now],
                since=now - timedelta(days=DAYS),
                until=now,
            )
        }
    if warehouse.has_table(raw, "sweeps"):
        found.profiles_swept_at = warehouse.value(
            f"select max(finished_at) from {raw}.sweeps where cohort_id is null"
        )
    asked = warehouse.rows(
        f"select event_names from {runs} where event_names is not null order by id desc limit 1"
    )
    if asked:
        names = asked[0][0]
        lacks = missing(warehouse, None if names == "all" else json.loads(names))
        if lacks is not None:
            found.days_missing, found.missing_since = lacks.days, str(lacks.since)


def _judge(found: Status, now: datetime, max_age: timedelta) -> None:
    """Find what somebody has to look at."""
    ended = [run for run in found.last_runs if run["status"] != "running"]
    if not found.last_runs:
        found.problems.append("Nothing was ever loaded.")
    elif ended and (ended[0]["mode"], ended[0]["status"]) == ("audit", "failed"):
        found.problems.append(f"The last audit failed: {ended[0]['error']}")
    unfinished = [run for run in found.last_runs if run["status"] == "running"]
    if unfinished and found.running is None:
        found.problems.append(
            f"The run of {_told(unfinished[0]['started_at'])} died without a word. "
            "What it had committed counts; run again."
        )
    last = found.last_success_at
    # The first of all may be loading just now.
    is_awaited = last is None and found.running is not None
    if found.last_runs and not is_awaited and (last is None or now - last > max_age):
        hours = max_age.total_seconds() / 3600
        found.problems.append(f"No sync has succeeded in the last {hours:g} hours.")


def _told(instant: datetime | None) -> str | None:
    return None if instant is None else f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _seconds(instant: datetime | None) -> float:
    return _NEVER if instant is None else instant.timestamp()
