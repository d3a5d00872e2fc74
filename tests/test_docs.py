"""README and docs/ say what is so: every block is run, every link leads somewhere.

`WRITE_DOCS=1 pytest tests/test_docs.py` writes outputs and tables anew where they differ.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import duckdb
import psycopg2
import pytest
import time_machine

from local_mixpanel import LocalMixpanel
from tests import settings_table
from tests.conftest import point_at
from tests.documentation import (
    PROJECT,
    README,
    ROOT,
    Reader,
    Step,
    as_json,
    commands,
    comparable,
    copy_of,
    file_of,
    on_duckdb,
    pages,
    rewritten,
    steps,
    table,
)
from tests.postgresql import Server

_WRITES = os.environ.get("WRITE_DOCS") == "1"
_DATABASE = "documentation"
# What the blocks cannot be run for here; every other block is. By how the line or block begins.
NOT_RUN = {
    "uv tool install": "tests/test_installed.py installs the wheel, without the outside network",
    "make ": "about the checkout: CI runs make test, make lint and make docs",
    "cp .dlt/secrets.toml.example": "a checkout is changed by no test",
    ".venv/bin/python pipelines/run.py": "the same; what is behind it is the same command",
    "python -m local_mixpanel": "serves until it is stopped; local_mixpanel/tests starts it",
    "export ": "what python -m local_mixpanel printed",
    "dagster dev": "serves until it is stopped; tests/schedules runs the definitions",
    "systemctl": "needs systemd",
    "journalctl": "needs systemd",
    ":hidden:": "a list of pages, for Sphinx",
    "python3 -m venv production": "needs the registry",
    "production/bin/pip": "needs the registry",
    "pip-licenses": "is not of the project",
    "psql ": "tests/test_roles.py runs the script",
    "pip install mixpanel-pipeline": "needs the registry",
    "spark.sql.extensions": "make test-spark starts a cluster with these",
    "mixpanel-pipeline maintain": "needs Spark; make test-spark does it",
    "# load_snowflake.py": "needs an account",
    "dlt init": "needs the address of a repository",
}
_LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)|!\[[^]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def _is_not_run(text: str) -> bool:
    return text.startswith(tuple(NOT_RUN))


class _Page:
    """Follows one page and notes what is not as it says."""

    def __init__(self, page: str, reader: Reader, warehouse: Server) -> None:
        self.problems: list[str] = []
        self.outputs: dict[Step, str] = {}
        self._page = page
        self._reader = reader
        self._warehouse = warehouse

    def follow(self) -> None:
        all_steps = steps(self._page)
        output: str | None = None
        for step in all_steps:
            if step.language == "text":
                self._compare(step, output)
                output = None
                continue
            try:
                output = self._done(step)
            except (duckdb.Error, psycopg2.Error) as error:
                output = None
                self.problems.append(f"{step.place}: {error}")

    def _compare(self, step: Step, output: str | None) -> None:
        if output is None:
            if not _is_not_run(step.text):
                self.problems.append(f"{step.place}: what is this the output of?")
        elif comparable(step.text) != comparable(output):
            self.outputs[step] = output.rstrip() + "\n"
            self.problems.append(f"{step.place} says\n{step.text}\nbut it was\n{output}")

    def _done(self, step: Step) -> str | None:
        """Do what the step says; the output, of those that have one."""
        name = file_of(step)
        if step.language in ("happens", "profile"):
            self._happen(step)
        elif step.language == "sh":
            return self._run(step)
        elif step.language == "sql":
            return on_duckdb(self._reader.folder / "warehouse.duckdb", step.text)
        elif step.language == "postgresql":
            return self._on_postgresql(step.text)
        elif step.language == "python":
            code, output = self._reader.python(step.text)
            if code:
                self.problems.append(f"{step.place} ends with {code}\n{output}")
            return output
        elif step.language in ("toml", "yaml", "sql+jinja") and name:
            self._reader.write(name, step.text)
            if step.language != "sql+jinja" and (problem := self._reader.settings_problem()):
                self.problems.append(f"{step.place}: {problem}")
        elif not _is_not_run(step.text):
            self.problems.append(f"{step.place}: a block that nobody runs: {step.language}")
        return None

    def _happen(self, step: Step) -> None:
        if step.language == "happens":
            self._reader.happen(as_json(step))
        else:
            self._reader.server.profiles.set(as_json(step))

    def _run(self, step: Step) -> str:
        outputs = []
        for line, words, expected in commands(step.text):
            if _is_not_run(line):
                continue
            variables = {}
            while "=" in words[0]:
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            if words[0] == "mixpanel-pipeline":
                code, output = self._reader.command(*words[1:], **variables)
            elif words[:2] == ["python", "-c"]:
                done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
                code, output = done.returncode, done.stdout
            else:
                self.problems.append(f"{step.place}: nobody runs {line}")
                continue
            outputs.append(output)
            if code != expected:
                self.problems.append(f"{step.place}: {line} ends with {code}\n{output}")
        return "\n".join(outputs)

    def _on_postgresql(self, text: str) -> str:
        with closing(self._warehouse.connect(_DATABASE)) as connection:
            connection.autocommit = True
            with closing(connection.cursor()) as cursor:
                cursor.execute(text)
                if cursor.description is None:
                    return ""
                return table([column[0] for column in cursor.description], cursor.fetchall())


def _followed() -> list[str]:
    """The pages to follow: README, which all others go on from, and, in PAGES, which others."""
    chosen = os.environ.get("PAGES", "").split()
    return [page for page in pages() if not chosen or page == README or Path(page).stem in chosen]


@pytest.fixture
def noon() -> Iterator[None]:
    """As if the test began at noon, if it is earlier: what is read for two hours back is of today.

    Never earlier than it is: dlt's ids of loads go on from the latest instant that it saw.
    """
    now = datetime.now(UTC)
    with time_machine.travel(max(now, now.replace(hour=12, minute=0))):
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    """A project whose path is as long as the one that the pages show, for tables' sake."""
    with TemporaryDirectory(prefix="mix", dir="/tmp") as path:
        assert len(path) == len(PROJECT)
        yield Path(path)


