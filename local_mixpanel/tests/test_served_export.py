import base64
import itertools
import json
import threading
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
import requests

from local_mixpanel import LocalMixpanel, traffic
from local_mixpanel.event_store import EventStore
from local_mixpanel.export import join_lines

Export = Callable[..., requests.Response]
MakeEvent = Callable[..., dict[str, Any]]
Unzipped = Callable[[requests.Response], bytes]

DAY = date(2026, 3, 10)
NIGHT_BEFORE, NIGHT_AFTER = -1, 86_400


def names(response: requests.Response) -> list[str]:
    return [json.loads(line)["event"] for line in response.content.splitlines()]


def test_both_days_of_a_window_are_whole_and_its_neighbours_are_left_out(
    mixpanel: LocalMixpanel, export: Export, event: MakeEvent
) -> None:
    mixpanel.add([event("9th", NIGHT_BEFORE), event("10th", 0), event("10th, late", 86_399)])
    mixpanel.add([event("11th", NIGHT_AFTER)])

    assert names(export()) == ["10th", "10th, late"]
    assert names(export(from_date="2026-03-09")) == ["9th", "10th", "10th, late"]


def test_events_of_a_day_come_in_the_order_of_arrival(
    mixpanel: LocalMixpanel, export: Export, event: MakeEvent
) -> None:
    mixpanel.add([event("second", 20)])
    mixpanel.add([event("first", 10), event("third", 30)])

    assert names(export()) == ["second", "first", "third"]


def test_event_filter_takes_only_the_listed_names(
    mixpanel: LocalMixpanel, export: Export, event: MakeEvent
) -> None:
    mixpanel.add([event("A"), event("B"), event("Ünï, code")])

    assert names(export(event='["A", "Ünï, code"]')) == ["A", "Ünï, code"]
    assert names(export(event='["unknown"]')) == []


def test_time_comes_in_seconds_or_in_milliseconds_as_asked(
    mixpanel: LocalMixpanel, export: Export, event: MakeEvent
) -> None:
    second = 1_773_100_801
    nested = {"properties": {"time": second}}
    mixpanel.add([event("A", 1.234, nested=nested)])

    assert export().json()["properties"]["time"] == second
    in_ms = export(time_in_ms="true").json()["properties"]
    assert in_ms["time"] == second * 1000 + 234
    assert in_ms["nested"] == nested
    assert mixpanel.lines(DAY, DAY, time_in_ms=True) == [export(time_in_ms="true").content[:-1]]


def test_empty_window_is_an_empty_answer(export: Export) -> None:
    response = export()

    assert response.status_code == 200
    assert response.content == b""


def test_small_answer_has_a_length_and_is_never_compressed(
    mixpanel: LocalMixpanel, export: Export
) -> None:
    mixpanel.add_lines(DAY, [b"x" * 1_399])

    response = export()

    assert response.headers["Content-Length"] == "1400"
    assert "Content-Encoding" not in response.headers
    assert response.content == b"x" * 1_399 + b"\n"


def test_larger_answer_comes_in_chunks_and_in_gzip_when_asked(
    mixpanel: LocalMixpanel, export: Export, unzipped: Unzipped
) -> None:
    mixpanel.add_lines(DAY, [b"x" * 1_400])

    compressed = export(stream=True)
    plain = export(headers={"Accept-Encoding": "gzip;q=0"})

    assert compressed.headers["Transfer-Encoding"] == "chunked"
    assert unzipped(compressed) == b"x" * 1_400 + b"\n"
    assert plain.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Encoding" not in plain.headers
    assert plain.content == b"x" * 1_400 + b"\n"


@pytest.mark.parametrize("name", ["accept-encoding", "ACCEPT-ENCODING"])
def test_spelling_of_a_header_does_not_matter(
    mixpanel: LocalMixpanel, export: Export, name: str
) -> None:
    mixpanel.add_lines(DAY, [b"x" * 1_400])

    assert "Content-Encoding" in export(headers={"Accept-Encoding": None, name: "gzip"}).headers


