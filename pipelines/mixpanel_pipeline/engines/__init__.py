"""The databases that can be synced into: one file each."""

import dlt

from mixpanel_pipeline import project
from mixpanel_pipeline.engines.duckdb import (
    DuckDB,
    configured_lock_wait,
    configured_memory_limit,
    configured_path,
)
from mixpanel_pipeline.engines.postgres import Postgres
from mixpanel_pipeline.engines.postgres_connection import configured_credentials
from mixpanel_pipeline.engines.schemas import Schemas, configured_schemas
from mixpanel_pipeline.engines.spark import Spark, configured_spark
from mixpanel_pipeline.engines.warehouse import Warehouse
from mixpanel_pipeline.source.errors import ConfigurationError

__all__ = [
    "DuckDB",
    "Postgres",
    "Schemas",
    "Spark",
    "Warehouse",
    "configured_destination",
    "open_warehouse",
]


def configured_destination() -> str:
    """The `destination_type` of dlt's configuration, DuckDB by default."""
    return dlt.config.get("destination_type", str) or "duckdb"


def open_warehouse(name: str | None) -> Warehouse:
    """The warehouse called `name`, or the configured one (`destination_type`, default DuckDB).

    Raises:
        ConfigurationError: The destination is unknown, its connection is not configured, or its
            schemas cannot have their names.
    """
    schemas = configured_schemas()
    name = name or configured_destination()
    if name == "duckdb":
        limits = configured_memory_limit(), configured_lock_wait()
        return DuckDB(configured_path(), *limits, schemas)
    if name == "postgres":
        return Postgres(configured_credentials(), schemas)
    if name == "spark":
        return configured_spark(schemas)
    if name == "filesystem":
        raise ConfigurationError(
            "The destination filesystem holds raw events and no models, which need a database: it "
            f"is only loaded into, by {project.COMMAND} --destination filesystem --skip-transform."
        )
    raise ConfigurationError(
        f"destination_type is {name!r}, it can be duckdb, postgres, spark or filesystem"
    )
