"""The demo on Spark: a cluster, a local Mixpanel, two syncs, and the same counts as DuckDB's."""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from local_mixpanel import LocalMixpanel, traffic
from mixpanel_pipeline import project
from mixpanel_pipeline.engines import DuckDB, Spark, open_warehouse
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.source.configuration import load_configuration
from tests.spark.cluster import Missing, spark_cluster
from tests.spark.compared import differences

EVENTS = 4_000
NEW_EVENTS = 400


def demo(console: Console) -> int:
    """Returns the exit code: 0 when the counts are equal, 1 when not or when a sync failed."""
    project.use_dbt_project(project.DBT_PACKAGE)
    now = datetime.now(UTC)
    with TemporaryDirectory(prefix="demo-spark-") as name, LocalMixpanel() as server:
        folder = Path(name)
        os.environ["DLT_DATA_DIR"] = str(folder / "dlt")
        console.print("A master, two workers, Thrift and the catalog start; about a minute.")
        (folder / "spark").mkdir()
        with spark_cluster(folder / "spark") as cluster:
            os.environ.update(cluster.environment())
            for setting, value in {
                "BASE_URL": server.url,
                "PROJECT_ID": server.project_id,
                "SERVICE_ACCOUNT_USERNAME": server.username,
                "SERVICE_ACCOUNT_SECRET": server.secret,
                "TIMEZONE": "UTC",
                "EVENTS": "tracked",
                "INITIAL_WINDOW_DAYS": "45",
            }.items():
                os.environ[f"SOURCES__MIXPANEL__{setting}"] = value
            spark = open_warehouse("spark")
            assert isinstance(spark, Spark)
            duck = DuckDB(folder / "warehouse.duckdb")
            server.add(traffic(seed=7, end=now - timedelta(hours=1), events=EVENTS))
            if not _synced(console, "First sync", spark, duck, now):
                return 1
            server.add(traffic(seed=8, end=now, days=1, events=NEW_EVENTS))
            if not _synced(console, "Second sync", spark, duck, now):
                return 1
            found = differences(spark, duck)
    for one in found:
        console.print(f"[red]{one}[/]")
    if not found:
        console.print("Every row of every model is the same in Spark as in DuckDB.")
    return 1 if found else 0


def _synced(console: Console, title: str, spark: Spark, duck: DuckDB, now: datetime) -> bool:
    console.print(f"\n[bold]{title}[/]")
    for warehouse in (spark, duck):
        summary = sync(warehouse, load_configuration(), now=now)
        summary.print(console)
        if summary.status != "ok":
            console.print(f"[red]error:[/] {summary.error}")
            return False
    return True


if __name__ == "__main__":
    try:
        sys.exit(demo(Console()))
    except Missing as missing:
        sys.exit(f"error: {missing}")