def test_no_part_of_an_answer_grows_with_it() -> None:
    parts = join_lines(itertools.repeat(b"x" * 999))

    assert {len(part) for part in itertools.islice(parts, 10)} == {263_000}


def test_client_that_leaves_disturbs_nobody(
    mixpanel: LocalMixpanel, export: Export, capfd: pytest.CaptureFixture[str]
) -> None:
    mixpanel.add_lines(DAY, [b"x" * 1_000_000] * 20)
    with export(headers={"Accept-Encoding": "identity"}, stream=True) as response:
        next(response.iter_content(1_000))

    assert len(export().content) == 20_000_020
    assert capfd.readouterr().err == ""


def test_compressed_answer_is_new_after_events_were_added(
    mixpanel: LocalMixpanel, export: Export
) -> None:
    mixpanel.add(traffic(1, DAY, days=1, events=2_000))
    before = export().content.splitlines()
    assert export().content.splitlines() == before

    mixpanel.add(traffic(2, DAY, days=1, events=10))

    after = export().content.splitlines()
    assert after[:2_000] == before
    assert len(after) == 2_010
    mixpanel.add_lines(DAY, [b"{}"])
    assert export().content.splitlines() == [*after, b"{}"]


def test_export_delivers_exactly_the_lines_it_tells(
    mixpanel: LocalMixpanel, export: Export
) -> None:
    mixpanel.add(traffic(1, DAY, days=3, events=5_000))
    first = date(2026, 3, 8)

    assert export(from_date="2026-03-08").content.split(b"\n")[:-1] == mixpanel.lines(first, DAY)
    chosen = ["Viewed Creator Profile", "SubscriptionCreated"]
    filtered = export(from_date="2026-03-08", event=json.dumps(chosen)).content
    assert filtered.split(b"\n")[:-1] == mixpanel.lines(first, DAY, chosen)
    assert 0 < len(mixpanel.lines(first, DAY, chosen)) < 5_000


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("a\u2028b\u2029c\x85d\re".encode(), id="line separators that end no line"),
        pytest.param(b"\xff\xfe\x00", id="no UTF-8"),
        pytest.param(b"", id="empty"),
        pytest.param(b'{"event": "cut', id="half a line"),
        pytest.param(b"y" * 3_000_000, id="larger than any buffer"),
    ],
)
def test_raw_lines_are_delivered_byte_by_byte(
    mixpanel: LocalMixpanel, export: Export, line: bytes
) -> None:
    mixpanel.add_lines(DAY, [b"{}", line, b"{}"], event="Raw")

    assert export(event='["Raw"]').content == b"{}\n" + line + b"\n{}\n"
    assert export(time_in_ms="true").content == b"{}\n" + line + b"\n{}\n"


def test_raw_lines_without_a_name_are_found_by_no_filter(
    mixpanel: LocalMixpanel, export: Export
) -> None:
    mixpanel.add_lines(DAY, [b"{}"])

    assert export().content == b"{}\n"
    assert export(event='["null"]').content == b""


