import gzip
import hmac
import json
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from zoneinfo import ZoneInfo

import pytest

from mixpanel_pipeline.events.decoding import EventDecoder, Rules
from mixpanel_pipeline.events.minimisation import Minimisation
from mixpanel_pipeline.source.answer import Answer
from mixpanel_pipeline.source.delivered import decoded
from mixpanel_pipeline.source.errors import BrokenAnswer

NOON = int(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp())


def line(event="App Opened", **properties):
    return json.dumps({"event": event, "properties": {"time": NOON, **properties}}).encode()


LAST = line("The last one")


@pytest.fixture
def decode(tmp_path):
    """Decodes lines as one answer; returns its events and its rejected lines as dicts."""

    def decode(
        *lines, timezone="UTC", holds_nul=True, only_day=None, names=None, minimisation=None
    ):
        path = tmp_path / "answer"
        # The last line of an answer is an event.
        path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in [*lines, LAST])))
        decoder = EventDecoder(
            ZoneInfo(timezone),
            holds_nul=holds_nul,
            only_day=only_day,
            names=names,
            minimisation=minimisation,
        )
        batches = list(decoder.decode(Answer(path, is_gzip=True).blocks()))
        events = [row for batch in batches for row in batch.events.to_pylist()]
        rejected = [row for batch in batches for row in batch.rejected_lines.to_pylist()]
        return events[:-1], rejected

    return decode


def keys(events):
    return [event["event_key"] for event in events]


def test_an_event_is_decoded_whole(decode):
    payload = {"distinct_id": "ada", "$insert_id": "i1", "mp_processing_time_ms": NOON * 1000 + 5}
    (event,), rejected = decode(line("Viewed", **payload, plan={"seats": [1, 2]}))
    assert rejected == []
    assert event["event"] == "Viewed"
    assert event["distinct_id"] == "ada"
    assert event["insert_id"] == "i1"
    assert event["occurred_at"] == datetime(2026, 3, 10, 12, tzinfo=UTC)
    assert event["processed_at"] == datetime(2026, 3, 10, 12, 0, 0, 5000, tzinfo=UTC)
    assert json.loads(event["properties"]) == {"time": NOON, **payload, "plan": {"seats": [1, 2]}}
    assert event["replaced_characters"] == 0


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"distinct_id": "ada", "plan": "changed"}, id="other properties"),
        pytest.param({"distinct_id": "ada", "mp_processing_time_ms": 1}, id="processed again"),
        pytest.param(
            {"distinct_id": "merged", "$distinct_id_before_identity": "ada"}, id="identity merged"
        ),
        pytest.param(
            {"distinct_id": "merged", "$preshuffle_distinct_id": "ada", "$is_reshuffled": True},
            id="reshuffled",
        ),
    ],
)
def test_copies_of_an_event_have_its_key(decode, other):
    original = line(**{"distinct_id": "ada", "$insert_id": "i1"})
    events, _ = decode(original, line(**{"$insert_id": "i1", **other}))
    assert keys(events)[0] == keys(events)[1]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(line("Other", distinct_id="ada", **{"$insert_id": "i1"}), id="event"),
        pytest.param(line(distinct_id="eve", **{"$insert_id": "i1"}), id="distinct_id"),
        pytest.param(line(distinct_id="ada", **{"$insert_id": "i2"}), id="insert_id"),
        pytest.param(line(distinct_id="ada", time=NOON + 1, **{"$insert_id": "i1"}), id="time"),
        pytest.param(line(distinct_id=None, **{"$insert_id": "i1"}), id="no distinct_id"),
        pytest.param(line(distinct_id="", **{"$insert_id": "i1"}), id="empty distinct_id"),
        pytest.param(line(distinct_id="ada"), id="no insert_id"),
    ],
)
def test_what_identifies_an_event_changes_its_key(decode, other):
    events, _ = decode(line(distinct_id="ada", **{"$insert_id": "i1"}), other)
    assert len(set(keys(events))) == 2


def test_no_id_is_not_an_empty_id(decode):
    events, _ = decode(line(**{"$insert_id": "i"}), line(distinct_id="", **{"$insert_id": "i"}))
    assert len(set(keys(events))) == 2


def test_an_empty_insert_id_identifies_nothing(decode):
    same = line(distinct_id="ada", **{"$insert_id": ""})
    events, _ = decode(same, same)
    assert len(set(keys(events))) == 2


