"""What of an export counts as an answer, seen through real connections."""

import gzip
import json
import re
import socket
import threading
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime

import pytest

from local_mixpanel import Fault
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import AccessRefused, ExportError
from mixpanel_pipeline.source.plan import Request
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW
from tests.warehouses import rows

LINE = b'{"event": "x", "properties": {"time": 1}}\n'
TODAY = Window(NOW.date(), NOW.date())
BROKEN = {
    Fault.CHUNKED_CUT: "connection failed",
    Fault.LENGTH_CUT: "connection failed",
    Fault.GZIP_CUT: "damaged or cut",
    Fault.GZIP_CUT_AND_CLOSED: "connection failed",
    Fault.GZIP_CORRUPTED: "damaged or cut",
    Fault.HALF_LAST_LINE: "last line is not a whole event",
    Fault.TERMINATED_EARLY: "terminated early",
    Fault.ERROR_LAST_LINE: "last line is not a whole event",
    Fault.NO_ANSWER: "connection failed",
    Fault.HTML: "a page of HTML",
    Fault.INTERNAL_SERVER_ERROR: "Mixpanel answered 500",
    Fault.BAD_GATEWAY: "Mixpanel answered 502",
    Fault.SERVICE_UNAVAILABLE: "Mixpanel answered 503",
}


def events(count, **properties):
    time = int(NOW.timestamp())
    return [
        {"event": f"Event {number % 3}", "properties": {"time": time - number, **properties}}
        for number in range(count)
    ]


