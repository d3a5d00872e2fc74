"""What a dataset was loaded with is recorded, and refused when it is not what is configured."""

import json

import pytest

from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.conftest import NOW
from tests.warehouses import rows

RECORD = "select project_id, timezone, region from mixpanel_raw.dataset"


def event():
    properties = {"time": int(NOW.timestamp()), "distinct_id": "ada"}
    return {"event": "$ae_session", "properties": properties}


@pytest.mark.parametrize(
    ("setting", "recorded", "changed"),
    [
        ("project_id", "1234567", "7654321"),
        ("timezone", "UTC", "Europe/Berlin"),
        ("region", "us", "eu"),
    ],
)
def test_a_dataset_is_loaded_with_what_it_was_begun_with(
    mixpanel, warehouse, run_sync, monkeypatch, setting, recorded, changed
):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    assert rows(warehouse, RECORD) == [("1234567", "UTC", "us")]
    requests = len(mixpanel.requests)
    monkeypatch.setenv(f"SOURCES__MIXPANEL__{setting.upper()}", changed)
    with pytest.raises(ConfigurationError, match=f"{setting} is '{changed}'.*'{recorded}'.*new"):
        run_sync(skip_transform=True)
    assert len(mixpanel.requests) == requests
    assert rows(warehouse, RECORD) == [("1234567", "UTC", "us")]
    found = "select status, error from mixpanel_raw.sync_runs order by id desc limit 1"
    ((status, error),) = rows(warehouse, found)
    assert (status, changed in error, "safe to run again" in error) == ("failed", True, False)
    monkeypatch.setenv(f"SOURCES__MIXPANEL__{setting.upper()}", recorded)
    assert run_sync(skip_transform=True).status == "ok"


def test_a_dataset_keeps_to_the_unit_of_time_that_it_was_begun_with(mixpanel, warehouse, run_sync):
    second = int(NOW.timestamp()) - 7200

    def synced(number):
        properties = {"time": second + 60 * number + 0.25, "$insert_id": f"i{number}"}
        mixpanel.add([{"event": "$ae_session", "properties": properties}])
        before = len(mixpanel.exports)
        run_sync(skip_transform=True)
        return {export.query.get("time_in_ms") for export in mixpanel.exports[before:]}

    assert synced(0) == {"true"}
    # As an earlier version left it.
    warehouse.execute("alter table mixpanel_raw.dataset drop column time_in_ms")
    assert synced(1) == synced(1) == {None}
    warehouse.execute("update mixpanel_raw.dataset set time_in_ms = 'true'")
    assert synced(2) == {"true"}
    told = "select cast(extract(epoch from occurred_at) * 1000 as bigint) from mixpanel_raw.events"
    assert sorted(rows(warehouse, told)) == [
        (second * 1000 + 250,),
        ((second + 60) * 1000,),
        ((second + 120) * 1000 + 250,),
    ]


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
@pytest.mark.parametrize("command", [[], ["audit"]])
def test_a_changed_project_is_wrong_configuration(
    mixpanel, warehouse, run_sync, monkeypatch, capsys, command
):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    monkeypatch.setenv("SOURCES__MIXPANEL__PROJECT_ID", "7654321")
    capsys.readouterr()
    assert main([*command, "--json"]) == 2
    captured = capsys.readouterr()
    assert "7654321" in json.loads(captured.out)["error"]
    assert captured.err.count("\n") == 1


def test_what_loaded_nothing_binds_nobody(mixpanel, warehouse, run_sync, monkeypatch):
    run_sync(skip_transform=True)
    monkeypatch.setenv("SOURCES__MIXPANEL__TIMEZONE", "Europe/Berlin")
    assert run_sync(skip_transform=True).status == "ok"
    assert rows(warehouse, RECORD) == [("1234567", "Europe/Berlin", "us")]


def test_a_dataset_of_an_earlier_version_is_recorded(mixpanel, warehouse, run_sync, monkeypatch):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    warehouse.execute("drop table mixpanel_raw.dataset")
    assert run_sync(skip_transform=True).status == "ok"
    assert rows(warehouse, RECORD) == [("1234567", "UTC", "us")]


def test_an_id_that_was_not_told_is_recorded_when_it_is(mixpanel, warehouse, run_sync, monkeypatch):
    for name in ("PROJECT_ID", "SERVICE_ACCOUNT_USERNAME", "SERVICE_ACCOUNT_SECRET"):
        monkeypatch.delenv(f"SOURCES__MIXPANEL__{name}")
    monkeypatch.setenv("SOURCES__MIXPANEL__PROJECT_SECRET", mixpanel.project_secret)
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    assert rows(warehouse, RECORD) == [(None, "UTC", "us")]
    monkeypatch.setenv("SOURCES__MIXPANEL__PROJECT_ID", mixpanel.project_id)
    assert run_sync(skip_transform=True).status == "ok"
    assert rows(warehouse, RECORD) == [("1234567", "UTC", "us")]
