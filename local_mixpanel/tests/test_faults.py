import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import date
from itertools import pairwise

import pytest
import requests
import urllib3

from local_mixpanel import Fault, LocalMixpanel, traffic

Export = Callable[..., requests.Response]
Unzipped = Callable[[requests.Response], bytes]

DAY = date(2026, 3, 10)
COUNT = 400
GZIP_TRAILER_BYTES = 8


@pytest.fixture
def whole(mixpanel: LocalMixpanel) -> bytes:
    mixpanel.add(traffic(1, DAY, days=1, events=COUNT))
    return b"".join(line + b"\n" for line in mixpanel.lines(DAY, DAY))


def received(response: requests.Response) -> tuple[bytes, bool]:
    """The bytes that came before the connection failed, and whether it did."""
    return rest_of(chunks_of(response))


def chunks_of(response: requests.Response) -> Iterator[bytes]:
    chunks: Iterator[bytes] = response.raw.stream(1_000, decode_content=False)
    return chunks


def rest_of(chunks: Iterator[bytes]) -> tuple[bytes, bool]:
    body = b""
    try:
        for chunk in chunks:
            body += chunk
    except urllib3.exceptions.HTTPError:
        return body, True
    return body, False


def gunzipped(body: bytes) -> tuple[bytes, bool]:
    """The content of a gzip stream, and whether it came to its end."""
    reader = zlib.decompressobj(wbits=31)
    return reader.decompress(body), reader.eof


def assert_cut_inside_a_line(body: bytes, whole: bytes, share: float = 0.5) -> None:
    assert whole.startswith(body)
    lines = body.split(b"\n")
    assert len(lines) == int(COUNT * share) + 1
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[-1])


def test_chunked_cut_ends_inside_a_line_without_the_last_chunk(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.CHUNKED_CUT)

    response = export(stream=True)
    body, failed = received(response)

    assert response.status_code == 200
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Encoding" not in response.headers
    assert failed
    assert_cut_inside_a_line(body, whole)


def test_length_cut_sends_less_than_it_says(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.LENGTH_CUT, at=0.25)

    response = export(stream=True)
    body, failed = received(response)

    assert int(response.headers["Content-Length"]) > len(body)
    assert failed
    assert_cut_inside_a_line(body, whole, 0.25)


@pytest.mark.parametrize("fault", [Fault.CHUNKED_CUT, Fault.LENGTH_CUT, Fault.GZIP_CUT_AND_CLOSED])
def test_cut_connection_fails_even_when_all_lines_came(
    mixpanel: LocalMixpanel, export: Export, whole: bytes, fault: Fault
) -> None:
    mixpanel.fail(fault, at=1, is_mid_line=False)

    response = export(stream=True)
    body, failed = received(response)

    assert failed
    is_gzip = response.headers.get("Content-Encoding") == "gzip"
    assert (gunzipped(body)[0] if is_gzip else body) == whole


@pytest.mark.parametrize("fault", [Fault.CHUNKED_CUT, Fault.LENGTH_CUT])
def test_ordinary_client_fails_when_the_connection_is_cut(
    mixpanel: LocalMixpanel, export: Export, whole: bytes, fault: Fault
) -> None:
    mixpanel.fail(fault)

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        export()


def test_gzip_cut_is_seen_only_by_its_missing_trailer(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.GZIP_CUT, at=1, is_mid_line=False)

    response = export(stream=True)
    body, failed = received(response)

    assert response.headers["Content-Encoding"] == "gzip"
    assert not failed
    assert gunzipped(body) == (whole, False)
    with pytest.raises(EOFError):
        gzip.decompress(body)


def test_gzip_cut_goes_unnoticed_by_an_ordinary_client(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.GZIP_CUT, is_mid_line=False)

    response = export()

    assert response.ok
    assert len(response.content.splitlines()) == COUNT // 2


def test_gzip_cut_can_fall_inside_a_line(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.GZIP_CUT, at=0.75)

    content, ended = gunzipped(received(export(stream=True))[0])

    assert not ended
    assert_cut_inside_a_line(content, whole, 0.75)


def test_gzip_cut_and_closed_misses_trailer_and_last_chunk(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.GZIP_CUT_AND_CLOSED)

    body, failed = received(export(stream=True))

    assert failed
    content, ended = gunzipped(body)
    assert not ended
    assert_cut_inside_a_line(content, whole)