def test_neighbouring_parts_of_a_key_do_not_run_into_each_other(decode):
    events, _ = decode(
        line("ab", distinct_id="c", **{"$insert_id": "i"}),
        line("a", distinct_id="bc", **{"$insert_id": "i"}),
    )
    assert len(set(keys(events))) == 2


def test_a_key_is_the_same_in_every_version(decode):
    """Every stored event would be loaded a second time under another key."""
    events, _ = decode(
        line("Viewed", distinct_id="ada", **{"$insert_id": "i1"}),
        line("Viewed", distinct_id="ada", plan="pro"),
    )
    assert keys(events) == ["ca57873e8878c8228a89d3a89f6d5e7f", "23aa919f62d30facf21aa10eccda5954"]


def test_identical_lines_without_insert_id_count_as_often_as_they_stand_there(decode):
    same, other = line(distinct_id="ada", plan="pro"), line(distinct_id="ada", plan="free")
    once, _ = decode(same, other, same, same)
    assert len(set(keys(once))) == 4
    again, _ = decode(same, same, same, other)
    assert set(keys(again)) == set(keys(once))


def test_without_insert_id_the_order_of_properties_does_not_matter(decode):
    events, _ = decode(line(distinct_id="ada", plan="pro", seats=1.50))
    reordered, _ = decode(line(plan="pro", seats=1.50, distinct_id="ada"))
    assert keys(events) == keys(reordered)


def test_without_insert_id_an_identity_merge_does_not_change_the_key(decode):
    merged = {"distinct_id": "ada", "$distinct_id_before_identity": "device"}
    more = {"$user_id": "ada", "$is_reshuffled": True, "$preshuffle_distinct_id": "device"}
    for device in ("device", 17):
        before, _ = decode(line(distinct_id=device, plan="pro"))
        signed_in, _ = decode(line(distinct_id=device, plan="pro", **{"$user_id": "ada"}))
        assert keys(before) == keys(signed_in)
    before, _ = decode(line(distinct_id="device", plan="pro"))
    for added in (merged, merged | more, {"distinct_id": "ada"} | more):
        after, _ = decode(line(plan="pro", **added))
        assert keys(before) == keys(after)


def test_a_dataset_of_an_earlier_version_keeps_its_keys():
    """`event_key` is stored: by another rule, events that come again would be new."""

    def key(**properties):
        rules = Rules("exported")
        decoder = EventDecoder(ZoneInfo("UTC"), holds_nul=True, only_day=None, rules=rules)
        (batch,) = decoder.decode([line(distinct_id="device", plan="pro", **properties)])
        return batch.events["event_key"].to_pylist()

    assert key() == ["bbe77e9851846606a35927130cc387bd"]
    assert key(**{"$user_id": "ada"}) == ["414f571f840b5a23f1fdb962364ff7fd"]
    assert key(**{"$distinct_id_before_identity": "device"}) == key()


