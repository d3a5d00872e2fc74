"""`run.py check`: whether a sync would work, before it is tried."""

import json
from datetime import UTC, datetime

import pytest

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.runs import check as module
from mixpanel_pipeline.source import configuration
from tests.conftest import NOW, point_at


def event(name, **properties):
    identity = {"time": int(NOW.timestamp()) - 3600, "distinct_id": "ann"}
    return {"event": name, "properties": identity | properties}


def results(checked) -> dict[str, tuple[str, str]]:
    return {line.what: (line.result, line.told) for line in checked.lines}


def test_what_would_work_is_ok_and_nothing_is_written(mixpanel, warehouse):
    mixpanel.add([event("$ae_session"), event("Viewed Creator Paywal"), event("$identify")])
    checked = module.check(None, NOW)
    found = results(checked)
    assert checked.is_ok
    for what in ("declaration", "database", "Mixpanel", "time zone", "plan", "requests this hour"):
        assert found[what][0] == "ok", found[what]
    told = [line.told for line in checked.lines if line.what == "event names"]
    assert any('"Viewed Creator Paywall" (nearest: "Viewed Creator Paywal")' in one for one in told)
    assert "$identify" in found["identities"][1]
    # The server's clock is not that of the test.
    assert found["clock"][0] == "warning"
    assert not warehouse.for_reading() or not warehouse.columns("mixpanel_raw", "sync_runs")


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_each_mistake_is_a_line_with_what_to_do(mixpanel, warehouse, monkeypatch, capsys):
    monkeypatch.setenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET", "wrong")
    monkeypatch.setenv("SOURCES__MIXPANEL__REGOIN", "eu")
    assert main(["check", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["is_ok"]
    found = {line["what"]: (line["result"], line["told"]) for line in told["checks"]}
    assert "the nearest is SOURCES__MIXPANEL__REGION" in found["settings"][1]
    assert found["Mixpanel"][0] == "error"
    assert "service account's user name and secret" in found["Mixpanel"][1]
    assert found["database"][0] == "ok"


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_region_that_takes_the_credentials_is_found(warehouse, monkeypatch):
    with (
        LocalMixpanel(today=lambda: NOW.date()) as here,
        LocalMixpanel(today=lambda: NOW.date(), secret="other") as elsewhere,
    ):
        point_at(here, monkeypatch)
        monkeypatch.delenv("SOURCES__MIXPANEL__BASE_URL")
        monkeypatch.setenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET", "other")
        hosts = {"us": here.url, "eu": elsewhere.url, "in": here.url}
        monkeypatch.setattr(configuration, "HOSTS", hosts)
        monkeypatch.setattr(module, "HOSTS", hosts)
        found = results(module.check(None, NOW))
    assert found["Mixpanel"][0] == "error"
    assert found["Mixpanel"][1].endswith('set region = "eu".')


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_missing_right_is_told_with_the_grant(mixpanel, warehouse, postgresql, monkeypatch):
    warehouse.execute("drop role if exists loader")
    warehouse.execute("create role loader login password 'loader'")
    warehouse.execute("revoke temporary on database warehouse from public")
    try:
        monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__USERNAME", "loader")
        monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "loader")
        result, told = results(module.check(None, datetime.now(UTC)))["database"]
        assert result == "error"
        assert "grant temporary on database" in told
    finally:
        warehouse.execute("drop role loader")


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_command_prints_a_line_each(mixpanel, warehouse, capsys):
    assert main(["check"]) in (0, 1)
    out = capsys.readouterr().out
    assert "ok      declaration" in out
