"""What a sync did, for people and for programs."""

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal

from mixpanel_pipeline.project import version

if TYPE_CHECKING:
    from rich.console import Console

    from mixpanel_pipeline.source import Mode

Status = Literal["ok", "skipped", "failed"]

_ONLY_WHEN_TOLD = (
    "profiles_new",
    "profiles_changed",
    "profiles_unchanged",
    "profiles_deleted",
    "days_missing",
    "missing_since",
    "error",
)


def new_run_id() -> str:
    """An id for a run; sorts by time, like dlt's ids of loads."""
    return f"{time.time():.6f}"


@dataclass
class Summary:
    """One sync. What did not happen is None: a sync that only transforms received nothing."""

    status: Status
    mode: "Mode"
    destination: str | None
    run_id: str
    """The id in `sync_runs`, where a run that was skipped has no row."""
    started_at: datetime
    version: str = field(default_factory=version)
    from_date: date | None = None
    to_date: date | None = None
    watermark: datetime | None = None
    requests: int | None = None
    events_received: int | None = None
    events_new: int | None = None
    events_duplicate: int | None = None
    lines_rejected: int | None = None
    days_missing: int | None = None
    """Days loaded for other names than those asked for now; `missing_since` is the first."""
    missing_since: date | None = None
    profiles_new: int | None = None
    profiles_changed: int | None = None
    profiles_unchanged: int | None = None
    profiles_deleted: int | None = None
    subscribers: int | None = None
    duration_seconds: float = 0.0
    error: str | None = None
    is_misconfigured: bool = False
    """Mixpanel refused what is configured: running again brings nothing. The exit code tells."""

    def as_json(self) -> str:
        """One JSON object on one line; instants in ISO 8601, some fields only where they tell."""
        fields = asdict(self)
        del fields["is_misconfigured"]
        for name in _ONLY_WHEN_TOLD:
            if fields[name] is None:
                del fields[name]
        return json.dumps(fields, default=lambda value: value.isoformat())

    def print(self, console: "Console") -> None:
        from rich.table import Table

        table = Table(show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        for name, value in json.loads(self.as_json()).items():
            if name != "error" and value is not None:
                table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
        console.print(table)
