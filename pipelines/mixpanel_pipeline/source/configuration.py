"""The source's settings, section `sources.mixpanel` of dlt's configuration."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from dlt.common.configuration import configspec, resolve_configuration
from dlt.common.configuration.exceptions import (
    ConfigurationException,
    ConfigValueCannotBeCoercedException,
)
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.typing import TSecretStrValue

from mixpanel_pipeline.events.minimisation import NEEDED, Minimisation
from mixpanel_pipeline.exact_configuration import configured, configured_value, resolved
from mixpanel_pipeline.redaction import redacted, without_repeated
from mixpanel_pipeline.settings_files import place_of
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

_SECTION = ("sources", "mixpanel")
_SECRETS = ("service_account_username", "service_account_secret", "project_secret")
# In place of the project's id, people have its token or secret.
_HIDDEN = (*_SECRETS, "hash_secret", "project_id", "webhook_url", "heartbeat_url")
_URLS = ("base_url", "webhook_url", "heartbeat_url")
# What is kept of events in part or not at all: lists of names.
_LISTS = ("drop_properties", "hash_properties", "events_denied")
# As many bits as a hash has, where each character is worth four at least.
SECRET_LENGTH = 32
_TYPES: dict[Any, str] = {
    int: "has to be a whole number",
    float: "has to be a number",
    bool: "has to be true or false",
}
_WORDS: dict[str, Sequence[str]] = {
    "region": list(HOSTS),
    "end_day": get_args(EndDay),
    "cursor": get_args(Cursor),
}
# Mixpanel has had events since 2009: more days reach behind the calendar of Python in the end.
_DAYS = 10_000
# The longest that a socket waits is weeks; whoever means for ever may write a day.
_DAY_SECONDS = 86_400
_BOUNDS: dict[str, tuple[int | float, int | float]] = {
    "requests_per_hour": (1, PER_HOUR),
    "initial_window_days": (1, _DAYS),
    "lookback_hours": (0, 24 * _DAYS),
    "arrival_days": (0, _DAYS),
    "profiles_every_hours": (0, 24 * _DAYS),
    "audit_after_sync": (0, _DAYS),
    # Doubled pauses overflow after a thousand.
    "attempts": (1, 1000),
    "retry_pause_seconds": (0, _DAY_SECONDS),
    "max_wait_minutes": (0, _DAY_SECONDS),
    "read_timeout_seconds": (0.001, _DAY_SECONDS),
    # More than the hour's requests have nothing to do.
    "parallel_downloads": (1, PER_HOUR),
}


@configspec
class MixpanelConfiguration(BaseConfiguration):
    """Settings as dlt finds them in the environment, `secrets.toml` and `config.toml`."""

    project_id: str | None = None
    """The project's id; a service account needs it."""
    service_account_username: str | None = None
    """Of a service account that may read the project."""
    service_account_secret: TSecretStrValue | None = None
    """The service account's secret."""
    project_secret: TSecretStrValue | None = None
    """Instead of a service account, until Mixpanel retires project secrets."""
    hash_secret: TSecretStrValue | None = None
    """What hashes are keyed with, those of forgotten ids and of `hash_properties`; made once and
    kept. With another one, equal values get other hashes than before."""
    region: str = "us"
    """`us`, `eu` or `in`: where the project's data are."""
    base_url: str | None = None
    """Replaces the region's hosts, for a proxy or a local Mixpanel."""
    timezone: str = "UTC"
    """The project's time zone, for projects created before 2023, whose exports hold its wall-clock
    time."""
    events: Any = "tracked"
    """`tracked`: those that the metrics need; `all`; or a list of names, which has to have those of
    all metrics, unless only `--skip-transform` is run."""
    evidence_of_all_events: bool = True
    """With `tracked` or a list: events of other names that have both `$device_id` and `$user_id`
    tell who is who as well. `false` spares their export.

    Only the two ids of each, and when it happened, are kept. It is one more request for each of the
    exports of events, and its answer is as large as all that people did while they were signed in:
    where most of that is not loaded, most of what a sync downloads. What a device did before
    somebody signed in on it is theirs only if an event says so; Mixpanel's SDKs send `$identify`,
    which is asked for anyway, when somebody signs in on it. Nothing more is asked for with
    `events = "all"`, or with `identity: as_exported`."""
    events_denied: Any = ()
    """A list of events that are never loaded, whatever `events` says.

    What is loaded already stays until `run.py remove` removes it. A name that is taken off is
    loaded from then on; the days that were loaded without it count as missing it, and a full
    refresh loads them."""
    drop_properties: Any = ()
    """A list of properties that are removed from every event and profile before anything of it
    reaches the disk.

    This and `hash_properties` apply to what is loaded from then on: an event that is loaded already
    stays as it is, also when its day is read again. To apply them to it, remove it with `run.py
    remove` and backfill its days, of those that Mixpanel still exports; what is in
    `rejected_lines` from before is to be deleted there. Keys are computed before, from the whole
    event, so an event that is loaded without a property is the same as with it. (The key of an
    event without `$insert_id` is a hash of all of it: whoever has the rest can try values.)

    While one of the three lists is set, an answer is decoded while it comes, instead of being kept
    on disk first, which takes memory for each of `parallel_downloads`; and of a line that is no
    event the reason, the length and a hash (keyed, where there is a `hash_secret`) are kept instead
    of its text."""
    hash_properties: Any = ()
    """A list of properties whose values are replaced by their HMAC-SHA-256 with `hash_secret`.

    In hexadecimal: equal values have equal hashes, a list or an object has one as a whole, and null
    stays null. See `Minimisation.minimised`."""
    initial_window_days: int = 45
    """How many days the first sync and `--full-refresh` load."""
    lookback_hours: float = 2.0
    """How far before the watermark a sync begins; it loads whole days from there."""
    cursor: Cursor = "occurred_at"
    """`occurred_at`: read on from when the newest event happened; `processed_at`: from when the
    newest one arrived, so that late events are found however late they come."""
    arrival_days: int = 5
    """With `processed_at`: how many days before its arrival an event may have happened; any
    number."""
    end_day: EndDay = "today"
    """`today`, or `yesterday` to load only days that are over."""
    attempts: int = 5
    """How often a request is sent when its answer is broken or an error of the server, before the
    sync gives up."""
    retry_pause_seconds: float = 2.0
    """The pause before the second attempt; each later one doubles, up to a minute."""
    max_wait_minutes: float = 70.0
    """How long a request waits out Mixpanel's rate limit, whose budget is by the hour."""
    read_timeout_seconds: float = 300.0
    """How long the server may be silent before its answer counts as broken."""
    parallel_downloads: int = 4
    """How many answers are downloaded side by side when a window takes several requests."""
    requests_per_hour: int = PER_HOUR
    """How many of the 60 queries an hour, which Mixpanel allows all tools of a project together,
    syncs may take."""
    report_timezone: str | None = None
    """The time zone in which Mixpanel's reports count days (Project Settings), for the audit of
    projects that export UTC; that of exports if it is not given."""
    profiles: bool = False
    """`true` loads people's profiles as well."""
    profile_history: bool = False
    """`true` keeps what a profile was before it changed, from then on."""
    cohorts: bool = False
    """`true` loads the cohorts, and who is in them, as well."""
    profiles_every_hours: float = 24.0
    """How long after one sweep of all profiles, or of a cohort, began the next one may: each takes
    a request a thousand people."""
    lexicon: bool = False
    """`true` loads what is written of events and properties in Mixpanel's Lexicon as well, once a
    day; with a service account only."""
    audit_after_sync: int = 0
    """How many days each sync compares with Mixpanel's own counts, and heals; 0 for none."""
    webhook_url: TSecretStrValue | None = None
    """Is told of runs that failed, of the first that succeeds again, and of audits whose counts
    differ: a POST of `{"text": …}`, as Slack's incoming webhooks take it; a secret.

    Who knows such a URL can write there."""
    heartbeat_url: TSecretStrValue | None = None
    """Is asked for after each sync that succeeded, so that whoever expects that notices when syncs
    stop; with `/fail` behind it after one that failed; a secret."""
    dataset_name: str | None = None
    """The schema of the raw events, `mixpanel_raw` by default; `mart_schema` has to be set with it.

    See `Schemas`, which reads it."""
    mart_schema: str | None = None
    """The schema of the models, `mixpanel` by default.

    See `Schemas`, which reads it."""
    state_directory: str | None = None
    """Where working files, and dbt's output, go; dlt's data folder by default, else relative to the
    project. Who runs the sync has to be able to write there, and alone can read what is made there;
    nothing in it is needed by the next sync."""

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

    def names_listed(self, name: str) -> frozenset[str]:
        """The names in `drop_properties`, `hash_properties` or `events_denied`."""
        return frozenset(_listed(getattr(self, name)))

    def without_denied(self, events: Sequence[str]) -> list[str]:
        """Those of the events that may be loaded."""
        denied = self.names_listed("events_denied")
        return [name for name in events if name not in denied]

    @property
    def minimisation(self) -> Minimisation | None:
        """What is removed from events before they are kept; None for nothing."""
        dropped, hashed, denied = (self.names_listed(name) for name in _LISTS)
        if not (dropped or hashed or denied):
            return None
        return Minimisation(dropped, hashed, denied, self.hash_secret)

    @property
    def secrets(self) -> list[str]:
        """Everything that may never be printed."""
        url_password = urlsplit(self.base_url or "").password
        return [
            str(secret)
            for secret in (
                self.service_account_secret,
                self.project_secret,
                self.hash_secret,
                self.webhook_url,
                self.heartbeat_url,
                url_password,
            )
            if secret
        ]

    def without_secrets(self, text: str) -> str:
        """The text as it may be shown."""
        return without_repeated(redacted(text), self.secrets)