def test_unicode_survives_and_lone_surrogates_come_escaped(
    mixpanel: LocalMixpanel, export: Export, event: MakeEvent
) -> None:
    mixpanel.add([event("A", text="é\u2028\U0001f600"), event("B", text="\ud800")])

    first, second = export().content.split(b"\n")[:-1]

    assert "é\u2028\U0001f600".encode() in first
    assert b"\\ud800" in second


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"properties": {"time": 1}}, id="no name"),
        pytest.param({"event": "A"}, id="no properties"),
        pytest.param({"event": "A", "properties": {}}, id="no time"),
        pytest.param({"event": "A", "properties": {"time": "1"}}, id="time in a string"),
        pytest.param({"event": "A", "properties": {"time": True}}, id="time is true"),
        pytest.param({"event": "A", "properties": {"time": 1_773_100_800_000}}, id="time in ms"),
        pytest.param({"event": "A", "properties": {"time": float("nan")}}, id="time is NaN"),
        pytest.param({"event": "A", "properties": {"time": 1, "x": float("inf")}}, id="infinity"),
    ],
)
def test_what_is_no_event_is_not_added(mixpanel: LocalMixpanel, broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"event|seconds|JSON"):
        mixpanel.add([broken])

    assert mixpanel.lines(date.min, date.max) == []


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"from_date": None}, "from_date is a required parameter"),
        ({"to_date": None}, "to_date is a required parameter"),
        ({"from_date": "10.03.2026"}, "from_date has to be YYYY-MM-DD"),
        ({"from_date": "20260310"}, "from_date has to be YYYY-MM-DD"),
        ({"to_date": "2026-02-30"}, "to_date has to be YYYY-MM-DD"),
        ({"from_date": "2026-03-10", "to_date": "2026-03-09"}, "earlier than from_date"),
        ({"to_date": "2026-03-11"}, "to_date cannot be later than today"),
        ({"event": "App Opened"}, "event has to be a JSON array"),
        ({"event": "[1]"}, "event has to be a JSON array"),
        ({"event": "[]"}, "event has to be a JSON array"),
        ({"time_in_ms": "1"}, "time_in_ms has to be true or false"),
        ({"project_id": None}, "project_id is a required parameter"),
        ({"where": 'properties["$os"] ~ "iOS"'}, "where is not understood"),
        ({"limit": "10"}, "does not support: limit"),
        ({"from_date": ["2026-03-09", "2026-03-10"]}, "a parameter is given twice"),
    ],
)
def test_what_cannot_be_answered_rightly_is_refused(
    mixpanel: LocalMixpanel,
    export: Export,
    event: MakeEvent,
    parameters: dict[str, Any],
    reason: str,
) -> None:
    mixpanel.add([event()])

    response = export(**parameters)

    assert response.status_code == 400
    assert reason in response.text
    assert response.headers["Content-Type"].startswith("text/plain")


def test_today_can_be_exported(export: Export) -> None:
    assert export(to_date="2026-03-10").status_code == 200


def test_today_is_that_of_utc_unless_told(event: MakeEvent) -> None:
    with LocalMixpanel() as server:
        answer = requests.get(
            f"{server.url}/api/2.0/export",
            {"from_date": "2020-01-01", "to_date": "9999-12-31"},
            auth=(server.project_secret, ""),
            timeout=5,
        )

    assert answer.text == "to_date cannot be later than today"


@pytest.mark.parametrize(
    "auth",
    [
        ("local.service-account", "wrong"),
        ("wrong", "local-secret"),
        ("wrong", ""),
        ("local.service-account:local-secret", ""),
        ("local-project-secret", "x"),
    ],
)
def test_wrong_credentials_are_refused_in_json(
    export: Export, auth: tuple[str, str] | None
) -> None:
    response = export(auth=auth)

    assert response.status_code == 401
    assert response.json()["error"] == "Unable to authenticate request"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Basic",
        "Basic not/base64!",
        "Basic " + base64.b64encode(b"\xff:").decode(),
        "Bearer " + base64.b64encode(b"local-project-secret:").decode(),
    ],
)
def test_request_without_readable_credentials_is_refused(
    mixpanel: LocalMixpanel, authorization: str | None
) -> None:
    headers = {"Authorization": authorization} if authorization else {}

    response = requests.get(f"{mixpanel.url}/api/2.0/export", headers=headers, timeout=5)

    assert response.status_code == 401


def test_project_secret_opens_the_project_without_an_id(
    mixpanel: LocalMixpanel, export: Export, event: MakeEvent
) -> None:
    mixpanel.add([event()])

    response = export(auth=(mixpanel.project_secret, ""), project_id=None)

    assert names(response) == ["App Opened"]


