"""What a sync costs when there is little that is new, on top of much that is not."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from benchmarks.bench import LAST_DAY, REPEATS, ROOT, Bench, Row, expect
from benchmarks.measure import measured
from benchmarks.server import Workload, happen, serving
from mixpanel_pipeline.engines import Spark, Warehouse
from mixpanel_pipeline.runs.transform import transform

_NEW = 2_500
# What any sync by dlt and dbt has to do at least: import both, and let dbt build nothing.
_NOTHING = """
import sys, dlt
from dlt.destinations import duckdb, postgres
from dbt.cli.main import dbtRunner
arguments = ["--quiet", "--log-level-file", "none", "--no-write-json", "build"]
arguments += ["--select", "nothing", "--project-dir", sys.argv[1], "--profiles-dir", sys.argv[1]]
assert dbtRunner().invoke([*arguments, "--target", sys.argv[2]]).success
"""
_EVENTS = "mixpanel_raw.events"
_NAMED = f"(select *, SUBSCRIBER as subscriber_id from {_EVENTS}) as named"


def idle(bench: Bench) -> Iterator[Row]:
    """A sync with nothing new, against what importing dlt and dbt costs."""
    workload = Workload(20_000, LAST_DAY.isoformat())
    with serving(workload) as url:
        for name in ("duckdb", "postgres"):
            warehouse = bench.warehouse(name)
            bench.initial_load(warehouse, url, workload)
            project = str(ROOT / "dbt_project")
            nothing = [sys.executable, "-c", _NOTHING, project, name]
            bench.sync(warehouse, url)
            ours, theirs = [], []
            for _ in range(REPEATS):
                # Up to yesterday: the same day again, and no event of it is new.
                found, summary = bench.sync(warehouse, url)
                expect(summary["events_new"], 0)
                ours.append(found.seconds)
                theirs.append(measured(nothing, environment=warehouse.environment).seconds)
            bench.drop(warehouse)
            times = min(ours) / min(theirs)
            yield Row(
                f"sync with nothing new, {name}, the whole command",
                f"{min(ours):.1f} s",
                f"{min(theirs):.1f} s: importing dlt and dbt, and dbt building nothing",
                f"{times:.2f} x",
                "at most 1.5 x",
                times <= 1.5,
            )


def on_top(bench: Bench, base: int, times: int) -> Iterator[Row]:
    """2,500 new events on top of many and of many more, and a full refresh over those."""
    old = Workload(base, LAST_DAY.isoformat(), days=45, is_small=True)
    for name in ("duckdb", "postgres"):
        seconds = []
        for copies in (1, times):
            warehouse = bench.warehouse(name)
            with serving(old) as url:
                bench.initial_load(warehouse, url, old)
                multiply(warehouse, copies)
                transform(warehouse, full_refresh=True)
                seconds.append(min(_sync_of_new(bench, warehouse, url, n) for n in range(REPEATS)))
            if copies == times:
                yield _rebuild(warehouse, base * times)
            bench.drop(warehouse)
        growth = seconds[1] / seconds[0] - 1
        yield Row(
            f"sync of {_NEW:,} new events, {name}, on top of {base * times:,}",
            f"{seconds[1]:.1f} s",
            f"{seconds[0]:.1f} s on top of {base:,}",
            f"{growth:+.0%}",
            "less than 25 % more",
            growth < 0.25,
        )


def _sync_of_new(bench: Bench, warehouse: Warehouse, url: str, repeat: int) -> float:
    happen(url, LAST_DAY + timedelta(days=1), _NEW, seed=repeat)
    # What was written to get here would be written to the disk beside what is measured.
    os.sync()
    found, summary = bench.sync(warehouse, url)
    expect(0.98 * _NEW < summary["events_new"] <= _NEW, True)
    return found.seconds


def _by_spark(spark: Spark) -> Callable[[str], None]:
    def insert(statement: str) -> None:
        with spark.session() as cursor:
            cursor.execute(statement)

    return insert


def multiply(warehouse: Warehouse, copies: int) -> None:
    """Add copies of all events, each as a load of its own, of the weeks before."""
    # Load ids ascend in the table as those of real loads do: PostgreSQL's planner looks at that.
    last = warehouse.rows_of_events(f"select max(_dlt_load_id) from {_EVENTS}")[0][0]
    columns = sorted(warehouse.columns("mixpanel_raw", "events"))
    insert = _by_spark(warehouse) if isinstance(warehouse, Spark) else warehouse.execute
    # An index is filled faster at once than row by row.
    if warehouse.name == "postgres":
        warehouse.execute("drop index if exists mixpanel_raw.events_event_key")
    for copy in range(1, copies):
        load_id = f"{last}.{copy:03}"
        own = {
            "event_key": f"md5(event_key || '{copy}')",
            "insert_id": f"md5(insert_id || '{copy}')",
            "occurred_at": f"occurred_at - interval '{45 * copy} days'",
            "processed_at": f"processed_at - interval '{45 * copy} days'",
            "_dlt_load_id": f"'{load_id}'",
        }
        insert(
            f"insert into {_EVENTS} ({', '.join(columns)}) "
            f"select {', '.join(own.get(column, column) for column in columns)} "
            f"from {_EVENTS} where _dlt_load_id <= '{last}'"
        )
        warehouse.execute(
            "insert into mixpanel_raw._dlt_loads (load_id, schema_name, status, inserted_at) "
            f"values ('{load_id}', 'mixpanel', 0, current_timestamp)"
        )
    warehouse.tune()
    if warehouse.name == "postgres":
        # PostgreSQL would do it in the background, beside what is measured.
        with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
            connection.autocommit = True
            cursor.execute(f"vacuum analyze {_EVENTS}")


def _rebuild(warehouse: Warehouse, events: int) -> Row:
    """A full refresh of the counts against one query that counts the same."""
    project = str(ROOT / "dbt_project")
    options = ["--project-dir", project, "--profiles-dir", project, "--target", warehouse.name]
    dbt = str(Path(sys.executable).with_name("dbt"))
    command = [dbt, "--quiet", "run", "--full-refresh", "--select", "subscribers", *options]
    ours, theirs = [], []
    for _ in range(REPEATS):
        ours.append(measured(command, environment=warehouse.environment).seconds)
        warehouse.execute("drop table if exists mixpanel.single_query")
        query = f"create table mixpanel.single_query as {_single_query()}"
        started = time.perf_counter()
        warehouse.execute(query)
        theirs.append(time.perf_counter() - started)
    expect(
        warehouse.rows("select count(*), sum(events_processed) from mixpanel.subscribers"),
        warehouse.rows("select count(*), sum(events_processed) from mixpanel.single_query"),
    )
    times = min(ours) / min(theirs)
    return Row(
        f"dbt run --full-refresh, {warehouse.name}, over {events:,} events, the whole command",
        f"{min(ours):.1f} s",
        f"{min(theirs):.1f} s: one query over the raw table, same columns",
        f"{times:.2f} x",
        "at most 2 x",
        times <= 2,
    )


def _single_query() -> str:
    """The counts as one query over the raw table: the models' SQL, without what keeps it exact."""
    compiled = ROOT / "dbt_project" / "target" / "compiled" / "mixpanel" / "models"
    counts = (compiled / "marts" / "subscribers.sql").read_text(encoding="utf-8")
    events = (compiled / "staging" / "stg_mixpanel__events.sql").read_text(encoding="utf-8")
    subscriber = re.search(r"case\s+when distinct_id.*?\n    end", events, re.DOTALL)
    counts, views = re.subn(r"from \S+stg_mixpanel__events\"", f"from {_NAMED}", counts)
    counts, claims = re.subn(
        r"_dlt_load_id in \(.*?\n        \)\s+and ", "", counts, flags=re.DOTALL
    )
    if subscriber is None or (views, claims) != (1, 1):
        raise AssertionError("the models are written otherwise than this benchmark expects")
    return counts.replace("SUBSCRIBER", subscriber[0])
