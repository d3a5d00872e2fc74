"""What a sync costs when there is little that is new, on top of much that is not."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.bench import LAST_DAY, REPEATS, ROOT, Bench, Row, expect, vacuum
from benchmarks.measure import measured
from benchmarks.server import Workload, arrive, happen, serving
from mixpanel_pipeline.engines import Spark, Warehouse
from mixpanel_pipeline.runs.transform import transform

_NEW = 2_500
_MERGED = 1_000
_DAYS = 45
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
# Of all models those that `subscribers` is made of.
_ALONE = (
    "stg_mixpanel__events",
    "subscriber_days",
    "identity_edges",
    "identity_map",
    "subscribers",
)


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
    """2,500 new events, and 1,000 people who turn out to be 500, on top of many and many more."""
    old = Workload(base, LAST_DAY.isoformat(), days=_DAYS, is_small=True)
    with TemporaryDirectory() as folder:
        alone = _subscribers_alone(Path(folder))
        for name in ("duckdb", "postgres"):
            few = _measured_on_top(bench, name, old, 1, alone)
            many = _measured_on_top(bench, name, old, times, alone)
            top = f"on top of {base * times:,}"
            yield Row(
                f"sync of {_NEW:,} new events, {name}, {top} of {many.people:,} people",
                f"{many.sync:.1f} s",
                f"{few.sync:.1f} s on top of {base:,} of {few.people:,}",
                f"{many.sync / few.sync - 1:+.0%}",
                "less than 25 % more",
                many.sync / few.sync < 1.25,
            )
            yield Row(
                f"sync of {_NEW:,} new events, {name}, {top}, all models",
                f"{many.sync:.1f} s",
                f"{many.alone:.1f} s: `subscribers` alone, and what it is made of",
                f"{many.sync / many.alone:.2f} x",
                "less than 2 x",
                many.sync / many.alone < 2,
            )
            yield Row(
                f"sync that merges {_MERGED:,} people, {name}, {top}",
                f"{many.merge:.1f} s",
                f"{few.merge:.1f} s on top of {base:,}",
                f"{many.merge / few.merge - 1:+.0%}",
            )
            yield Row(
                f"all models anew, {name}, {base * times:,} events of {many.people:,} people",
                f"{many.rebuild:.1f} s",
                f"{few.rebuild:.1f} s of {base:,}",
            )
            yield Row(
                f"identities anew, {name}, {many.edges:,} pairs of ids, the whole command",
                f"{many.identities:.1f} s",
                f"{few.identities:.1f} s of {few.edges:,}",
            )


@dataclass(frozen=True)
class _OnTop:
    """Seconds, and how much there is."""

    rebuild: float
    identities: float
    sync: float
    merge: float
    alone: float
    people: int
    edges: int


def _measured_on_top(bench: Bench, name: str, old: Workload, copies: int, alone: Path) -> _OnTop:
    warehouse = bench.warehouse(name)
    with serving(old) as url:
        bench.initial_load(warehouse, url, old)
        multiply(warehouse, copies)
        started = time.perf_counter()
        transform(warehouse, full_refresh=True)
        rebuild = time.perf_counter() - started
        identities = ["dbt", "run", "--full-refresh", "--select", "identity_edges", "identity_map"]
        found = measured(
            [sys.executable, ROOT / "pipelines" / "run.py", *identities],
            environment=warehouse.environment | {"DESTINATION_TYPE": name},
        )
        vacuum(warehouse)
        people = old.events // 60

        def of_new(seed: int, root: Path = ROOT) -> float:
            happen(url, LAST_DAY + timedelta(days=1), _NEW, seed=seed, people=people)
            return _sync(bench, warehouse, url, _NEW, root=root)

        every = min(of_new(n) for n in range(REPEATS))
        arrive(url, list(_merges(LAST_DAY + timedelta(days=1), people)))
        merge = _sync(bench, warehouse, url, _MERGED // 2)
        # Last: the other models do not go along.
        of_new(REPEATS, root=alone)
        subscribers = min(of_new(REPEATS + n, root=alone) for n in range(1, 1 + REPEATS))
    (count,) = warehouse.rows("select count(*) from mixpanel.subscribers")[0]
    (edges,) = warehouse.rows("select count(*) from mixpanel.identity_edges")[0]
    bench.drop(warehouse)
    return _OnTop(rebuild, found.seconds, every, merge, subscribers, count, edges)


def _sync(bench: Bench, warehouse: Warehouse, url: str, events: int, *, root: Path = ROOT) -> float:
    # What was written to get here would be written to the disk beside what is measured.
    os.sync()
    found, summary = bench.sync(warehouse, url, root=root)
    expect(0.98 * events < summary["events_new"] <= events, True)
    return found.seconds


def _merges(day: date, people: int) -> Iterator[dict[str, Any]]:
    """Events by which pairs of people turn out to be one."""
    ids = [f"u{number * 2_654_435_761 % 2**32:08x}" for number in range(people)]
    chosen = Random(3).sample(ids, _MERGED)
    noon = int(datetime.combine(day, time_of_day(12), UTC).timestamp())
    for one, other in zip(chosen[::2], chosen[1::2], strict=True):
        yield {
            "event": "$merge",
            "properties": {"time": noon, "distinct_id": one, "$distinct_ids": [one, other]},
        }


def _subscribers_alone(folder: Path) -> Path:
    """A checkout whose dbt project has no other models, and no test that reads others."""
    for part in ("pipelines", "dbt_project"):
        ignored = shutil.ignore_patterns("target", "logs", "__pycache__")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    models = folder / "dbt_project" / "models"
    for path in models.rglob("*"):
        if path.is_file() and path.stem not in (*_ALONE, "_mixpanel__sources", "groups"):
            path.unlink()
    for path in (folder / "dbt_project" / "tests").glob("*.sql"):
        if "ref('sync_health')" in path.read_text(encoding="utf-8"):
            path.unlink()
    return folder


def _by_spark(spark: Spark) -> Callable[[str], None]:
    def insert(statement: str) -> None:
        with spark.session() as cursor:
            cursor.execute(statement)

    return insert


def multiply(warehouse: Warehouse, copies: int) -> None:
    """Add copies of all events, each as a load of its own, of other people in the weeks before."""
    # Load ids ascend in the table as those of real loads do: PostgreSQL's planner looks at that.
    last = warehouse.rows_of_events(f"select max(_dlt_load_id) from {_EVENTS}")[0][0]
    columns = sorted(warehouse.columns("mixpanel_raw", "events"))
    json = "jsonb" if warehouse.name == "postgres" else "text"
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
            "distinct_id": _anothers("distinct_id", copy),
            "distinct_id_before_identity": _anothers("distinct_id_before_identity", copy),
            "properties": f"cast({_anothers_payload(copy)} as {json})",
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
    vacuum(warehouse)


def _anothers(id_column: str, copy: int) -> str:
    """An id, `u…` or `…-5A1C-…`, of the made-up traffic as another person has it."""
    return f"replace(replace({id_column}, 'u', 'u{copy}.'), '-5A1C-', '-{copy:04X}-')"


def _anothers_payload(copy: int) -> str:
    """The payload with such ids: PostgreSQL puts a space before values, the others do not."""
    found = f"replace(cast(properties as text), '-5A1C-', '-{copy:04X}-')"
    for start in ('":"u', '": "u'):
        found = f"replace({found}, '{start}', '{start}{copy}.')"
    return found