def test_an_event_in_milliseconds_is_the_same_and_happened_within_its_second():
    def decoded(unit, ms, **properties):
        rules = Rules(time_in_ms=unit == 1)
        decoder = EventDecoder(ZoneInfo("UTC"), holds_nul=True, only_day=None, rules=rules)
        (batch,) = decoder.decode([line(**properties | {"time": (NOON * 1000 + ms) // unit})])
        return batch

    for named in ({}, {"$insert_id": "i1"}):
        (by_ms,) = decoded(1, 678, **named).events.to_pylist()
        (by_second,) = decoded(1000, 678, **named).events.to_pylist()
        assert by_ms["event_key"] == by_second["event_key"]
        assert by_ms["occurred_at"] - by_second["occurred_at"] == timedelta(milliseconds=678)
    # What does not do as it is asked is not taken for January 1970.
    (rejected,) = decoded(1, NOON - NOON * 1000).rejected_lines.to_pylist()
    assert "is in seconds" in rejected["reason"]


def test_the_last_processed_copy_comes_last_and_the_later_line_breaks_ties(decode):
    copies = [{"mp_processing_time_ms": ms} if ms else {} for ms in (7, 9, None, 9, 8)]
    events, _ = decode(*(line(**{"$insert_id": "i1"}, **copy) for copy in copies))
    ranked = sorted(range(5), key=lambda position: events[position]["copy_order"])
    assert ranked == [2, 0, 4, 1, 3]
    assert len({event["copy_order"] for event in events}) == 5


@pytest.mark.parametrize("processed", [-1, 10**18, "soon", None, [1], 1.5])
def test_a_processing_time_that_is_none_is_unknown(decode, processed):
    (event,), rejected = decode(line(mp_processing_time_ms=processed))
    known = {1.5: datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)}
    assert event["processed_at"] == (known.get(processed) if processed != [1] else None)
    assert rejected == []


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"not json", "not JSON", id="text"),
        pytest.param(b'{"event": "cut', "not JSON", id="half a line"),
        pytest.param(b'{"event": "x", "properties": {"time": NaN}}', "not JSON", id="NaN"),
        pytest.param(b'{"event": "a\xff", "properties": {"time": 1}}', "not UTF-8", id="bytes"),
        pytest.param(
            b'{"event": "x", "properties": {"time": 1, "p": "\xff"}}', "not UTF-8", id="property"
        ),
        pytest.param(
            b'{"event": "x", "properties": {"time": 1e400}}', "not a number", id="infinite time"
        ),
        pytest.param(b"[1, 2]", "not an event", id="an array"),
        pytest.param(b'{"properties": {"time": 1}}', "not an event", id="no event"),
        pytest.param(
            b'{"event": "x", "properties": {"time": 1, "$insert_id": "i", "p": "\xff"}}',
            "not UTF-8",
            id="property of which nothing is asked",
        ),
        pytest.param(b'{"event": null, "properties": {"time": 1}}', "not an event", id="null"),
        pytest.param(b'{"event": "x"}', "not an event", id="no properties"),
        pytest.param(b'{"event": "x", "properties": []}', "not an event", id="a list of them"),
        pytest.param(b'{"event": "x", "properties": {}}', "time is not a number", id="no time"),
        pytest.param(line(time="noon"), "time is not a number", id="time is text"),
        pytest.param(line(time=True), "time is not a number", id="time is a boolean"),
        pytest.param(line(time=-1), "not a number of seconds", id="before 1970"),
        pytest.param(line(time=10**30), "not a number of seconds", id="beyond all calendars"),
        pytest.param(line(time=NOON * 1000), "not a number of seconds", id="milliseconds"),
        pytest.param(
            b'{"event": "x", "properties": {"time": 1, "deep": %b%b}}' % (b"[" * 5000, b"]" * 5000),
            "nested too deeply",
            id="nested",
        ),
    ],
)
def test_a_line_that_is_no_event_is_rejected_alone(decode, raw, reason):
    events, (rejected,) = decode(line(distinct_id="ada"), raw, line(distinct_id="eve"))
    assert [event["distinct_id"] for event in events] == ["ada", "eve"]
    assert reason in rejected["reason"]
    assert rejected["line"].encode("latin-1", "replace")[:10] == raw[:10]


def test_a_rejected_line_is_text_that_every_engine_holds(decode):
    _, (rejected,) = decode(b"\x00\xff\xe2\x82\xac")
    assert rejected["line"] == "\\x00\\xff€"


def test_a_rejected_line_has_a_day_when_just_one_was_asked_for(decode):
    _, (rejected,) = decode(b"no event", only_day=date(2026, 3, 10))
    assert rejected["day"] == date(2026, 3, 10)
    _, (rejected,) = decode(b"no event")
    assert rejected["day"] is None


def test_blank_lines_are_nothing(decode):
    events, rejected = decode(b"", line(), b"  ", b"\r", line(distinct_id="x") + b"\r")
    assert (len(events), rejected) == (2, [])


def test_only_a_newline_ends_a_line(decode):
    raw = json.dumps(
        {"event": "a\u2028b", "properties": {"time": NOON, "distinct_id": "\x85\u2029"}},
        ensure_ascii=False,
    )
    (event,), rejected = decode(raw.encode())
    assert rejected == []
    assert (event["event"], event["distinct_id"]) == ("a\u2028b", "\x85\u2029")


@pytest.mark.parametrize(
    ("distinct_id", "expected"),
    [
        pytest.param('""', "", id="empty"),
        pytest.param("null", None, id="null"),
        pytest.param("12345678901234567890123", "12345678901234567890123", id="large number"),
        pytest.param("1.50", "1.50", id="fraction"),
        pytest.param("true", "true", id="boolean"),
        pytest.param('{"id": 1}', '{"id": 1}', id="object"),
        pytest.param(r'"\u00e9\n"', "é\n", id="escapes"),
    ],
)
def test_unusual_distinct_ids_are_kept_as_text(decode, distinct_id, expected):
    raw = f'{{"event": "", "properties": {{"time": {NOON}, "distinct_id": {distinct_id}}}}}'
    (event,), rejected = decode(raw.encode())
    assert rejected == []
    assert (event["event"], event["distinct_id"]) == ("", expected)
    assert event["properties"] == raw[28:-1]


