"""Gives dbt, when it is started by hand, the connection that dlt is configured with.

dbt's profile can read the environment only, dlt reads `.dlt/*.toml` as well. `make setup` has
this module imported at the start of every Python in `.venv`; in other programs it does nothing.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path


def is_dbt(command_line: list[str]) -> bool:
    """Whether the interpreter was started with this command line to run `dbt`."""
    return any(Path(argument).name == "dbt" for argument in command_line[1:2])


def configure() -> None:
    """Put what dlt's configuration says into the environment that the profile reads."""
    from mixpanel_export.errors import ConfigurationError
    from sync.project import DBT_PROJECT, ROOT
    from sync.warehouse import configured_destination, open_warehouse

    os.environ.setdefault("DLT_PROJECT_DIR", str(ROOT))
    if Path.cwd().is_relative_to(ROOT):
        os.environ.setdefault("DBT_PROFILES_DIR", str(DBT_PROJECT))
    os.environ["DESTINATION_TYPE"] = configured_destination()
    for name in ("duckdb", "postgres"):
        # The connection that is not configured is not used either.
        with suppress(ConfigurationError):
            os.environ.update(open_warehouse(name).environment)


if is_dbt(sys.orig_argv):
    configure()
