"""A history on Spark, with what dies in it: every model is as in DuckDB, row for row.

One cluster and one history for all of it, in the order in which it stands here: each of them takes
a minute to begin.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dlt.common.runtime import run_context
from pyarrow import parquet

from local_mixpanel import LocalMixpanel, traffic
from mixpanel_pipeline.engines import DuckDB, Spark, open_warehouse
from mixpanel_pipeline.engines import spark as engine
from mixpanel_pipeline.runs.forgetting import forget
from mixpanel_pipeline.runs.maintenance import maintain
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.runs.summary import Summary
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.source.configuration import load_configuration
from tests.spark.cluster import Cluster, spark_cluster
from tests.spark.compared import differences, lake_rows

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
_WITHIN = 300
SECRET = "a secret of the tests, which is long enough"
_WITH_IDS = {
    "distinct_id",
    "distinct_id_before_identity",
    "subscriber_id",
    "resolved_distinct_id",
    "anonymous_id",
    "identified_id",
}

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

    def compare(self, **arguments: Any) -> None:
        """Sync into both; everything is the same."""
        for warehouse in (self.duck, self.spark):
            summary = sync(warehouse, load_configuration(), now=self.now, **arguments)
            assert summary.status == "ok", summary.error
        assert differences(self.spark, self.duck) == []

    def begin(self, action: Callable[[Spark], object]) -> multiprocessing.process.BaseProcess:
        """Do it in a process of its own, on connections of its own."""
        process = context.Process(target=lambda: action(_opened()))
        process.start()
        return process


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    folder = tmp_path_factory.mktemp("spark")
    (folder / ".dlt").mkdir()
    (folder / ".dlt" / "config.toml").write_text(
        '[runtime]\nlog_level = "CRITICAL"\ndlthub_telemetry = false\n', encoding="utf-8"
    )
    (folder / "cluster").mkdir()
    with (
        pytest.MonkeyPatch.context() as environment,
        LocalMixpanel(today=lambda: (NOW + timedelta(days=30)).date()) as mixpanel,
        spark_cluster(folder / "cluster") as cluster,
    ):
        for name in os.environ:
            if name.startswith(("SOURCES__", "DESTINATION", "DLT_", "DBT_", "RUNTIME__")):
                environment.delenv(name)
        for name, value in {
            **cluster.environment(),
            "DLT_PROJECT_DIR": str(folder),
            "DLT_DATA_DIR": str(folder / "dlt"),
            "SOURCES__MIXPANEL__BASE_URL": mixpanel.url,
            "SOURCES__MIXPANEL__PROJECT_ID": mixpanel.project_id,
            "SOURCES__MIXPANEL__SERVICE_ACCOUNT_USERNAME": mixpanel.username,
            "SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET": mixpanel.secret,
            "SOURCES__MIXPANEL__RETRY_PAUSE_SECONDS": "0",
            "SOURCES__MIXPANEL__HASH_SECRET": SECRET,
            "SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS": "20",
        }.items():
            environment.setenv(name, value)
        run_context.active().reload()
        yield History(cluster, mixpanel, _opened(), DuckDB(folder / "warehouse.duckdb"))


def _opened() -> Spark:
    spark = open_warehouse("spark")
    assert isinstance(spark, Spark)
    return spark


def stored_events(history: History) -> tuple[Any, ...]:
    """How many events are stored, and how many distinct ones."""
    query = f"select count(*), count(distinct event_key) from {history.spark.raw}.events"
    return history.spark.rows_of_events(query)[0]


def test_first_sync_builds_every_model_as_duckdb_does(history: History) -> None:
    history.mixpanel.add(traffic(seed=1, end=NOW, days=20, events=600))
    history.compare()


def test_late_events_copies_and_merged_identities_are_counted_once(history: History) -> None:
    history.happen(2)
    history.compare()


def test_what_a_loader_that_died_before_completing_left_is_loaded_once(history: History) -> None:
    history.happen(3)

    def die(spark: Spark) -> None:
        # Iceberg has committed, and the record of loads has not.
        engine._SparkClient.complete_load = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        history.load(spark)

    before = stored_events(history)
    loader = history.begin(die)
    loader.join(_WITHIN)
    assert loader.exitcode == -signal.SIGKILL
    assert stored_events(history) > before
    history.compare()
    number, distinct = stored_events(history)
    assert number == distinct


def test_load_that_is_asked_for_twice_is_written_once(history: History) -> None:
    table = history.spark.events_table()
    load_id = table.current_snapshot().summary[engine._OF_LOAD]
    history.spark.append(load_id, [], [])
    assert history.spark.events_table().metadata_location == table.metadata_location


def test_driver_that_is_killed_while_it_counts_has_counted_nothing_or_all(
    history: History,
) -> None:
    history.happen(4)
    assert history.load().status == "ok"
    before = count_scratch(history)
    build = history.begin(transform)
    wait_for(lambda: count_scratch(history) > before)
    history.cluster.kill("thrift")
    build.join(_WITHIN)
    assert build.exitcode != 0
    history.cluster.start_thrift()
    history.compare()


def test_worker_that_is_lost_while_models_are_built_changes_nothing(history: History) -> None:
    history.happen(5)
    assert history.load().status == "ok"
    before = count_scratch(history)
    build = history.begin(transform)
    wait_for(lambda: count_scratch(history) > before)
    history.cluster.kill("worker-2")
    build.join(_WITHIN)
    assert build.exitcode == 0
    history.compare()


def test_of_two_builds_at_once_none_counts_a_load_twice(history: History) -> None:
    history.happen(6)
    assert history.load().status == "ok"
    # As by dbt alone, which asks for no lock.
    builds = [history.begin(transform) for _ in range(2)]
    for build in builds:
        build.join(_WITHIN)
    history.compare()


def test_full_refresh_changes_nothing_and_leaves_nothing_behind(history: History) -> None:
    # What a killed build left behind goes two days later.
    before = count_scratch(history)
    history.compare(full_refresh=True)
    assert count_scratch(history) == before


def test_who_is_forgotten_is_in_no_file_and_does_not_come_back(history: History) -> None:
    # Somebody of several ids.
    ((one,),) = history.duck.rows(
        f"select max(distinct_id) from {history.duck.marts}.identity_map group by "
        "resolved_distinct_id having count(*) > 1 order by count(*) desc, 1 limit 1"
    )
    theirs = {
        each
        for (each,) in history.duck.rows(
            f"select distinct_id from {history.duck.marts}.identity_map where resolved_distinct_id "
            f"in (select resolved_distinct_id from {history.duck.marts}.identity_map "
            "where distinct_id = %s)",
            [one],
        )
    }
    assert ids_in_files(history) & theirs == theirs
    assert forget(history.spark, [one], SECRET) == forget(history.duck, [one], SECRET)
    assert ids_in_files(history) & theirs == set()
    assert differences(history.spark, history.duck) == []
    history.happen(7)
    history.compare()
    assert ids_in_files(history) & theirs == set()


def test_removal_that_is_interrupted_is_finished_by_the_next_sync(history: History) -> None:
    last = (history.now - timedelta(days=4)).isoformat()
    condition = f"event = 'Viewed Creator Profile' and occurred_at < timestamp '{last}'"
    removed = remove_events(history.duck, condition)
    assert removed.events > 0
    before = count_scratch(history)
    removal = history.begin(lambda spark: remove_events(spark, condition))
    wait_for(lambda: count_scratch(history) > before)
    history.cluster.kill("thrift")
    removal.join(_WITHIN)
    assert removal.exitcode != 0
    history.cluster.start_thrift()
    history.compare()


def test_tables_that_were_compacted_are_as_they_were(history: History) -> None:
    files = len(list(history.spark.events_table().scan().plan_files()))
    maintain(history.spark, now=datetime.now(UTC), keep=timedelta(0))
    assert len(list(history.spark.events_table().scan().plan_files())) < files
    assert differences(history.spark, history.duck) == []
    history.happen(8)
    history.compare()


def ids_in_files(history: History) -> set[str]:
    """The ids in all files of tables, whether a table still has them or not."""
    found = set[str]()
    for path in Path(history.spark.warehouse.removeprefix("file://")).rglob("*.parquet"):
        rows = parquet.ParquetFile(path)
        names = [name for name in rows.schema_arrow.names if name in _WITH_IDS]
        found |= {
            value for column in rows.read(names).columns for value in column.unique().to_pylist()
        }
    return found - {None}


def count_scratch(history: History) -> int:
    """How many tables builds have made for themselves, and not dropped."""
    return len(
        lake_rows(history.spark, f"show tables in {history.spark.marts} like '*__scratch_*'")
    )


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + _WITHIN
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
