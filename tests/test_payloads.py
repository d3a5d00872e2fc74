"""Hostile but legal payloads come back as they were sent, as far as the engine can hold them."""

import json
from datetime import date
from typing import Any

import pytest

from mixpanel_pipeline.engines import duckdb as duckdb_engine
from tests.conftest import NOW
from tests.warehouses import rows

TIME = int(NOW.timestamp())
# As the export tells it.
TIME_MS = TIME * 1000

PAYLOADS: dict[str, dict[str, Any]] = {
    "large number": {"n": 10**30, "fraction": 0.1, "exponent": 1e300, "negative": -0.0},
    "colliding names": {"userName": 1, "username": 2, "user_name": 3, "$city": 4, "city": 5},
    "empty name": {"": "empty", " ": "blank"},
    "names of our own": {"event": "a", "properties": {"time": 1}, "event_key": 2, "_dlt_id": 3},
    "names to quote": {
        "a.b": 1,
        'a"b': 2,
        "a'b": 3,
        "a\\b": 4,
        "a/b": 5,
        "a~b": 6,
        "*": 7,
        "%s": 8,
    },
    "names of letters": {"ключ": "да", "鍵": "値", "🔑": "😀"},
    "400 properties": {f"property {number}": number for number in range(400)},
    "long text": {"text": "x" * 1_000_000},
    "line ends": {"text": "a\u2028b\u2029c\x85d\re\nf\x0bg\x1ch"},
    "changing types": {"value": ["text", 1, None, True, {"deep": [[]]}]},
    "words for nothing": {"a": "undefined", "b": "<null>", "c": "NaN", "d": None, "e": ""},
    "nested": {"deep": json.loads("[" * 200 + "]" * 200)},
    "quotes and backslashes": {"text": "'\"\\ \\u0041 {0} %s $1 --"},
}
IDS: dict[str, dict[str, Any]] = {
    "missing": {},
    "null": {"distinct_id": None},
    "empty": {"distinct_id": ""},
    "number": {"distinct_id": 12345678901234567890},
    "text": {"distinct_id": "ada"},
}


@pytest.mark.parametrize("row_group_rows", [1, duckdb_engine._ROW_GROUP_ROWS])
def test_days_of_large_events_are_loaded(
    mixpanel, warehouse, run_sync, monkeypatch, row_group_rows
):
    """A thread of DuckDB holds 2,048 events at once, however large: its memory's bound allows it.

    Large loads have two threads, and this one is large by the smaller row groups.
    """
    monkeypatch.setattr(duckdb_engine, "_ROW_GROUP_ROWS", row_group_rows)
    text = "x" * 500_000
    mixpanel.add(
        {
            "event": "$ae_session",
            "properties": {"time": TIME, "$insert_id": str(number), "text": text},
        }
        for number in range(400)
    )
    assert run_sync(skip_transform=True).error is None
    length = "length(cast(properties as varchar))"
    query = f"select count(*) from mixpanel_raw.events where {length} > 500000"
    assert rows(warehouse, query) == [(400,)]


def stored(warehouse):
    """The raw events by insert_id: (event, distinct_id, properties, replaced_characters)."""
    query = "select insert_id, event, distinct_id, properties, replaced_characters"
    return {
        insert_id: (event, who, as_json(properties), replaced)
        for insert_id, event, who, properties, replaced in rows(
            warehouse, f"{query} from mixpanel_raw.events"
        )
    }


def as_json(value):
    return json.loads(value) if isinstance(value, str) else value


@pytest.fixture
def load(mixpanel, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")

    def load(*lines):
        mixpanel.add_lines(NOW.date(), [line.encode() for line in lines], event=None)
        mixpanel.add([{"event": "last", "properties": {"time": TIME, "$insert_id": "last"}}])
        summary = run_sync()
        assert summary.status == "ok", summary.error
        assert summary.lines_rejected == 0
        return summary

    return load


def line(insert_id, properties, event="e"):
    payload = {"time": TIME_MS, "$insert_id": insert_id, **properties}
    return json.dumps({"event": event, "properties": payload}, ensure_ascii=False)


def test_every_payload_comes_back_unchanged(warehouse, load):
    load(*(line(name, {"distinct_id": "ada"} | payload) for name, payload in PAYLOADS.items()))
    found = stored(warehouse)
    for name, payload in PAYLOADS.items():
        sent = {"time": TIME_MS, "$insert_id": name, "distinct_id": "ada", **payload}
        assert found[name] == ("e", "ada", sent, 0), name


def test_every_distinct_id_is_loaded(warehouse, load):
    load(*(line(name, properties) for name, properties in IDS.items()), line("no name", {}, ""))
    found = stored(warehouse)
    assert {name: found[name][1] for name in IDS} == {
        "missing": None,
        "null": None,
        "empty": "",
        "number": "12345678901234567890",
        "text": "ada",
    }
    assert found["no name"][0] == ""


def test_characters_that_an_engine_cannot_hold_are_replaced_and_the_row_says_so(warehouse, load):
    escapes = r'"nul": "a\u0000b", "half": "\ud83d", "whole": "\ud83d\ude00", "text": "\\u0000"'
    load(f'{{"event": "e", "properties": {{"time": {TIME_MS}, "$insert_id": "1", {escapes}}}}}')
    _, _, properties, replaced = stored(warehouse)["1"]
    assert properties["half"] == "\ufffd"
    assert properties["whole"] == "😀"
    assert properties["text"] == r"\u0000"
    if warehouse.name == "duckdb":
        assert (properties["nul"], replaced) == ("a\0b", 1)
    else:
        assert (properties["nul"], replaced) == ("a\ufffdb", 2)
    others = rows(
        warehouse, "select replaced_characters from mixpanel_raw.events where insert_id <> '1'"
    )
    assert others == [(0,)]


def test_hostile_payloads_are_counted(mixpanel, warehouse, load):
    escapes = r'"nul": "a\u0000b", "": 1, "creatorType": "\u0000PREMIUM"'
    payload = f'"time": {TIME_MS}, "$insert_id": "1", "distinct_id": "a\\u0000\'b", {escapes}'
    load(f'{{"event": "Viewed Creator Profile", "properties": {{{payload}}}}}')
    counted = rows(
        warehouse, "select subscriber_id, premium_creator_profile_views from mixpanel.subscribers"
    )
    nul = "\0" if warehouse.name == "duckdb" else "\ufffd"
    assert counted == [(f"a{nul}'b", 1)]


def test_numbers_too_large_to_compute_with_are_kept(warehouse, load):
    digits = "9" * 5000
    raw = f'{{"event": "e", "properties": {{"time": {TIME_MS}, "$insert_id": "1", "n": {digits}}}}}'
    load(raw)
    ((text,),) = rows(
        warehouse, "select cast(properties as text) from mixpanel_raw.events where insert_id = '1'"
    )
    assert digits in text


def test_the_earliest_event_that_cannot_be_told_in_seconds_is_loaded(mixpanel, warehouse, run_sync):
    mixpanel.add(
        [
            {"event": "$ae_session", "properties": {"time": 10**7, "distinct_id": "a"}},
            {"event": "$ae_session", "properties": {"time": TIME, "distinct_id": "a"}},
        ]
    )
    from mixpanel_pipeline.source.window import Window

    first = date(1970, 4, 26)
    assert run_sync(backfill=Window(first, first)).events_new == 1
