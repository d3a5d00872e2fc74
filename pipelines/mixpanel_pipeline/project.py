"""Where the project's files are, and what its dbt project declares."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DBT_PROJECT = ROOT / "dbt_project"

# The schemas that the loader and the models write; dbt_project.yml names the same ones.
RAW_DATASET = "mixpanel_raw"
MART_SCHEMA = "mixpanel"


@cache
def metrics() -> dict[str, dict[str, Any]]:
    """The metrics by name, as `dbt_project.yml` declares them."""
    project = yaml.safe_load((DBT_PROJECT / "dbt_project.yml").read_text())
    declared: dict[str, dict[str, Any]] = project["vars"]["metrics"]
    return declared


@cache
def version() -> str:
    """The project's version."""
    declared: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return declared


def tracked_events() -> list[str]:
    """The names of the events that the metrics need."""
    return sorted({metric["event"] for metric in metrics().values()})
