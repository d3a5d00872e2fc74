"""Ways in which an export goes wrong, and legal answers that clients get wrong.

Mixpanel answers 200 before it has read the events, so most of its failures show only in how the
body ends (mixpanel-utils#5; airbyte and estuary/connectors meet the same).
"""

import gzip
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import pairwise
from typing import assert_never

from local_mixpanel.answers import Answer, as_json, html, text
from local_mixpanel.compression import gzip_parts
from local_mixpanel.export import events_answer, join_lines, streamed

_ONE_MORE_LINE = b'{"event":"App Opened","properties":{}}'
_PAGE = "<!DOCTYPE html><html><body><h1>{}</h1></body></html>"


class Fault(Enum):
    """What happens to one export. GZIP_… are compressed even when nobody asked for it."""

    CHUNKED_CUT = "plain chunks, then a closed connection instead of the last chunk"
    LENGTH_CUT = "plain, fewer bytes than Content-Length says, then a closed connection"
    GZIP_CUT = "a gzip stream without its trailer, in chunks that end properly"
    GZIP_CUT_AND_CLOSED = "a gzip stream without its trailer, then a closed connection"
    GZIP_CORRUPTED = "a gzip stream whose checksum does not match"
    HALF_LAST_LINE = "a proper end after half a line"
    TERMINATED_EARLY = "a proper end after the line 'export terminated early'"
    ERROR_LAST_LINE = "a proper end after a line that is a JSON error object"
    LINES_MISSING = "a proper end after whole lines, though there are more: nobody can see it"
    STALL = "plain, silence in the middle, then the rest"
    NO_ANSWER = "a connection closed before the first byte"
    HTML = "a page with status 200"
    TOO_MANY_REQUESTS = "429, with or without Retry-After"
    INTERNAL_SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    SERVICE_UNAVAILABLE = "503"
    GZIP_MEMBERS = "legal: several gzip members, with borders inside lines"
    NOT_COMPRESSED = "legal: plain chunks even when gzip was asked for"


_HAS_RETRY_AFTER = {Fault.TOO_MANY_REQUESTS, Fault.SERVICE_UNAVAILABLE}


@dataclass(frozen=True)
class PlannedFault:
    """A fault and its measures; a measure that the fault does not know is not used."""

    fault: Fault
    at: float = 0.5
    """The share of the lines that comes before a cut, an early end or a silence."""
    is_mid_line: bool = True
    """Whether a CUT falls inside the next line; else every line that came is whole."""
    retry_after: int | str | None = None
    """Seconds or an HTTP date; None leaves the header out."""
    seconds: float = 60.0
    """How long a STALL is silent."""

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1:
            raise ValueError(f"at is a share from 0 to 1, not {self.at}")
        if self.retry_after is not None and self.fault not in _HAS_RETRY_AFTER:
            raise ValueError(f"{self.fault.name} has no Retry-After")

    def answer(
        self, lines: Iterable[bytes], accepts_gzip: bool, closing: threading.Event
    ) -> Answer | None:
        """The answer instead of a whole one; None closes the connection at once.

        Args:
            lines: All lines of the whole answer, without line ends.
            accepts_gzip: Whether the client asked for gzip.
            closing: Ends a silence early when set.
        """
        whole = list(lines)
        ended = partial(events_answer, compress=gzip_parts if accepts_gzip else None)
        without_trailer = partial(gzip_parts, has_trailer=False)
        match self.fault:
            case Fault.CHUNKED_CUT:
                return streamed(self._cut(whole), is_complete=False)
            case Fault.LENGTH_CUT:
                # Longer than all lines together: even when all of them come, some of it is missing.
                length = sum(len(line) + 1 for line in whole) + len(_ONE_MORE_LINE)
                return Answer(200, self._cut(whole), content_length=length, is_complete=False)
            case Fault.GZIP_CUT:
                return streamed(self._cut(whole), without_trailer)
            case Fault.GZIP_CUT_AND_CLOSED:
                return streamed(self._cut(whole), without_trailer, is_complete=False)
            case Fault.GZIP_CORRUPTED:
                return streamed(join_lines(whole), _corrupted)
            case Fault.HALF_LAST_LINE:
                return ended(self._until_half_a_line(whole))
            case Fault.TERMINATED_EARLY:
                return ended(join_lines([*self._before(whole), b"export terminated early"]))
            case Fault.ERROR_LAST_LINE:
                error = json.dumps({"error": "internal error", "status": "error"}).encode()
                return ended(join_lines([*self._before(whole), error]))
            case Fault.LINES_MISSING:
                return ended(join_lines(self._before(whole)))
            case Fault.STALL:
                return streamed(self._stalling(whole, closing))
            case Fault.NO_ANSWER:
                return None
            case Fault.HTML:
                return html(200, _PAGE.format("We are down for maintenance"))
            case Fault.TOO_MANY_REQUESTS:
                return too_many_requests(self.retry_after)
            case Fault.INTERNAL_SERVER_ERROR:
                return as_json(500, {"error": "internal error", "status": "error"})
            case Fault.BAD_GATEWAY:
                return html(502, _PAGE.format("502 Bad Gateway"))
            case Fault.SERVICE_UNAVAILABLE:
                return text(503, "Service Unavailable", _retry_after(self.retry_after))
            case Fault.GZIP_MEMBERS:
                return streamed(join_lines(whole), _members)
            case Fault.NOT_COMPRESSED:
                return streamed(join_lines(whole))
            case _:
                assert_never(self.fault)

    def _before(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        return lines[: int(len(lines) * self.at)]

    def _cut(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        if self.is_mid_line:
            return self._until_half_a_line(lines)
        return join_lines(self._before(lines))

    def _until_half_a_line(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        whole = min(int(len(lines) * self.at), max(len(lines) - 1, 0))
        yield from join_lines(lines[:whole])
        next_line = lines[whole] if lines else _ONE_MORE_LINE
        yield next_line[: len(next_line) // 2]

    def _stalling(self, lines: Sequence[bytes], closing: threading.Event) -> Iterator[bytes]:
        before = self._before(lines)
        yield from join_lines(before)
        if closing.wait(self.seconds):
            raise ConnectionAbortedError("the server closes")
        yield from join_lines(lines[len(before) :])


def too_many_requests(retry_after: int | str | None) -> Answer:
    """A 429; None leaves Retry-After out."""
    error = {"code": 429, "error": "rate limit exceeded", "status": "Too Many Requests"}
    return as_json(429, error, _retry_after(retry_after))


def _retry_after(value: int | str | None) -> dict[str, str]:
    return {} if value is None else {"Retry-After": str(value)}


def _corrupted(parts: Iterable[bytes]) -> Iterator[bytes]:
    body = bytearray(gzip.compress(b"".join(parts)))
    # The trailer is four bytes of CRC, then four of length (RFC 1952).
    body[-8] ^= 0xFF
    yield bytes(body)


def _members(parts: Iterable[bytes]) -> Iterator[bytes]:
    body = b"".join(parts)
    borders = [len(body) * third // 3 for third in range(4)]
    for start, end in pairwise(borders):
        yield gzip.compress(body[start:end])
