"""The source's settings, section `sources.mixpanel` of dlt's configuration."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dlt.common.configuration import configspec, resolve_configuration
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.typing import TSecretStrValue

from mixpanel_pipeline.redaction import redacted, without_repeated
from mixpanel_pipeline.source.budget import PER_HOUR
from mixpanel_pipeline.source.errors import ConfigurationError
from mixpanel_pipeline.source.plan import Cursor
from mixpanel_pipeline.source.window import EndDay

# https://docs.mixpanel.com: the raw export has hosts of its own, one a region.
HOSTS = {
    "us": "https://data.mixpanel.com",
    "eu": "https://data-eu.mixpanel.com",
    "in": "https://data-in.mixpanel.com",
}
QUERY_HOSTS = {
    "us": "https://mixpanel.com",
    "eu": "https://eu.mixpanel.com",
    "in": "https://in.mixpanel.com",
}


@configspec
class MixpanelConfiguration(BaseConfiguration):
    """Settings as dlt finds them in the environment, `secrets.toml` and `config.toml`."""

    project_id: str | None = None
    service_account_username: str | None = None
    service_account_secret: TSecretStrValue | None = None
    project_secret: TSecretStrValue | None = None
    region: str = "us"
    base_url: str | None = None
    """Replaces the region's hosts, for a proxy or a local Mixpanel."""
    timezone: str = "UTC"
    """The project's time zone; projects created since 2023 export in UTC."""
    events: Any = "tracked"
    """`tracked` (those that the metrics need), `all`, or a list of names."""
    initial_window_days: int = 45
    lookback_hours: float = 2.0
    cursor: Cursor = "occurred_at"
    """`occurred_at`: read on from when the newest event happened; `processed_at`: from when the
    newest one arrived, so that late events are found however late they come."""
    arrival_days: int = 5
    """With `processed_at`: how many days before its arrival an event may have happened."""
    end_day: EndDay = "today"
    """`today`, or `yesterday` to load only days that are over."""
    attempts: int = 5
    """How often a request that fails on the way is sent before the sync gives up."""
    retry_pause_seconds: float = 2.0
    """The pause before the second attempt; each later one doubles, up to a minute."""
    max_wait_minutes: float = 70.0
    """How long to wait out a rate limit: Mixpanel's budget is by the hour."""
    read_timeout_seconds: float = 300.0
    """How long the server may be silent before its answer counts as broken."""
    parallel_downloads: int = 4
    """How many answers are downloaded side by side when a window takes several requests."""
    requests_per_hour: int = PER_HOUR
    """Our share of the 60 queries an hour that Mixpanel allows all tools of a project together."""
    report_timezone: str | None = None
    """The time zone in which Mixpanel's reports count days; that of exports if it is not given."""
    audit_after_sync: int = 0
    """How many days each sync compares with Mixpanel's own counts, and repairs; 0 for none."""
    dataset_name: str | None = None
    """What the raw dataset is called; see `Schemas`, which reads it."""
    mart_schema: str | None = None
    """What the models' schema is called; see `Schemas`, which reads it."""
    state_directory: str | None = None
    """Where working files go; see `state_directory`, which reads it."""

    @property
    def host(self) -> str:
        """Scheme and authority of the Export API."""
        return (self.base_url or HOSTS[self.region]).rstrip("/")

    @property
    def query_host(self) -> str:
        """Scheme and authority of the Query API."""
        return (self.base_url or QUERY_HOSTS[self.region]).rstrip("/")

    @property
    def lookback(self) -> timedelta:
        """How far before the watermark a sync begins."""
        return timedelta(hours=self.lookback_hours)

    @property
    def auth(self) -> tuple[str, str]:
        """User name and password for HTTP Basic."""
        if self.service_account_username:
            return self.service_account_username, str(self.service_account_secret)
        return str(self.project_secret), ""

    @property
    def zone(self) -> ZoneInfo:
        """The project's time zone."""
        return ZoneInfo(self.timezone)

    @property
    def report_zone(self) -> ZoneInfo:
        """The time zone of Mixpanel's own counts."""
        return ZoneInfo(self.report_timezone or self.timezone)

    @property
    def event_names(self) -> list[str] | str:
        """The names to ask for, or `tracked` or `all`."""
        if isinstance(self.events, str) and self.events.lstrip().startswith("["):
            return list(json.loads(self.events))
        return self.events if isinstance(self.events, str) else list(self.events)

    @property
    def secrets(self) -> list[str]:
        """Everything that may never be printed."""
        url_password = urlsplit(self.base_url or "").password
        return [
            str(secret)
            for secret in (self.service_account_secret, self.project_secret, url_password)
            if secret
        ]

    def without_secrets(self, text: str) -> str:
        """The text as it may be shown."""
        return without_repeated(redacted(text), self.secrets)


