"""Profiles: swept whole, written when they change, and columns of `subscribers`."""

import json
from datetime import timedelta

import pytest
import yaml
from mixpanel import Consumer, Mixpanel

from local_mixpanel import LocalMixpanel
from local_mixpanel.answers import as_json
from mixpanel_pipeline.engines import open_warehouse
from mixpanel_pipeline.runs.forgetting import forget
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.source import budget
from mixpanel_pipeline.source.configuration import load_configuration
from tests.conftest import NOW, point_at
from tests.warehouses import rows, subscribers

DAY = timedelta(days=1)


def session(who: str, more: dict[str, object] | None = None) -> dict[str, object]:
    time = int(NOW.timestamp()) - 3600
    identity = {"time": time, "distinct_id": who, "$insert_id": who}
    return {"event": "$ae_session", "properties": identity | (more or {})}


@pytest.fixture
def people(monkeypatch):
    """A local Mixpanel whose pages have two profiles, and syncs that load them."""
    monkeypatch.setattr(budget, "_PER_SECOND", 1000)
    monkeypatch.setenv("SOURCES__MIXPANEL__PROFILES", "true")
    with LocalMixpanel(today=lambda: (NOW + 9 * DAY).date(), profiles_per_page=2) as server:
        point_at(server, monkeypatch)
        yield server


def load(warehouse, now=NOW, **arguments):
    return sync(warehouse, load_configuration(), now=now, **{"skip_transform": True} | arguments)


def counts(summary) -> tuple[int | None, ...]:
    assert summary.error is None
    return (
        summary.profiles_new,
        summary.profiles_changed,
        summary.profiles_unchanged,
        summary.profiles_deleted,
    )


def stored(warehouse) -> dict[str, bool]:
    return dict(rows(warehouse, "select distinct_id, is_deleted from mixpanel_raw.profiles"))


