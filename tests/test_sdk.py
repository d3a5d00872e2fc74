"""Mixpanel's own SDK sends, a sync counts."""

from datetime import UTC, datetime, timedelta

import mixpanel as mixpanel_sdk
import pytest
from mixpanel import Consumer, Mixpanel

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.source.configuration import load_configuration
from tests.warehouses import rows, subscribers


def test_events_that_the_official_sdk_sends_are_counted(mixpanel, warehouse, monkeypatch):
    with LocalMixpanel(token="t0ken") as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        sdk = Mixpanel(
            "t0ken",
            consumer=Consumer(
                events_url=f"{server.url}/track",
                import_url=f"{server.url}/import",
                verify_cert=False,
            ),
        )
        sdk.track("ada", "Viewed Creator Profile", {"creatorType": "Premium"})
        sdk.track("ada", "Viewed Creator Profile")
        sdk.track("ada", "App Opened")
        yesterday = int((datetime.now(UTC) - timedelta(days=1)).timestamp())
        sdk.import_data(
            api_key="",
            distinct_id="eve",
            event_name="BankAccountLinked",
            timestamp=yesterday,
            api_secret=server.project_secret,
        )
        summary = sync(warehouse, load_configuration(), now=datetime.now(UTC))
    assert (summary.status, summary.events_new) == ("ok", 3)
    counted = subscribers(warehouse)
    assert counted["ada"]["premium_creator_profile_views"] == 1
    assert counted["ada"]["regular_creator_profile_views"] == 1
    assert counted["eve"]["linked_bank_account"] is True
    assert counted["eve"]["first_event_at"] == yesterday
    ((processed,),) = rows(
        warehouse, "select count(*) from mixpanel_raw.events where processed_at is not null"
    )
    assert processed == 3


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_ids_that_the_official_sdk_joins_are_one_subscriber(mixpanel, warehouse, monkeypatch):
    with LocalMixpanel() as server:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", server.url)
        monkeypatch.setenv("SOURCES__MIXPANEL__PROFILES", "true")
        consumer = Consumer(
            events_url=f"{server.url}/track",
            import_url=f"{server.url}/import",
            people_url=f"{server.url}/engage",
            verify_cert=False,
        )
        sdk = Mixpanel("t0ken", consumer=consumer)
        for who in ("visitor-1", "ada", "ada@example.com", "bob"):
            sdk.track(who, "Viewed Creator Profile")
        sdk.people_set("ada", {"income": "much"})
        # For this the SDK makes a consumer of its own.
        monkeypatch.setattr(mixpanel_sdk, "Consumer", lambda: consumer)
        sdk.alias("ada", "visitor-1")
        sdk.merge("", "ada", "ada@example.com", api_secret=server.project_secret)
        summary = sync(warehouse, load_configuration(), now=datetime.now(UTC))
    assert summary.error is None
    views = {
        who: (row["regular_creator_profile_views"], row["income"])
        for who, row in subscribers(warehouse).items()
    }
    assert views == {"ada": (3, "much"), "bob": (1, None)}
