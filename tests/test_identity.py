"""Who is who: a person's several ids are one subscriber, in whatever order that comes out."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mixpanel_pipeline import declaration
from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.conftest import NOW
from tests.warehouses import rows, subscribers

HOUR = 3600
DEVICE = "$device:d1"


def event(
    who: str | None,
    minutes_ago: int = 60,
    name: str = "$ae_session",
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    time = int(NOW.timestamp()) - 60 * minutes_ago
    identity = {"time": time, "distinct_id": who, "$insert_id": f"{who}-{minutes_ago}-{name}"}
    return {"event": name, "properties": identity | (more or {})}


def signed_in(user: str, minutes_ago: int, device: str = "d1"):
    return event(user, minutes_ago, more={"$device_id": device, "$user_id": user})


def sessions(warehouse) -> dict[str, int]:
    return {who: row["app_sessions"] for who, row in subscribers(warehouse).items()}


def resolved(warehouse) -> dict[str, str]:
    query = "select distinct_id, resolved_distinct_id from mixpanel.identity_map"
    return dict(rows(warehouse, query))


@pytest.fixture
def variables(dbt_project: Path):
    """Changes variables of the dbt project that syncs use."""
    path = dbt_project / "dbt_project.yml"

    def change(**values: object) -> None:
        declared = yaml.safe_load(path.read_bytes())
        declared["vars"] |= values
        path.write_text(yaml.safe_dump(declared, sort_keys=False), encoding="utf-8")
        declaration.declared.cache_clear()

    return change


@pytest.mark.usefixtures("built")
def test_what_somebody_did_before_signing_up_is_theirs(mixpanel, warehouse, run_sync):
    mixpanel.add([event(DEVICE, minutes) for minutes in range(60, 65)] + [event("bob")])
    assert run_sync().error is None
    assert sessions(warehouse) == {DEVICE: 5, "bob": 1}
    mixpanel.add([signed_in("ada", 30)])
    assert run_sync().subscribers == 2
    assert sessions(warehouse) == {"ada": 6, "bob": 1}
    days = rows(warehouse, "select subscriber_id, app_sessions from mixpanel.subscriber_days")
    assert sorted(days) == [(DEVICE, 5), ("ada", 1), ("bob", 1)]
    counted = subscribers(warehouse)
    assert run_sync(full_refresh=True).error is None
    assert subscribers(warehouse) == counted


@pytest.mark.usefixtures("built")
def test_a_device_is_of_who_signed_in_first_though_that_comes_late(mixpanel, warehouse, run_sync):
    mixpanel.add([event(DEVICE, 90), signed_in("ada", 30)])
    run_sync()
    assert sessions(warehouse) == {"ada": 2}
    mixpanel.add([signed_in("eve", 10)])
    run_sync()
    assert sessions(warehouse) == {"ada": 2, "eve": 1}
    mixpanel.add([signed_in("zoe", 50)])
    run_sync()
    assert sessions(warehouse) == {"ada": 1, "eve": 1, "zoe": 2}
    counted = subscribers(warehouse)
    assert remove_events(warehouse, "subscriber_id = 'zoe'").events == 1
    assert sessions(warehouse) == {"ada": 2, "eve": 1}
    assert resolved(warehouse) == {DEVICE: "ada", "ada": "ada", "eve": "eve"}
    assert run_sync().events_new == 1
    assert subscribers(warehouse) == counted


@pytest.mark.usefixtures("built")
def test_a_copy_of_a_loaded_event_tells_who_it_was(mixpanel, warehouse, run_sync):
    mixpanel.add([event(DEVICE, 30), event("ada", 20)])
    run_sync()
    assert sessions(warehouse) == {DEVICE: 1, "ada": 1}
    copy = event(DEVICE, 30, more={"$distinct_id_before_identity": DEVICE})
    copy["properties"]["distinct_id"] = "ada"
    mixpanel.add([copy])
    summary = run_sync()
    assert (summary.error, summary.events_new) == (None, 0)
    assert sessions(warehouse) == {"ada": 2}
    # What is known by now is not loaded again.
    loads = rows(warehouse, "select count(*) from mixpanel_raw._dlt_loads")
    assert run_sync().error is None
    assert rows(warehouse, "select count(*) from mixpanel_raw._dlt_loads") == loads


def test_a_database_of_the_last_version_learns_who_is_who(mixpanel, warehouse, run_sync):
    copy = event(DEVICE, 30, more={"$distinct_id_before_identity": DEVICE})
    copy["properties"]["distinct_id"] = "ada"
    mixpanel.add([copy, event(DEVICE, 20)])
    run_sync(skip_transform=True)
    warehouse.execute("alter table mixpanel_raw.events drop column distinct_id_before_identity")
    warehouse.execute("drop table mixpanel_raw.rekeyed_ids")
    mixpanel.add([event("bob")])
    assert run_sync().error is None
    assert sessions(warehouse) == {"ada": 2, "bob": 1}


@pytest.mark.usefixtures("built")
def test_evidence_of_every_kind_connects_and_junk_does_not(mixpanel, warehouse, run_sync):
    said = [
        event("x", name="$identify", more={"$anon_id": "anon", "$identified_id": "user"}),
        event("user", name="$create_alias", more={"distinct_id": "user", "alias": "nickname"}),
        event("x", name="$merge", more={"$distinct_ids": ["nickname", "other"]}),
        event("y", name="$merge", more={"$distinct_ids": ["NULL", "other"]}),
        event("z", name="$merge", more={"$distinct_ids": ["null", "somebody"]}),
        event("w", name="$identify", more={"$anon_id": "", "$identified_id": "somebody"}),
        signed_in("stranger", 5, device="00000000-0000-0000-0000-000000000000"),
    ]
    mixpanel.add([event("anon"), event("other"), event("somebody"), event("null"), *said])
    summary = run_sync()
    assert summary.error is None
    asked = mixpanel.exports[-1].query["event"]
    assert all(name in asked for name in ("$identify", "$create_alias", "$merge"))
    assert set(resolved(warehouse)) == {"anon", "user", "nickname", "other"}
    assert set(resolved(warehouse).values()) == {"nickname"}
    assert sessions(warehouse) == {"nickname": 2, "somebody": 1, "null": 1, "stranger": 1}


def test_clusters_of_too_many_ids_stay_apart(mixpanel, warehouse, run_sync, variables):
    variables(max_cluster_ids=3)
    mixpanel.add([event("ada"), event("b"), event("c"), event("bob"), event("d")])
    pairs = [["ada", "b"], ["b", "c"], ["bob", "d"]]
    mixpanel.add([event(None, n, "$merge", {"$distinct_ids": p}) for n, p in enumerate(pairs)])
    assert run_sync().error is None
    assert sessions(warehouse) == {"ada": 3, "bob": 2}
    mixpanel.add([event(None, 9, "$merge", {"$distinct_ids": ["c", "e"]})])
    assert run_sync().error is None
    assert sessions(warehouse) == {"ada": 1, "b": 1, "c": 1, "bob": 2}
    found = rows(warehouse, "select distinct_id, cluster_size from mixpanel.identity_map")
    assert dict(found) == {"ada": 4, "b": 4, "c": 4, "e": 4, "bob": 2, "d": 2}


def test_ids_may_be_taken_as_exported(mixpanel, warehouse, run_sync, variables):
    variables(identity="as_exported")
    copy = event(DEVICE, 40, more={"$distinct_id_before_identity": DEVICE})
    copy["properties"]["distinct_id"] = "ada"
    mixpanel.add([event(DEVICE, 60), signed_in("ada", 30), copy])
    assert run_sync().error is None
    assert sessions(warehouse) == {DEVICE: 1, "ada": 2}
    assert resolved(warehouse) == {}
    assert "$merge" not in mixpanel.exports[-1].query["event"]


def test_who_never_signed_in_may_be_left_out(mixpanel, warehouse, run_sync, variables):
    variables(include_anonymous=False)
    mixpanel.add([event(DEVICE, 60), event("$device:d2", 60), event("bob")])
    assert run_sync().error is None
    assert sessions(warehouse) == {"bob": 1}
    mixpanel.add([signed_in("ada", 30)])
    assert run_sync().error is None
    assert sessions(warehouse) == {"ada": 2, "bob": 1}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"identity": "resolved"}, "`identity` takes `resolve` or `as_exported`, not resolved"),
        ({"include_anonymous": "no!"}, "`include_anonymous` takes true or false, not no!"),
        ({"max_cluster_ids": 0}, "`max_cluster_ids` takes a number, 1 or more, not 0"),
        ({"junk_ids": [None]}, "`junk_ids` takes a list of texts"),
        ({"junk_ids": "null"}, "`junk_ids` takes a list of texts"),
        ({"windows": [7, 0]}, "`windows` takes a list of numbers of days"),
        ({"windows": [7, 7]}, "`windows` takes a list of numbers of days"),
        ({"session_minutes": "half an hour"}, "`session_minutes` takes a number, 1 or more"),
        ({"event_columns": {"plan": {"typ": "number"}}}, "has `typ`.*: did you mean `type`"),
        ({"event_columns": {"plan": {"type": "text"}}}, "`type` of the event column `plan` is"),
        ({"event_columns": {"event": {}}}, "`event` is a column of `events` already"),
        ({"dictionary_sample": 2}, "`dictionary_sample` takes a share of the events"),
        ({"dictionary_examples": "plan"}, "`dictionary_examples` takes a list of names"),
        ({"as_of": "yesterday"}, "`as_of` takes a day, like 2026-01-31, not yesterday"),
    ],
)
def test_wrong_rules_are_refused(variables, wrong, told):
    variables(**wrong)
    with pytest.raises(ConfigurationError, match=rf"dbt_project.yml, line \d+.*{told}"):
        declaration.metrics()


@pytest.fixture
def evidence_of_all_events(monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__EVIDENCE_OF_ALL_EVENTS", "true")


def linked(user: str, minutes_ago: int, device: str = "d1"):
    """An event that no metric counts."""
    return event(user, minutes_ago, "Logged In", {"$device_id": device, "$user_id": user})


@pytest.mark.usefixtures("built")
def test_events_that_nobody_asked_for_tell_who_is_who(
    mixpanel, warehouse, run_sync, evidence_of_all_events
):
    mixpanel.add([event(DEVICE, 60), event("bob", 50), linked("ada", 30), linked("zed", 25)])
    assert run_sync().error is None
    assert sessions(warehouse) == {"ada": 1, "bob": 1}
    names = rows(warehouse, "select distinct event from mixpanel_raw.events")
    assert names == [("$ae_session",)]
    sizes = [len(mixpanel.exports)]
    loads = rows(warehouse, "select count(*) from mixpanel_raw._dlt_loads")
    # Nothing new: nothing is loaded, and nothing told twice.
    assert run_sync().events_new == 0
    sizes.append(len(mixpanel.exports))
    assert rows(warehouse, "select count(*) from mixpanel_raw._dlt_loads") == loads
    # One of events and one of evidence.
    assert sizes[1] - sizes[0] == 2
    # With no event that is loaded itself, of an earlier time.
    mixpanel.add([linked("eve", 40)])
    assert run_sync().events_new == 0
    assert sessions(warehouse) == {"eve": 1, "bob": 1}
    counted = subscribers(warehouse)
    # What else tells of the same is gone with its event, this not.
    mixpanel.add([signed_in("eve", 35)])
    run_sync()
    assert remove_events(warehouse, "distinct_id = 'eve'").events == 1
    assert subscribers(warehouse) == counted
    assert run_sync(full_refresh=True, skip_transform=False).error is None
    assert sessions(warehouse) == {"eve": 2, "bob": 1}


def test_evidence_of_all_events_is_not_asked_for_where_all_are_loaded_or_none_counts(
    mixpanel, warehouse, run_sync, evidence_of_all_events, variables, monkeypatch
):
    mixpanel.add([linked("ada", 30), event(DEVICE, 60)])
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    assert run_sync(skip_transform=True).error is None
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "tracked")
    variables(identity="as_exported")
    assert run_sync(skip_transform=True).error is None
    assert not any("defined" in each.query.get("where", "") for each in mixpanel.exports)
