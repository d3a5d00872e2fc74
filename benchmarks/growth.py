"""What a sync costs when there is little that is new, on top of much that is not."""

import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
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
from local_mixpanel.app_traffic import ids_of
from mixpanel_pipeline.engines import Spark, Warehouse

_NEW = 2_500
_MERGED = 1_000
_DAYS = 45
# What any program has to do at least that loads by dlt into these databases and tells of it.
_IMPORTS = "import dlt, duckdb, pyarrow.parquet, requests, rich"
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
    """A sync with nothing new, against what importing what it is made of costs."""
    workload = Workload(20_000, LAST_DAY.isoformat())
    with serving(workload) as url:
        for name in ("duckdb", "postgres"):
            warehouse = bench.warehouse(name)
            bench.initial_load(warehouse, url, workload)
            bench.sync(warehouse, url)
            ours, theirs = [], []
            for _ in range(REPEATS):
                # Up to yesterday: the same day again, and no event of it is new.
                found, summary = bench.sync(warehouse, url)
                expect(summary["events_new"], 0)
                ours.append(found.seconds)
                theirs.append(measured([sys.executable, "-c", _IMPORTS]).seconds)
            bench.drop(warehouse)
            times = min(ours) / min(theirs)
            yield Row(
                f"sync with nothing new, {name}, the whole command",
                f"{min(ours):.1f} s",
                f"{min(theirs):.1f} s: {_IMPORTS}",
                f"{times:.2f} x",
                "at most 2.5 x",
                times <= 2.5,
            )


def on_top(bench: Bench, base: int, times: int) -> Iterator[Row]:
    """2,500 new events, and 1,000 people who turn out to be 500, on top of many and many more."""
    old = Workload(base, LAST_DAY.isoformat(), days=_DAYS, is_small=True)
    with TemporaryDirectory() as folder:
        whole, alone = Path(folder) / "whole", Path(folder) / "alone"
        _with_event_columns(whole)
        _subscribers_alone(alone)
        for name in ("duckdb", "postgres"):
            few, many = _measured_on_top(bench, name, old, (1, times), whole, alone)
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
                f"all models anew, {name}, {base * times:,} events, the whole command",
                f"{many.rebuild:.1f} s",
                f"{few.rebuild:.1f} s of {base:,}",
            )
            yield Row(
                f"one person's events in `events`, {name}, of {base * times:,}",
                f"{many.person * 1000:.0f} ms",
                f"{few.person * 1000:.0f} ms of {base:,}",
            )
            yield Row(
                f"one event's week in `events`, {name}, of {base * times:,}",
                f"{many.week * 1000:.0f} ms",
                f"{few.week * 1000:.0f} ms of {base:,}",
            )
            yield Row(
                f"identities anew, {name}, {many.edges:,} pairs of ids, the whole command",
                f"{many.identities:.1f} s",
                f"{few.identities:.1f} s of {few.edges:,}",
            )


@dataclass
class _OnTop:
    """A warehouse with so much in it, the Mixpanel it syncs with, and seconds."""

    warehouse: Warehouse
    url: str
    rebuild: float
    identities: float
    sync: float = math.inf
    merge: float = math.inf
    alone: float = math.inf
    person: float = math.inf
    week: float = math.inf
    people: int = 0
    edges: int = 0


