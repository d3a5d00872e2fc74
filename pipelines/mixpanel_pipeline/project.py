"""Where the project's files are, and what they are called in the database."""

import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DBT_PROJECT = ROOT / "dbt_project"

# The schemas that the loader and the models write; dbt_project.yml names the same ones.
RAW_DATASET = "mixpanel_raw"
MART_SCHEMA = "mixpanel"


@cache
def version() -> str:
    """The project's version."""
    declared: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    return declared