def withheld_names(settings: MixpanelConfiguration | None) -> dict[str, frozenset[str]]:
    """The names that each of the lists of what is not kept has, by the setting's name.

    Args:
        settings: The checked configuration; None to read just these from section
            `sources.mixpanel`, for when nothing is asked of Mixpanel.

    Raises:
        ConfigurationError: One is no list of names; the message names it.
    """
    if settings is None:
        hints = MixpanelConfiguration.get_resolvable_fields()
        found = {name: configured_value(name, hints[name], _SECTION) for name in _LISTS}
        settings = MixpanelConfiguration()
        for name, value in found.items():
            setattr(settings, name, () if value is None else value)
        problem = _lists_problem(settings)
        if problem:
            raise ConfigurationError(problem.told({}))
    return {name: settings.names_listed(name) for name in _LISTS}


def configured_url(name: str, settings: MixpanelConfiguration | None) -> str | None:
    """A URL of those who are told how runs end; None when there is none, or none can be read.

    Args:
        name: The setting's name.
        settings: The checked configuration; None to read just this from section
            `sources.mixpanel`, also when nothing else there is right.
    """
    if settings is not None:
        return getattr(settings, name) or None
    # Files that cannot be read do not keep us from reading the environment.
    found = os.environ.get("__".join((*_SECTION, name)).upper())
    if found is None:
        with suppress(Exception):
            found = configured_value(name, str, _SECTION)
    return found if isinstance(found, str) and _is_url(found) else None


