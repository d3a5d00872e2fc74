"""Mixpanel's events as Dagster's assets: load them, build the dbt models, compare with Mixpanel.

It stands in the project's folder, beside `.dlt` and `dbt_project`, and needs `mixpanel-pipeline`
and `dagster-dbt` in one environment. The assets are those of dbt's manifest: write it when that is
made, and again when a metric, a model or the package changes:

    mixpanel-pipeline dbt parse --target-path target
"""

import json
import os
import sys
from pathlib import Path
from unittest.mock import patch

import dagster as dg
from dagster_dbt import DbtCliResource, DbtProject, dbt_assets

from mixpanel_pipeline import ConfigurationError, audit, dbt_environment, sync

FOLDER = Path(__file__).resolve().parent
os.environ.setdefault("DLT_PROJECT_DIR", str(FOLDER))
# That of this environment, whether or not it is in PATH.
DBT = os.fspath(Path(sys.executable).with_name("dbt"))
# The package is put there when dbt parses.
PROJECT = DbtProject(
    FOLDER / "dbt_project", profiles_dir=FOLDER / "dbt_project" / "dbt_packages" / "mixpanel"
)


# As dbt calls its source, so that the models stand behind it.
@dg.asset(
    key=["mixpanel", "events"],
    group_name="mixpanel",
    # A sync that is repeated loads what is lacking, and nothing twice.
    retry_policy=dg.RetryPolicy(max_retries=2, delay=300),
)
def events(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Raw events, all that Mixpanel has up to now."""
    try:
        summary = sync(skip_transform=True)
    except ConfigurationError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    told = json.loads(summary.as_json())
    if summary.status == "failed":
        raise dg.Failure(summary.error, metadata=told, allow_retries=not summary.is_misconfigured)
    if summary.status == "skipped":
        context.log.warning("Skipped: another sync of this database is running.")
    return dg.MaterializeResult(metadata=told)


@dbt_assets(
    manifest=PROJECT.manifest_path,
    select="source:mixpanel+",
    # What a sync leaves out as well: tests of the code, of everything stored, and of when it ran.
    exclude="test_type:unit tag:full_scan tag:freshness",
)
def models(context: dg.AssetExecutionContext, dbt: DbtCliResource):
    # The connection, for as long as dbt runs.
    with patch.dict(os.environ, dbt_environment()):
        yield from dbt.cli(
            ["build"], context=context, target_path=PROJECT.project_dir / PROJECT.target_path
        ).stream()


# After the models: a DuckDB file is open in one process at a time.
@dg.asset_check(asset=events, name="audit", additional_deps=[models])
def equals_mixpanel() -> dg.AssetCheckResult:
    """Whether as many events are loaded as Mixpanel itself counts."""
    try:
        found = audit()
    except ConfigurationError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    return dg.AssetCheckResult(
        passed=found.status == "equal",
        description=found.error or found.status,
        metadata=json.loads(found.as_json()),
    )


hourly = dg.ScheduleDefinition(
    name="mixpanel_hourly", target=dg.AssetSelection.all(), cron_schedule="7 * * * *"
)

defs = dg.Definitions(
    assets=[events, models],
    asset_checks=[equals_mixpanel],
    schedules=[hourly],
    resources={"dbt": DbtCliResource(project_dir=PROJECT, dbt_executable=DBT)},
)
