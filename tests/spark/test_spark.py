"""A history on Spark, with what dies in it: every model is as in DuckDB, row for row.

One cluster and one history for all of it, in the order in which it stands here: each of them takes
a minute to begin.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from local_mixpanel import traffic
from mixpanel_pipeline.engines import Spark, open_warehouse
from mixpanel_pipeline.engines import spark as engine
from mixpanel_pipeline.runs.forgetting import forget
from mixpanel_pipeline.runs.maintenance import maintain
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.spark.cluster import Cluster
from tests.spark.history import NOW, SECRET, WITHIN, History, wait_for
from tests.spark.history import history as begun_history

_WITH_IDS = {
    "distinct_id",
    "distinct_id_before_identity",
    "subscriber_id",
    "resolved_distinct_id",
    "anonymous_id",
    "identified_id",
}


@pytest.fixture(scope="module")
def history(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with begun_history(cluster, tmp_path_factory.mktemp("history")) as history:
        yield history


def stored_events(history: History) -> tuple[Any, ...]:
    """How many events are stored, and how many distinct ones."""
    query = f"select count(*), count(distinct event_key) from {history.spark.raw}.events"
    return history.spark.rows_of_events(query)[0]


def connections(history: History) -> int:
    """How many the catalog's database has."""
    number: int = history.spark.value(
        "select count(*) from pg_stat_activity where backend_type = 'client backend'"
    )
    return number


def test_first_sync_builds_every_model_as_duckdb_does(history: History) -> None:
    history.mixpanel.add(traffic(seed=1, end=NOW, days=20, events=600))
    history.compare(has_views=True)


def test_late_events_copies_and_merged_identities_are_counted_once(history: History) -> None:
    history.happen(2)
    before = connections(history)
    history.sync()
    # Those of Spark's sessions are closed when Java tidies up: one of the check, one of the build.
    assert connections(history) - before <= 4
    history.compare()


def test_what_a_loader_that_died_before_completing_left_is_loaded_once(history: History) -> None:
    history.happen(3)

    def die(spark: Spark) -> None:
        # Iceberg has committed, and the record of loads has not.
        engine._SparkClient.complete_load = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        history.load(spark)

    before = stored_events(history)
    loader = history.begin(die)
    loader.join(WITHIN)
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


@pytest.mark.long
@pytest.mark.parametrize("dies", ["thrift", "worker-1"])
def test_what_dies_in_mid_merge_has_counted_nothing_or_all(
    history: History, lake: Path, dies: str
) -> None:
    history.happen(11)
    assert history.load().status == "ok"
    stored = lake / "mixpanel" / "subscriber_days__stored"
    before = set(stored.rglob("*.parquet"))
    build = history.begin(transform)
    # Tasks have begun to write what one commit will bring.
    wait_for(lambda: set(stored.rglob("*.parquet")) > before)
    history.cluster.kill(dies)
    build.join(WITHIN)
    if dies == "thrift":
        assert build.exitcode != 0
        history.cluster.start_thrift()
    else:
        assert build.exitcode == 0
        history.cluster.start_worker(1)
    history.compare()


@pytest.mark.long
def test_of_two_builds_at_once_none_counts_a_load_twice(history: History) -> None:
    history.happen(6)
    assert history.load().status == "ok"
    # As by dbt alone, which asks for no lock.
    builds = [history.begin(transform) for _ in range(2)]
    for build in builds:
        build.join(WITHIN)
    history.compare()


@pytest.mark.long
def test_tables_that_were_rebuilt_and_maintained_are_as_they_were_and_only_so(
    history: History, lake: Path
) -> None:
    # What a killed build left behind goes two days later.
    before = history.count_scratch()
    history.compare(full_refresh=True)
    assert history.count_scratch() == before
    assert len(history.spark.events_table().snapshots()) > 1
    # Files that no table has are of a running commit, unless they are some days old.
    for path in [path for path in lake.rglob("*") if path.is_file()]:
        os.utime(path, (0, 0))
    left_behind = lake / "mixpanel" / "subscribers__stored" / "data" / "left_behind.parquet"
    left_behind.write_bytes(b"")
    os.utime(left_behind, (0, 0))
    maintain(history.spark, now=datetime.now(UTC), keep=timedelta(0))
    assert not left_behind.exists()
    assert len(history.spark.events_table().snapshots()) == 1
    history.happen(7)
    history.compare()


@pytest.mark.long
def test_who_is_forgotten_is_in_no_file_and_does_not_come_back(
    history: History, lake: Path
) -> None:
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
    assert ids_in_files(lake) & theirs == theirs
    assert forget(history.spark, [one], SECRET) == forget(history.duck, [one], SECRET)
    assert ids_in_files(lake) & theirs == set()
    history.happen(8)
    history.compare()
    assert ids_in_files(lake) & theirs == set()


@pytest.mark.long
def test_removal_that_is_interrupted_is_finished_by_the_next_sync(history: History) -> None:
    last = (history.now - timedelta(days=4)).isoformat()
    condition = f"event = 'Viewed Creator Profile' and occurred_at < timestamp '{last}'"
    removed = remove_events(history.duck, condition)
    assert removed.events > 0
    history.kill_driver_during(lambda spark: remove_events(spark, condition))
    history.compare(has_views=True)


@pytest.mark.long
def test_tables_of_another_role_in_the_record_are_each_told(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, database = history.spark.raw, history.spark.credentials.database
    history.spark.execute(
        "create role another login password 'another';"
        f"grant create, temporary on database {database} to another;"
        f"grant usage, create on schema {raw}, {raw}_staging to another"
    )
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__USERNAME", "another")
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "another")
    with pytest.raises(ConfigurationError) as refused:
        open_warehouse("spark").check(builds=False)
    tables = history.spark.rows(f"select tablename from pg_tables where schemaname = '{raw}'")
    told = re.findall(rf"alter table {raw}\.(\w+) owner to another;", str(refused.value))
    assert sorted(told) == sorted(name for (name,) in tables)


@pytest.mark.long
def test_metrics_of_another_declaration_are_counted_anew_and_never_added(
    history: History, metrics: Callable[..., None]
) -> None:
    """The last one: the others are of the metrics that are shipped."""
    metrics(lambda declared: declared.update(profiles_seen={"event": "Viewed Creator Profile"}))
    history.happen(9)
    refused = sync(history.spark, load_configuration(), now=history.now)
    assert refused.status == "failed"
    assert "was built by another declaration than the one of now" in (refused.error or "")
    history.compare(full_refresh=True, has_views=True)
    # Of DuckDB's columns each was compared.
    assert "profiles_seen" in history.duck.columns(history.duck.marts, "subscribers")
    history.happen(10)
    history.compare()


def ids_in_files(lake: Path) -> set[str]:
    """The ids in all files of tables, whether a table still has them or not."""
    found = set[str]()
    for path in lake.rglob("*.parquet"):
        rows = parquet.ParquetFile(path)
        names = [name for name in rows.schema_arrow.names if name in _WITH_IDS]
        found |= {
            value for column in rows.read(names).columns for value in column.unique().to_pylist()
        }
    return found - {None}
