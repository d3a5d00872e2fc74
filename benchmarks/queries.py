"""How long the questions of docs/queries.md take."""

import time
from collections.abc import Iterator

from benchmarks.bench import LAST_DAY, REPEATS, Bench, Row, vacuum
from benchmarks.server import Workload, serving
from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.runs.transform import transform
from tests.documentation import questions

_AT_MOST = {"duckdb": 1.0, "postgres": 2.0}
# What the served events and the shipped metrics call what the page asks for.
_CALLED = {
    "Purchase Completed": "DubAutoCopyInitiated",
    "Signed Up": "SubscriptionCreated",
    "purchases >": "total_copies >",
    "purchases =": "total_copies =",
    "purchases desc": "total_copies desc",
    "id, purchases": "id, total_copies",
    "sum(purchases)": "sum(total_copies)",
    "signed_up and": "linked_bank_account and",
    "'kind'": "'creatorType'",
    "'ada'": "'u00000000'",
}


def answers(bench: Bench, events: int) -> Iterator[Row]:
    """Each question on each database, with everything built."""
    workload = Workload(events, LAST_DAY.isoformat(), days=60)
    for name in ("duckdb", "postgres"):
        warehouse = bench.warehouse(name)
        with serving(workload) as url:
            bench.initial_load(warehouse, url, workload)
        transform(warehouse)
        vacuum(warehouse)
        for question, query in questions():
            for theirs, ours in _CALLED.items():
                query = query.replace(theirs, ours)
            seconds = min(_seconds(warehouse, query) for _ in range(REPEATS))
            yield Row(
                f"{question} {name}, {events:,} events",
                f"{seconds:.2f} s",
                target=f"at most {_AT_MOST[name]:.0f} s",
                is_met=seconds <= _AT_MOST[name],
            )
        bench.drop(warehouse)


def _seconds(warehouse: Warehouse, query: str) -> float:
    with warehouse.kept_open():
        started = time.perf_counter()
        if not warehouse.rows(query):
            raise AssertionError(f"no answer to {query}")
        return time.perf_counter() - started