@pytest.mark.parametrize(
    ("escaped", "with_nul", "without_nul", "replaced"),
    [
        pytest.param(r"\uD83D\uDE00", r"\uD83D\uDE00", r"\uD83D\uDE00", (0, 0), id="capitals"),
        pytest.param(r"a\u0000b", r"a\u0000b", r"a\ufffdb", (0, 1), id="NUL"),
        pytest.param(r"\ud83d\ude00", r"\ud83d\ude00", r"\ud83d\ude00", (0, 0), id="whole pair"),
        pytest.param(r"\ud83dx", r"\ufffdx", r"\ufffdx", (1, 1), id="high half"),
        pytest.param(r"\uDE00", r"\ufffd", r"\ufffd", (1, 1), id="low half"),
        pytest.param(
            r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00", r"\ufffd\ud83d\ude00", (1, 1), id="both"
        ),
        pytest.param(r"\\u0000\\ud83d", r"\\u0000\\ud83d", r"\\u0000\\ud83d", (0, 0), id="escaped"),
    ],
)
def test_characters_that_cannot_be_held_are_replaced_and_counted(
    decode, escaped, with_nul, without_nul, replaced
):
    raw = b'{"event": "x", "properties": {"time": 1, "p": "%s"}}' % escaped.encode()
    for holds_nul, expected, count in zip(
        (True, False), (with_nul, without_nul), replaced, strict=True
    ):
        (event,), rejected = decode(raw, holds_nul=holds_nul)
        assert rejected == []
        assert event["properties"] == f'{{"time": 1, "p": "{expected}"}}'
        assert event["replaced_characters"] == count


def test_the_key_does_not_depend_on_what_the_engine_can_hold(decode):
    raw = rb'{"event": "a\u0000", "properties": {"time": 1, "distinct_id": "\u0000"}}'
    (with_nul,), _ = decode(raw, holds_nul=True)
    (without,), _ = decode(raw, holds_nul=False)
    assert with_nul["event_key"] == without["event_key"]
    assert (with_nul["event"], with_nul["distinct_id"]) == ("a\0", "\0")
    assert (without["event"], without["distinct_id"]) == ("a\ufffd", "\ufffd")


def test_old_projects_write_wall_clock_times(decode):
    summer = int(datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp())
    events, _ = decode(line(), line(time=summer), timezone="Europe/Berlin")
    assert [event["occurred_at"] for event in events] == [
        datetime(2026, 3, 10, 11, tzinfo=UTC),
        datetime(2026, 7, 1, 10, tzinfo=UTC),
    ]


@pytest.mark.parametrize(
    ("wall_clock", "expected"),
    [
        pytest.param(
            datetime(2026, 10, 25, 2, 30, tzinfo=UTC),
            datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
            id="the hour that autumn repeats is the earlier one",
        ),
        pytest.param(
            datetime(2026, 3, 29, 2, 30, tzinfo=UTC),
            datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
            id="the hour that spring leaves out is the instant of the change",
        ),
    ],
)
def test_hours_that_a_clock_shows_twice_or_never(decode, wall_clock, expected):
    (event,), _ = decode(line(time=int(wall_clock.timestamp())), timezone="Europe/Berlin")
    assert event["occurred_at"] == expected


def test_the_first_and_the_last_second_are_events(decode):
    events, rejected = decode(line(time=0), line(time=253_402_214_399))
    assert [event["occurred_at"].year for event in events] == [1970, 9999]
    assert rejected == []


def test_terminated_early_is_never_a_line(tmp_path):
    path = tmp_path / "answer-0"
    path.write_bytes(b"\n".join([line(), b"export terminated early", line()]))
    decoder = EventDecoder(ZoneInfo("UTC"), holds_nul=True, only_day=None)
    with pytest.raises(BrokenAnswer, match="terminated early"):
        decoded(Answer(path, is_gzip=False), decoder)


def framed(*parts):
    """What a key is a hash of, by code of its own."""
    return "".join("-" if part is None else f"{len(part)}:{part}" for part in parts)


# A character of several code points counts as each of them.
TEXTS = ["ada", "\0", "é", "e\u0301", "👩\u200d👩", "7:a", "-", "\U0010ffff", " x ", "'"]