def place_of_setting(name: str) -> str:
    """A setting as messages name it, with where it is set."""
    place = place_of((*_SECTION, name))
    return f"`{name}` of [sources.mixpanel]" + (f" ({place})" if place else "")


def load_configuration(
    explicit: Mapping[str, Any] | None = None, *, exactly: bool = True
) -> MixpanelConfiguration:
    """Read the settings and check them.

    Args:
        explicit: Settings by name that need not be configured.
        exactly: Read section `sources.mixpanel` alone; see `exact_configuration`.

    Raises:
        ConfigurationError: A setting is missing or cannot be what it is; the message names it.
    """
    given = dict(explicit or {})
    try:
        if exactly:
            values = configured(MixpanelConfiguration, _SECTION) | given
            settings = resolved(MixpanelConfiguration(), _SECTION, values)
            problem = _shape_problem(values) or _problem(settings)
        else:
            settings = resolve_configuration(
                MixpanelConfiguration(), sections=_SECTION, explicit_value=given or None
            )
            problem = _problem(settings)
    except ConfigValueCannotBeCoercedException as error:
        problem = _type_problem(error)
    except ConfigurationException as error:
        raise ConfigurationError(str(error)) from error
    if isinstance(problem, _Problem):
        raise ConfigurationError(problem.told(given))
    if problem:
        raise ConfigurationError(f"sources.mixpanel: {problem}")
    return settings


