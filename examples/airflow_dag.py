"""Mixpanel's events in Airflow: a sync, then a task for each dbt model, by Cosmos.

It calls the installed command, which belongs in an environment of its own: in Airflow's, dlt would
ask Airflow's database for every setting. `uv tool install` puts its programs into ~/.local/bin.
The tasks are those of dbt's manifest: write it when the project is deployed, and again when a
metric, a model or the package changes:

    mixpanel-pipeline dbt parse --target-path target
"""

import json
import os
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from cosmos import DbtTaskGroup, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import InvocationMode, LoadMode, TestBehavior

# The project that `mixpanel-pipeline init` made, and where its programs are.
FOLDER = Path(os.environ.setdefault("DLT_PROJECT_DIR", "/srv/mixpanel"))
PROGRAMS = Path(os.environ.get("MIXPANEL_PIPELINE_BIN", Path.home() / ".local" / "bin"))


@dag(
    schedule="7 * * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    # A DuckDB file is open in one process at a time; PostgreSQL builds no faster side by side.
    max_active_tasks=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
)
def mixpanel():
    # A sync that is repeated loads what is lacking, and nothing twice.
    @task
    def sync() -> dict:
        """Load what is new; the summary is the task's XCom."""
        command = [PROGRAMS / "mixpanel-pipeline", "--json", "--skip-transform"]
        done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=False)
        if not done.stdout:
            raise AirflowException(f"mixpanel-pipeline ended with {done.returncode}: see the log")
        summary = json.loads(done.stdout.splitlines()[-1])
        if summary["status"] == "failed":
            # 2 is what is configured wrong: trying again brings nothing.
            lasts = done.returncode == 2
            raise (AirflowFailException if lasts else AirflowException)(summary["error"])
        if summary["status"] == "skipped":
            print("Skipped: another sync of this database is running.")
        return summary

    models = DbtTaskGroup(
        group_id="models",
        project_config=ProjectConfig(
            FOLDER / "dbt_project",
            manifest_path=FOLDER / "dbt_project/target/manifest.json",
            install_dbt_deps=False,
        ),
        profile_config=ProfileConfig(
            profile_name="mixpanel",
            # As `destination_type` in .dlt/config.toml.
            target_name=os.environ.get("DESTINATION_TYPE", "postgres"),
            # The package is put there when dbt parses.
            profiles_yml_filepath=FOLDER / "dbt_project/dbt_packages/mixpanel/profiles.yml",
        ),
        # dbt with the connection that the sync has: none is stored in Airflow.
        execution_config=ExecutionConfig(
            dbt_executable_path=PROGRAMS / "mixpanel-pipeline-dbt",
            invocation_mode=InvocationMode.SUBPROCESS,
        ),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            # What a sync leaves out as well: tests of everything stored, and of when it ran.
            exclude=["tag:full_scan", "tag:freshness"],
            test_behavior=TestBehavior.AFTER_ALL,
        ),
        # And tests of the models' code.
        operator_args={"env": {"DBT_EXCLUDE_RESOURCE_TYPES": "unit_test"}},
    )
    sync() >> models


mixpanel_dag = mixpanel()
