"""dbt by hand, with the connection that the sync has."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

# As a module it would warn of itself.
_DBT = "from dbt.cli.main import cli; cli(prog_name='dbt')"


def run_dbt(arguments: Sequence[str]) -> NoReturn:
    """Become dbt: its output, its exit code, and signals go straight to it.

    Args:
        arguments: What dbt is given; what they or the environment say goes before what is set here.

    Raises:
        ConfigurationError: The connection is not configured.
    """
    from mixpanel_pipeline import project
    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.runs.transform import dbt_folders

    warehouse = open_warehouse(None)
    target, logs = dbt_folders(warehouse)
    project.link_dbt_package()
    environment = {
        project.COMMAND_VARIABLE: project.COMMAND,
        "DBT_PROJECT_DIR": str(project.dbt_project()),
        "DBT_PROFILES_DIR": str(project.DBT_PACKAGE),
        "DBT_TARGET_PATH": str(target),
        "DBT_LOG_PATH": str(logs),
    }
    connection = {"DESTINATION_TYPE": warehouse.name} | warehouse.environment_in(target)
    sys.stdout.flush()
    os.execve(
        sys.executable,
        [sys.executable, "-P", "-c", _DBT, *arguments],
        environment | os.environ | connection,
    )