def _measured_on_top(
    bench: Bench, name: str, old: Workload, copies: Sequence[int], whole: Path, alone: Path
) -> list[_OnTop]:
    """As so many copies of the workload are there: in turn, as a machine's speed changes."""
    people = old.events // 60
    day = LAST_DAY + timedelta(days=1)

    def of_new(found: _OnTop, seed: int, root: Path) -> float:
        happen(found.url, day, _NEW, seed=seed, people=people)
        return _sync(bench, found, _NEW, root)

    with ExitStack() as servers:
        measured_ones = [
            _built(bench, name, old, servers.enter_context(serving(old)), number, whole)
            for number in copies
        ]
        for repeat in range(REPEATS):
            for found in measured_ones:
                found.sync = min(found.sync, of_new(found, repeat, whole))
        for found in measured_ones:
            arrive(found.url, list(_merges(day, people)))
            found.merge = _sync(bench, found, _MERGED // 2, whole)
            found.person, found.week = _seconds_in_events(found.warehouse)
        # Last: the other models do not go along.
        for found in measured_ones:
            of_new(found, REPEATS, alone)
        for repeat in range(REPEATS):
            for found in measured_ones:
                found.alone = min(found.alone, of_new(found, REPEATS + 1 + repeat, alone))
    for found in measured_ones:
        (found.people,) = found.warehouse.rows("select count(*) from mixpanel.subscribers")[0]
        (found.edges,) = found.warehouse.rows("select count(*) from mixpanel.identity_edges")[0]
        bench.drop(found.warehouse)
    return measured_ones


def _built(bench: Bench, name: str, old: Workload, url: str, copies: int, whole: Path) -> _OnTop:
    warehouse = bench.warehouse(name)
    bench.initial_load(warehouse, url, old)
    multiply(warehouse, copies)
    rebuild, _ = bench.sync(warehouse, url, "--skip-load", "--full-refresh", root=whole)
    identities = ["dbt", "run", "--full-refresh", "--select", "identity_edges", "identity_map"]
    found = measured(
        [sys.executable, whole / "pipelines" / "run.py", *identities],
        environment=warehouse.environment | {"DESTINATION_TYPE": name},
    )
    vacuum(warehouse)
    return _OnTop(warehouse, url, rebuild.seconds, found.seconds)


def _sync(bench: Bench, found: _OnTop, events: int, root: Path) -> float:
    # What was written to get here would be written to the disk beside what is measured.
    os.sync()
    sync, summary = bench.sync(found.warehouse, found.url, root=root)
    expect(0.98 * events < summary["events_new"] <= events, True)
    return sync.seconds


def _merges(day: date, people: int) -> Iterator[dict[str, Any]]:
    """Events by which pairs of people turn out to be one."""
    chosen = [ids_of(number)[0] for number in Random(3).sample(range(people), _MERGED)]
    noon = int(datetime.combine(day, time_of_day(12), UTC).timestamp())
    for one, other in zip(chosen[::2], chosen[1::2], strict=True):
        yield {
            "event": "$merge",
            "properties": {"time": noon, "distinct_id": one, "$distinct_ids": [one, other]},
        }


def _seconds_in_events(warehouse: Warehouse) -> tuple[float, float]:
    """What it takes to find one person's events, and a week of one event; the fastest of three."""
    events = f"{warehouse.marts}.events"
    ((person, event, day),) = warehouse.rows(
        f"select subscriber_id, event, event_date from {events} where event = '$ae_session' limit 1"
    )
    found = []
    for condition, parameters in (
        ("subscriber_id = %s", [person]),
        ("event = %s and event_date between %s and %s", [event, day, day + timedelta(days=6)]),
    ):
        seconds = []
        for _ in range(REPEATS):
            with warehouse.kept_open():
                started = time.perf_counter()
                warehouse.rows(
                    f"select event_date, count(*) from {events} where {condition} group by 1",
                    parameters,
                )
                seconds.append(time.perf_counter() - started)
        found.append(min(seconds))
    return found[0], found[1]


def _copy_checkout(folder: Path) -> None:
    for part in ("pipelines", "dbt_project"):
        ignored = shutil.ignore_patterns("target", "logs", "__pycache__")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)


def _with_event_columns(folder: Path) -> None:
    """A checkout that has all models, `events` among them."""
    _copy_checkout(folder)
    path = folder / "dbt_project" / "dbt_project.yml"
    text, changes = re.subn(
        "event_columns: {}",
        "event_columns: {creator: {property: creatorType}, amount: {type: number}}",
        path.read_text(encoding="utf-8"),
    )
    expect(changes, 1)
    path.write_text(text, encoding="utf-8")


def _subscribers_alone(folder: Path) -> None:
    """A checkout whose dbt project has no other models, and no test that reads others."""
    _copy_checkout(folder)
    models = folder / "dbt_project" / "models"
    for path in models.rglob("*"):
        if path.is_file() and path.stem not in (
            *_ALONE,
            "_mixpanel__sources",
            "_ledger__sources",
            "groups",
        ):
            path.unlink()
    for path in (folder / "dbt_project" / "tests").glob("*.sql"):
        if "ref('sync_health')" in path.read_text(encoding="utf-8"):
            path.unlink()


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
    json = "string" if isinstance(warehouse, Spark) else warehouse.json_type
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
    found = f"replace(concat(properties, ''), '-5A1C-', '-{copy:04X}-')"
    for start in ('":"u', '": "u'):
        found = f"replace({found}, '{start}', '{start}{copy}.')"
    return found
