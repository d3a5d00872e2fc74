"""What happens to a Spark and to a DuckDB beside it, and what dies of the former meanwhile."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local_mixpanel import LocalMixpanel, traffic
from mixpanel_pipeline.engines import DuckDB, Spark, open_warehouse
from mixpanel_pipeline.engines.schemas import Schemas
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.summary import Summary
from mixpanel_pipeline.source.configuration import load_configuration
from tests.spark.cluster import Cluster
from tests.spark.compared import differences

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
SECRET = "a secret of the tests, which is long enough"
WITHIN = 300

context = multiprocessing.get_context("fork")


@dataclass
class History:
    """What is synced into both, and when."""

    cluster: Cluster
    mixpanel: LocalMixpanel
    spark: Spark
    duck: DuckDB
    now: datetime = NOW

    def happen(self, seed: int, events: int = 150) -> None:
        """A day passes, with events of it, and late ones and copies of its last week."""
        self.now += timedelta(days=1)
        self.mixpanel.add(traffic(seed=seed, end=self.now, days=7, events=events))

    def load(self, spark: Spark | None = None) -> Summary:
        """Load into Spark alone."""
        return sync(spark or self.spark, load_configuration(), now=self.now, skip_transform=True)

    def sync(self, **arguments: Any) -> None:
        """Sync into both."""
        for warehouse in (self.duck, self.spark):
            summary = sync(warehouse, load_configuration(), now=self.now, **arguments)
            assert summary.status == "ok", summary.error

    def compare(self, *, has_views: bool = False, **arguments: Any) -> None:
        """Sync into both; everything that is stored is the same."""
        self.sync(**arguments)
        assert differences(self.spark, self.duck, has_views=has_views) == []

    def begin(self, action: Callable[[Spark], object]) -> multiprocessing.process.BaseProcess:
        """Do it in a process of its own, on connections of its own."""
        process = context.Process(target=lambda: action(_opened()))
        process.start()
        return process

    def kill_driver_during(self, action: Callable[[Spark], object]) -> None:
        """Kill the driver while it does something, which fails, and start another one."""
        before = self.count_scratch()
        process = self.begin(action)
        # Spark has made a table for it.
        wait_for(lambda: self.count_scratch() > before)
        self.cluster.kill("thrift")
        process.join(WITHIN)
        assert process.exitcode != 0
        self.cluster.start_thrift()

    def count_scratch(self) -> int:
        """How many tables builds have made for themselves, and not dropped."""
        query = f"show tables in {self.spark.marts} like '*__scratch_*'"
        return len(self.spark.model_rows(query))


@contextmanager
def history(cluster: Cluster, folder: Path, name: str = "") -> Iterator[History]:
    """One that begins with a Mixpanel and databases of its own.

    Args:
        cluster: Where its Spark is.
        folder: For its DuckDB.
        name: What its schemas have at their ends.
    """
    schemas = Schemas(f"mixpanel_raw{name}", f"mixpanel{name}")
    with (
        pytest.MonkeyPatch.context() as environment,
        LocalMixpanel(today=lambda: (NOW + timedelta(days=30)).date()) as mixpanel,
    ):
        for setting, value in {
            "BASE_URL": mixpanel.url,
            "PROJECT_ID": mixpanel.project_id,
            "SERVICE_ACCOUNT_USERNAME": mixpanel.username,
            "SERVICE_ACCOUNT_SECRET": mixpanel.secret,
            "DATASET_NAME": schemas.dataset_name,
            "MART_SCHEMA": schemas.mart_schema,
        }.items():
            environment.setenv(f"SOURCES__MIXPANEL__{setting}", value)
        duck = DuckDB(folder / "warehouse.duckdb", schemas=schemas)
        yield History(cluster, mixpanel, _opened(), duck)


def _opened() -> Spark:
    spark = open_warehouse("spark")
    assert isinstance(spark, Spark)
    return spark


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + WITHIN
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
