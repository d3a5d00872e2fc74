"""The table `sync_runs`: what every sync did, kept beside the events."""

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import md5
from pathlib import Path
from typing import Any, NamedTuple

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.project import version
from mixpanel_pipeline.runs.working_directory import state_directory
from mixpanel_pipeline.source.window import Window

_COLUMNS = {
    "id": "text primary key",
    "started_at": "timestamp with time zone not null",
    "finished_at": "timestamp with time zone",
    "status": "text not null",
    "mode": "text not null",
    "destination": "text not null",
    "cursor_column": "text",
    "event_names": "text",
    "events_denied": "text",
    "names_checked": "text",
    "from_date": "date",
    "to_date": "date",
    "loaded_to_date": "date",
    "watermark_before": "timestamp with time zone",
    "watermark_after": "timestamp with time zone",
    "requests": "bigint",
    "bytes": "bigint",
    "events_received": "bigint",
    "events_new": "bigint",
    "events_duplicate": "bigint",
    "events_late": "bigint",
    "lines_rejected": "bigint",
    "download_seconds": "double precision",
    "load_seconds": "double precision",
    "transform_seconds": "double precision",
    "error": "text",
    "version": "text not null",
}
_HOUR = timedelta(hours=1)
# Whoever asks for the same days much later wants them read again.
_PROGRESS_LASTS = timedelta(days=7)
_DIED = "The process ended without a word, as when it is killed. What it had committed counts."


# A median of so many is not moved by a single odd day, and follows a project that grows.
_COMPARED_RUNS = 20


class LoadedDays(NamedTuple):
    """Days that a run loaded for some names; by arrival, not all that happened on them."""

    event_names: str
    first: date
    last: date
    by_arrival: bool


class Amounts(NamedTuple):
    """What a run brought."""

    mode: str
    first: date
    last: date
    events: int
    bytes: int


