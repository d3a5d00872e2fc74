"""dbt by hand, with the connection that the sync has."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def run_dbt(arguments: Sequence[str]) -> NoReturn:
    """Become dbt: its output, its exit code, and signals go straight to it.

    Args:
        arguments: What dbt is given; what they or the environment say goes before what is set here.

    Raises:
        ConfigurationError: The connection is not configured.
    """
    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.project import DBT_PROJECT
    from mixpanel_pipeline.runs.transform import dbt_folders

    warehouse = open_warehouse(None)
    target, logs = dbt_folders(warehouse)
    environment = {
        "DBT_PROJECT_DIR": str(DBT_PROJECT),
        "DBT_PROFILES_DIR": str(DBT_PROJECT),
        "DBT_TARGET_PATH": str(target),
        "DBT_LOG_PATH": str(logs),
    }
    connection = {"DESTINATION_TYPE": warehouse.name} | warehouse.environment_in(target)
    sys.stdout.flush()
    os.execve(
        sys.executable,
        [sys.executable, "-m", "dbt.cli.main", *arguments],
        environment | os.environ | connection,
    )