def test_gzip_corrupted_has_all_bytes_and_a_wrong_checksum(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.GZIP_CORRUPTED)

    body, failed = received(export(stream=True))

    assert not failed
    with pytest.raises(gzip.BadGzipFile, match="CRC"):
        gzip.decompress(body)
    assert zlib.decompressobj(wbits=-15).decompress(body[10:-GZIP_TRAILER_BYTES]) == whole


def test_half_last_line_ends_properly(
    mixpanel: LocalMixpanel, export: Export, whole: bytes, unzipped: Unzipped
) -> None:
    mixpanel.fail(Fault.HALF_LAST_LINE, at=1)

    content = unzipped(export(stream=True))

    assert whole.startswith(content)
    assert content.count(b"\n") == COUNT - 1
    assert not content.endswith(b"\n")


def test_terminated_early_ends_properly(
    mixpanel: LocalMixpanel, export: Export, whole: bytes, unzipped: Unzipped
) -> None:
    mixpanel.fail(Fault.TERMINATED_EARLY)

    content = unzipped(export(stream=True))

    end = b"export terminated early\n"
    assert content.endswith(b"}\n" + end)
    assert whole.startswith(content.removesuffix(end))
    assert content.count(b"\n") == COUNT // 2 + 1


def test_error_last_line_ends_properly_and_parses(
    mixpanel: LocalMixpanel, export: Export, whole: bytes, unzipped: Unzipped
) -> None:
    mixpanel.fail(Fault.ERROR_LAST_LINE)

    lines = unzipped(export(stream=True)).splitlines()

    assert len(lines) == COUNT // 2 + 1
    assert json.loads(lines[-1]) == {"error": "internal error", "status": "error"}


def test_missing_lines_cannot_be_seen(
    mixpanel: LocalMixpanel, export: Export, whole: bytes, unzipped: Unzipped
) -> None:
    mixpanel.fail(Fault.LINES_MISSING, at=0.9)

    content = unzipped(export(stream=True))

    assert whole.startswith(content)
    assert content.endswith(b"}\n")
    assert content.count(b"\n") == COUNT * 9 // 10


def test_missing_lines_of_a_plain_answer_cannot_be_seen(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.LINES_MISSING, at=0.9)

    response = export(headers={"Accept-Encoding": "identity"}, stream=True)
    body, failed = received(response)

    assert "Content-Encoding" not in response.headers
    assert not failed
    assert whole.startswith(body)
    assert body.endswith(b"}\n")
    assert body.count(b"\n") == COUNT * 9 // 10


def test_stall_is_silent_in_the_middle_and_then_whole(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.STALL, seconds=0.3)

    arrivals, body = [], b""
    for chunk in export(stream=True).raw.stream(1_000):
        arrivals.append((time.monotonic(), len(body)))
        body += chunk

    assert body == whole
    silences = [(later - at, end) for (at, _), (later, end) in pairwise(arrivals)]
    longest, before = max(silences)
    assert longest > 0.1
    assert body[:before].count(b"\n") == COUNT // 2


def test_stall_outlasts_a_client_without_patience(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.STALL)

    with pytest.raises(requests.exceptions.ConnectionError, match="timed out"):
        export(timeout=0.2)

    assert export().content == whole


def test_stall_ends_when_the_server_closes() -> None:
    threads_before = set(threading.enumerate())
    with LocalMixpanel(today=lambda: DAY) as server:
        server.add(traffic(1, DAY, days=1, events=COUNT))
        server.fail(Fault.STALL, seconds=60)
        response = requests.get(
            f"{server.url}/api/2.0/export",
            {"from_date": "2026-03-10", "to_date": "2026-03-10"},
            auth=(server.project_secret, ""),
            stream=True,
            timeout=30,
        )
        # The server closes when the first half is there, not on its way.
        chunks = chunks_of(response)
        body = b""
        while body.count(b"\n") < COUNT // 2:
            body += next(chunks)
        started = time.monotonic()
    with response:
        rest, failed = rest_of(chunks)
        body += rest

    assert failed
    assert body.count(b"\n") == COUNT // 2
    assert time.monotonic() - started < 5
    while set(threading.enumerate()) - threads_before:
        time.sleep(0.01)
        assert time.monotonic() - started < 5


