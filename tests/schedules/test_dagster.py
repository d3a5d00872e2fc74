"""The assets of `examples/dagster_definitions.py`, materialised in this process."""

import os
import runpy

import pytest
from dagster import AssetKey
from dlt.common.runtime import run_context

from mixpanel_pipeline.engines import open_warehouse

EVENTS = AssetKey(["mixpanel", "events"])


@pytest.fixture
def definitions(own):
    # dlt remembers the project's folder.
    run_context.active().reload()
    own.run("dbt", "parse", "--target-path", "target")
    return runpy.run_path(str(own.copy("dagster_definitions.py")))["defs"]


def materialise(definitions, *assets):
    """Everything, as the schedule does, or these assets alone."""
    job = definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(asset_selection=assets or None, raise_on_error=False)


def metadata(result):
    """Of the events, by name."""
    [materialised] = [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == EVENTS
    ]
    return {name: value.value for name, value in materialised.metadata.items()}


def audit(result):
    [check] = [one for one in result.get_asset_check_evaluations() if one.check_name == "audit"]
    return check


def test_events_are_loaded_counted_and_compared(own, definitions):
    own.happen("ada", "ada", "eve")
    result = materialise(definitions)
    assert result.success
    assert (metadata(result)["status"], metadata(result)["events_new"]) == ("ok", 3)
    assert own.counted() == [("ada", 2), ("eve", 1)]
    assert audit(result).passed
    assert audit(result).metadata["events_loaded"].value == 3
    built = {event.asset_key.path[-1] for event in result.get_asset_materialization_events()}
    assert built >= {"events", "subscribers", "active_subscribers"}
    # One of them later than any lookback.
    own.happen("eve", hours=2)
    own.happen("zoe", hours=80)
    result = materialise(definitions)
    assert metadata(result)["events_new"] == 1
    assert own.counted() == [("ada", 2), ("eve", 2)]
    assert not audit(result).passed
    assert audit(result).description == "differing"
    assert not any(name.startswith("DESTINATION__") for name in os.environ)


def test_a_failure_is_one_message_and_is_not_tried_again_when_that_brings_nothing(
    own, definitions, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET", "mistyped")
    result = materialise(definitions, EVENTS)
    assert not result.success
    [failed] = [event for event in result.all_events if event.is_step_failure]
    told = failed.step_failure_data.user_failure_data.description
    assert told.startswith("Mixpanel ")
    assert "Check the service account's user name and secret" in told


def test_a_sync_beside_another_one_is_a_success_that_says_skipped(own, definitions):
    with open_warehouse(None).lock():
        result = materialise(definitions, EVENTS)
    assert result.success
    assert metadata(result)["status"] == "skipped"