@pytest.mark.parametrize("holds_nul", [True, False])
def test_a_key_hashes_name_original_id_time_and_insert_id(decode, holds_nul):
    """Keys stay as they are: what is loaded would be loaded again under new ones."""
    parts = [(event, who, mark) for event in TEXTS for who in [*TEXTS, "", None] for mark in TEXTS]
    lines = [line(event, distinct_id=who, **{"$insert_id": mark}) for event, who, mark in parts]
    decoded, _ = decode(*lines, holds_nul=holds_nul)
    assert keys(decoded) == [
        sha256(framed(event, who, str(NOON), mark).encode()).hexdigest()[:32]
        for event, who, mark in parts
    ]


def test_memory_does_not_grow_with_the_answer(tmp_path):
    """Blocks are handed on as they are read: the first one before the stream has ended."""
    path = tmp_path / "answer"
    whole = gzip.compress(line(distinct_id="ada", text="x" * 1000) * 1 + b"\n", 1) * 20_000
    path.write_bytes(whole[:-20])
    decoder = EventDecoder(ZoneInfo("UTC"), holds_nul=True, only_day=None)
    batches = decoder.decode(Answer(path, is_gzip=True).blocks())
    assert 0 < next(batches).events.num_rows < 10_000
    with pytest.raises(BrokenAnswer):
        list(batches)


def hot(name="App Opened", who="busy", **properties):
    originals = {"mp_original_event_name": name, "mp_original_distinct_id": who}
    return line("$hotshard_events", distinct_id="", **originals, **properties)


@pytest.mark.parametrize("insert_id", [{"$insert_id": "i1"}, {}], ids=["insert_id", "none"])
def test_a_renamed_event_of_a_hot_shard_is_the_event_that_it_was(decode, insert_id):
    (original,), _ = decode(line(distinct_id="busy", **insert_id))
    (renamed,), rejected = decode(hot(**insert_id))
    assert (renamed["event"], renamed["distinct_id"]) == ("App Opened", "busy")
    assert renamed["event_key"] == original["event_key"]
    assert json.loads(renamed["properties"])["mp_original_event_name"] == "App Opened"
    assert rejected == []


def test_a_renamed_event_may_have_an_id_that_is_no_text(decode):
    (original,), _ = decode(line(distinct_id=17))
    (renamed,), _ = decode(hot(who=17))
    assert (renamed["distinct_id"], renamed["event_key"]) == ("17", original["event_key"])


def test_renamed_events_that_were_not_asked_for_are_left_out(decode):
    lines = [hot(), hot("Other"), line("$hotshard_events")]
    events, rejected = decode(*lines, names=["App Opened"])
    assert [event["event"] for event in events] == ["App Opened"]
    assert [each["reason"] for each in rejected] == [
        "renamed by Mixpanel, and its own name is missing"
    ]
    events, rejected = decode(*lines)
    assert [event["event"] for event in events] == ["App Opened", "Other", "$hotshard_events"]
    events, _ = decode(*lines, names=["$hotshard_events"])
    assert len(events) == 3


SECRET = "0123456789abcdef0123456789abcdef"


def hashed(json_text):
    return hmac.new(SECRET.encode(), json_text.encode(), "sha256").hexdigest()


def test_what_is_dropped_or_hashed_is_kept_nowhere_and_changes_no_key(decode):
    private = {"$email": "ada@example.com", "phone": "555", "plan": "pro"}
    lines = [
        line(distinct_id="ada", **private, **more) for more in ({"$insert_id": "i"}, {}, {}, {})
    ]
    whole, _ = decode(*lines)
    kept, rejected = decode(*lines, minimisation=Minimisation(["$email"], ["phone"], (), SECRET))
    assert rejected == []
    assert keys(kept) == keys(whole)
    for before, event in zip(whole, kept, strict=True):
        expected = json.loads(before["properties"]) | {"phone": hashed('"555"')}
        assert json.loads(event.pop("properties")) == {
            name: value for name, value in expected.items() if name != "$email"
        }
        del before["properties"]
        assert event == before


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        pytest.param(r'"caf\u00e9 \/"', '"café /"', id="text"),
        pytest.param('"caf\u00e9 /"', '"café /"', id="the same text, spelled otherwise"),
        pytest.param("1", "1", id="number"),
        pytest.param('"1"', '"1"', id="digits"),
        pytest.param("1.50", "1.50", id="fraction"),
        pytest.param("9" * 5000, "9" * 5000, id="long number"),
        pytest.param("true", "true", id="truth"),
        pytest.param('[1, "a", {"y": 1, "x": [ ]}]', '[1,"a",{"x":[],"y":1}]', id="list"),
        pytest.param(r'{"b": null, "\u0061": 1.0}', '{"a":1.0,"b":null}', id="object"),
        pytest.param(r'"\u0000"', r'"\u0000"', id="NUL"),
        pytest.param("[" * 900 + "]" * 900, "[" * 900 + "]" * 900, id="nested"),
    ],
)
def test_equal_values_have_equal_hashes(decode, value, canonical):
    raw = f'{{"event": "x", "properties": {{"time": 1, "p": {value}, "q": {value}}}}}'.encode()
    for holds_nul in (True, False):
        (event,), rejected = decode(
            raw, holds_nul=holds_nul, minimisation=Minimisation(["q"], ["p"], (), SECRET)
        )
        assert rejected == []
        assert event["properties"] == f'{{"time":1,"p":"{hashed(canonical)}"}}'