def test_no_answer_is_a_closed_connection(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.NO_ANSWER)

    with pytest.raises(requests.ConnectionError, match="Remote end closed connection"):
        export()

    assert [request.status for request in mixpanel.requests] == [None]


def test_html_comes_with_status_200(mixpanel: LocalMixpanel, export: Export, whole: bytes) -> None:
    mixpanel.fail(Fault.HTML)

    response = export()

    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert response.text.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("retry_after", [None, 7, "Tue, 10 Mar 2026 12:00:00 GMT"])
@pytest.mark.parametrize(
    ("fault", "status"), [(Fault.TOO_MANY_REQUESTS, 429), (Fault.SERVICE_UNAVAILABLE, 503)]
)
def test_wait_is_told_as_asked(
    mixpanel: LocalMixpanel,
    export: Export,
    whole: bytes,
    fault: Fault,
    status: int,
    retry_after: int | str | None,
) -> None:
    mixpanel.fail(fault, retry_after=retry_after)

    response = export()

    assert response.status_code == status
    told = None if retry_after is None else str(retry_after)
    assert response.headers.get("Retry-After") == told


@pytest.mark.parametrize(
    ("fault", "status"), [(Fault.INTERNAL_SERVER_ERROR, 500), (Fault.BAD_GATEWAY, 502)]
)
def test_server_errors_keep_the_connection(
    mixpanel: LocalMixpanel, export: Export, whole: bytes, fault: Fault, status: int
) -> None:
    mixpanel.fail(fault)

    assert export().status_code == status
    assert export().content == whole


def test_gzip_members_are_a_whole_answer(
    mixpanel: LocalMixpanel, export: Export, whole: bytes, unzipped: Unzipped
) -> None:
    mixpanel.fail(Fault.GZIP_MEMBERS, times=2)

    assert unzipped(export(stream=True)) == whole
    first_member = zlib.decompressobj(wbits=31)
    content = first_member.decompress(export(stream=True).raw.read(decode_content=False))
    assert first_member.eof
    assert first_member.unused_data
    assert not content.endswith(b"\n")


def test_not_compressed_is_a_whole_answer(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.NOT_COMPRESSED)

    response = export()

    assert "Content-Encoding" not in response.headers
    assert response.content == whole


def test_line_that_has_no_half_is_left_out_by_a_cut(
    mixpanel: LocalMixpanel, export: Export
) -> None:
    mixpanel.add_lines(DAY, [b"{}", b"1"])
    mixpanel.fail(Fault.CHUNKED_CUT, at=1)

    assert received(export(stream=True)) == (b"{}\n", True)


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_can_happen_to_an_empty_answer(
    mixpanel: LocalMixpanel, export: Export, fault: Fault
) -> None:
    mixpanel.fail(fault, seconds=0)

    if fault in (Fault.CHUNKED_CUT, Fault.LENGTH_CUT, Fault.GZIP_CUT_AND_CLOSED, Fault.NO_ANSWER):
        with pytest.raises(requests.RequestException):
            export()
    elif fault is Fault.GZIP_CORRUPTED:
        with pytest.raises(requests.exceptions.ContentDecodingError):
            export()
    else:
        export()
    assert export().content == b""


def test_faults_happen_in_order_and_as_often_as_said(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.SERVICE_UNAVAILABLE, times=2)
    mixpanel.fail(Fault.INTERNAL_SERVER_ERROR)

    assert [export().status_code for _ in range(4)] == [503, 503, 500, 200]


def test_refused_request_takes_no_fault(
    mixpanel: LocalMixpanel, export: Export, whole: bytes
) -> None:
    mixpanel.fail(Fault.SERVICE_UNAVAILABLE)

    assert export(to_date="tomorrow").status_code == 400
    assert export(auth=("wrong", "")).status_code == 401
    assert export().status_code == 503


def test_measure_that_makes_no_sense_is_refused(mixpanel: LocalMixpanel) -> None:
    with pytest.raises(ValueError, match="share"):
        mixpanel.fail(Fault.CHUNKED_CUT, at=1.5)
    with pytest.raises(ValueError, match="Retry-After"):
        mixpanel.fail(Fault.CHUNKED_CUT, retry_after=3)


def test_faults_can_be_dropped(mixpanel: LocalMixpanel, export: Export, whole: bytes) -> None:
    mixpanel.fail(Fault.BAD_GATEWAY, times=3)
    assert export().status_code == 502

    mixpanel.forgive()

    assert export().content == whole