@pytest.mark.usefixtures("noon")
def test_every_block_does_what_the_page_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, postgresql: Server
) -> None:
    """One project, which README begins and each page goes on from."""
    monkeypatch.delenv("DLT_PROJECT_DIR")
    # What dbt parsed too: a page that changes the declaration would have the next one parse anew.
    begun, target, parsed = tmp_path / "begun", tmp_path / "target", tmp_path / "parsed"
    problems = []
    first: Reader | None = None
    for page in _followed():
        with LocalMixpanel() as server:
            point_at(server, monkeypatch)
            monkeypatch.delenv("SOURCES__MIXPANEL__EVIDENCE_OF_ALL_EVENTS")
            environment = {"COLUMNS": "100", "DBT_TARGET_PATH": str(target)}
            reader = Reader(folder, server, environment, tmp_path)
            if first is not None:
                copy_of(begun, folder)
                copy_of(parsed, target)
                server.add(first.lines)
                reader.today, reader.lines = first.today, [*first.lines]
            on_postgresql = any(step.language == "postgresql" for step in steps(page))
            if on_postgresql:
                postgresql.create_database(_DATABASE)
                reader.environment.update(postgresql.environment(_DATABASE))
            followed = _Page(page, reader, postgresql)
            followed.follow()
            if first is None:
                first = reader
                copy_of(folder, begun)
                copy_of(target, parsed)
            if on_postgresql:
                postgresql.drop_database(_DATABASE)
                with closing(postgresql.connect("postgres")) as connection:
                    connection.cursor().execute("drop role if exists analysts, loader")
            problems += followed.problems
            if _WRITES:
                rewritten(page, followed.outputs)
    assert problems == [], "\n\n".join(problems)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    if _WRITES:
        settings_table.write()
    page = settings_table.PAGE.read_text(encoding="utf-8")
    assert settings_table.stored_table(page) == settings_table.settings_table()


def test_the_comparison_has_the_numbers_that_were_measured() -> None:
    measured = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    told = page.partition("## Measured")[2].partition("## Documented")[0]
    numbers = re.findall(r"\d{1,3}(?:,\d{3})+|\d+ MB|\d+\.\d+\.\d+", told)
    assert numbers
    assert [number for number in numbers if number not in measured] == []


def _anchors(path: Path) -> set[str]:
    """The names by which a code host and the site know the headings of a page."""
    content = _FENCED.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", content, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*pages(), "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_between_pages_leads_somewhere(page: str) -> None:
    content = _FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    broken = []
    for links in _LINK.findall(content):
        link = "".join(links)
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.is_file() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


def test_what_cannot_be_run_stands_somewhere() -> None:
    texts = [step.text for page in pages() for step in steps(page)]
    lines = [line for text in texts for line in text.splitlines()]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
