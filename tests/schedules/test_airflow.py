"""The DAG of `examples/airflow_dag.py`, run in processes with an Airflow of their own."""

import os
import subprocess
import sys

import pytest

from tests.schedules.conftest import PROGRAMS

RUN = """
run = mixpanel_dag.test()
print("state", run.state)
[sync] = [task for task in run.get_task_instances() if task.task_id == "sync"]
print("xcom", sync.xcom_pull(task_ids="sync"))
for task in run.get_task_instances():
    print("task", task.task_id, task.state)
"""
# Without the scheduler around it, which would wait and try again.
SYNC = """
try:
    print("xcom", mixpanel_dag.get_task("sync").python_callable())
except Exception as error:
    print("raised", type(error).__name__, error)
"""


@pytest.fixture
def airflow(own, tmp_path, monkeypatch):
    """Runs a program that has the DAG; returns what it printed."""
    dags = tmp_path / "dags"
    dags.mkdir()
    own.copy("airflow_dag.py", dags)
    for name, value in {
        "AIRFLOW_HOME": tmp_path / "airflow",
        "AIRFLOW__CORE__DAGS_FOLDER": dags,
        "AIRFLOW__CORE__LOAD_EXAMPLES": False,
        "AIRFLOW__COSMOS__CACHE_DIR": tmp_path / "cosmos",
        "AIRFLOW__COSMOS__ENABLE_TELEMETRY": False,
        "MIXPANEL_PIPELINE_BIN": PROGRAMS,
        "PYTHONPATH": dags,
    }.items():
        monkeypatch.setenv(name, str(value))
    own.run("dbt", "parse", "--target-path", "target")

    def run(program):
        done = subprocess.run(
            [sys.executable, "-c", f"from airflow_dag import mixpanel_dag\n{program}"],
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        print(done.stdout)
        assert done.returncode == 0
        return done.stdout

    return run


@pytest.fixture
def in_postgresql(postgresql, counted_in_postgresql, monkeypatch):
    monkeypatch.setenv("DESTINATION_TYPE", "postgres")
    for name, value in postgresql.environment("analytics").items():
        monkeypatch.setenv(name, value)
    return counted_in_postgresql


def test_a_sync_is_followed_by_each_model_and_the_tests(
    own, in_postgresql, postgresql, airflow, tmp_path
):
    own.happen("ada", "ada", "eve")
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, check=True, stdout=subprocess.DEVNULL)
    told = airflow(RUN)
    assert "state success" in told
    assert "xcom {'status': 'ok', 'mode': 'first'" in told
    assert "task models.active_subscribers_run success" in told
    assert "task models.dbt_project_test success" in told
    assert in_postgresql() == [("ada", 2), ("eve", 1)]
    database = (tmp_path / "airflow" / "airflow.db").read_bytes()
    assert b"subscribers_run" in database
    assert postgresql.password.encode() not in database


def test_a_failure_is_one_message_and_is_not_tried_again_when_that_brings_nothing(
    own, airflow, monkeypatch
):
    monkeypatch.setenv("DESTINATION_TYPE", "duckdb")
    monkeypatch.setenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET", "mistyped")
    [told] = [line for line in airflow(SYNC).splitlines() if line.startswith("raised")]
    assert told.startswith("raised AirflowFailException Mixpanel ")
    assert "Check the service account's user name and secret" in told