def load_configuration(explicit: Mapping[str, Any] | None = None) -> MixpanelConfiguration:
    """Read the settings and check them.

    Args:
        explicit: Settings by name that need not be configured.

    Raises:
        ConfigurationError: A setting is missing or cannot be what it is; the message names it.
    """
    try:
        settings = resolve_configuration(
            MixpanelConfiguration(),
            sections=("sources", "mixpanel"),
            explicit_value=dict(explicit or {}) or None,
        )
    except ConfigurationException as error:
        raise ConfigurationError(str(error)) from error
    problem = _problem(settings)
    if problem:
        raise ConfigurationError(f"sources.mixpanel: {problem}")
    return settings


def _problem(settings: MixpanelConfiguration) -> str | None:
    account = (settings.service_account_username, settings.service_account_secret)
    if any(account) and not all(account):
        return "a service account needs service_account_username and service_account_secret"
    if not any(account) and not settings.project_secret:
        return (
            "no credentials. Set service_account_username and service_account_secret (or "
            "project_secret) in .dlt/secrets.toml, or in the environment as "
            "SOURCES__MIXPANEL__SERVICE_ACCOUNT_USERNAME and so on"
        )
    if all(account) and not settings.project_id:
        return "project_id is missing: a service account needs it (Project Settings in Mixpanel)"
    if settings.region not in HOSTS:
        return f"region is {settings.region!r}, it can be {', '.join(HOSTS)}"
    if settings.base_url and urlsplit(settings.base_url).scheme not in ("http", "https"):
        return "base_url has to begin with http:// or https://"
    if settings.end_day not in ("today", "yesterday"):
        return f"end_day is {settings.end_day!r}, it can be today or yesterday"
    if settings.cursor not in ("occurred_at", "processed_at"):
        return f"cursor is {settings.cursor!r}, it can be occurred_at or processed_at"
    if not 1 <= settings.requests_per_hour <= PER_HOUR:
        return f"requests_per_hour has to be from 1 to {PER_HOUR}, what Mixpanel allows a project"
    for name in ("initial_window_days", "attempts", "parallel_downloads"):
        if getattr(settings, name) < 1:
            return f"{name} has to be at least 1"
    for name in (
        "lookback_hours",
        "arrival_days",
        "retry_pause_seconds",
        "max_wait_minutes",
        "audit_after_sync",
    ):
        if getattr(settings, name) < 0:
            return f"{name} cannot be negative"
    if settings.read_timeout_seconds <= 0:
        return "read_timeout_seconds has to be more than 0"
    for name in ("timezone", "report_timezone"):
        zone = getattr(settings, name)
        try:
            ZoneInfo(zone or "UTC")
        except (ZoneInfoNotFoundError, ValueError):
            return f"{name} {zone!r} is not a name of the IANA time zone database"
    return _events_problem(settings)


def _events_problem(settings: MixpanelConfiguration) -> str | None:
    expected = 'it can be "tracked", "all" or a list of event names'
    try:
        names = settings.event_names
    except (ValueError, TypeError):
        return f"events is not readable, {expected}"
    if isinstance(names, str):
        return None if names in ("tracked", "all") else f"events is {names!r}, {expected}"
    if not names or not all(isinstance(name, str) for name in names):
        return f"events is {names!r}, {expected}"
    return None