def test_a_private_property_that_is_null_or_absent_stays_so(decode):
    less = Minimisation([], ["p"], (), SECRET)
    raw = line(p=None), line(other=1)
    events, _ = decode(*raw, minimisation=less)
    found = [json.loads(event["properties"]) for event in events]
    assert found == [{"time": NOON, "p": None}, {"time": NOON, "other": 1}]


@pytest.mark.parametrize("name", ["email", "e/mail", 'e"mail', "e\\mail", "émail", "電子", "$e\n"])
def test_a_name_is_found_however_it_is_spelled(decode, name):
    every_letter = "".join(rf"\u{ord(letter):04x}" for letter in name)
    spelled = [json.dumps(name), json.dumps(name, ensure_ascii=False), f'"{every_letter}"']
    for one in spelled:
        raw = f'{{"event": "x", "properties": {{{one}: "ada", "time": 1, {one}: "eve"}}}}'.encode()
        (event,), rejected = decode(raw, minimisation=Minimisation([name]))
        assert rejected == []
        assert json.loads(event["properties"]) == {"time": 1}


def test_events_without_a_private_property_are_kept_as_they_stand(decode):
    text = '{ "time":1,  "nested": {"email": "a"}, "is": "email", "p": 1.50, "u": "\\u00e9" }'
    raw = f'{{"event": "x", "properties": {text}}}'.encode()
    (event,), _ = decode(raw, minimisation=Minimisation(["email"], ["phone"], (), SECRET))
    assert event["properties"] == text


def test_a_denied_event_is_not_loaded_under_whatever_name_it_comes(decode):
    less = Minimisation(denied=["Viewed"])
    renamed = line("$hotshard_events", mp_original_event_name="Viewed")
    events, rejected = decode(
        line("Viewed"), line("viewed"), renamed, line("Other"), minimisation=less
    )
    assert [event["event"] for event in events] == ["viewed", "Other"]
    assert rejected == []


@pytest.mark.parametrize(
    "less",
    [
        pytest.param(Minimisation(["email"]), id="dropped"),
        pytest.param(Minimisation([], ["email"], (), SECRET), id="hashed"),
        pytest.param(Minimisation(denied=["Viewed"]), id="denied"),
    ],
)
def test_of_a_line_that_cannot_be_read_no_text_is_kept(decode, less):
    cut = [b'{"event": "Viewed", "properties": {"email": "ada', b'{"properties": "ada"}']
    events, rejected = decode(cut[0], cut[1], cut[0], line(), minimisation=less)
    assert len(events) == 1
    assert [one["reason"] for one in rejected] == [
        one["reason"] for one in decode(cut[0], cut[1], cut[0])[1]
    ]
    told = [one["line"] for one in rejected]
    assert "ada" not in str(rejected)
    # A line is kept once, however often its day is read.
    assert told[0] == told[2] != told[1]
    assert told[0].startswith(f"{len(cut[0])} bytes, ")


def test_an_early_end_is_seen_on_a_line_of_which_no_text_is_kept(tmp_path):
    path = tmp_path / "answer-0"
    path.write_bytes(b"\n".join([line(), b'{"email": "ada@terminated early', line()]))
    decoder = EventDecoder(
        ZoneInfo("UTC"), holds_nul=True, only_day=None, minimisation=Minimisation(["email"])
    )
    with pytest.raises(BrokenAnswer, match="terminated early") as error:
        decoded(Answer(path, is_gzip=False), decoder)
    assert "ada" not in str(error.value)
