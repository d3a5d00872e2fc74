"""Whether a sync would work, line by line, before the first one or after a change."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

import duckdb
import psycopg2

from mixpanel_pipeline.declaration import (
    IDENTITY_EVENTS,
    identity_events,
    metrics,
    tracked_events,
)
from mixpanel_pipeline.engines import Warehouse, open_warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs.sync_runs import SyncRuns
from mixpanel_pipeline.runs.unknown_names import with_nearest
from mixpanel_pipeline.settings import check_settings
from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.client import LONGEST_LIST_OF_NAMES, MixpanelClient
from mixpanel_pipeline.source.configuration import (
    HOSTS,
    MixpanelConfiguration,
    load_configuration,
)
from mixpanel_pipeline.source.errors import (
    AccessRefused,
    ConfigurationError,
    ExportError,
    NotInPlan,
)
from mixpanel_pipeline.source.window import last_day

_T = TypeVar("_T")
Result = Literal["ok", "warning", "error"]

# Events are dated, and the watermark is moved, by clocks that are expected to agree about so far.
_SKEW = timedelta(minutes=2)
_DATABASE_FAILS = (duckdb.Error, psycopg2.Error, SyncError, OSError)


@dataclass(frozen=True)
class Line:
    """What was checked, and what came of it: for a warning or an error, what to do."""

    what: str
    result: Result
    told: str


@dataclass(frozen=True)
class Checked:
    """All lines, in order."""

    lines: list[Line]

    @property
    def is_ok(self) -> bool:
        """Whether a sync would work; warnings do not keep it from that."""
        return all(line.result != "error" for line in self.lines)

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps({"is_ok": self.is_ok, "checks": [asdict(line) for line in self.lines]})


def check(
    destination: str | None, now: datetime, *, loads: bool = True, builds: bool = True
) -> Checked:
    """Check what can be known without loading anything; it sends a few requests to Mixpanel.

    Args:
        destination: Where to load; what is configured by default.
        now: The current instant, with a time zone.
        loads: Whether the sync would load; if not, Mixpanel is not asked.
        builds: Whether it would build the models.
    """
    lines: list[Line] = []
    _checked(lines, "settings", check_settings)
    if not lines:
        _add(lines, "settings", "ok", "all are known")
    declared = _checked(lines, "declaration", metrics)
    if declared is not None:
        _add(lines, "declaration", "ok", f"{len(declared)} metrics")
    warehouse = _checked(lines, "database", lambda: open_warehouse(destination))
    if warehouse is not None:
        _check_database(lines, warehouse, loads=loads, builds=builds)
    if not loads:
        return Checked(lines)
    settings = _checked(lines, "Mixpanel", load_configuration)
    if settings is not None:
        _check_mixpanel(lines, settings, warehouse, now)
    return Checked(lines)


def _check_database(lines: list[Line], warehouse: Warehouse, *, loads: bool, builds: bool) -> None:
    try:
        warehouse.check(loads=loads, builds=builds)
        holder = warehouse.holder()
    except ConfigurationError as error:
        _add(lines, "database", "error", str(error))
    except _DATABASE_FAILS as error:
        _add(lines, "database", "error", f"{warehouse.location}: {warehouse.told(error)}")
    else:
        _add(lines, "database", "ok", warehouse.location)
        if holder:
            _add(lines, "lock", "warning", f"A sync is running: {holder}. Others are skipped.")


def _check_mixpanel(
    lines: list[Line], settings: MixpanelConfiguration, warehouse: Warehouse | None, now: datetime
) -> None:
    spent = _requests_ago(warehouse, now)
    left = max(settings.requests_per_hour - len(spent), 0)
    if left < settings.requests_per_hour // 2:
        told = f"{left} of {settings.requests_per_hour} requests are left: a sync may have to wait."
        _add(lines, "requests this hour", "warning", told)
    else:
        _add(lines, "requests this hour", "ok", f"{left} of {settings.requests_per_hour} left")
    # Whoever waits for a check has no hour.
    impatient = _with(settings, max_wait_minutes=0.0, attempts=1)
    client = MixpanelClient(impatient, RequestBudget(settings.requests_per_hour, spent))
    try:
        skew = client.try_export(last_day(now, settings.zone, "today"))
    except AccessRefused as error:
        _add(lines, "Mixpanel", "error", f"{_said(settings, error)}{_elsewhere(impatient, now)}")
        return
    except ExportError as error:
        _add(lines, "Mixpanel", "error", _said(settings, error))
        return
    where = settings.base_url or f"region {settings.region}"
    _add(lines, "Mixpanel", "ok", f"project {settings.project_id or 'of the secret'}, {where}")
    if skew is not None:
        _check_clock(lines, skew - now)
    if settings.timezone == "UTC":
        told = "exports are read as UTC, as those of projects that were created since 2023 are"
    else:
        told = f"exports are read as wall-clock time of {settings.timezone}"
    _add(lines, "time zone", "ok", told)
    _check_names(lines, settings, client)


def _check_clock(lines: list[Line], skew: timedelta) -> None:
    if abs(skew) <= _SKEW:
        _add(lines, "clock", "ok", "agrees with Mixpanel's")
        return
    seconds = abs(skew).total_seconds()
    way = "behind" if skew > timedelta(0) else "ahead of"
    told = f"This machine's clock is {seconds:.0f} seconds {way} Mixpanel's: set it by NTP."
    _add(lines, "clock", "warning", told)


def _check_names(
    lines: list[Line], settings: MixpanelConfiguration, client: MixpanelClient
) -> None:
    try:
        known = client.event_names(patient=False)
    except NotInPlan:
        told = "The plan lacks the Query API: audit, profiles and the check of names are not there."
        _add(lines, "plan", "warning", told)
        return
    except ExportError as error:
        _add(lines, "plan", "warning", f"Not known: {_said(settings, error)}")
        return
    _add(lines, "plan", "ok", "has the Query API: audit and profiles are possible")
    kinds = sorted(set(known) & set(IDENTITY_EVENTS))
    told = f"events by the original ID merge: {', '.join(kinds)}" if kinds else "no event names it"
    _add(lines, "identities", "ok", told)
    try:
        wanted = tracked_events() if settings.event_names == "tracked" else settings.event_names
    except ConfigurationError:
        return
    if isinstance(wanted, str) or len(known) >= LONGEST_LIST_OF_NAMES:
        _add(lines, "event names", "ok", f"{len(known):,} in the last 31 days")
        return
    absent = sorted(set(wanted) - set(known) - set(identity_events()))
    for name in absent:
        told = f"no event for 31 days: {with_nearest(name, known)}. What counts it stays 0."
        _add(lines, "event names", "warning", told)
    if not absent:
        _add(lines, "event names", "ok", f"Mixpanel has all {len(wanted)}")


def _elsewhere(settings: MixpanelConfiguration, now: datetime) -> str:
    """What the other regions say of the same credentials."""
    if settings.base_url:
        return ""
    for region in HOSTS:
        if region != settings.region:
            other = _with(settings, region=region)
            client = MixpanelClient(other, RequestBudget(settings.requests_per_hour))
            try:
                client.try_export(last_day(now, settings.zone, "today"))
            except ExportError:
                continue
            return f' They are taken in region "{region}": set region = "{region}".'
    return " No other region takes them either."


def _requests_ago(warehouse: Warehouse | None, now: datetime) -> list[float]:
    try:
        reader = warehouse.for_reading() if warehouse else None
        if reader is None or not reader.has_table(reader.raw, "sync_runs"):
            return []
        return SyncRuns(reader).requests_ago(now)
    except (*_DATABASE_FAILS, ConfigurationError):
        return []


def _checked(lines: list[Line], what: str, step: Callable[[], _T]) -> _T | None:
    try:
        return step()
    except ConfigurationError as error:
        _add(lines, what, "error", str(error))
        return None


def _add(lines: list[Line], what: str, result: Result, told: str) -> None:
    lines.append(Line(what, result, told))


def _with(settings: MixpanelConfiguration, **values: Any) -> MixpanelConfiguration:
    changed: MixpanelConfiguration = settings.copy()
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


def _said(settings: MixpanelConfiguration, error: Exception) -> str:
    return settings.without_secrets(str(error))
