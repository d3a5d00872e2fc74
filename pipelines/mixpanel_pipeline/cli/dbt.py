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
        arguments: What dbt is given; what they say goes before what is set here.

    Raises:
        ConfigurationError: The connection is not configured.
    """
    from mixpanel_pipeline.runs.transform import dbt_environment

    environment = os.environ | dbt_environment()
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-P", "-c", _DBT, *arguments], environment)
