"""`GET /api/2.0/export`: what may be asked, and how a whole answer looks.

Parameters and the 1,400 bytes: https://docs.mixpanel.com/reference/raw-event-export
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import date
from itertools import chain

from local_mixpanel.answers import Answer, Refused, text
from local_mixpanel.segmentation import Unsupported, parse

# Mixpanel compresses only what is larger; anything shorter is sent with its length.
SMALL_BYTES = 1_400
# Large enough that the cost of a write vanishes, small enough to hold for every client.
_PART_BYTES = 256 * 1024
_PARAMETERS = {"from_date", "to_date", "event", "where", "time_in_ms", "project_id"}


@dataclass(frozen=True)
class ExportQuery:
    """A valid request."""

    from_date: date
    to_date: date
    events: frozenset[str] | None
    """Names to deliver; None for all."""
    time_in_ms: bool
    where: str | None = None
    """A segmentation expression that events have to match."""


def parse_query(query: Mapping[str, str], today: date) -> ExportQuery:
    """Read the parameters of an export.

    Raises:
        Refused: With 400 and the reason; also for a parameter of the real API that this server
            does not evaluate, since ignoring `limit` would deliver the wrong events.
    """
    refuse_unsupported(query, _PARAMETERS)
    from_date, to_date = days_of(query, today)
    time_in_ms = query.get("time_in_ms", "false")
    if time_in_ms not in ("true", "false"):
        raise _invalid("time_in_ms has to be true or false")
    where = query.get("where")
    try:
        matcher(where)
    except Unsupported as error:
        raise _invalid(str(error)) from error
    names = names_of(query.get("event"))
    return ExportQuery(from_date, to_date, names, time_in_ms == "true", where)


def matcher(where: str | None) -> Callable[[bytes], bool] | None:
    """What tells of a line whether an expression matches its event; None for no expression.

    A line that is no JSON object matches nothing.

    Raises:
        Unsupported: The expression is not understood.
    """
    if where is None:
        return None
    matches = parse(where)

    def matches_line(line: bytes) -> bool:
        try:
            event = json.loads(line.decode())
        except (ValueError, RecursionError):
            return False
        if not isinstance(event, dict):
            return False
        properties = event.get("properties")
        return matches(properties if isinstance(properties, dict) else {})

    return matches_line


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


def days_of(query: Mapping[str, str], today: date) -> tuple[date, date]:
    """The days from `from_date` to `to_date`, both inclusive.

    Raises:
        Refused: With 400, when one is missing or wrong, or the last is later than `today`.
    """
    from_date, to_date = _day(query, "from_date"), _day(query, "to_date")
    if from_date > to_date:
        raise _invalid("to_date cannot be earlier than from_date")
    if to_date > today:
        raise _invalid("to_date cannot be later than today")
    return from_date, to_date


def refuse_unsupported(query: Mapping[str, str], supported: Set[str]) -> None:
    """Refuse parameters of the real API that are not evaluated here.

    Raises:
        Refused: With 400 and their names.
    """
    if unsupported := sorted(query.keys() - supported):
        raise _invalid(f"the local Mixpanel does not support: {', '.join(unsupported)}")


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


def names_of(event: str | None) -> frozenset[str] | None:
    """The names in the parameter `event`; None when it is missing.

    Raises:
        Refused: With 400, when it is not a JSON array of names.
    """
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
