"""What the server answers, before any byte of it is sent."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A status, headers and a body that may be produced while it is sent."""

    status: int
    parts: Iterable[bytes]
    content_type: str = "text/plain; charset=utf-8"
    content_length: int | None = None
    """Announced number of bytes; None announces chunks instead."""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_complete: bool = True
    """False when the connection is to close without the announced end."""


class Refused(Exception):
    """Ends a request with `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def text(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A short plain-text answer."""
    return _short(status, message.encode(), "text/plain; charset=utf-8", headers)


def html(status: int, page: str) -> Answer:
    """A page, as a proxy in front of the API would send."""
    return _short(status, page.encode(), "text/html; charset=utf-8", None)


def as_json(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """A short JSON answer."""
    return _short(status, json.dumps(value).encode(), "application/json", headers)


def _short(
    status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None
) -> Answer:
    return Answer(status, (body,), content_type, len(body), headers or {})
