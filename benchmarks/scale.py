"""What a destination takes for more and more events: seconds of each step, and bytes.

    make bench-scale                                         1 million on Spark with two workers
    make bench-scale OPTIONS="--millions 50 --workers 1"
    make bench-scale OPTIONS="--destination postgres --millions 20"

Spark is a cluster of this machine. The first million is loaded as any sync loads it; the others are
copies of it, each a load of its own of earlier weeks.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.bench import LAST_DAY, bench, machine
from benchmarks.growth import multiply
from benchmarks.server import Workload, environment, happen, serving
from mixpanel_pipeline import project
from mixpanel_pipeline.engines import DuckDB, Spark, Warehouse, open_warehouse
from mixpanel_pipeline.runs.maintenance import maintain
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.source.configuration import load_configuration

_MILLION = 1_000_000
_NEW = 2_500
_DAYS = 45


def scale(name: str, millions: int, workers: int, console: Console) -> None:
    """Measure one destination, and tell each step as it ends."""
    project.use_dbt_project(project.DBT_PACKAGE)
    workload = Workload(_MILLION, LAST_DAY.isoformat(), days=_DAYS, is_small=True)
    console.print(f"{name}, {machine()}" + (f", {workers} workers" if name == "spark" else ""))
    with _opened(name, workers) as warehouse, serving(workload) as url:
        os.environ.update(environment(url))
        window = (datetime.now(UTC).date() - LAST_DAY).days + _DAYS
        os.environ["SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS"] = str(window)

        def step(what: str, done: Callable[[], object]) -> None:
            started = time.perf_counter()
            done()
            seconds = time.perf_counter() - started
            console.print(f"{what:46} {seconds:9.1f} s {_bytes(warehouse) / 2**20:9,.0f} MB")

        step("load 1,000,000 events", lambda: _loaded(warehouse))
        step("build all models", lambda: transform(warehouse))
        if millions > 1:
            step(f"copy them {millions - 1} times", lambda: multiply(warehouse, millions))
            step("build all models anew", lambda: transform(warehouse, full_refresh=True))
        for repeat in range(2):
            happen(url, LAST_DAY + timedelta(days=1 + repeat), _NEW, seed=repeat)
            step(f"load {_NEW:,} new events", lambda: _loaded(warehouse))
            step("count them", lambda: transform(warehouse))
        if isinstance(warehouse, Spark):
            now = datetime.now(UTC)
            step("maintain", lambda: maintain(warehouse, now=now, keep=timedelta(0)))


def _loaded(warehouse: Warehouse) -> None:
    settings, now = load_configuration(), datetime.now(UTC)
    summary = sync(warehouse, settings, now=now, skip_transform=True)
    if summary.status != "ok":
        raise AssertionError(summary.error)


@contextmanager
def _opened(name: str, workers: int) -> Iterator[Warehouse]:
    if name != "spark":
        with bench() as databases:
            os.environ["DLT_DATA_DIR"] = str(databases.directory / "dlt")
            yield databases.warehouse(name)
        return
    # Only where it is asked for: its packages are in an environment of their own.
    from tests.spark.cluster import spark_cluster

    with TemporaryDirectory(prefix="benchmark-") as folder:
        os.environ["DLT_DATA_DIR"] = str(Path(folder) / "dlt")
        with spark_cluster(Path(folder), workers=workers, is_small=False) as cluster:
            os.environ.update(cluster.environment())
            yield open_warehouse("spark")


def _bytes(warehouse: Warehouse) -> int:
    """All that its tables take on disk."""
    match warehouse:
        case DuckDB(path=path):
            return path.stat().st_size
        case Spark(warehouse=url):
            lake = Path(url.removeprefix("file://"))
            return sum(path.stat().st_size for path in lake.rglob("*") if path.is_file())
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("select pg_database_size(current_database())")
        return int(cursor.fetchone()[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--destination", choices=["duckdb", "postgres", "spark"], default="spark")
    parser.add_argument("--millions", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    scale(options.destination, options.millions, options.workers, Console())
