"""The documentation, as somebody follows it: what each block says is done, in order.

A page is followed in a project of its own, which README began. Blocks are told apart by their
language; the first line of a file's block names the file. What is printed after a block stands in
the block `text` behind it. What happens at Mixpanel meanwhile stands in comments, which no reader
sees:

    <!-- happens: [{"event": "Signed Up", "distinct_id": "ada", "at": "3 days ago, 12:00"}] -->
    <!-- profile: {"ada": {"Plan": "pro"}} -->
"""

import json
import os
import re
import runpy
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import time_machine
import tomlkit
import yaml
from dlt.common.runtime import run_context

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline import project
from tests.children import context, in_its_place
from tests.lines import told

ROOT = project.folder()
README = "README.md"
PROJECT = "/path/to/project"

_STEP = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$"
    r"|^<!-- (?P<kind>happens|profile): (?P<json>.*?) -->$",
    re.MULTILINE | re.DOTALL,
)
_EXIT_CODE = re.compile(r"# exit code (\d)")
_DAYS_AGO = re.compile(r"(\d+) days? ago, (\d\d:\d\d)")
_FILE = re.compile(r"(?:#|--) (\S+)")
# What differs from one run to the next: instants, days, durations, versions; and how wide a table
# is because of them.
_CHANGING = re.compile(
    r"\d{4}-\d\d-\d\d|\d\d-\d\d(?=:)|\d\d:\d\d(?::\d\d(?:\.\d+)?)?|\d+(?:\.\d+)+|\b\d{10}\b"
)
_DRAWN = re.compile(r"[\s\u2500-\u257f|+-]+")


@dataclass(frozen=True)
class Step:
    """A block of a page, or something that happens at Mixpanel.

    Attributes:
        page: The page's path.
        line: Where it begins.
        language: The block's language; `happens` or `profile` for what is no block.
        text: What stands in it.
        start, end: Where its text is in the page.
    """

    page: str
    line: int
    language: str
    text: str
    start: int
    end: int

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README and the pages of the site that people write, by path."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return [README, *(path.relative_to(ROOT).as_posix() for path in found)]


def steps(page: str) -> list[Step]:
    """All blocks of a page and what happens between them, in order."""
    content = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _STEP.finditer(content):
        part = "text" if match["kind"] is None else "json"
        line = content.count("\n", 0, match.start()) + 1
        language = match["kind"] or match["language"]
        found.append(Step(page, line, language, match[part], match.start(part), match.end(part)))
    return found


def comparable(text: str) -> str:
    """An output without what differs from one run to the next."""
    return _DRAWN.sub(" ", _CHANGING.sub("…", text)).strip()