def _shape_problem(values: Mapping[str, Any]) -> "_Problem | None":
    """What dlt would make a text or a number of, although it is none."""
    for name, value in values.items():
        hint = MixpanelConfiguration.get_resolvable_fields()[name]
        is_fit = name in ("events", *_LISTS) or (isinstance(value, bool) and hint is bool)
        if not is_fit and isinstance(value, list | dict | bool):
            return _Problem(name, _TYPES.get(hint, "has to be text"), value)
    return None


@dataclass(frozen=True)
class _Problem:
    """A setting whose value it cannot have."""

    name: str
    expected: str
    value: object
    nearest: str | None = None

    def told(self, explicit: Mapping[str, Any]) -> str:
        """What is wrong, and where; of a secret, not what it is."""
        place = None if self.name in explicit else place_of((*_SECTION, self.name))
        # A password can stand in a URL.
        shown = "" if self.name in _HIDDEN else redacted(f" is {_written(self.value)}")
        text = f"sources.mixpanel: {self.name}{shown}"
        text += f" ({place}), it" if place else ", it"
        meant = f". Did you mean {self.nearest}?" if self.nearest else ""
        return f"{text} {self.expected}{meant}"


def _written(value: object) -> str:
    """The value much as it was written in a file."""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return repr(value)


def _type_problem(error: ConfigValueCannotBeCoercedException) -> _Problem:
    name, value = error.field_name, error.field_value
    if name in _WORDS:
        return _not_one_of(_WORDS[name], name, value)
    return _Problem(name, _TYPES.get(error.hint, "has to be text"), value)


def _not_one_of(words: Sequence[str], name: str, value: object) -> _Problem:
    nearest = get_close_matches(str(value).lower(), words, 1)
    expected = f"can be {', '.join(words[:-1])} or {words[-1]}"
    return _Problem(name, expected, value, nearest[0] if nearest else None)


def _problem(settings: MixpanelConfiguration) -> "_Problem | str | None":
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
    if settings.lexicon and not all(account):
        return "lexicon = true needs a service account: Mixpanel shows the Lexicon to no other"
    if settings.project_id and not settings.project_id.isdecimal():
        expected = "has to be the number that Project Settings in Mixpanel shows as Project ID"
        return _Problem("project_id", expected, None)
    return (
        _sendable_problem(settings)
        or _words_problem(settings)
        or _url_problem(settings)
        or _bounds_problem(settings)
        or _zone_problem(settings)
        or _events_problem(settings)
        or _minimisation_problem(settings)
    )


def _words_problem(settings: MixpanelConfiguration) -> _Problem | None:
    for name, words in _WORDS.items():
        if getattr(settings, name) not in words:
            return _not_one_of(words, name, getattr(settings, name))
    return None


def _sendable_problem(settings: MixpanelConfiguration) -> _Problem | None:
    for name in _SECRETS:
        for position, character in enumerate(str(getattr(settings, name) or ""), start=1):
            # HTTP's header holds Latin-1, and ends at a line's end.
            if ord(character) > 0xFF or ord(character) < 0x20:
                kind = "a curly quote" if "\u2018" <= character <= "\u201e" else "a character"
                expected = f"has {kind} at position {position} that no HTTP header can hold"
                return _Problem(name, f"{expected}: copy it from Mixpanel again", None)
    return None


