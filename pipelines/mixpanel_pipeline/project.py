"""Where the project's files are, and its version."""

import tomllib
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DBT_PROJECT = ROOT / "dbt_project"
_NAME = "mixpanel-pipeline"


@cache
def version() -> str:
    """The project's version: what its pyproject.toml says, or said when a wheel was made of it."""
    with suppress(FileNotFoundError):
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text).get("project", {})
        # Installed into a folder of another project, that is the other one's.
        if project.get("name") == _NAME:
            return str(project["version"])
    import importlib.metadata

    return importlib.metadata.version(_NAME)
