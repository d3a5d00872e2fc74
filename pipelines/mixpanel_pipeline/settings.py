"""Where each setting may stand: what is misspelt or misplaced is refused, not ignored."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dlt.common.configuration.specs import RuntimeConfiguration
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.impl.filesystem.configuration import (
    FilesystemDestinationClientConfiguration,
)

from mixpanel_pipeline.engines.postgres_connection import Credentials
from mixpanel_pipeline.settings_files import Key, SettingsFile, settings_files
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.errors import ConfigurationError

logger = logging.getLogger(__name__)

_SOURCE = ("sources", "mixpanel")
_RUNTIME = ("runtime",)
_POSTGRES = ("destination", "postgres")
_DUCKDB = ("destination", "duckdb")
_SPARK = ("destination", "spark")
_FILESYSTEM = ("destination", "filesystem")
_NAMES = ("duckdb", "filesystem", "postgres", "spark")

# What has an effect, by section. `dataset_name` is refused elsewhere unless it is the default.
_VALID = {
    (): ("destination_type", "dataset_name"),
    _SOURCE: tuple(MixpanelConfiguration.get_resolvable_fields()),
    _RUNTIME: tuple(RuntimeConfiguration.get_resolvable_fields()),
    _DUCKDB: ("credentials", "memory_limit", "lock_wait_seconds"),
    (*_DUCKDB, "credentials"): tuple(DuckDbCredentials.get_resolvable_fields()),
    _POSTGRES: ("credentials",),
    _SPARK: ("warehouse", "catalog", "host", "port", "username"),
    _FILESYSTEM: (
        "table_format",
        *FilesystemDestinationClientConfiguration.get_resolvable_fields(),
    ),
    (*_POSTGRES, "credentials"): tuple(Credentials.get_resolvable_fields()),
}
# Sections below which a key is somebody's own: a parameter of libpq, DuckDB's pragmas.
_OPEN = {
    (*_POSTGRES, "credentials", "query"),
    *((*_DUCKDB, "credentials", name) for name in _VALID[(*_DUCKDB, "credentials")]),
    *((*_FILESYSTEM, name) for name in _VALID[_FILESYSTEM]),
}
_DESTINATIONS = ("[destination.duckdb]", "[destination.postgres]")
# dlt's, for all pipelines; a sync runs with its own.
_DLTS = (
    "data_writer",
    "extract",
    "load",
    "normalize",
    "pipelines",
    "schema",
)
# What other tools call the parts of a connection.
_SYNONYMS = {
    "user": "username",
    "dbname": "database",
    "db": "database",
    "passwd": "password",
    "path": "database",
    "file": "database",
}
# A key that stands elsewhere is ours if its name is nobody else's.
_OURS = {
    "destination_type": "at the top of .dlt/config.toml, above every [section]",
    **dict.fromkeys(_VALID[_SOURCE], "under [sources.mixpanel]"),
}
_VARIABLE = re.compile(
    r"SOURCES?_+MIXPANEL_+\w+|DESTINATIONS?_+(?:DUCKDB|FILESYSTEM|POSTGRES|SPARK)_+\w+", re.I
)
# No setting: a sync hands it to dbt, and `dbt_environment` to others that call dbt.
_HANDED_ON = "DESTINATION__SPARK__RECORD"


def check_settings() -> None:
    """Check the names and places of all settings; a setting of dlt's without effect is warned of.

    Raises:
        ConfigurationError: A file is not readable, or a setting is one that nothing reads; the
            message names the place and the nearest right word, and no value.
    """
    for file in settings_files():
        _check_file(file)
    _check_environment(os.environ)
    # requests takes the first; it would say so at the first request, and of no variable.
    bundle = next(filter(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")), None)
    if bundle is not None and not Path(os.environ[bundle]).exists():
        raise ConfigurationError(
            f"environment variable {bundle}: there is no such file. It names the certificates that "
            "are trusted; leave it out if no proxy opens TLS."
        )


def _keys(content: Mapping[str, Any], section: Key = ()) -> Iterator[tuple[Key, bool]]:
    """The paths of all keys and tables, and whether they are tables."""
    for name, value in content.items():
        path = (*section, name)
        yield path, isinstance(value, dict)
        if isinstance(value, dict):
            yield from _keys(value, path)


def _check_file(file: SettingsFile) -> None:
    without_effect: dict[Key, None] = {}
    for path, is_table in _keys(file.content):
        problem = _table_problem(path) if is_table else _key_problem(path)
        if problem:
            raise ConfigurationError(f"{file.place(path)}: {problem}.")
        if file.is_the_projects and not is_table and not _has_effect(path):
            without_effect.setdefault(path)
    for path in without_effect:
        logger.warning(
            "%s: %s has no effect in a sync, which runs dlt with settings of its own.",
            file.place(path),
            ".".join(path),
        )


def _has_effect(path: Key) -> bool:
    """Whether it is read by a sync, or plainly another source's or destination's."""
    if path[0] in ("sources", "destination"):
        return len(path) > 2
    return path[:-1] in _VALID and path[-1] in _VALID[path[:-1]]


def _table_problem(path: Key) -> str | None:
    if path in _VALID or path in _OPEN or _section(path)[1]:
        return _key_problem(path) if path[:-1] in _VALID and path[:-1] else None
    if path[-1] == "mixpanel" and path[0] != "pipelines":
        return f"[{'.'.join(path)}] is not read, write [sources.mixpanel]"
    if len(path) == 1:
        nearest = get_close_matches(path[0], ("sources", "destination", "runtime"), 1, 0.75)
        if path[0] not in ("sources", "destination", "runtime", *_DLTS) and nearest:
            return f"[{path[0]}] is not read, write [{nearest[0]}]"
    if len(path) == 2 and path[0] in ("sources", "destination"):
        names = ("mixpanel",) if path[0] == "sources" else _NAMES
        nearest = get_close_matches(path[1], names, 1, 0.75)
        if path[1] not in ("mixpanel", *_NAMES) and nearest:
            # What people call PostgreSQL is another word of theirs, not another destination.
            return f"[{'.'.join(path)}] is not read, write [{path[0]}.{nearest[0]}]"
    return None


def _section(path: Key) -> tuple[Key, bool]:
    """The longest section of ours around a key, and whether keys below it are somebody's own."""
    if any(path[: len(section)] == section for section in _OPEN):
        return path, True
    for length in range(len(path) - 1, 0, -1):
        if path[:length] in _VALID:
            return path[:length], False
    return (), False


