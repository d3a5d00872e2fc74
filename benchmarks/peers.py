"""Other connectors for Mixpanel, as they come from PyPI, reading the same local Mixpanel.

Each has virtual environments of its own, in which nothing is changed: `peers_shims` only leads
what they ask of Mixpanel's hosts to the local one. They export events and nothing else, with the
settings of their documentation that serve them best, the whole window in a single request, and
without telemetry.
"""

import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import psycopg2
import requests
from psycopg2 import sql

from benchmarks.measure import CommandFailed, Measured, measured
from benchmarks.relay import relay

_SHIMS = Path(__file__).parent / "peers_shims"
# The last one in Python, and the newest that PyPI has whole: later wheels fetch their program from
# another place.
_INGESTR = "ingestr==0.14.155"
_INGESTR_IN_GO = "ingestr==1.1.22"
_AIRBYTE = "airbyte-source-mixpanel==4.0.2"
_TAP = "tap-mixpanel==1.8.0"
_TARGET = "meltanolabs-target-postgres==0.8.1"
# Whoever has sent so many events has sent all properties that the made-up traffic knows.
_EVENTS_TO_LEARN_FROM = 20_000
# What Mixpanel doesn't count among the properties of an event, though the export has it there.
_NO_PROPERTIES = {"distinct_id", "time"}
_REASON = re.compile("error|critical|exception|failed", re.IGNORECASE)
_REASON_CHARACTERS = 400
# Counts the records of a stream of Airbyte's messages, last, and lets those pass that may explain
# a failure.
_COUNT = r"""awk '
    { kind = substr($0, 1, 16) }
    kind == "{\"type\":\"RECORD\"" { rows++; next }
    kind != "{\"type\":\"STATE\"," { print }
    END { print rows + 0 }
'"""


@dataclass(frozen=True)
class Source:
    """What to export from where.

    Attributes:
        url: The local Mixpanel's.
        project_id: The project's id.
        username: The service account's user name.
        secret: The service account's secret.
        from_date: The first day.
        to_date: The last day, whole.
    """

    url: str
    project_id: str
    username: str
    secret: str = field(repr=False)
    from_date: date
    to_date: date


@dataclass(frozen=True)
class Outcome:
    """What a connector took, its start included, and how many rows it delivered."""

    seconds: float
    peak_bytes: int
    rows: int


class PeerFailed(Exception):
    """A connector could not be installed or run; the message says which one and why."""


class Peer(ABC):
    """A connector of others.

    Attributes:
        name: Its name and version.
        destination: "postgres", or "stdout" for one that only reads.
    """

    name: str
    destination: str
    _requirements: Sequence[str]

    def install(self, directory: Path) -> None:
        """Install it into virtual environments in a directory, unless it is there already.

        Args:
            directory: Where; the same for all connectors, and later for `run`.

        Raises:
            PeerFailed: It cannot be installed.
        """
        for requirement in self._requirements:
            environment = _environment(directory, requirement)
            done = environment / "installed"
            if done.exists():
                continue
            commands: list[list[str | Path]] = [
                [sys.executable, "-m", "venv", "--clear", environment],
                [environment / "bin" / "pip", "install", "--quiet", requirement],
            ]
            try:
                for command in commands:
                    measured(command, environment={"PYTHONPATH": ""})
            except (CommandFailed, OSError) as error:
                raise PeerFailed(f"{requirement}: {_reason(error)}") from error
            done.touch()

    def run(self, directory: Path, source: Source, postgres_url: str) -> Outcome:
        """Export the events of a window, into an empty database or to nowhere.

        Args:
            directory: Where it was installed.
            source: What to export.
            postgres_url: `postgresql://…` of an empty database, even if it is not used.

        Returns:
            What it cost. The rows are those in its table, or the records on its output.

        Raises:
            PeerFailed: It is not installed or ended with an error.
        """
        try:
            with TemporaryDirectory(prefix="run-", dir=directory) as name:
                work = Path(name)
                properties = _write(work / "properties.json", _property_names(source))
                environment = {
                    "PYTHONPATH": str(_SHIMS.resolve()),
                    "BENCHMARK_MIXPANEL_URL": source.url,
                    "BENCHMARK_MIXPANEL_PROJECT_ID": source.project_id,
                    "BENCHMARK_MIXPANEL_PROPERTIES": str(properties),
                    "DO_NOT_TRACK": "1",
                    # Settings of whoever measures are not theirs.
                    "HOME": name,
                }
                return self._run(_Job(directory, work, environment), source, postgres_url)
        except (CommandFailed, OSError, ValueError, psycopg2.Error) as error:
            raise PeerFailed(f"{self.name}: {_reason(error)}") from error

    @abstractmethod
    def _run(self, job: "_Job", source: Source, postgres_url: str) -> Outcome:
        """Run it in a directory of its own, which is removed afterwards."""