def _url_problem(settings: MixpanelConfiguration) -> _Problem | None:
    expected = "has to begin with http:// or https:// and a host"
    for name in _URLS:
        value = getattr(settings, name)
        # Those who are told can be left out by an empty text; a Mixpanel cannot.
        if value is not None and not _is_url(value) and (value or name == "base_url"):
            return _Problem(name, expected, value)
    return None


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        # A port that is none raises.
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _bounds_problem(settings: MixpanelConfiguration) -> _Problem | None:
    for name, (least, most) in _BOUNDS.items():
        value = getattr(settings, name)
        if not least <= value <= most:
            why = ", what Mixpanel allows a project" if name == "requests_per_hour" else ""
            return _Problem(name, f"has to be from {least} to {most}{why}", value)
    return None


def _zone_problem(settings: MixpanelConfiguration) -> _Problem | None:
    for name in ("timezone", "report_timezone"):
        zone = getattr(settings, name)
        try:
            ZoneInfo(zone or "UTC")
        except (ZoneInfoNotFoundError, ValueError, OSError):
            nearest = get_close_matches(str(zone), sorted(available_timezones()), 1)
            expected = "has to be a name of the IANA time zone database, like Europe/Berlin"
            return _Problem(name, expected, zone, nearest[0] if nearest else None)
    return None


def _events_problem(settings: MixpanelConfiguration) -> _Problem | None:
    expected = 'can be "tracked", "all" or a list of event names'
    try:
        names = settings.event_names
    except (ValueError, TypeError):
        return _Problem("events", f"is not readable: it {expected}", settings.events)
    if isinstance(names, str):
        if names in ("tracked", "all"):
            return None
        nearest = get_close_matches(names.lower(), ("tracked", "all"), 1)
        return _Problem("events", expected, names, nearest[0] if nearest else None)
    if not names or not all(isinstance(name, str) and name for name in names):
        return _Problem("events", expected, names)
    return None


def _listed(value: Any) -> list[Any]:
    """A list of names, as a file or the environment has it.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(value)
    return list(value)


def _lists_problem(settings: MixpanelConfiguration) -> _Problem | None:
    for name in _LISTS:
        value = getattr(settings, name)
        what = "event" if name == "events_denied" else "property"
        try:
            names = _listed(value)
        except ValueError:
            names = [None]
        if not all(isinstance(one, str) and one for one in names):
            return _Problem(name, f'has to be a list of {what} names, like ["{what} name"]', value)
    return None


def _minimisation_problem(settings: MixpanelConfiguration) -> _Problem | None:
    if problem := _lists_problem(settings):
        return problem
    for name in ("drop_properties", "hash_properties"):
        for needed in sorted(settings.names_listed(name) & NEEDED.keys()):
            expected = f"cannot have {needed}: {NEEDED[needed]}"
            return _Problem(name, expected, getattr(settings, name))
    dropped, hashed = (settings.names_listed(name) for name in _LISTS[:2])
    if both := sorted(dropped & hashed):
        expected = f"has {both[0]}, which drop_properties has too: take it off one of them"
        return _Problem("hash_properties", expected, settings.hash_properties)
    if hashed and len(settings.hash_secret or "") < SECRET_LENGTH:
        expected = (
            f"needs hash_secret, a text of at least {SECRET_LENGTH} characters in "
            ".dlt/secrets.toml, made once and kept. For example: "
            "python -c 'import secrets; print(secrets.token_hex())'"
        )
        return _Problem("hash_properties", expected, settings.hash_properties)
    names = settings.event_names
    if not isinstance(names, str) and not settings.without_denied(names):
        return _Problem("events_denied", "leaves nothing of `events`", settings.events_denied)
    return None