def _key_problem(path: Key) -> str | None:
    """What is wrong with a key where it stands."""
    section, is_open = _section(path)
    name = path[len(section)] if not is_open else path[-1]
    if is_open or (path[:-1] in _VALID and path[-1] in _VALID[path[:-1]]):
        return None
    shown = ".".join(path)
    is_known_elsewhere = name in _OURS and section != _SOURCE
    if section:
        valid = _VALID[section]
        if name in valid:
            return None if section != _SOURCE else f"{shown} is no setting: {name} has no parts"
        if is_known_elsewhere and name not in _SYNONYMS:
            return f"{shown} is not read there, it belongs {_OURS[name]}"
        if name == "destination_type":
            return f"{shown} is not read there, it belongs {_OURS[name]}"
        if (part := _part_of_credentials(name, section)) is not None:
            return f"{shown} is no setting, the nearest is {part[-1]} under [{'.'.join(part[:-1])}]"
        return f"{shown} is no setting{_nearest(name, section)}"
    if path in (("sources",), _SOURCE, _DUCKDB, _POSTGRES):
        names = ("[sources.mixpanel]",) if path[0] == "sources" else _DESTINATIONS
        return f"{shown} is no setting but a section, write {' or '.join(names)}"
    if path == ("destination", "credentials"):
        return f"{shown} is not read there, it belongs under {' or '.join(_DESTINATIONS)}"
    if path[-1] in _OURS and _may_be_ours(path):
        return f"{shown} is not read there, it belongs {_OURS[path[-1]]}"
    if len(path) == 1:
        nearest = get_close_matches(name, _OURS, 1, 0.8)
        if nearest:
            return f"{shown} is no setting, the nearest is {nearest[0]} {_OURS[nearest[0]]}"
    return None