@dataclass(frozen=True)
class _Job:
    """Where programs are, where they run, and their variables."""

    directory: Path
    work: Path
    environment: Mapping[str, str]

    def program(self, requirement: str, name: str) -> Path:
        """A program of an installed package."""
        return _environment(self.directory, requirement) / "bin" / name

    def measured(self, command: Sequence[str | Path], **variables: str) -> Measured:
        """Run a command to its end."""
        return measured(command, environment={**self.environment, **variables}, directory=self.work)

    def shell(self, script: str, **programs: Path) -> Measured:
        """Run a pipe, with its programs as variables; one that fails fails it all."""
        variables = {name: str(path) for name, path in programs.items()}
        return self.measured(["bash", "-c", f"set -euo pipefail; {script}"], **variables)


class _Ingestr(Peer):
    """ingestr, with COPY instead of INSERT and with Mixpanel's own key.

    By default it merges events by `distinct_id` and keeps a single one of each subscriber. The key
    that tells copies from events is Mixpanel's; where an event has no `$insert_id`, only CSV takes
    it, as an empty text.
    """

    name = _INGESTR.replace("==", " ")
    destination = "postgres"
    _requirements = (_INGESTR,)
    _key = ("event", "distinct_id", "time", "insert_id")

    def _run(self, job: _Job, source: Source, postgres_url: str) -> Outcome:
        account = {"username": source.username, "password": source.secret}
        query = urlencode({**account, "project_id": source.project_id, "server": "us"})
        found = job.measured(
            [
                *(job.program(_INGESTR, "ingestr"), "ingest", "--yes", "--progress", "log"),
                *("--source-table", "events", "--dest-table", "peer_ingestr.events"),
                *("--interval-start", source.from_date.isoformat()),
                *("--interval-end", f"{source.to_date}T23:59:59"),
                *("--loader-file-format", "csv"),
                *(f"--primary-key={column}" for column in self._key),
            ],
            SOURCE_URI=f"mixpanel://?{query}",
            DESTINATION_URI=postgres_url,
            INGESTR_DISABLE_TELEMETRY="true",
            RUNTIME__DLTHUB_TELEMETRY="false",
        )
        rows = _count_rows(postgres_url, "peer_ingestr", "events")
        return Outcome(found.seconds, found.peak_bytes, rows)


class _IngestrInGo(Peer):
    """ingestr as it is written anew in Go, without taking copies out.

    To merge, by its own key or by Mixpanel's, it demands an `$insert_id` of every event. It reads
    by TLS through a proxy in Python, which passes on what the server compressed.
    """

    name = f"{_INGESTR_IN_GO} (Go)".replace("==", " ")
    destination = "postgres"
    _requirements = (_INGESTR_IN_GO,)

    def _run(self, job: _Job, source: Source, postgres_url: str) -> Outcome:
        account = {"username": source.username, "password": source.secret}
        query = urlencode({**account, "project_id": source.project_id, "server": "us"})
        with relay(source.url, job.work) as led:
            found = job.measured(
                [
                    *(job.program(_INGESTR_IN_GO, "ingestr"), "ingest", "--yes"),
                    *("--progress", "log"),
                    *("--source-table", "events", "--dest-table", "peer_ingestr.events"),
                    *("--interval-start", source.from_date.isoformat()),
                    *("--interval-end", f"{source.to_date}T23:59:59"),
                    *("--primary-key=event", "--primary-key=distinct_id", "--primary-key=time"),
                ],
                SOURCE_URI=f"mixpanel://?{query}",
                DESTINATION_URI=postgres_url,
                INGESTR_DISABLE_TELEMETRY="true",
                **led,
            )
        rows = _count_rows(postgres_url, "peer_ingestr", "events")
        return Outcome(found.seconds, found.peak_bytes, rows)


class _Airbyte(Peer):
    """Airbyte's source, without the days that it asks for once more by default.

    After each answer it sleeps for a minute, for the sake of Mixpanel's limit of 60 exports an
    hour. Its setting for that, `reqs_per_hour_limit`, is not documented; 0 spares it the minute.
    """

    name = _AIRBYTE.replace("==", " ")
    destination = "stdout"
    _requirements = (_AIRBYTE,)

    def _run(self, job: _Job, source: Source, postgres_url: str) -> Outcome:
        account = {"option_title": "Service Account", "project_id": int(source.project_id)}
        config = {
            "credentials": {**account, "username": source.username, "secret": source.secret},
            "region": "US",
            "project_timezone": "UTC",
            "start_date": f"{source.from_date}T00:00:00Z",
            "end_date": f"{source.to_date}T00:00:00Z",
            "date_window_size": _days(source),
            "attribution_window": 0,
            "reqs_per_hour_limit": 0,
        }
        stream = {"name": "export", "json_schema": {}, "supported_sync_modes": ["full_refresh"]}
        modes = {"sync_mode": "full_refresh", "destination_sync_mode": "append"}
        _write(job.work / "config.json", config)
        _write(job.work / "catalog.json", {"streams": [{"stream": stream, **modes}]})
        found = job.shell(
            f'"$SOURCE" read --config config.json --catalog catalog.json | {_COUNT}',
            SOURCE=job.program(_AIRBYTE, "source-mixpanel"),
        )
        rows = int(found.output.splitlines()[-1])
        return Outcome(found.seconds, found.peak_bytes, rows)