def test_only_what_changed_is_written(people, warehouse, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__PROFILE_HISTORY", "true")
    people.profiles.set({"ann": {"a": 1, "b": "x\0"}, "bob": {}, "eve": {"a": 1}})
    assert counts(load(warehouse)) == (3, 0, 0, 0)
    before = rows(warehouse, "select * from mixpanel_raw.profiles where distinct_id = 'ann'")

    people.profiles.delete("bob")
    people.profiles.set({"eve": {"a": "1"}, "zoe": {}})
    # Not due yet.
    assert counts(load(warehouse)) == (0, 0, 0, 0)
    assert counts(load(warehouse, NOW + DAY)) == (1, 1, 1, 1)
    assert stored(warehouse) == {"ann": False, "bob": True, "eve": False, "zoe": False}
    assert (
        rows(warehouse, "select * from mixpanel_raw.profiles where distinct_id = 'ann'") == before
    )

    people.profiles.set({"bob": {}})
    assert counts(load(warehouse, NOW + 2 * DAY)) == (0, 1, 3, 0)
    history = rows(
        warehouse,
        "select distinct_id, valid_to is null from mixpanel_raw.profile_history order by 1, 2",
    )
    assert history == [
        *[("ann", True), ("bob", False), ("bob", True)],
        *[("eve", False), ("eve", True), ("zoe", True)],
    ]


@pytest.mark.parametrize("is_session_known", [True, False])
def test_a_sweep_goes_on_in_the_next_sync(people, warehouse, monkeypatch, is_session_known):
    people.profiles.set({who: {} for who in "abcde"})
    load(warehouse)
    for_events = load(warehouse).requests or 0
    people.profiles.delete("a")
    # Two more; of so few none is left to the syncs that follow within the hour.
    assert for_events < 4
    monkeypatch.setenv("SOURCES__MIXPANEL__REQUESTS_PER_HOUR", str(for_events + 2))
    later = NOW + DAY
    assert counts(load(warehouse, later)) == (0, 0, 4, 0)
    if not is_session_known:
        people.profiles.forget_sessions()
        people.profiles.delete("b")
    assert not any(stored(warehouse).values())
    monkeypatch.setenv("SOURCES__MIXPANEL__REQUESTS_PER_HOUR", "60")
    unchanged, deleted = (0, 1) if is_session_known else (3, 2)
    assert counts(load(warehouse, later + timedelta(hours=2))) == (0, 0, unchanged, deleted)
    assert sorted(who for who, gone in stored(warehouse).items() if gone) == ["a", "b"][:deleted]


def test_pages_that_lack_profiles_delete_nobody(people, warehouse, monkeypatch):
    people.profiles.set({who: {} for who in "abc"})
    load(warehouse)
    page = people.profiles.page
    monkeypatch.setattr(people.profiles, "page", lambda _: page(b"page=1"))
    summary = load(warehouse, NOW + DAY)
    assert summary.status == "failed"
    assert "told of 3 profiles and delivered 1" in (summary.error or "")
    assert not any(stored(warehouse).values())
    monkeypatch.undo()


def test_a_sweep_whose_pages_do_not_fit_together_begins_again(people, warehouse, monkeypatch):
    people.profiles.set({who: {} for who in "abc"})
    answers, sessions = people.profiles.page, set()

    def page(body: bytes):
        said = json.loads(b"".join(answers(body).parts))
        sessions.add(said["session_id"])
        return as_json(200, said | {"total": 3 if len(sessions) > 1 else 4})

    monkeypatch.setattr(people.profiles, "page", page)
    summary = load(warehouse)
    assert "told of 4 profiles and delivered 3" in (summary.error or "")
    # The first page is kept; the second one was not.
    assert counts(load(warehouse, NOW + timedelta(minutes=1))) == (1, 0, 2, 0)
    assert len(sessions) == 2
    assert stored(warehouse) == {"a": False, "b": False, "c": False}


def test_a_plan_without_profiles_is_warned_of(warehouse, monkeypatch, caplog):
    monkeypatch.setenv("SOURCES__MIXPANEL__PROFILES", "true")
    with LocalMixpanel(today=lambda: NOW.date(), has_query_api=False) as server:
        point_at(server, monkeypatch)
        assert counts(load(warehouse)) == (0, 0, 0, 0)
    assert "Profiles and cohorts are not loaded" in caplog.text


def test_who_is_in_a_cohort_has_a_history(people, warehouse, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__COHORTS", "true")
    monkeypatch.setenv("SOURCES__MIXPANEL__DROP_PROPERTIES", '["$email"]')
    people.profiles.set({"ann": {"a": 1, "$email": "ann@example.com"}})
    people.profiles.save_cohort(7, "Buyers", ["ann", "bob", "eve"])
    people.profiles.save_cohort(8, "Sellers", ["ann"])
    assert counts(load(warehouse)) == (1, 0, 0, 0)
    people.profiles.save_cohort(7, "Good buyers", ["ann", "zoe"])
    people.profiles.delete_cohort(8)
    assert counts(load(warehouse, NOW + DAY)) == (0, 0, 1, 0)
    ((properties,),) = rows(warehouse, "select cast(properties as text) from mixpanel_raw.profiles")
    assert json.loads(properties) == {"a": 1}
    cohorts = rows(warehouse, "select id, name, is_deleted from mixpanel_raw.cohorts order by id")
    assert cohorts == [(7, "Good buyers", False), (8, "Sellers", True)]
    members = rows(
        warehouse,
        "select cohort_id, distinct_id, valid_to is null from mixpanel_raw.cohort_members",
    )
    assert sorted(members) == [
        *[(7, "ann", True), (7, "bob", False), (7, "eve", False), (7, "zoe", True)],
        (8, "ann", False),
    ]


def test_columns_are_of_the_persons_profile(people, warehouse):
    people.add([session("ann", {"$device_id": "d", "$user_id": "ann"}), session("bob")])
    people.profiles.set(
        {
            "$device:d": {"income": "little"},
            "bob": {"income": "50k", "buying_power": 2.5, "total_deposit_count": "many"},
            "nobody": {"income": "none of ours"},
        }
    )

    def columns() -> dict[str, tuple[object, ...]]:
        return {
            who: (row["income"], row["buying_power"], row["total_deposit_count"])
            for who, row in subscribers(warehouse).items()
        }

    assert load(warehouse, skip_transform=False).error is None
    assert columns() == {"ann": ("little", None, None), "bob": ("50k", 2.5, None)}
    misfits = "select column_name, values_not_fitting from mixpanel.profile_column_fit"
    assert dict(rows(warehouse, f"{misfits} where values_not_fitting > 0")) == {
        "total_deposit_count": 1
    }

    # Nobody did anything since.
    people.profiles.set({"ann": {"income": "much"}, "bob": {"total_deposit_count": 3.0}})
    people.profiles.delete("$device:d")
    assert load(warehouse, NOW + DAY, skip_transform=False).error is None
    assert columns() == {"ann": ("much", None, None), "bob": ("50k", 2.5, 3)}
    built = subscribers(warehouse)
    load(warehouse, NOW + DAY, skip_transform=False, full_refresh=True)
    assert subscribers(warehouse) == built


def test_columns_follow_the_declaration(people, warehouse, dbt_project):
    people.add([session("bob")])
    said = {"income": "much", "total_deposit_count": "many", "$email": "bob@example.com"}
    people.profiles.set({"bob": said})
    assert load(warehouse, skip_transform=False).error is None
    assert subscribers(warehouse)["bob"]["total_deposit_count"] is None
    path = dbt_project / "dbt_project.yml"
    declared = yaml.safe_load(path.read_bytes())
    declared["vars"]["profile_columns"] = {
        "total_deposit_count": {"type": "text"},
        "email": {"property": "$email"},
    }
    path.write_text(yaml.safe_dump(declared, sort_keys=False), encoding="utf-8")
    assert load(warehouse, skip_transform=False).error is None
    row = subscribers(warehouse)["bob"]
    assert (row["total_deposit_count"], row["email"]) == ("many", "bob@example.com")
    assert "income" not in row


def test_a_forgotten_persons_profile_does_not_come_back(people, warehouse):
    secret = "s" * 32
    people.add([session("ann"), session("bob")])
    people.profiles.set({"ann": {"$email": "ann@example.com"}, "bob": {}})
    load(warehouse, skip_transform=False)
    assert forget(warehouse, ["ann"], secret).profiles == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCES__MIXPANEL__HASH_SECRET", secret)
        assert counts(load(warehouse, NOW + DAY)) == (0, 0, 1, 0)
    assert stored(warehouse) == {"bob": False}


def test_profiles_that_the_official_sdk_sets_are_loaded(people, monkeypatch, tmp_path):
    monkeypatch.setenv("DESTINATION_TYPE", "duckdb")
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "w.duckdb"))
    warehouse = open_warehouse(None)
    sdk = Mixpanel("t0ken", consumer=Consumer(people_url=f"{people.url}/engage", verify_cert=False))
    sdk.people_set("ada", {"$email": "ada@example.com"})
    sdk.people_set("eve", {})
    sdk.people_delete("eve")
    assert counts(load(warehouse)) == (1, 0, 0, 0)
    email = "select properties ->> '$.\"$email\"' from mixpanel_raw.profiles"
    assert rows(warehouse, email) == [("ada@example.com",)]