def _may_be_ours(path: Key) -> bool:
    """Whether the section is nobody else's: other sources have regions and time zones as well."""
    if path[-1] == "destination_type":
        return True
    return len(path) == 1 or path[:-1] in (("sources",), ("destination",)) or path[0] in _DLTS


def _part_of_credentials(name: str, section: Key) -> Key | None:
    """The part of a connection that was meant, one section too high."""
    credentials = (*section, "credentials")
    meant = _SYNONYMS.get(name.lower(), name.lower())
    return (*credentials, meant) if meant in _VALID.get(credentials, ()) else None


def _nearest(name: str, section: Key) -> str:
    valid = _VALID[section]
    nearest = get_close_matches(name.lower(), valid, 1, 0.6)
    if name.lower() in _SYNONYMS and _SYNONYMS[name.lower()] in valid:
        nearest = [_SYNONYMS[name.lower()]]
    if nearest:
        return f", the nearest is {nearest[0]}"
    if section == (*_POSTGRES, "credentials"):
        return f"; parameters of libpq stand under [{'.'.join((*section, 'query'))}]"
    return f" of [{'.'.join(section)}], which has {', '.join(sorted(valid))}"


def _check_environment(environment: Mapping[str, str]) -> None:
    for variable in sorted(environment.keys() - {_HANDED_ON}):
        problem = _variable_problem(variable)
        if problem:
            raise ConfigurationError(f"environment variable {variable}: {problem}.")


def _variable_problem(variable: str) -> str | None:
    path = tuple(variable.lower().split("__"))
    if path[-1] == "destination_type" and len(path) > 1:
        return "it is not read, write DESTINATION_TYPE"
    is_sources = path[0] in ("source", "sources") and len(path) == 2
    if is_sources and path[1] in _VALID[_SOURCE]:
        return f"it is not read, write {_variable((*_SOURCE, path[1]))}"
    if variable != "DESTINATION_TYPE" and get_close_matches(
        variable.upper(), ["DESTINATION_TYPE"], 1, 0.94
    ):
        return "it is not read, write DESTINATION_TYPE"
    if not _VARIABLE.fullmatch(variable):
        meant = _meant(path)
        return f"it is not read, write {_variable(meant)}" if meant else None
    parts = re.split(r"_+", variable.lower(), maxsplit=2)
    section = _SOURCE if parts[0].startswith("source") else ("destination", parts[1])
    keys = tuple(parts[2].split("__"))
    if section != _SOURCE and keys[0].startswith("credentials_"):
        keys = ("credentials", keys[0].removeprefix("credentials_"), *keys[1:])
    right = _variable((*section, *keys))
    problem = _key_problem((*section, *keys))
    if problem is None and variable != right:
        return f"it is not read, write {right}"
    if problem is None:
        return None
    owner, name = _section((*section, *keys))[0], keys[-1]
    valid = _VALID[owner]
    nearest = get_close_matches(name, valid, 1, 0.6)
    if _SYNONYMS.get(name) in valid:
        nearest = [_SYNONYMS[name]]
    if nearest:
        return f"it is no setting, the nearest is {_variable((*owner, nearest[0]))}"
    if (part := _part_of_credentials(name, owner)) is not None:
        return f"it is no setting, the nearest is {_variable(part)}"
    return f"it is no setting; there are {', '.join(sorted(map(str.upper, valid)))}"


def _meant(path: Key) -> Key | None:
    """The variable of ours whose section is misspelt; other sections are somebody else's."""
    first = get_close_matches(path[0], ("sources", "destination"), 1, 0.75)
    if len(path) < 3 or not first:
        return None
    names = ("mixpanel",) if first[0] == "sources" else _NAMES
    second = get_close_matches(path[1], names, 1, 0.75)
    return (first[0], second[0], *path[2:]) if second else None


def _variable(path: Key) -> str:
    return "__".join(path).upper()
