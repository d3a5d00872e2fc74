"""People who are forgotten: nothing of them is left, and nothing comes back."""

import json
from datetime import timedelta

import pytest

from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.runs.forgetting import forget
from mixpanel_pipeline.runs.pipeline import audit
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW
from tests.test_identity import DEVICE, event, signed_in
from tests.warehouses import rows, subscribers

SECRET = "0123456789abcdef0123456789abcdef"
TABLES = [
    ("mixpanel_raw", "events"),
    ("mixpanel_raw", "rejected_lines"),
    ("mixpanel_raw", "rekeyed_ids"),
    ("mixpanel_raw", "forgotten"),
    ("mixpanel_raw", "sync_runs"),
    ("mixpanel", "subscriber_days"),
    ("mixpanel", "identity_edges"),
    ("mixpanel", "identity_map"),
    ("mixpanel", "identity_changes"),
    ("mixpanel", "subscribers"),
]


@pytest.fixture
def known(mixpanel, warehouse, run_sync, monkeypatch):
    """Ada, under three ids and in a line that is no event, and Bob."""
    monkeypatch.setenv("SOURCES__MIXPANEL__EVIDENCE_OF_ALL_EVENTS", "true")
    mixpanel.add([event("ada", 20, "Logged In", {"$device_id": "d1", "$user_id": "ada"})])
    monkeypatch.setenv("SOURCES__MIXPANEL__HASH_SECRET", SECRET)
    copy = event("$device:d2", 40, more={"$distinct_id_before_identity": "$device:d2"})
    copy["properties"]["distinct_id"] = "ada"
    mixpanel.add([event(DEVICE, 60), signed_in("ada", 30), copy, event("bob"), event(None, 5)])
    mixpanel.add_lines((NOW - timedelta(days=1)).date(), [b'{"who": "ada"}'], "$ae_session")
    assert run_sync().error is None
    assert subscribers(warehouse)["ada"]["app_sessions"] == 3
    return subscribers(warehouse)["bob"]


def everything(warehouse) -> str:
    return " ".join(
        json.dumps(rows(warehouse, f"select * from {schema}.{table}"), default=str)
        for schema, table in TABLES
    )


def test_nothing_of_who_is_forgotten_is_left_or_comes_back(mixpanel, warehouse, run_sync, known):
    dry = forget(warehouse, ["ada"], SECRET, dry_run=True)
    assert (dry.ids, dry.events, dry.rejected_lines, dry.subscribers) == (3, 3, 1, 1)
    assert "ada" in everything(warehouse)
    done = forget(warehouse, [DEVICE], SECRET)
    assert (done.ids, done.events, done.rejected_lines, done.subscribers) == (3, 3, 1, 1)

    def is_gone():
        left = everything(warehouse)
        return subscribers(warehouse) == {"bob": known} and not any(
            one in left for one in ("ada", "d1", "d2")
        )

    assert is_gone()
    hashes = [one for (one,) in rows(warehouse, "select id_hash from mixpanel_raw.suppressed_ids")]
    # Three ids, and what tells the secret.
    assert sorted(map(len, hashes)) == [64] * 4
    assert rows(warehouse, "select ids, events from mixpanel_raw.forgotten") == [(3, 3)]
    assert run_sync().error is None
    assert is_gone()
    mixpanel.add([signed_in("ada", 3), event(DEVICE, 2), event("$device:d2", 1)])
    today = Window(NOW.date(), NOW.date())
    for arguments in ({}, {"backfill": today}, {"full_refresh": True}):
        summary = run_sync(**arguments)
        assert (summary.error, summary.events_new) == (None, 0)
        assert is_gone()
    audit(warehouse, load_configuration(), now=NOW, days=2, heal=True)
    assert is_gone()
    assert forget(warehouse, ["ada"], SECRET).events == 0


def test_without_the_secret_nobody_is_forgotten_and_nothing_synced(
    mixpanel, warehouse, run_sync, known, monkeypatch
):
    for secret in (None, "short"):
        with pytest.raises(ConfigurationError, match="at least 32 characters"):
            forget(warehouse, ["ada"], secret)
    forget(warehouse, ["ada"], SECRET)
    requests = len(mixpanel.requests)
    monkeypatch.setenv("SOURCES__MIXPANEL__HASH_SECRET", SECRET.upper())
    with pytest.raises(ConfigurationError, match="hash_secret is another one"):
        run_sync()
    monkeypatch.delenv("SOURCES__MIXPANEL__HASH_SECRET")
    with pytest.raises(ConfigurationError, match="hash_secret is not set"):
        run_sync()
    assert len(mixpanel.requests) == requests


