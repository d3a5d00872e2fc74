"""Mixpanel's Lexicon: what people wrote there stands in `property_dictionary`."""

from datetime import timedelta

import pytest

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.source import budget
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.conftest import NOW, point_at
from tests.warehouses import rows

DAY = timedelta(days=1)


@pytest.fixture
def described(monkeypatch):
    """A local Mixpanel with a Lexicon, and syncs that load it."""
    monkeypatch.setattr(budget, "_PER_SECOND", 1000)
    monkeypatch.setenv("SOURCES__MIXPANEL__LEXICON", "true")
    with LocalMixpanel(today=lambda: (NOW + 9 * DAY).date()) as server:
        point_at(server, monkeypatch)
        describe(server)
        yield server


def describe(mixpanel):
    mixpanel.lexicon.describe("$ae_session", description="The app\nwas open.")
    mixpanel.lexicon.describe("$ae_session", "plan", description="What they pay for \0")
    mixpanel.lexicon.describe("$ae_session", "city", display_name="City", hidden=True)
    mixpanel.lexicon.describe("Never Sent", "plan", description="")
    time = int(NOW.timestamp()) - 3600
    own = {"time": time, "distinct_id": "ada", "$insert_id": "1", "plan": "gold", "city": "Graz"}
    mixpanel.add([{"event": "$ae_session", "properties": own | {"plain": 1}}])


def load(warehouse, now=NOW, *, skip_transform=True):
    summary = sync(warehouse, load_configuration(), now=now, skip_transform=skip_transform)
    assert summary.error is None
    return summary


def lexicon(warehouse):
    columns = "event, property, display_name, description, is_hidden"
    return set(rows(warehouse, f"select {columns} from mixpanel_raw.lexicon"))


def asked(mixpanel):
    return [one.status for one in mixpanel.requests if one.path.endswith("/schemas")]


def test_the_dictionary_says_what_people_wrote(described, warehouse):
    load(warehouse, skip_transform=False)
    columns = "property, display_name, description, is_hidden, event_description"
    found = rows(warehouse, f"select {columns} from mixpanel.property_dictionary")
    last = "\0" if warehouse.holds_nul else "�"
    assert {row[0]: row[1:] for row in found if row[0] in ("plan", "city", "plain")} == {
        "plan": (None, f"What they pay for {last}", False, "The app\nwas open."),
        "city": ("City", None, True, "The app\nwas open."),
        "plain": (None, None, None, "The app\nwas open."),
    }
    assert ("Never Sent", "plan", None, None, False) in lexicon(warehouse)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_it_is_asked_once_a_day_and_beside_the_hour(described, warehouse):
    told = load(warehouse).requests
    assert told == len(described.requests) - 1
    described.lexicon.forget("Never Sent")
    load(warehouse, NOW + DAY / 2)
    assert asked(described) == [200]
    assert any(row[0] == "Never Sent" for row in lexicon(warehouse))
    load(warehouse, NOW + DAY)
    assert asked(described) == [200, 200]
    assert not any(row[0] == "Never Sent" for row in lexicon(warehouse))


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_no_sync_fails_of_it(described, warehouse, caplog):
    load(warehouse)
    before = lexicon(warehouse)
    for number, status in enumerate([401, 402, 404, 500, 429]):
        caplog.clear()
        described.lexicon.refused_with = None if status == 429 else status
        load(warehouse, NOW + (1 + number) * DAY)
        assert "The Lexicon is not loaded; what it said before stays: " in caplog.text
        assert lexicon(warehouse) == before
    # The sixth within a minute.
    assert asked(described) == [200, 401, 402, 404, 500, 429]
    assert "Mixpanel allows 5 such requests a minute, and had them." in caplog.text


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_an_answer_of_another_form_is_none(described, warehouse, monkeypatch, caplog):
    monkeypatch.setattr(described.lexicon, "schemas", described.profiles.cohorts)
    load(warehouse)
    assert "Mixpanel's Lexicon has a form that is not known." in caplog.text


def test_it_takes_a_service_account(described, monkeypatch):
    monkeypatch.delenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_USERNAME")
    monkeypatch.delenv("SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET")
    monkeypatch.setenv("SOURCES__MIXPANEL__PROJECT_SECRET", described.secret)
    with pytest.raises(ConfigurationError, match="lexicon = true needs a service account"):
        load_configuration()
