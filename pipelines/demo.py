"""The demo: a local Mixpanel with 45 days of events, two syncs from it, and the counts."""

import json
import os
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

from local_mixpanel import LocalMixpanel, traffic
from mixpanel_export.configuration import load_configuration
from sync.pipeline import sync
from sync.project import MART_SCHEMA, ROOT, metrics
from sync.warehouse import DuckDB

EVENTS = 95_000
NEW_EVENTS = 2_000
LOOK = """.venv/bin/python -c 'import duckdb; \
duckdb.connect("demo.duckdb").sql("from mixpanel.subscribers").show()'"""
SUBSCRIBER_IDS = [
    "distinct_id",
    "$distinct_id",
    "user_id",
    "$user_id",
    "identified_id",
    "$identified_id",
]


def demo() -> int:
    """Sync twice into `demo.duckdb` and compare the counts with the server's own.

    Returns:
        The exit code: 0 when they are equal, 1 when not or when a sync failed.
    """
    console = Console()
    warehouse = DuckDB(ROOT / "demo.duckdb")
    warehouse.path.unlink(missing_ok=True)
    now = datetime.now(UTC)
    with LocalMixpanel() as server:
        _configure(server)
        server.add(traffic(seed=7, end=now - timedelta(hours=1), events=EVENTS))
        console.print(f"A local Mixpanel at {server.url} has {EVENTS:,} events of 45 days.")
        for title, is_last in (("First sync", False), ("Second sync", True)):
            console.print(f"\n[bold]{title}[/]")
            summary = sync(warehouse, load_configuration(), now=now)
            summary.print(console)
            if summary.status != "ok":
                console.print(f"[red]error:[/] {summary.error}")
                return 1
            if not is_last:
                first_day = summary.from_date or date.min
                server.add(traffic(seed=8, end=now, days=1, events=NEW_EVENTS))
                console.print(f"{NEW_EVENTS:,} more events happen.")
        expected = _count(server, first_day)
    counted = _counts(warehouse)
    _print(console, counted, expected)
    if counted != expected:
        console.print("[red]The counts differ.[/]")
        return 1
    console.print("Both counts are equal. Everything is in demo.duckdb; to look around:")
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
    }.items():
        os.environ[f"SOURCES__MIXPANEL__{name}"] = value


def _counts(warehouse: DuckDB) -> dict[str, int]:
    """What the metrics add up to over all subscribers."""
    columns = ", ".join(f"sum({name}::bigint)::bigint" for name in metrics())
    with closing(warehouse.connect()) as connection:
        (totals,) = connection.sql(f"select {columns} from {MART_SCHEMA}.subscribers").fetchall()
    return dict(zip(metrics(), totals, strict=True))


def _count(server: LocalMixpanel, first_day: date) -> dict[str, int]:
    """The same from the server's own events, by other means: line by line, in dictionaries."""
    distinct = {}
    for number, line in enumerate(server.lines(first_day, date.max)):
        event = json.loads(line)
        properties = event["properties"]
        who = properties.get("$distinct_id_before_identity") or properties["distinct_id"]
        # Without an $insert_id, every line is an event of its own.
        insert_id = properties.get("$insert_id", number)
        distinct[event["event"], who, properties["time"], insert_id] = event
    totals = dict.fromkeys(metrics(), 0)
    flagged: dict[str, set[str]] = {name: set() for name in metrics()}
    for event in distinct.values():
        properties = event["properties"]
        subscriber = next((properties[key] for key in SUBSCRIBER_IDS if properties.get(key)), None)
        for name, metric in metrics().items():
            if subscriber is None or metric["event"] != event["event"]:
                continue
            if not all(_contains(properties, *has) for has in metric.get("where", {}).items()):
                continue
            if any(_contains(properties, *has) for has in metric.get("unless", {}).items()):
                continue
            totals[name] += 1
            flagged[name].add(subscriber)
    flags = {name for name, metric in metrics().items() if metric.get("kind") == "flag"}
    return totals | {name: len(flagged[name]) for name in flags}


def _contains(properties: dict[str, Any], name: str, text: str) -> bool:
    return text.lower() in str(properties.get(name, "")).lower()


def _print(console: Console, counted: dict[str, int], expected: dict[str, int]) -> None:
    table = Table("metric", title="\nAll subscribers together")
    table.add_column("mixpanel.subscribers", justify="right")
    table.add_column("the server's own count", justify="right")
    for name, total in counted.items():
        table.add_row(name, f"{total:,}", f"{expected[name]:,}")
    console.print(table)