@pytest.fixture
def serve(monkeypatch):
    """Points the source at a server that answers once, with these bytes, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    monkeypatch.setenv(
        "SOURCES__MIXPANEL__BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}"
    )

    def answer(raw):
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(raw)

    threads = []

    def serve(raw):
        threads.append(threading.Thread(target=answer, args=[raw], daemon=True))
        threads[-1].start()

    yield serve
    for thread in threads:
        thread.join()
    listener.close()


class Clock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.pauses = list[float]()

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pauses(clock):
    return clock.pauses


@pytest.fixture
def client(mixpanel, clock, monkeypatch):
    def client(**changes):
        for name, value in changes.items():
            monkeypatch.setenv(f"SOURCES__MIXPANEL__{name.upper()}", str(value))
        settings = load_configuration()
        budget = RequestBudget(settings.requests_per_hour, clock=lambda: clock.seconds)
        return MixpanelClient(settings, budget, sleep=clock.sleep)

    return client


# An answer of which not all may be kept is read while it comes.
READ = pytest.mark.parametrize("drop", ["[]", '["p"]'], ids=["kept", "coming"])


def fetch(client, path, window=TODAY, names=None):
    """The lines of the answer to one fetch."""
    body = client.fetch(Request(window), names, path / "answer", lambda a: b"".join(a.blocks()))
    assert not (path / "answer").exists()
    return body.splitlines()


def test_an_answer_is_what_the_server_has(mixpanel, client, tmp_path):
    mixpanel.add(events(3000))
    lines = fetch(client(), tmp_path)
    assert len(lines) == 3000
    assert lines == mixpanel.lines(TODAY.from_date, TODAY.to_date)


def test_days_events_and_project_are_asked_for(mixpanel, client, tmp_path):
    mixpanel.add(events(30))
    names = ["Event 1", 'Event "2"\u2028']
    window = Window(date(2026, 3, 1), TODAY.to_date)
    assert len(fetch(client(), tmp_path, window, names)) == 10
    (request,) = mixpanel.requests
    assert request.query["from_date"] == "2026-03-01"
    assert request.query["to_date"] == "2026-03-10"
    assert request.query["project_id"] == mixpanel.project_id


def test_a_day_without_events_is_an_answer(mixpanel, client, tmp_path):
    assert fetch(client(), tmp_path) == []


def test_the_project_secret_opens_the_project(mixpanel, client, tmp_path, monkeypatch):
    mixpanel.add(events(1))
    for name in ("SERVICE_ACCOUNT_USERNAME", "SERVICE_ACCOUNT_SECRET", "PROJECT_ID"):
        monkeypatch.delenv(f"SOURCES__MIXPANEL__{name}")
    assert len(fetch(client(project_secret=mixpanel.project_secret), tmp_path)) == 1


@READ
@pytest.mark.parametrize("fault", [Fault.GZIP_MEMBERS, Fault.NOT_COMPRESSED])
def test_legal_oddities_are_read(mixpanel, client, tmp_path, fault, drop):
    mixpanel.add(events(3000))
    mixpanel.fail(fault)
    assert len(fetch(client(drop_properties=drop), tmp_path)) == 3000


def test_an_answer_of_which_not_all_may_be_kept_is_kept_nowhere(mixpanel, client, tmp_path):
    mixpanel.add(events(3000, p="private"))

    def read(answer):
        lines = b"".join(answer.blocks()).splitlines()
        return lines, list(tmp_path.glob("answer*")), answer.size

    request, path, settings = Request(TODAY), tmp_path / "answer", client(drop_properties='["p"]')
    lines, files, size = settings.fetch(request, None, path, read)
    assert lines == mixpanel.lines(TODAY.from_date, TODAY.to_date)
    assert (files, size) == ([], settings.bytes_received)


@pytest.mark.parametrize("size", [3, 3000], ids=["small", "large"])
@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.name)
def test_a_broken_answer_is_asked_for_again(mixpanel, client, tmp_path, pauses, fault, size):
    mixpanel.add(events(size))
    mixpanel.fail(fault, times=2)
    assert len(fetch(client(retry_pause_seconds=2), tmp_path)) == size
    assert pauses == [2, 4]


@READ
@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.name)
def test_an_answer_that_stays_broken_is_a_failure(mixpanel, client, tmp_path, pauses, fault, drop):
    mixpanel.add(events(3000))
    mixpanel.fail(fault, times=9)
    with pytest.raises(ExportError, match=BROKEN[fault]) as error:
        fetch(client(attempts=3, drop_properties=drop), tmp_path)
    assert len(mixpanel.requests) == 3
    assert re.search("in 3 attempts.*run again", str(error.value))


@READ
@pytest.mark.parametrize("cut", [0.0, 0.3, 0.999])
@pytest.mark.parametrize(
    "fault", [Fault.CHUNKED_CUT, Fault.LENGTH_CUT, Fault.GZIP_CUT, Fault.GZIP_CUT_AND_CLOSED]
)
def test_a_cut_between_lines_is_seen_too(mixpanel, client, tmp_path, fault, cut, drop):
    mixpanel.add(events(3000))
    mixpanel.fail(fault, at=cut, is_mid_line=False)
    with pytest.raises(ExportError):
        fetch(client(attempts=1, drop_properties=drop), tmp_path)


def test_a_silent_server_is_not_waited_for_forever(mixpanel, client, tmp_path):
    mixpanel.add(events(3000))
    mixpanel.fail(Fault.STALL, seconds=60)
    with pytest.raises(ExportError, match="timed out"):
        fetch(client(attempts=1, read_timeout_seconds=0.2), tmp_path)


def test_a_rate_limit_is_waited_out_as_told(mixpanel, client, tmp_path, pauses):
    mixpanel.add(events(3))
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, times=9, retry_after=120)
    assert len(fetch(client(attempts=1, retry_pause_seconds=2), tmp_path)) == 3
    assert pauses == [120] * 6 + [128, 256, 512]


def test_a_rate_limit_may_name_a_date(mixpanel, client, tmp_path, pauses):
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, retry_after="sometime")
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, retry_after="Wed, 21 Oct 99999999999 07:28:00 GMT")
    fetch(client(attempts=1, retry_pause_seconds=3), tmp_path)
    assert pauses == [3, 6, 12]


def test_a_rate_limit_without_a_time_is_waited_out_ever_longer(mixpanel, client, tmp_path, pauses):
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, times=11)
    fetch(client(attempts=1, retry_pause_seconds=2), tmp_path)
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]


def test_a_date_to_come_back_at_is_waited_for(mixpanel, client, tmp_path, pauses):
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, retry_after=moment)
    fetch(client(), tmp_path)
    assert 80 < pauses[0] <= 100


def test_pauses_grow_up_to_a_minute(mixpanel, client, tmp_path, pauses):
    mixpanel.fail(Fault.INTERNAL_SERVER_ERROR, times=7)
    fetch(client(attempts=8, retry_pause_seconds=2), tmp_path)
    assert pauses == [2, 4, 8, 16, 32, 60, 60]


def test_a_rate_limit_is_not_waited_out_forever(mixpanel, client, tmp_path, pauses):
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, times=9, retry_after=2000)
    with pytest.raises(ExportError, match=r"rate limit.*70 minutes .*run again later"):
        fetch(client(), tmp_path)
    assert pauses == [2000, 2000]


def test_a_server_that_says_when_to_come_back_is_believed(mixpanel, client, tmp_path, pauses):
    mixpanel.fail(Fault.SERVICE_UNAVAILABLE, times=2, retry_after=90)
    mixpanel.fail(Fault.SERVICE_UNAVAILABLE)
    fetch(client(retry_pause_seconds=2), tmp_path)
    assert pauses == [90, 90, 8]


@READ
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"\r\n" + LINE, "no length and no end", id="plain until it closes"),
        pytest.param(b"Content-Encoding: gzip\r\n\r\n", "no length and no end", id="nothing"),
        pytest.param(
            b"Content-Encoding: br\r\nContent-Length: 4\r\n\r\nabcd", "encoded as br", id="br"
        ),
    ],
)
def test_an_answer_whose_end_cannot_be_seen_is_not_one(
    mixpanel, serve, client, tmp_path, raw, message, drop
):
    serve(b"HTTP/1.1 200 OK\r\n" + raw)
    with pytest.raises(ExportError, match=message):
        fetch(client(attempts=1, drop_properties=drop), tmp_path)


@READ
def test_gzip_proves_its_own_end(mixpanel, serve, client, tmp_path, drop):
    serve(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(LINE))
    assert fetch(client(drop_properties=drop), tmp_path) == [LINE.rstrip()]


def test_gzip_that_cannot_be_unpacked_is_no_answer(mixpanel, serve, client, tmp_path):
    header = gzip.compress(LINE)[:10]
    serve(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + header + b"\xff" * 50)
    with pytest.raises(ExportError, match="damaged or cut"):
        fetch(client(attempts=1), tmp_path)


def test_a_secret_that_the_server_repeats_is_not_told(mixpanel, serve, warehouse):
    said = f"no such account: {mixpanel.secret}"
    serve(f"HTTP/1.1 400 Bad\r\nContent-Length: {len(said)}\r\n\r\n{said}".encode())
    summary = sync(warehouse, load_configuration(), now=NOW)
    assert summary.error is not None
    assert "no such account: ***" in summary.error


@pytest.mark.parametrize(
    ("settings", "window", "message"),
    [
        pytest.param({"service_account_secret": "wr0ng"}, TODAY, "401.*secret", id="401"),
        pytest.param({"project_id": "2"}, TODAY, "403.*project_id", id="403"),
        pytest.param(
            {},
            Window(TODAY.to_date, TODAY.to_date + timedelta(days=1)),
            "400: to_date cannot be later than today.*time zone",
            id="400",
        ),
    ],
)
def test_a_refusal_is_not_asked_for_again(mixpanel, client, tmp_path, settings, window, message):
    with pytest.raises(ExportError, match=message) as error:
        fetch(client(**settings), tmp_path, window)
    assert len(mixpanel.requests) == 1
    assert "wr0ng" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "is_access"),
    [
        (b'{"error": "Invalid project_id: 2", "status": "error"}', True),
        (b"Unable to authenticate request", True),
        (b"from_date: invalid date", False),
    ],
)
def test_a_400_about_the_project_or_the_account_is_told_from_others(
    client, serve, tmp_path, said, is_access
):
    serve(response("400 Bad Request", body=said))
    with pytest.raises(ExportError) as error:
        fetch(client(), tmp_path)
    assert isinstance(error.value, AccessRefused) == is_access
    assert ("project_id and region" in str(error.value)) == is_access


def test_a_proxy_that_is_no_url_is_a_mistake_of_configuration(client, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "localhost:99999")
    with pytest.raises(AccessRefused, match="is no URL like"):
        fetch(client(base_url="http://mixpanel.invalid"), tmp_path)


def test_an_address_that_is_not_there_is_a_mistake_of_configuration(mixpanel, client, tmp_path):
    with pytest.raises(AccessRefused, match=r"404: .*Check region and base_url"):
        fetch(client(base_url=f"{mixpanel.url}/api"), tmp_path)


def test_a_server_that_is_not_there_is_said(client, tmp_path):
    with pytest.raises(ExportError, match=r"connection failed .*refused"):
        fetch(client(base_url="http://127.0.0.1:9", attempts=2), tmp_path)


def test_a_line_that_is_no_event_does_not_break_an_answer(mixpanel, client, tmp_path):
    mixpanel.add_lines(NOW.date(), [b"no event", b'{"error": "not mine"}'])
    mixpanel.add(events(1))
    assert len(fetch(client(), tmp_path)) == 3


@pytest.mark.parametrize(
    ("line", "is_whole"),
    [
        pytest.param(b'{"event": "x", "properties": {}}', True, id="event without a time"),
        pytest.param(b'{"event": "\xff", "properties": {}}', True, id="not UTF-8"),
        pytest.param(rb'{"event": "\ud800", "properties": {}}', True, id="half a character"),
        pytest.param(
            b'{"event": "x", "properties": ' + b"[" * 5000 + b"]" * 5000 + b"}",
            True,
            id="nested too deeply",
        ),
        pytest.param(b'{"event": "x", "properties": {"a": {}', False, id="half an event"),
        pytest.param(b"no event", False, id="text"),
        pytest.param(b'{"error": "timeout"}', False, id="an error"),
        pytest.param(b'{"event": "x", "properties": ' + b"[" * 5000, False, id="cut while nested"),
    ],
)
def test_the_last_line_tells_whether_an_answer_is_whole(mixpanel, client, tmp_path, line, is_whole):
    mixpanel.add(events(1))
    mixpanel.add_lines(NOW.date(), [line, b"", b" "])
    if is_whole:
        assert fetch(client(), tmp_path)
    else:
        with pytest.raises(ExportError, match="last line"):
            fetch(client(attempts=1), tmp_path)


@pytest.mark.parametrize("seconds", [1, 60, 120])
def test_being_told_to_come_back_soon_does_not_spend_the_hour(mixpanel, client, tmp_path, seconds):
    mixpanel.add(events(3))
    mixpanel.fail(Fault.TOO_MANY_REQUESTS, times=500, retry_after=seconds)
    with pytest.raises(ExportError, match="did not change within 70 minutes"):
        fetch(client(retry_pause_seconds=2), tmp_path)
    assert len(mixpanel.requests) < 20


def response(status, *headers, body=b"<html>secret page</html>"):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_a_redirection_is_not_followed(client, serve, tmp_path):
    serve(response("302 Found", "Location: https://sso.example/login?token=abc"))
    with pytest.raises(ExportError, match=r"302, a redirection to https://sso\.example") as error:
        fetch(client(), tmp_path)
    assert "token" not in str(error.value)


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden", "503 Service Unavailable"])
def test_a_page_of_html_is_refused_and_not_shown(client, serve, tmp_path, status):
    serve(response(status, "Content-Type: text/html; charset=utf-8"))
    with pytest.raises(ExportError, match="a page of HTML") as error:
        fetch(client(attempts=1), tmp_path)
    assert "secret page" not in str(error.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(response("206 Partial", body=LINE), "206, which is no whole", id="206"),
        pytest.param(response("204 No Content", body=b""), "204, which is no whole", id="204"),
        pytest.param(response("302 Found", body=b""), "302, which is no whole", id="302"),
        pytest.param(
            response("403 No", body=b"\xef\xbb\xbf<html>" + LINE), "a page of HTML", id="BOM"
        ),
        pytest.param(response("404 Not Found", body=b""), "404: Not Found. Check", id="empty"),
        pytest.param(response("407 Proxy", body=b"who?"), "407.*HTTPS_PROXY", id="407"),
    ],
)
def test_a_refusal_says_what_to_check_and_quotes_no_events(client, serve, tmp_path, raw, message):
    serve(raw)
    with pytest.raises(ExportError, match=message) as error:
        fetch(client(attempts=1), tmp_path)
    assert "properties" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("http://127.0.0.1:9", "refused.*check base_url", id="refused"),
        pytest.param("http://mixpanel.invalid", "mixpanel.invalid was not found", id="DNS"),
    ],
)
def test_a_failed_connection_says_what_to_check(client, tmp_path, url, message, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(ExportError, match=message):
        fetch(client(base_url=url, attempts=1), tmp_path)


def test_a_proxy_that_wants_a_password_is_named(client, serve, tmp_path, monkeypatch):
    serve(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    settings = client(attempts=3)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, settings.settings.host)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ExportError, match=r"proxy refused.*user name and password in HTTPS_PROXY"):
        fetch(client(base_url="https://mixpanel.invalid"), tmp_path)


def test_what_runs_on_this_machine_is_asked_without_the_proxy(
    mixpanel, client, tmp_path, monkeypatch
):
    mixpanel.add(events(3))
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(fetch(client(attempts=1), tmp_path)) == 3


def test_many_names_are_asked_for_in_urls_of_a_length_that_servers_take(
    mixpanel, run_sync, warehouse, monkeypatch
):
    names = [f"Événement numéro {number:03}" for number in range(200)]
    time = int(NOW.timestamp())
    mixpanel.add(
        {"event": name, "properties": {"time": time, "distinct_id": "ada"}} for name in names
    )
    # Without $insert_id it is known by its payload, under whichever name Mixpanel has it.
    renamed = {"mp_original_event_name": names[150], "mp_original_distinct_id": "bob"}
    mixpanel.add([{"event": "$hotshard_events", "properties": {"time": time, **renamed}}])
    # This one is nobody's, and is told of once.
    mixpanel.add([{"event": "$hotshard_events", "properties": {"time": time}}])
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", json.dumps(names))
    for _ in range(2):
        summary = run_sync(skip_transform=True)
        assert (summary.status, summary.lines_rejected) == ("ok", 1), summary.error
    exports = [r for r in mixpanel.requests if r.path == "/api/2.0/export"]
    assert max(len(request.query["event"]) for request in exports) < 6000
    assert rows(warehouse, "select count(*), count(distinct event) from mixpanel_raw.events") == [
        (201, 200)
    ]


def test_a_project_whose_day_has_not_begun_keeps_what_came_and_names_the_setting(
    mixpanel, run_sync, warehouse
):
    """The server's today is a day behind ours, as of a project in America."""
    time = int(NOW.timestamp())
    day = 86_400
    mixpanel.add(
        {"event": "$ae_session", "properties": {"time": time + day - ago * day, "$insert_id": "x"}}
        for ago in range(1, 6)
    )
    summary = run_sync(now=NOW + timedelta(days=1), skip_transform=True)
    assert summary.status == "failed"
    assert "set timezone in [sources.mixpanel]" in str(summary.error)
    assert summary.events_new == 5
    assert run_sync(now=NOW + timedelta(days=1), skip_transform=True).events_new == 0
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(5,)]
