"""Where the files are of the project that is synced, and of this one; and its version.

In a checkout both are the checkout. Installed, the project is a folder of the user's own, whose dbt
project has ours as a package; `init` makes one.
"""

import os
import tomllib
from contextlib import suppress
from functools import cache
from pathlib import Path

from mixpanel_pipeline.source.errors import ConfigurationError

_NAME = "mixpanel-pipeline"
_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[1]
# Where a wheel has it.
_INSTALLED = _HERE / "dbt_project"

IS_INSTALLED = _INSTALLED.is_dir()
# How messages call the command.
COMMAND = _NAME if IS_INSTALLED else "python pipelines/run.py"
# Tells dbt's messages.
COMMAND_VARIABLE = "MIXPANEL_PIPELINE_COMMAND"

# Our dbt project.
DBT_PACKAGE = _INSTALLED if IS_INSTALLED else _CHECKOUT / "dbt_project"


# What the macro of the user's own has that takes our materializations.
_TAKEN = b"mixpanel.materialization_view_postgres"

_dbt_project: Path | None = None


def with_command(text: str) -> str:
    """A text that calls the command as in a checkout, as here."""
    return text.replace("python pipelines/run.py", COMMAND)


def folder() -> Path:
    """The project's folder, with `.dlt` in it: relative paths in settings are relative to it.

    Of an installed package it is dlt's, `DLT_PROJECT_DIR` or else the current folder.
    """
    return Path(os.environ.get("DLT_PROJECT_DIR", "")).absolute() if IS_INSTALLED else _CHECKOUT


def find_settings() -> None:
    """Have dlt look for `.dlt` in the project's folder, wherever a schedule starts us."""
    os.environ.setdefault("DLT_PROJECT_DIR", str(folder()))


def dbt_project() -> Path:
    """The dbt project that is built: the user's own with ours as a package, or else ours."""
    own = _dbt_project or folder() / "dbt_project"
    return own if (own / "dbt_project.yml").is_file() else DBT_PACKAGE


def declaring_dbt_project() -> Path:
    """`dbt_project`, for what is declared there: an installed package has nothing to count itself.

    Raises:
        ConfigurationError: It is installed, and there is no dbt project of the user's own.
    """
    found = dbt_project()
    if IS_INSTALLED and _dbt_project is None and found == DBT_PACKAGE:
        raise ConfigurationError(
            f"{folder()} has no dbt_project/dbt_project.yml, which says what is counted. Begin a "
            f"project there with: {COMMAND} init. If it is elsewhere, run the command in its "
            "folder, or name that in DLT_PROJECT_DIR."
        )
    return found


def use_dbt_project(path: Path) -> None:
    """Build that one in this process, whatever the project's folder has."""
    global _dbt_project
    _dbt_project = path


def link_dbt_package() -> None:
    """Put our dbt project where dbt looks for the packages of the user's own.

    Not by packages.yml: dbt would write this machine's path into the lock file beside it.

    Raises:
        ConfigurationError: It cannot be put there, as there is none of the user's own or for
            another reason, or that one lacks what takes our materializations: those of dbt would
            drop the views that others have on our models.
    """
    own = declaring_dbt_project()
    if own == DBT_PACKAGE:
        return
    if not any(_TAKEN in path.read_bytes() for path in (own / "macros").rglob("*.sql")):
        raise ConfigurationError(
            f"{own / 'macros'} lacks the macro that has the package's models built by its own "
            f"means, as `init` wrote it. Get it back with: {COMMAND} init {folder()}"
        )
    link = own / "dbt_packages" / "mixpanel"
    with suppress(OSError):
        if link.readlink() == DBT_PACKAGE:
            return
    try:
        link.parent.mkdir(exist_ok=True)
        # In one step, as another sync may use it; dbt takes no such name for a package.
        new = link.with_name(f"__{link.name}.{os.getpid()}")
        new.symlink_to(DBT_PACKAGE)
        new.replace(link)
    except OSError as error:
        raise ConfigurationError(
            f"{link} cannot be made a link to {DBT_PACKAGE}: {error.strerror}. It takes the "
            "installed package into the dbt project; make it where the folder can be written, or "
            "move away what stands there."
        ) from error


@cache
def version() -> str:
    """The project's version: what its pyproject.toml says, or said when a wheel was made of it."""
    with suppress(FileNotFoundError):
        text = (_CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text).get("project", {})
        # Installed into a folder of another project, that is the other one's.
        if project.get("name") == _NAME:
            return str(project["version"])
    import importlib.metadata

    return importlib.metadata.version(_NAME)
