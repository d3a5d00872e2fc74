"""The TOML files that settings come from, and the lines that they stand on."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlt.common.runtime.run_context import RunContext

from mixpanel_pipeline.source.errors import ConfigurationError

_TABLE = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*([\w."'-]+(?:\s*\.\s*[\w."'-]+)*)\s*=""")

Key = tuple[str, ...]


@dataclass(frozen=True)
class SettingsFile:
    """A TOML file that can be read."""

    name: str
    content: Mapping[str, Any]
    lines: Mapping[Key, int]
    is_the_projects: bool
    """Or that of all projects on this machine."""

    def place(self, key: Key) -> str:
        """The file and the line of a key, or of what it holds first, or of the table around it."""
        held = (path for path in self.lines if path[: len(key)] == key)
        key = key if key in self.lines else next(held, key)
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.name}, line {self.lines[key]}" if key else self.name


def settings_files() -> list[SettingsFile]:
    """The files that there are, of which the first that has a setting is followed.

    Raises:
        ConfigurationError: One is not readable; the message names its line, and no value.
    """
    # The active context reads the files before anybody could tell what is wrong with them.
    context = RunContext(None)
    files = [
        _read(Path(folder) / name, is_the_projects=folder == context.settings_dir)
        for name in ("secrets.toml", "config.toml")
        for folder in (context.settings_dir, context.global_dir)
    ]
    return [file for file in files if file is not None]


def place_of(key: Key) -> str | None:
    """Where a setting is set, for messages; None if it is in no file and no variable."""
    variable = "__".join(key).upper()
    if variable in os.environ:
        return f"environment variable {variable}"
    return next((file.place(key) for file in settings_files() if key in file.lines), None)


def _read(path: Path, *, is_the_projects: bool) -> SettingsFile | None:
    name = f"{path.parent.name}/{path.name}"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror} ({path}).") from error
    if content.startswith(b"\xef\xbb\xbf"):
        raise ConfigurationError(
            f"{name}, line 1, begins with a byte order mark: save the file as UTF-8 without BOM."
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{name}, line {line}, is not UTF-8: save the file as UTF-8."
        ) from None
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(_syntax_problem(name, text, str(error))) from None
    return SettingsFile(name, parsed, _lines(text), is_the_projects)


def _syntax_problem(name: str, text: str, said: str) -> str:
    at = re.search(r"\(at line (\d+), column \d+\)", said)
    # At its end: of the last line, which has no number then.
    number = int(at[1]) if at else text.count("\n") + 1
    lines = text.splitlines()
    line = lines[number - 1] if number <= len(lines) else ""
    # Python's own words may repeat a key, and never a value that is longer than a character.
    reason = 'text stands in straight quotes, like "eu"'
    if not re.search("[\u2018-\u201e«»]", line):
        reason += ", numbers, true and false in none, and each name once in its section"
    return f"{name}, line {number}, is no TOML: {reason}."


def _lines(text: str) -> dict[Key, int]:
    """The lines of tables and keys, by their paths."""
    lines: dict[Key, int] = {}
    table: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _TABLE.match(line):
            table = _path(found[1])
            lines.setdefault(table, number)
        elif found := _KEY.match(line):
            lines.setdefault((*table, *_path(found[1])), number)
    return lines


def _path(dotted: str) -> Key:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