@dataclass
class Reader:
    """Somebody who follows a page in a folder.

    Attributes:
        folder: The project.
        server: The Mixpanel that the project is of.
    """

    folder: Path
    server: LocalMixpanel
    environment: dict[str, str]
    outputs: Path
    today: date = field(default_factory=lambda: datetime.now(UTC).date())
    """The day in UTC from which the pages count back."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """What happened so far."""
    early: list[tuple[str, str]] = field(default_factory=list)
    """What a page shows of files that `init` writes only later."""

    def happen(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Have events happen: `at` so many days ago or on a day; if `is_late`, they arrive now."""
        begin = len(self.lines)
        for event in events:
            name, instant = event["event"], self._instant(event["at"])
            given = {k: v for k, v in event.items() if k not in ("event", "at", "is_late")}
            arrived = datetime.now(UTC) if event.get("is_late") else instant + timedelta(minutes=1)
            properties = {
                "time": int(instant.timestamp()),
                "$insert_id": f"e{len(self.lines) + 1}",
                "mp_processing_time_ms": int(arrived.timestamp() * 1000),
                **given,
            }
            self.lines.append({"event": name, "properties": properties})
        self.server.add(self.lines[begin:])

    def _instant(self, at: str) -> datetime:
        """Whole days before today, so that the hour at which somebody reads changes nothing."""
        if days := _DAYS_AGO.match(at):
            return datetime.fromisoformat(f"{self.today - timedelta(int(days[1]))}T{days[2]}Z")
        return datetime.fromisoformat(at)

    def command(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run the installed command; its exit code, and what a terminal would show."""
        done = self._child("command", list(arguments), environment)
        while self.early and arguments[0] == "init":
            self.write(*self.early.pop(0))
        return done

    def python(self, code: str) -> tuple[int, str]:
        """Run a program beside the project."""
        return self._child("python", [code], {})

    def settings_problem(self) -> str:
        """What is wrong with the configuration or declaration; empty when nothing is."""
        if self.early:
            return ""
        code, output = self._child("settings", [], {})
        return output or "?" if code else ""

    def write(self, name: str, text: str) -> None:
        """Put what a block has into the file that it is of: a setting beside those there are."""
        path = self.folder / name
        if not (self.folder / "dbt_project").exists():
            self.early.append((name, text))
        elif path.suffix == ".sql":
            path.write_text(text, encoding="utf-8")
        elif path.suffix == ".toml":
            document = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
            _merge(document, tomlkit.parse(text).unwrap())
            path.write_text(tomlkit.dumps(document), encoding="utf-8")
        else:
            declared = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
            _merge(declared, yaml.safe_load(text))
            path.write_text(yaml.safe_dump(declared, sort_keys=False), encoding="utf-8")

    def _child(self, what: str, arguments: list[str], more: dict[str, str]) -> tuple[int, str]:
        files = self.outputs / "stdout", self.outputs / "stderr"
        environment = {**os.environ, **self.environment, **more}
        given = (environment, self.folder, files, datetime.now(UTC), what, arguments)
        process = context.Process(target=_in_a_child, args=given)
        process.start()
        process.join()
        stdout, stderr = (path.read_text(encoding="utf-8") for path in files)
        lines = stderr.splitlines()
        # Usage, and what nobody expected, has no time and level.
        with suppress(AssertionError):
            lines = told(stderr)
        output = "\n".join([*lines, *stdout.rstrip().splitlines()])
        output = output.replace(str(self.folder), PROJECT)
        return process.exitcode or 0, output.replace(self.server.url, "region us")


def _merge(into: dict[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _in_a_child(
    environment: dict[str, str],
    folder: Path,
    files: tuple[Path, Path],
    now: datetime,
    what: str,
    arguments: list[str],
) -> None:
    """As the installed command would be in a process of its own, but started in milliseconds."""

    def done() -> int:
        time_machine.travel(now).start()
        # The wheel itself is tried elsewhere.
        project.IS_INSTALLED, project.COMMAND = True, "mixpanel-pipeline"
        project.find_settings()
        run_context.active().reload()
        return {"command": _command, "python": _python, "settings": _settings}[what](arguments)

    in_its_place(done, environment, folder, files)


def _command(arguments: list[str]) -> int:
    from mixpanel_pipeline.cli.main import main

    # Instead of another process, whose start takes seconds: dbt is imported already.
    os.execve = _dbt  # type: ignore[assignment]
    return main(arguments)


def _dbt(program: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    from dbt.cli.main import cli

    os.environ.clear()
    os.environ.update(environment)
    # What it keeps there is not what a sync keeps there, and each would parse the project anew.
    os.environ["DBT_TARGET_PATH"] += "-by-hand"
    cli(arguments[arguments.index("-c") + 2 :], prog_name="dbt")
    raise SystemExit


def _python(arguments: list[str]) -> int:
    path = Path("program.py")
    path.write_text(arguments[0], encoding="utf-8")
    runpy.run_path(str(path), run_name="__main__")
    return 0


def _settings(arguments: list[str]) -> int:
    from mixpanel_pipeline import declaration
    from mixpanel_pipeline.settings import check_settings
    from mixpanel_pipeline.source.configuration import load_configuration

    check_settings()
    load_configuration()
    declaration.metrics()
    return 0


def table(columns: list[str], rows: list[tuple[Any, ...]]) -> str:
    """Rows as psql shows them."""
    cells = [columns, *([_shown(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        " " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    lines.insert(1, "-" + "-+-".join("-" * width for width in widths) + "-")
    return "\n".join(line.rstrip() for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def on_duckdb(path: Path, query: str) -> str:
    """What a query, or the last of several statements, brings."""
    with duckdb.connect(path) as connection:
        found = connection.execute(query)
        columns = [column[0] for column in found.description or []]
        return table(columns, found.fetchall())


def commands(text: str) -> Iterator[tuple[str, list[str], int]]:
    """The commands of a block: as they stand there, in words, and the exit code they end with."""
    for line in text.replace("\\\n", " ").splitlines():
        expected = _EXIT_CODE.search(line)
        words = shlex.split(line, comments=True)
        if words:
            yield line.strip(), words, int(expected[1]) if expected else 0


def file_of(step: Step) -> str | None:
    """The file that a block is of: its first line says so, in a comment."""
    found = _FILE.match(step.text)
    return found[1] if found and "." in found[1] else None


def copy_of(folder: Path, to: Path) -> None:
    """Have a folder hold what another one does."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to, symlinks=True)


def rewritten(page: str, texts: Mapping[Step, str]) -> None:
    """Write other texts into blocks of a page."""
    path = ROOT / page
    content = path.read_text(encoding="utf-8")
    for step in sorted(texts, key=lambda step: -step.start):
        content = content[: step.start] + texts[step] + content[step.end :]
    path.write_text(content, encoding="utf-8")


def questions() -> Iterator[tuple[str, str]]:
    """The heading and the query of each question of docs/queries.md, in order."""
    page = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    for part in page.split("\n## ")[1:]:
        heading, _, rest = part.partition("\n")
        yield heading, rest.partition("```sql\n")[2].partition("```")[0]


def as_json(step: Step) -> Any:
    """What a comment of a page holds."""
    return json.loads(step.text)
