"""`GET /api/2.0/export`: what may be asked, and how a whole answer looks.

Parameters and the 1,400 bytes: https://docs.mixpanel.com/reference/raw-event-export
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import chain

from local_mixpanel.answers import Answer, Refused, text

# Mixpanel compresses only what is larger; anything shorter is sent with its length.
SMALL_BYTES = 1_400
# Large enough that the cost of a write vanishes, small enough to hold for every client.
_PART_BYTES = 256 * 1024
_PARAMETERS = {"from_date", "to_date", "event", "time_in_ms", "project_id"}


@dataclass(frozen=True)
class ExportQuery:
    """A valid request."""

    from_date: date
    to_date: date
    events: frozenset[str] | None
    """Names to deliver; None for all."""
    time_in_ms: bool


def parse_query(query: Mapping[str, str], today: date) -> ExportQuery:
    """Read the parameters of an export.

    Raises:
        Refused: With 400 and the reason; also for a parameter of the real API that this server
            does not evaluate, since ignoring `where` or `limit` would deliver the wrong events.
    """
    if unsupported := sorted(query.keys() - _PARAMETERS):
        raise _invalid(f"the local Mixpanel does not support: {', '.join(unsupported)}")
    from_date, to_date = _day(query, "from_date"), _day(query, "to_date")
    if from_date > to_date:
        raise _invalid("to_date cannot be earlier than from_date")
    if to_date > today:
        raise _invalid("to_date cannot be later than today")
    time_in_ms = query.get("time_in_ms", "false")
    if time_in_ms not in ("true", "false"):
        raise _invalid("time_in_ms has to be true or false")
    return ExportQuery(from_date, to_date, _names(query.get("event")), time_in_ms == "true")


def events_answer(
    parts: Iterable[bytes], compress: Callable[[Iterable[bytes]], Iterable[bytes]] | None
) -> Answer:
    """A whole 200 of JSONL `parts`, compressed when `compress` is given and it pays."""
    iterator = iter(parts)
    start = b""
    for part in iterator:
        start += part
        if len(start) > SMALL_BYTES:
            return streamed(chain((start,), iterator), compress)
    return Answer(200, (start,), content_length=len(start))


def streamed(
    parts: Iterable[bytes],
    compress: Callable[[Iterable[bytes]], Iterable[bytes]] | None = None,
    *,
    is_complete: bool = True,
) -> Answer:
    """A 200 in chunks."""
    if compress is None:
        return Answer(200, parts, is_complete=is_complete)
    headers = {"Content-Encoding": "gzip"}
    return Answer(200, compress(parts), headers=headers, is_complete=is_complete)


def join_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """End every line with `\\n`, and join them to parts of about 256 KiB."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line) + 1
        if size >= _PART_BYTES:
            yield b"\n".join(part) + b"\n"
            part, size = [], 0
    if part:
        yield b"\n".join(part) + b"\n"


def _day(query: Mapping[str, str], name: str) -> date:
    value = query.get(name)
    if value is None:
        raise _invalid(f"{name} is a required parameter")
    # date.fromisoformat also reads 20260310 and 2026-W11-2, which Mixpanel does not.
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise _invalid(f"{name} has to be YYYY-MM-DD")


def _names(event: str | None) -> frozenset[str] | None:
    if event is None:
        return None
    try:
        names = json.loads(event)
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise _invalid("event has to be a JSON array of event names")
    return frozenset(names)


def _invalid(reason: str) -> Refused:
    return Refused(text(400, reason))