def test_a_number_in_a_line_that_is_no_event_is_an_id_too(mixpanel, warehouse, run_sync, known):
    lines = [
        b'{"who": 4711, "what": 1}',
        b'{"who": 14711}',
        b'{"who": [1,4711]}',
        b'{"who":4711.5}',
    ]
    day = (NOW - timedelta(days=1)).date()
    mixpanel.add_lines(day, lines, "$ae_session")
    # The last line of an answer proves that it is whole.
    mixpanel.add([event("bob", 24 * 60)])
    assert run_sync(backfill=Window(day, NOW.date()), skip_transform=True).error is None
    assert forget(warehouse, ["4711"], SECRET).rejected_lines == 2
    assert run_sync(backfill=Window(day, NOW.date()), skip_transform=True).error is None
    left = rows(warehouse, "select line from mixpanel_raw.rejected_lines order by line")
    assert left == [('{"who": "ada"}',), ('{"who": 14711}',), ('{"who":4711.5}',)]


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_command_forgets_whom_a_file_names(warehouse, known, tmp_path, capsys, monkeypatch):
    ids = tmp_path / "ids.txt"
    ids.write_text("ada\n\nnobody\n", encoding="utf-8")
    assert main(["forget", "--file", str(ids), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "ids": 4,
        "events": 3,
        "rejected_lines": 1,
        "subscribers": 1,
        "profiles": 0,
        "is_done": True,
    }
    assert subscribers(warehouse) == {"bob": known}
    # Refused before anything: the secret is not set.
    monkeypatch.setenv("SOURCES__MIXPANEL__HASH_SECRET", "short")
    assert main(["forget", "bob", "--json"]) == 2
    assert "hash_secret" in json.loads(capsys.readouterr().out)["error"]
    with pytest.raises(SystemExit):
        main(["forget"])
    assert "whom to forget?" in capsys.readouterr().err


def test_who_turns_out_to_be_somebody_forgotten_is_forgotten_too(
    mixpanel, warehouse, run_sync, known, caplog
):
    mixpanel.add([event("$device:d3", 50), event("$device:d4", 50), signed_in("bob", 45, "d4")])
    assert run_sync().error is None
    forget(warehouse, ["ada"], SECRET)
    bob = subscribers(warehouse)["bob"]
    told = [
        signed_in("ada", 4, "d3"),
        # Bob's device is his, and junk is nobody's.
        signed_in("ada", 3, "d4"),
        signed_in("ada", 2, "null"),
        # Somebody new on a device that was hers is somebody new.
        signed_in("eve", 1, "d1"),
        event("eve", 1),
        event("$device:null", 1),
    ]
    mixpanel.add(told)
    assert run_sync(skip_transform=True).error is None
    assert "3 ids may be of people who were forgotten" in caplog.text
    assert run_sync().error is None
    assert "Some ids turned out to be of people who were forgotten" in caplog.text
    left = {"bob", "eve", "$device:null"}
    assert set(subscribers(warehouse)) == left
    assert subscribers(warehouse)["bob"] == bob
    assert rows(warehouse, "select * from mixpanel_raw.ids_to_forget") == []
    for arguments in ({"full_refresh": True}, {}):
        assert run_sync(**arguments).error is None
        assert set(subscribers(warehouse)) == left
    assert "d3" not in everything(warehouse)


def test_the_audit_tells_what_was_forgotten_from_what_is_missing(
    mixpanel, warehouse, run_sync, known
):
    forget(warehouse, ["ada"], SECRET)

    def audited(**arguments):
        found = audit(warehouse, load_configuration(), now=NOW, days=2, **arguments)
        return found.status, [(each.event, each.cause) for each in found.differences]

    today = audited(heal=True)
    of_forgotten = [("$ae_session", "of people who were forgotten here")]
    assert today == ("healed", of_forgotten)
    exports = len(mixpanel.exports)
    assert audited(heal=True) == ("equal", of_forgotten)
    assert len(mixpanel.exports) == exports
    # One that is missing shows, though it could be of somebody forgotten.
    mixpanel.add([event("bob", 3)])
    status, ((_, cause),) = audited()
    assert (status, cause) == ("differing", "came since the last sync, or lost to a cut")
    assert audited(heal=True) == ("healed", of_forgotten)
    assert subscribers(warehouse)["bob"]["app_sessions"] == 2
