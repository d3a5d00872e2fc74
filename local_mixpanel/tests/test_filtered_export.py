import json

import pytest

from local_mixpanel.tests.conftest import DAY

PROCESSED = 'properties["mp_processing_time_ms"]'


def test_an_export_can_be_filtered(mixpanel, event, export):
    mixpanel.add([event(mp_processing_time_ms=number) for number in range(5)])
    mixpanel.add([event()])
    mixpanel.add_lines(DAY, [b"no event"])
    where = f"(number({PROCESSED}) >= 1 and number({PROCESSED}) < 4) or not defined({PROCESSED})"
    lines = export(where=where).text.splitlines()
    assert [json.loads(line)["properties"].get("mp_processing_time_ms") for line in lines] == [
        1,
        2,
        3,
        None,
    ]
    assert [line.encode() for line in lines] == mixpanel.lines(DAY, DAY, where=where)
    assert len(export().text.splitlines()) == 7


def test_filter_needs_no_spaces_and_takes_any(mixpanel, event, export):
    mixpanel.add([event(mp_processing_time_ms=number) for number in range(5)])
    tight = f"(number({PROCESSED})>1 and number({PROCESSED})<4)or not defined({PROCESSED})"
    loose = tight.replace("(", " ( ").replace(">", "  >\n").replace("[", "\t[ ")
    assert len(export(where=tight).content.splitlines()) == 2
    assert export(where=loose).content == export(where=tight).content


def test_filter_goes_with_names_days_and_milliseconds(mixpanel, event, export):
    mixpanel.add([event(name, 1.5, n=n) for name in "AB" for n in range(3)])
    response = export(where='properties["n"] >= 1', event='["B"]', time_in_ms="true")
    events = [json.loads(line) for line in response.content.splitlines()]
    assert [(e["event"], e["properties"]["n"]) for e in events] == [("B", 1), ("B", 2)]
    assert {e["properties"]["time"] % 1000 for e in events} == {500}


def test_kept_answers_are_those_of_their_filter(mixpanel, event, export, unzipped):
    mixpanel.add([event(n=n, text="x" * 2_000) for n in range(3)])
    for _ in range(2):
        for limit in (1, 2, 3):
            content = unzipped(export(where=f'properties["n"] < {limit}', stream=True))
            assert content.count(b"\n") == limit


@pytest.mark.parametrize(
    "line",
    [
        b"no event",
        b"[1]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        '{"properties": {}}'.encode("utf-16"),
    ],
)
def test_lines_that_are_no_objects_match_nothing(mixpanel, export, line):
    mixpanel.add_lines(DAY, [line])
    assert export(where=f"not defined({PROCESSED})").content == b""
    assert export().content == line + b"\n"


@pytest.mark.parametrize("line", [b'{"error": "x"}', b'{"properties": []}', b'{"properties":{}}'])
def test_objects_without_a_property_match_when_it_may_be_missing(mixpanel, export, line):
    mixpanel.add_lines(DAY, [line])
    assert export(where=f"not defined({PROCESSED})").content == line + b"\n"
    assert export(where=f"defined({PROCESSED})").content == b""


@pytest.mark.parametrize(
    "where",
    [
        "",
        'properties["n"] ~ 1',
        r'properties["\x"] == 1',
        'properties["n"] == "\n"',
        "(" * 5_000 + "1 == 1" + ")" * 5_000,
        "not " * 9_000 + "1 == 1",
    ],
)
def test_filter_that_is_not_understood_is_refused(mixpanel, event, export, where):
    mixpanel.add([event()])
    response = export(where=where)
    assert response.status_code == 400
    assert response.headers["Content-Type"].startswith("text/plain")
    assert response.text.startswith("where ")
    with pytest.raises(ValueError, match="where"):
        mixpanel.lines(DAY, DAY, where=where)


def test_filter_may_be_long(mixpanel, event, export):
    mixpanel.add([event(n=7)])
    assert export(where=" or ".join(['properties["n"]==1'] * 1_500)).content == b""
    assert export(where=" and ".join(['properties["n"]==7'] * 1_500)).content != b""
