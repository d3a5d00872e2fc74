import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dlt.common.runtime import run_context

from tests.conftest import dbt_project, metrics
from tests.spark.cluster import Cluster, spark_cluster
from tests.spark.history import SECRET

__all__ = ["cluster", "dbt_project", "lake", "metrics"]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all tests, as it takes a minute to begin; and it is what is configured."""
    folder = tmp_path_factory.mktemp("spark")
    (folder / ".dlt").mkdir()
    (folder / ".dlt" / "config.toml").write_text(
        '[runtime]\nlog_level = "CRITICAL"\ndlthub_telemetry = false\n', encoding="utf-8"
    )
    (folder / "cluster").mkdir()
    with pytest.MonkeyPatch.context() as environment, spark_cluster(folder / "cluster") as cluster:
        for name in os.environ:
            if name.startswith(("SOURCES__", "DESTINATION", "DLT_", "DBT_", "RUNTIME__")):
                environment.delenv(name)
        for name, value in {
            **cluster.environment(),
            "DLT_PROJECT_DIR": str(folder),
            "DLT_DATA_DIR": str(folder / "dlt"),
            "SOURCES__MIXPANEL__RETRY_PAUSE_SECONDS": "0",
            "SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS": "20",
            "SOURCES__MIXPANEL__HASH_SECRET": SECRET,
        }.items():
            environment.setenv(name, value)
        run_context.active().reload()
        yield cluster


@pytest.fixture(scope="session")
def lake(cluster: Cluster) -> Path:
    """The folder that Spark's tables lie in."""
    return Path(cluster.warehouse.removeprefix("file://"))
