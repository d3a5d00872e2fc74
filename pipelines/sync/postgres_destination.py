"""dlt's PostgreSQL destination, loading Parquet one row group at a time."""

from dlt.common.destination import PreparedTableSchema
from dlt.common.destination.client import LoadJob
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient, PostgresParquetCopyJob


class _Client(PostgresClient):
    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, PostgresParquetCopyJob):
            # dlt would hold the whole file in memory, and fail when it has no rows.
            job._ingest_per_rowgroup = True
        return job


class PostgresDestination(postgres):
    """`dlt.destinations.postgres` in all else."""

    @property
    def client_class(self) -> type[PostgresClient]:
        """What loads into it."""
        return _Client
