"""The databases that can be synced into: one file each."""

import dlt
from dlt.common.configuration.exceptions import ConfigurationException

from mixpanel_pipeline.engines.duckdb import DuckDB, configured_lock_wait, configured_path
from mixpanel_pipeline.engines.postgres import Postgres
from mixpanel_pipeline.engines.postgres_connection import configured_credentials
from mixpanel_pipeline.engines.warehouse import Warehouse
from mixpanel_pipeline.project import RAW_DATASET
from mixpanel_pipeline.source.errors import ConfigurationError

__all__ = ["DuckDB", "Postgres", "Warehouse", "configured_destination", "open_warehouse"]


def configured_destination() -> str:
    """The `destination_type` of dlt's configuration, DuckDB by default."""
    return dlt.config.get("destination_type", str) or "duckdb"


def open_warehouse(name: str | None) -> Warehouse:
    """The warehouse called `name`, or the configured one (`destination_type`, default DuckDB).

    Raises:
        ConfigurationError: The destination is unknown or its connection is not configured.
    """
    for key in ("dataset_name", "pipelines.mixpanel.dataset_name"):
        dataset = dlt.config.get(key, str)
        if dataset not in (None, RAW_DATASET):
            raise ConfigurationError(
                f"{key} is {dataset!r}: the raw dataset is always {RAW_DATASET}, which the models "
                "read. To keep two projects apart, give each a database of its own."
            )
    name = name or configured_destination()
    try:
        if name == "duckdb":
            limit = dlt.config.get("destination.duckdb.memory_limit", str)
            return DuckDB(configured_path(), limit or DuckDB.memory_limit, configured_lock_wait())
        if name == "postgres":
            return Postgres(configured_credentials())
    except ConfigurationException as error:
        variables = "DESTINATION__POSTGRES__CREDENTIALS__HOST, __PORT, __USERNAME, __PASSWORD"
        raise ConfigurationError(
            f"The connection to {name} is not configured. Set [destination.postgres.credentials] "
            f"in .dlt/secrets.toml, or {variables} and __DATABASE in the environment."
        ) from error
    raise ConfigurationError(f"destination_type is {name!r}, it can be duckdb or postgres")