class _TapAndTarget(Peer):
    """Singer's tap into Meltano's target, with COPY and without what the target could add.

    The catalog is discovered beforehand, as a Singer tap's users do, and is not measured.
    """

    name = f"{_TAP} | {_TARGET}".replace("==", " ")
    destination = "postgres"
    _requirements = (_TAP, _TARGET)

    def _run(self, job: _Job, source: Source, postgres_url: str) -> Outcome:
        tap = {
            # It knows project secrets only, and sends this as both halves of an account.
            "api_secret": f"{source.username}:{source.secret}",
            "project_timezone": "UTC",
            "start_date": f"{source.from_date}T00:00:00Z",
            # It asks for nothing when the window is empty, as it is from a day to the same day.
            "end_date": f"{source.to_date}T23:59:59Z",
            "date_window_size": str(_days(source)),
            "attribution_window": "5",
            "select_properties_by_default": "true",
            "user_agent": "benchmark",
        }
        target = {
            # It copies by this driver only.
            "sqlalchemy_url": postgres_url.replace("postgresql://", "postgresql+psycopg://", 1),
            "default_target_schema": "peer_tap",
            "use_copy": True,
            "load_method": "append-only",
            "validate_records": False,
            "add_record_metadata": False,
            "activate_version": False,
        }
        _write(job.work / "tap.json", tap)
        _write(job.work / "target.json", target)
        programs = {
            "TAP": job.program(_TAP, "tap-mixpanel"),
            "TARGET": job.program(_TARGET, "target-postgres"),
        }
        job.shell('"$TAP" --config tap.json --discover > discovered.json', **programs)
        discovered = json.loads((job.work / "discovered.json").read_text(encoding="utf-8"))
        export = next(one for one in discovered["streams"] if one["stream"] == "export")
        for entry in export["metadata"]:
            entry["metadata"]["selected"] = True
        _write(job.work / "catalog.json", {"streams": [export]})
        found = job.shell(
            '"$TAP" --config tap.json --catalog catalog.json | "$TARGET" --config target.json',
            **programs,
        )
        rows = _count_rows(postgres_url, "peer_tap", "export")
        return Outcome(found.seconds, found.peak_bytes, rows)


PEERS: Sequence[Peer] = (_Ingestr(), _IngestrInGo(), _Airbyte(), _TapAndTarget())
"""All connectors that are compared with."""


def _environment(directory: Path, requirement: str) -> Path:
    """The virtual environment of a package, as a path that holds from anywhere."""
    return directory.resolve() / requirement.replace("==", "-")


def _days(source: Source) -> int:
    """How many days there are to export."""
    return (source.to_date - source.from_date).days + 1


def _property_names(source: Source) -> list[str]:
    """The names that Mixpanel knows of the events' properties, from the first events.

    Raises:
        requests.RequestException: There is no answer, or a refusal.
        ValueError: A line is no event.
    """
    query = {"project_id": source.project_id}
    days = {"from_date": source.from_date.isoformat(), "to_date": source.to_date.isoformat()}
    account = (source.username, source.secret)
    url = f"{source.url}/api/2.0/export"
    with requests.get(url, query | days, auth=account, stream=True, timeout=300) as answer:
        answer.raise_for_status()
        lines = islice(answer.iter_lines(chunk_size=1 << 16), _EVENTS_TO_LEARN_FROM)
        names = {name for line in lines for name in json.loads(line)["properties"]}
    return sorted(names - _NO_PROPERTIES)


def _write(path: Path, value: Any) -> Path:
    """Write a JSON file and return its path."""
    path.write_text(json.dumps(value), encoding="utf-8")
    return path.resolve()


def _count_rows(postgres_url: str, schema: str, table: str) -> int:
    """How many rows a table has."""
    with closing(psycopg2.connect(postgres_url)) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(schema, table)))
        (rows,) = cursor.fetchone() or (0,)
        return int(rows)


def _reason(error: Exception) -> str:
    """The last line that tells what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    telling = [line for line in lines if _REASON.search(line)] or lines
    return telling[-1][:_REASON_CHARACTERS]
