import threading
import time

import pytest
import requests

from local_mixpanel import Fault, LocalMixpanel, traffic
from local_mixpanel.tests.conftest import DAY
from local_mixpanel.throttle import throttled


class Wire(threading.Event):
    """Waits without waiting: its clock is what was waited for."""

    def __init__(self):
        super().__init__()
        self.now = 100.0

    def wait(self, timeout=None):
        self.now += timeout
        return self.is_set()


@pytest.fixture
def wire(monkeypatch):
    wire = Wire()
    monkeypatch.setattr("local_mixpanel.throttle.time.monotonic", lambda: wire.now)
    return wire


def test_bytes_are_the_same_in_parts_of_at_most_64_kib(wire):
    body = [bytes(range(256)) * 1_000, b"", b"x"]
    parts = list(throttled(body, 10**9, wire))
    assert b"".join(parts) == b"".join(body)
    assert max(map(len, parts)) == 64 * 1024


@pytest.mark.parametrize("speed", [1, 9, 1_000, 10**6])
def test_no_byte_comes_before_it_is_due(wire, speed):
    sent = 0
    for part in throttled([b"x" * 300, b"y" * 700], speed, wire):
        sent += len(part)
        assert wire.now - 100 == pytest.approx(sent / speed)
    assert sent == 1_000


def test_time_of_the_consumer_is_no_extra(wire):
    parts = throttled([b"x" * 1_000], 1_000, wire)
    next(parts)
    wire.now += 0.5
    list(parts)
    assert wire.now - 100 == pytest.approx(1)


def test_slow_bodies_come_in_small_parts(wire):
    assert {len(part) for part in throttled([b"x" * 1_000], 1_000, wire)} == {100}


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_export_takes_its_time_and_is_whole(encoding):
    with LocalMixpanel(today=lambda: DAY, bytes_per_second=50_000) as server:
        server.add(traffic(1, DAY, days=1, events=400 if encoding == "gzip" else 40))
        whole = b"".join(line + b"\n" for line in server.lines(DAY, DAY))
        started = time.monotonic()
        with ask(server, encoding) as response:
            body = response.raw.read(decode_content=False)
            elapsed = time.monotonic() - started
        assert len(body) / elapsed <= 50_000
        with ask(server, encoding) as response:
            assert response.content == whole


@pytest.mark.parametrize("fault", [None, Fault.NOT_COMPRESSED])
def test_wait_ends_when_the_server_closes(fault):
    threads_before = set(threading.enumerate())
    with LocalMixpanel(today=lambda: DAY, bytes_per_second=1) as server:
        server.add(traffic(1, DAY, days=1, events=100))
        if fault:
            server.fail(fault)
        response = ask(server, "gzip")
        started = time.monotonic()
    with response, pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = response.content
    while set(threading.enumerate()) - threads_before:
        time.sleep(0.01)
        assert time.monotonic() - started < 5


def test_closed_connection_has_no_speed(capfd):
    with LocalMixpanel(today=lambda: DAY, bytes_per_second=1) as server:
        server.fail(Fault.NO_ANSWER)
        with pytest.raises(requests.ConnectionError):
            ask(server, "gzip")
    assert capfd.readouterr().err == ""


def test_other_answers_come_at_once():
    with LocalMixpanel(today=lambda: DAY, bytes_per_second=1) as server:
        answer = requests.get(
            f"{server.url}/api/query/events/names",
            {"type": "general"},
            auth=(server.project_secret, ""),
            timeout=0.9,
        )
    assert answer.json() == []


@pytest.mark.parametrize("speed", [0, -1])
def test_speed_below_one_is_refused(speed):
    with pytest.raises(ValueError, match="at least 1"):
        LocalMixpanel(bytes_per_second=speed)


def ask(server, encoding):
    return requests.get(
        f"{server.url}/api/2.0/export",
        {"from_date": "2026-03-10", "to_date": "2026-03-10"},
        auth=(server.project_secret, ""),
        headers={"Accept-Encoding": encoding},
        stream=True,
        timeout=5,
    )
