"""The table `sync_runs`: what every sync did, kept beside the events."""

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

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


@dataclass
class SyncRuns:
    """The record of runs in a warehouse; the caller holds the warehouse's lock.

    One row a run, from its start on: a run that dies leaves its row as `running`, which the next
    run makes `failed`. What the database could not be told of a run, the next one enters from a
    file on this machine.
    """

    warehouse: Warehouse

    @property
    def _table(self) -> str:
        return f"{self.warehouse.raw}.sync_runs"

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
        recorded = self.warehouse.rows(
            f"select distinct events_denied from {self._table} "
            "where event_names = 'all' and events_denied is not null"
        )
        for (then,) in recorded:
            if not set(json.loads(then)) <= set(denied):
                self.warehouse.execute(
                    f"update {self._table} set event_names = %s "
                    "where event_names = 'all' and events_denied = %s",
                    [described([]), then],
                )

    def requests_ago(self, now: datetime) -> list[float]:
        """How many seconds before `now` each request of the last hour was sent, about."""
        found = self.warehouse.rows(
            f"select started_at, coalesce(finished_at, started_at), requests from {self._table} "
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
            f"select watermark_after from {self._table} where watermark_after is not null "
            "order by id desc limit 1"
        )
        return found[0][0] if found else None

    def has_checked(self, names: str) -> bool:
        """Whether a run has told which of these names Mixpanel does not have."""
        return bool(
            self.warehouse.rows(
                f"select 1 from {self._table} where names_checked = %s limit 1", [names]
            )
        )

    def progress_of(self, backfill: Window, event_names: str, now: datetime) -> date | None:
        """The last day that this backfill has committed, if its last run lately did not finish."""
        found = self.warehouse.rows(
            f"select status, loaded_to_date from {self._table} "
            "where mode = 'backfill' and from_date = %s and to_date = %s and event_names = %s "
            "and started_at > %s order by id desc limit 1",
            [backfill.from_date, backfill.to_date, event_names, now - _PROGRESS_LASTS],
        )
        for status, loaded_to_date in found:
            if status != "ok" and loaded_to_date is not None and loaded_to_date < backfill.to_date:
                reached: date = loaded_to_date
                return reached
        return None


def described(events: Sequence[str] | None) -> str:
    """The names that a run asks for, as `sync_runs` keeps them."""
    return "all" if events is None else json.dumps(list(events))
