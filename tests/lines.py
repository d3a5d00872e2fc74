"""What the command writes to stderr when that is no terminal."""

import re

_LINE = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d) "
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<run_id>[\d.]+|-) (?P<message>.*)$"
)


def parsed(stderr: str) -> list[dict[str, str]]:
    """Time, level, run_id and message of every line; fails on a line that has no such form."""
    found = [(_LINE.match(line), line) for line in stderr.splitlines()]
    assert [line for match, line in found if match is None] == []
    return [match.groupdict() for match, _ in found if match]


def told(stderr: str, *levels: str) -> list[str]:
    """The messages with their level before them, without progress: `error: …`."""
    return [
        f"{line['level'].lower()}: {line['message']}"
        for line in parsed(stderr)
        if line["level"] in (levels or ("WARNING", "ERROR", "CRITICAL"))
    ]
