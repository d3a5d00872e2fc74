"""The demo: a local Mixpanel with 45 days of events, two syncs from it, and the counts."""

import json
import os
from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from local_mixpanel import LocalMixpanel, traffic
from mixpanel_pipeline import project
from mixpanel_pipeline.declaration import identity_events, metrics, tracked_events
from mixpanel_pipeline.engines import DuckDB
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.source.configuration import load_configuration

EVENTS = 95_000
NEW_EVENTS = 2_000
# One subscriber with a line for each column: a terminal shows five of them side by side.
LOOK = """.venv/bin/python -c 'import duckdb; duckdb.connect("demo.duckdb").sql("unpivot (\
select columns(*)::text from mixpanel.subscribers as s order by s.events_processed desc limit 1\
) on *").show(max_rows=100)'"""
SUBSCRIBER_IDS = [
    "distinct_id",
    "$distinct_id",
    "user_id",
    "$user_id",
    "identified_id",
    "$identified_id",
]

# Metrics by subscriber.
Counts = dict[str, dict[str, int]]


def demo() -> int:
    """Sync twice into `demo.duckdb` and compare the counts with the server's own.

    Returns:
        The exit code: 0 when they are equal, 1 when not or when a sync failed.
    """
    console = Console()
    # What happens here is counted by the metrics that come with this project.
    project.use_dbt_project(project.DBT_PACKAGE)
    warehouse = DuckDB(project.folder() / "demo.duckdb")
    warehouse.path.unlink(missing_ok=True)
    now = datetime.now(UTC)
    with LocalMixpanel() as server:
        _configure(server)
        server.add(traffic(seed=7, end=now - timedelta(hours=1), events=EVENTS))
        console.print(f"A local Mixpanel at {server.url} has {EVENTS:,} events of 45 days.")
        _print_others(console, server)
        first_day = _sync(console, warehouse, "First sync", now)
        server.add(traffic(seed=8, end=now, days=1, events=NEW_EVENTS))
        console.print(f"{NEW_EVENTS:,} more events happen.")
        if first_day is None or _sync(console, warehouse, "Second sync", now) is None:
            return 1
        expected = _count(server, first_day)
    counted = _counts(warehouse)
    _print(console, counted, expected)
    if counted != expected:
        console.print("[red]The counts differ from the server's own.[/]")
        return 1
    console.print(f"The counts of all {len(counted):,} subscribers are equal to the server's own.")
    console.print("Everything is in demo.duckdb; to look at the busiest subscriber:")
    console.print(f"  {LOOK}", highlight=False, soft_wrap=True)
    return 0


def _configure(server: LocalMixpanel) -> None:
    for name, value in {
        "BASE_URL": server.url,
        "PROJECT_ID": server.project_id,
        "SERVICE_ACCOUNT_USERNAME": server.username,
        "SERVICE_ACCOUNT_SECRET": server.secret,
        "TIMEZONE": "UTC",
        "EVENTS": "tracked",
        "INITIAL_WINDOW_DAYS": "45",
        # Who is told how the project's syncs end has no use for these.
        "WEBHOOK_URL": "",
        "HEARTBEAT_URL": "",
    }.items():
        os.environ[f"SOURCES__MIXPANEL__{name}"] = value


def _print_others(console: Console, server: LocalMixpanel) -> None:
    names = Counter(json.loads(line)["event"] for line in server.lines(date.min, date.max))
    asked = sum(names.pop(name, 0) for name in [*tracked_events(), *identity_events()])
    console.print(
        f"No metric counts {names.total():,} of them ({', '.join(sorted(names))}), nor do they say "
        "who is who: a sync does not ask for those, as long as the setting events is tracked. It "
        f"receives {asked:,}."
    )


def _sync(console: Console, warehouse: DuckDB, title: str, now: datetime) -> date | None:
    """The first day that was loaded; None when the sync failed."""
    console.print(f"\n[bold]{title}[/]")
    summary = sync(warehouse, load_configuration(), now=now)
    summary.print(console)
    if summary.status != "ok":
        console.print(f"[red]error:[/] {summary.error}")
        return None
    return summary.from_date


def _counts(warehouse: DuckDB) -> Counts:
    columns = ", ".join(f'"{name}"::bigint' for name in metrics())
    query = f"select subscriber_id, {columns} from {warehouse.marts}.subscribers"
    with closing(warehouse.connect()) as connection:
        rows = connection.sql(query).fetchall()
    return {subscriber: dict(zip(metrics(), row, strict=True)) for subscriber, *row in rows}


def _count(server: LocalMixpanel, first_day: date) -> Counts:
    """The same from the server's own events, by other means: line by line, in dictionaries."""
    distinct = {}
    for number, line in enumerate(server.lines(first_day, date.max)):
        event = json.loads(line)
        properties = event["properties"]
        who = properties.get("$distinct_id_before_identity") or properties["distinct_id"]
        # Without an $insert_id, every line is an event of its own.
        insert_id = properties.get("$insert_id", number)
        distinct[event["event"], who, properties["time"], insert_id] = event
    counts: Counts = {}
    for event in distinct.values():
        properties = event["properties"]
        subscriber = next((properties[key] for key in SUBSCRIBER_IDS if properties.get(key)), None)
        named = {name: how for name, how in metrics().items() if how["event"] == event["event"]}
        if subscriber is None or not named:
            continue
        row = counts.setdefault(subscriber, dict.fromkeys(metrics(), 0))
        for name, how in named.items():
            if not all(_contains(properties, *part) for part in how.get("where", {}).items()):
                continue
            if any(_contains(properties, *part) for part in how.get("unless", {}).items()):
                continue
            row[name] = 1 if how.get("kind") == "flag" else row[name] + 1
    return counts


def _contains(properties: dict[str, Any], name: str, text: str) -> bool:
    return text.lower() in str(properties.get(name, "")).lower()


def _print(console: Console, counted: Counts, expected: Counts) -> None:
    busiest = sorted(counted, key=lambda subscriber: -sum(counted[subscriber].values()))[:2]
    metric = Column("metric", no_wrap=True)
    table = Table(metric, *busiest, "all", "server's own", title="\nThe busiest subscribers")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in metrics():
        some = [f"{counted[subscriber][name]:,}" for subscriber in busiest]
        totals = [f"{sum(row[name] for row in rows.values()):,}" for rows in (counted, expected)]
        table.add_row(name, *some, *totals)
    console.print(table)