@dataclass
class SyncRuns:
    """The record of runs in a warehouse; the caller holds the warehouse's lock.

    One row a run, from its start on: a run that dies leaves its row as `running`, which the next
    run makes `failed`. What the database could not be told of a run, the next one enters from a
    file on this machine.
    """

    warehouse: Warehouse
    recorded: str = ""
    """What stands behind SQL's `from` to read the record; the table itself by default."""

    def __post_init__(self) -> None:
        self.recorded = self.recorded or self._table

    @property
    def _table(self) -> str:
        return f"{self.warehouse.raw}.sync_runs"

    def for_reading(self, denied: Collection[str]) -> "SyncRuns":
        """The record as it would be once a run has begun, for who writes nothing.

        That is: no runs where there is no table, nulls for what an older version did not record,
        and what `reconsider` would change is as if it had.

        Args:
            denied: The names of events that are denied now.
        """
        existing = self.warehouse.columns(self.warehouse.raw, "sync_runs")
        values = {
            name: name
            if name in existing
            else f"cast(null as {kind.removesuffix(' primary key').removesuffix(' not null')})"
            for name, kind in _COLUMNS.items()
        }
        if "events_denied" in existing and (outdated := self._outdated(denied)):
            # Not as texts: their percent signs would be placeholders.
            hashes = ", ".join(f"'{md5(then.encode()).hexdigest()}'" for then in outdated)
            values["event_names"] = (
                f"case when event_names = 'all' and md5(events_denied) in ({hashes}) "
                f"then '{described([])}' else event_names end"
            )
        read = ", ".join(f"{value} as {name}" for name, value in values.items())
        source = f"from {self._table}" if existing else "where 1 = 0"
        return SyncRuns(self.warehouse, f"(select {read} {source}) as recorded")

    def start(self, run_id: str, now: datetime, mode: str) -> None:
        """Enter a run; create the table, or the columns it lacks, before."""
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        self.warehouse.create_schema(self.warehouse.raw)
        if not self.warehouse.has_table(self.warehouse.raw, "sync_runs"):
            self.warehouse.execute(f"create table if not exists {self._table} ({columns})")
        self._add_missing_columns()
        self._enter_noted()
        self.warehouse.execute(
            f"update {self._table} set status = 'failed', error = %s where status = 'running'",
            [_DIED],
        )
        self.warehouse.execute(
            f"insert into {self._table} (id, started_at, status, mode, destination, version) "
            "values (%s, %s, 'running', %s, %s, %s)",
            [run_id, now, mode, self.warehouse.name, version()],
        )

    def note(self, run_id: str, now: datetime, mode: str, **outcome: Any) -> None:
        """Keep what became of a run, which the database cannot be told, also if it has no row.

        Raises:
            OSError: The file cannot be written.
            ConfigurationError: Nor can its folder.
        """
        row = {
            "id": run_id,
            "started_at": now,
            "mode": mode,
            "destination": self.warehouse.name,
            "version": version(),
            **outcome,
        }
        with self._notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=datetime.isoformat) + "\n")

    @property
    def _notes(self) -> Path:
        return state_directory("pipelines") / f"mixpanel-{self.warehouse.fingerprint}-runs.jsonl"

    def _enter_noted(self) -> None:
        if not self._notes.exists():
            return
        for line in self._notes.read_text(encoding="utf-8").splitlines():
            # A line that a full disk cut off says nothing.
            with suppress(json.JSONDecodeError):
                row = json.loads(line)
                names, places = ", ".join(row), ", ".join(["%s"] * len(row))
                self.warehouse.execute(
                    f"insert into {self._table} ({names}) values ({places}) "
                    "on conflict (id) do update set status = excluded.status, "
                    "error = excluded.error, finished_at = excluded.finished_at",
                    list(row.values()),
                )
        self._notes.unlink()

    def _add_missing_columns(self) -> None:
        existing = self.warehouse.columns(self.warehouse.raw, "sync_runs")
        for name in _COLUMNS.keys() - existing:
            kind = _COLUMNS[name].removesuffix(" not null")
            self.warehouse.execute(f"alter table {self._table} add column {name} {kind}")

    def update(self, run_id: str, **values: Any) -> None:
        """Set columns of a run's row."""
        assignments = ", ".join(f"{name} = %s" for name in values)
        self.warehouse.execute(
            f"update {self._table} set {assignments} where id = %s", [*values.values(), run_id]
        )

    def reconsider(self, denied: Collection[str]) -> None:
        """Let runs that loaded all events but some vouch for none, once such a one is not denied.

        What they lack is one name, which no list of those that they asked for could say.

        Args:
            denied: The names of events that are denied now.
        """
        for then in self._outdated(denied):
            self.warehouse.execute(
                f"update {self._table} set event_names = %s "
                "where event_names = 'all' and events_denied = %s",
                [described([]), then],
            )

    def _outdated(self, denied: Collection[str]) -> list[str]:
        """The `events_denied` of such runs."""
        found = self.warehouse.rows(
            f"select distinct events_denied from {self._table} "
            "where event_names = 'all' and events_denied is not null"
        )
        return [then for (then,) in found if not set(json.loads(then)) <= set(denied)]

    def requests_ago(self, now: datetime) -> list[float]:
        """How many seconds before `now` each request of the last hour was sent, about."""
        found = self.warehouse.rows(
            f"select started_at, coalesce(finished_at, started_at), requests from {self.recorded} "
            "where coalesce(finished_at, started_at) between %s and %s and requests > 0",
            [now - _HOUR, now],
        )
        return [
            (now - started - (finished - started) * number / requests).total_seconds()
            for started, finished, requests in found
            for number in range(requests)
        ]

    def last_watermark(self) -> datetime | None:
        """The watermark as the last run left it that knew one."""
        found = self.warehouse.rows(
            f"select watermark_after from {self.recorded} where watermark_after is not null "
            "order by id desc limit 1"
        )
        return found[0][0] if found else None

    def failures_before(self, run_id: str, mode: str) -> tuple[int, datetime | None]:
        """How many runs have failed since the last success before a run, and since when.

        Args:
            run_id: The run's id.
            mode: Its mode: audits are compared with audits, syncs with syncs.
        """
        alike = "mode = 'audit'" if mode == "audit" else "mode <> 'audit'"
        before = f"from {self.recorded} where {alike} and id < %s"
        last = f"(select max(id) {before} and status = 'ok')"
        ((number, since),) = self.warehouse.rows(
            f"select count(*), min(started_at) {before} and status = 'failed' "
            f"and id > coalesce({last}, '')",
            [run_id, run_id],
        )
        return number, since

    def has_checked(self, names: str) -> bool:
        """Whether a run has told which of these names Mixpanel does not have."""
        return bool(
            self.warehouse.rows(
                f"select 1 from {self.recorded} where names_checked = %s limit 1", [names]
            )
        )

    def progress_of(self, backfill: Window, event_names: str, now: datetime) -> date | None:
        """The last day that this backfill has committed, if its last run lately did not finish."""
        found = self.warehouse.rows(
            f"select status, loaded_to_date from {self.recorded} "
            "where mode = 'backfill' and from_date = %s and to_date = %s and event_names = %s "
            "and started_at > %s order by id desc limit 1",
            [backfill.from_date, backfill.to_date, event_names, now - _PROGRESS_LASTS],
        )
        for status, loaded_to_date in found:
            if status != "ok" and loaded_to_date is not None and loaded_to_date < backfill.to_date:
                reached: date = loaded_to_date
                return reached
        return None

    def loaded_days(self) -> list[LoadedDays]:
        """Which days runs have loaded for which names, the oldest first.

        A run enters the days it has loaded after it committed them, so a crash claims too little.
        What an audit loads again are single days, and not all between them.
        """
        return [
            LoadedDays(*row)
            for row in self.warehouse.rows(
                "select event_names, from_date, "
                "case when by_arrival then to_date else least(loaded_to_date, to_date) end, "
                "by_arrival from ("
                "select id, event_names, from_date, to_date, loaded_to_date, "
                "mode = 'incremental' and cursor_column = 'processed_at' as by_arrival "
                f"from {self.recorded} where mode <> 'audit' and event_names is not null "
                "and loaded_to_date is not null) as runs order by id"
            )
        ]

    def amounts(self, event_names: str, *, by_arrival: bool) -> list[Amounts]:
        """What the last runs that succeeded with the same names brought, the newest first.

        Args:
            event_names: The names, as `described`.
            by_arrival: Of runs that read by arrival; otherwise of those that read whole days.
        """
        return [
            Amounts(*row)
            for row in self.warehouse.rows(
                "select mode, from_date, to_date, events_received, bytes "
                f"from {self.recorded} where status = 'ok' and mode <> 'audit' "
                "and event_names = %s and bytes is not null and loaded_to_date is not null "
                "and (mode = 'incremental' and cursor_column = 'processed_at') = %s "
                f"order by id desc limit {_COMPARED_RUNS}",
                [event_names, by_arrival],
            )
        ]


def described(events: Sequence[str] | None) -> str:
    """The names that a run asks for, as `sync_runs` keeps them."""
    return "all" if events is None else json.dumps(list(events))