def test_credentials_open_no_other_project(export: Export) -> None:
    assert export(project_id="7654321").status_code == 403


def test_token_opens_no_export() -> None:
    with LocalMixpanel(token="token") as server:
        answer = requests.get(f"{server.url}/api/2.0/export", auth=("token", ""), timeout=5)

    assert answer.status_code == 401


def test_requests_are_recorded_with_their_answers(mixpanel: LocalMixpanel, export: Export) -> None:
    export(event='["A"]')
    export(to_date="tomorrow")
    requests.get(f"{mixpanel.url}/nowhere", timeout=5)

    first, second, third = mixpanel.requests
    assert (first.method, first.path, first.status) == ("GET", "/api/2.0/export", 200)
    assert first.query == {
        "from_date": "2026-03-10",
        "to_date": "2026-03-10",
        "project_id": "1234567",
        "event": '["A"]',
    }
    assert second.status == 400
    assert (third.path, third.status) == ("/nowhere", 404)


def test_kept_connection_serves_one_request_after_another(
    mixpanel: LocalMixpanel, export: Export
) -> None:
    mixpanel.add(traffic(1, DAY, days=1, events=500))

    answers = {export().content for _ in range(5)}

    assert len(answers) == 1


def test_exports_during_additions_are_prefixes_of_the_whole(
    mixpanel: LocalMixpanel, export: Export
) -> None:
    writer = threading.Thread(
        target=mixpanel.add, args=(traffic(1, DAY, days=1, events=20_000, is_small=True),)
    )
    writer.start()
    answers = []
    while writer.is_alive():
        answers.append(export().content)
    writer.join()

    whole = b"".join(line + b"\n" for line in mixpanel.lines(DAY, DAY))
    assert len(mixpanel.lines(DAY, DAY)) == 20_000
    assert all(whole.startswith(answer) for answer in answers)
    assert any(0 < len(answer) < len(whole) for answer in answers)


def test_selected_events_stay_those_of_the_moment(event: MakeEvent) -> None:
    store = EventStore()
    store.add([event("before")])
    selection = store.select(DAY, DAY, None, time_in_ms=False)
    store.add([event("after")])

    assert len(list(selection.lines())) == 1
    assert store.select(DAY, DAY, None, time_in_ms=False).version > selection.version


def test_selected_events_stay_when_they_are_removed(event: MakeEvent) -> None:
    store = EventStore()
    store.add([event("first"), event("second")])
    selection = store.select(DAY, DAY, None, time_in_ms=False)

    assert store.remove(lambda lines: [0]) == 1

    assert len(list(selection.lines())) == 2
    rest = store.select(DAY, DAY, None, time_in_ms=False)
    assert [json.loads(line)["event"] for line in rest.lines()] == ["second"]
    assert rest.version > selection.version


def test_many_clients_get_the_same(mixpanel: LocalMixpanel) -> None:
    mixpanel.add(traffic(1, DAY, days=1, events=3_000))
    parameters = {"from_date": "2026-03-10", "to_date": "2026-03-10"}
    answers = []

    def ask() -> None:
        answer = requests.get(
            f"{mixpanel.url}/api/2.0/export",
            parameters,
            auth=(mixpanel.project_secret, ""),
            timeout=10,
        )
        answers.append(answer.content)

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()

    assert len(answers) == 8
    assert set(answers) == {b"".join(line + b"\n" for line in mixpanel.lines(DAY, DAY))}


def test_closed_server_cuts_kept_connections_and_tells_no_url() -> None:
    with LocalMixpanel() as server, requests.Session() as session:
        url = server.url
        assert session.get(f"{url}/nowhere", timeout=5).status_code == 404
        server.__exit__(None, None, None)

        with pytest.raises(requests.ConnectionError):
            session.get(f"{url}/nowhere", timeout=5)
        with pytest.raises(RuntimeError, match="with block"):
            _ = server.url
