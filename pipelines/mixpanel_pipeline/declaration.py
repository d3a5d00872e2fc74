"""The metrics that `dbt_project.yml` declares, read and checked.

In a project of the user's own, the variables of its file go before those of ours, as in dbt.
"""

import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mixpanel_pipeline import project
from mixpanel_pipeline.source.configuration import place_of_setting
from mixpanel_pipeline.source.errors import ConfigurationError

_KEYS = ("event", "where", "unless", "kind", "description")
# https://docs.mixpanel.com/docs/tracking-methods/id-management/identifying-users-original
IDENTITY_EVENTS = ("$create_alias", "$identify", "$merge")
_KINDS = ("count", "flag")
_COLUMN_KEYS = ("property", "type", "description")
_PROFILE_TYPES = ("text", "number", "integer", "boolean")
_EVENT_TYPES = ("string", "number", "boolean", "datetime", "list", "object")
# What `subscribers` has beside the metrics, and what PostgreSQL gives every table.
_OWN_COLUMNS = (
    "subscriber_id",
    "events_processed",
    "first_event_at",
    "last_event_at",
    "updated_at",
)
# What `events` has beside the declared columns.
_OWN_EVENT_COLUMNS = ("event_key", "subscriber_id", "event", "event_date", "occurred_at")
_SYSTEM_COLUMNS = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")
# PostgreSQL cuts longer names.
_NAME_LENGTH = 63
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_SUM = r"(?:[a-z_][a-z0-9_]*|[0-9]+)(?: ?[-+] ?(?:[a-z_][a-z0-9_]*|[0-9]+))*"
_INVARIANT = re.compile(rf"{_SUM} ?(?:=|<=|>=|<|>) ?{_SUM}")
_TYPES = {
    "null": "nothing",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "timestamp": "a date",
    "seq": "a list",
    "map": "a mapping",
}

# For each variable that is one value: YAML's types for it, what is right, and how to say so.
_RULES: dict[str, tuple[Sequence[str], Callable[[Any], bool], str]] = {
    "identity": (
        ["str"],
        lambda node: node.value in ("resolve", "as_exported"),
        "`resolve` or `as_exported`",
    ),
    "include_anonymous": (["bool"], lambda _: True, "true or false"),
    "max_cluster_ids": (["int"], lambda node: int(node.value) >= 1, "a number, 1 or more"),
    "junk_ids": (
        ["seq"],
        lambda node: all(_type(junk) == "str" for junk in node.value),
        'a list of texts (in quotes: "null")',
    ),
    "windows": (
        ["seq"],
        lambda node: (
            bool(node.value)
            and all(_type(days) == "int" and int(days.value) >= 1 for days in node.value)
            and len({int(days.value) for days in node.value}) == len(node.value)
        ),
        "a list of numbers of days, each once, like [7, 30]",
    ),
    "session_minutes": (["int"], lambda node: int(node.value) >= 1, "a number, 1 or more"),
    "property_dictionary": (["bool"], lambda _: True, "true or false"),
    "dictionary_sample": (
        ["int", "float"],
        lambda node: 0 < float(node.value) <= 1,
        "a share of the events, more than 0 and at most 1",
    ),
    "dictionary_examples": (
        ["seq"],
        lambda node: all(_type(name) == "str" for name in node.value),
        "a list of names of properties",
    ),
    "as_of": (["timestamp", "null"], lambda _: True, "a day, like 2026-01-31"),
}

Metrics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Declared:
    """What `dbt_project.yml` declares.

    Attributes:
        metrics: The metrics by name.
        resolves_identities: Whether several ids can be one subscriber.
        junk_ids: Those that apps send for nobody, in lower case.
    """

    metrics: Metrics
    resolves_identities: bool
    junk_ids: frozenset[str]


@cache
def declared() -> Declared:
    """The whole declaration, checked.

    Raises:
        ConfigurationError: It is not readable or says what cannot be; the message names the file,
            the line and what to write instead.
    """
    declaration = _Declaration()
    return Declared(
        declaration.metrics(), declaration.resolves_identities(), declaration.junk_ids()
    )


def metrics() -> Metrics:
    """The metrics by name, as `dbt_project.yml` declares them.

    Raises:
        ConfigurationError: As `declared`.
    """
    return declared().metrics


def tracked_events() -> list[str]:
    """The names of the events that the metrics need.

    Raises:
        ConfigurationError: As `declared`, and when there are none.
    """
    names = {metric["event"] for metric in metrics().values()}
    if not names:
        raise ConfigurationError(
            'sources.mixpanel: events is "tracked", the events that the metrics need, but '
            "dbt_project.yml declares no metrics: declare some, or set "
            'events = "all" or a list of names'
        )
    return sorted(names)


def identity_events() -> list[str]:
    """The names of the events that say who is who; none when ids are taken as exported.

    Raises:
        ConfigurationError: As `declared`.
    """
    return list(IDENTITY_EVENTS) if declared().resolves_identities else []


def is_junk(one: str) -> bool:
    """Whether an id is one that apps send for nobody; the models have the same in `is_somebody`.

    Raises:
        ConfigurationError: As `declared`.
    """
    return one.replace("$device:", "").lower() in {"", *declared().junk_ids}


def refuse_what_needs(withheld: Mapping[str, Collection[str]]) -> None:
    """Check that nothing declared needs what is kept from being loaded: it would count wrongly.

    Args:
        withheld: The names in `events_denied`, `drop_properties` and `hash_properties`.

    Raises:
        ConfigurationError: As `declared`, and when something does; the message names the file, the
            line, and the setting.
    """
    if any(withheld.values()):
        _Declaration().refuse_what_needs(withheld)


def refuse_list_that_lacks(events: str | Sequence[str]) -> None:
    """Check that the setting `events`, where it is a list, has what the metrics count.

    Raises:
        ConfigurationError: As `declared`, and when it has not: the models could not be built.
    """
    lacking = [] if isinstance(events, str) else [n for n in tracked_events() if n not in events]
    if lacking:
        raise ConfigurationError(
            f"sources.mixpanel: events lacks {', '.join(lacking)}, which metrics in "
            "dbt_project/dbt_project.yml count. Add them to the list, write tracked or all "
            "instead, or only load, with --skip-transform."
        )


class _Declaration:
    """The variables, by YAML's nodes: they know their lines, their own spelling, doubled keys."""

    def __init__(self) -> None:
        own = project.declaring_dbt_project()
        self._variables = self._of(own)
        if own != project.DBT_PACKAGE:
            self._variables = self._of(project.DBT_PACKAGE) | self._variables

    def _of(self, dbt_project: Path) -> dict[str, yaml.Node]:
        """What a file declares: dbt reads variables by the name of a package before all others."""
        file = self._read(dbt_project / "dbt_project.yml")
        root = self._mapping(file, "the file")
        if "vars" not in root:
            self._refuse(file, "has no `vars`, in which the metrics are declared")
        variables = self._mapping(root["vars"], "`vars`")
        if "mixpanel" in variables:
            variables |= self._mapping(variables["mixpanel"], "`mixpanel` in `vars`")
        if "metrics" not in variables:
            near = _nearest("metrics", variables)
            self._refuse(
                root["vars"],
                "`vars` declares no `metrics`; to have none, write metrics: {}"
                + (f". Is `{near}` them?" if near else ""),
            )
        return variables

    def metrics(self) -> Metrics:
        """Check everything that is declared and return the metrics."""
        variables = self._variables
        node = variables["metrics"]
        declared = self._mapping(node, "`metrics`")
        found = {name: self._metric(name, declared[name]) for name in declared}
        for name, key in self._keys(node):
            self._check_name(name, key)
        if "invariants" in variables:
            self._check_invariants(variables["invariants"], found)
        if "profile_columns" in variables:
            columns = variables["profile_columns"]
            self._check_columns(columns, "profile", _PROFILE_TYPES)
            for name, key in self._keys(columns):
                self._check_name(name, key)
                if name in found:
                    self._refuse(key, f"`{name}` is a metric already: name one of them otherwise")
        if "event_columns" in variables:
            columns = variables["event_columns"]
            self._check_columns(columns, "event", _EVENT_TYPES)
            for name, key in self._keys(columns):
                self._check_name(name, key, _OWN_EVENT_COLUMNS, "events")
        self._check_rules(variables)
        return found

    def resolves_identities(self) -> bool:
        """Whether several ids can be one subscriber."""
        node = self._variables.get("identity")
        return node is None or node.value == "resolve"

    def junk_ids(self) -> frozenset[str]:
        """The ids that are nobody's, in lower case."""
        node = self._variables.get("junk_ids")
        return frozenset(junk.value.lower() for junk in node.value) if node else frozenset()

    def refuse_what_needs(self, withheld: Mapping[str, Collection[str]]) -> None:
        """Check that metrics, and who is who, need nothing of what is withheld, by setting."""
        metrics = self.metrics()
        variables = self._variables
        nodes = self._mapping(variables["metrics"], "`metrics`")
        for name, metric in metrics.items():
            parts = self._mapping(nodes[name], f"the metric `{name}`")
            if metric["event"] in withheld["events_denied"]:
                self._refuse(
                    parts["event"],
                    f"the metric `{name}` counts `{metric['event']}`, but "
                    f"{place_of_setting('events_denied')} has that event, which is never loaded: "
                    "take it off there, or remove the metric",
                )
            for key in ("where", "unless"):
                for setting in ("drop_properties", "hash_properties"):
                    for needed in metric.get(key, {}).keys() & set(withheld[setting]):
                        self._refuse(
                            self._mapping(parts[key], f"`{key}`")[needed],
                            f"`{key}` of the metric `{name}` reads `{needed}`, but "
                            f"{place_of_setting(setting)} has that property, so its text is not "
                            "loaded: take it off there, or the condition off the metric",
                        )
        for event in IDENTITY_EVENTS:
            if event in withheld["events_denied"] and self.resolves_identities():
                self._refuse(
                    variables.get("identity", variables["metrics"]),
                    f"who is who is found out from `{event}`, but "
                    f"{place_of_setting('events_denied')} has that event: take it off there, or "
                    "declare identity: as_exported",
                )

    def _check_rules(self, variables: dict[str, yaml.Node]) -> None:
        """The variables that are one value, where they are declared."""
        for name, (types, is_right, rule) in _RULES.items():
            node = variables.get(name)
            if node is not None and (_type(node) not in types or not is_right(node)):
                told = f", not {node.value}" if isinstance(node, yaml.ScalarNode) else ""
                self._refuse(node, f"`{name}` takes {rule}{told}")

    def _check_columns(self, node: yaml.Node, whose: str, types: Sequence[str]) -> None:
        columns = self._mapping(node, f"`{whose}_columns`")
        for name in columns:
            what = f"the {whose} column `{name}`"
            parts = self._mapping(columns[name], what)
            for part, part_node in self._keys(columns[name]):
                if part not in _COLUMN_KEYS:
                    self._refuse(
                        part_node,
                        f"{what} has `{part}`, but may have {_listed(_COLUMN_KEYS)}"
                        f"{_did_you_mean(part, _COLUMN_KEYS)}",
                    )
                text = self._text(parts[part], f"`{part}` of {what}")
                if part == "type" and text not in types:
                    self._refuse(
                        parts[part],
                        f"`type` of {what} is `{text}`, but can be {_listed(types)}"
                        f"{_did_you_mean(text, types)}",
                    )

    def _metric(self, name: str, node: yaml.Node) -> dict[str, Any]:
        what = f"the metric `{name}`"
        if isinstance(node, yaml.ScalarNode) and _type(node) == "str":
            self._refuse(node, f"{what} is a text: write {name}: {{event: {node.value}}}")
        parts = self._mapping(node, what)
        for key, key_node in self._keys(node):
            if key not in _KEYS:
                self._refuse(
                    key_node,
                    f"{what} has `{key}`, but may have {_listed(_KEYS)}{_did_you_mean(key, _KEYS)}",
                )
        if "event" not in parts:
            self._refuse(node, f"{what} has no `event`, the name of the event that it counts")
        metric: dict[str, Any] = {"event": self._text(parts["event"], f"`event` of {what}")}
        for key in ("where", "unless"):
            if key in parts:
                metric[key] = self._conditions(parts[key], f"`{key}` of {what}")
        if "kind" in parts:
            kind = self._text(parts["kind"], f"`kind` of {what}")
            if kind not in _KINDS:
                self._refuse(
                    parts["kind"],
                    f"`kind` of {what} is `{kind}`, but can be {_listed(_KINDS)}"
                    f"{_did_you_mean(kind, _KINDS)}",
                )
            metric["kind"] = kind
        if "description" in parts:
            metric["description"] = self._text(parts["description"], f"`description` of {what}")
        return metric

    def _conditions(self, node: yaml.Node, what: str) -> dict[str, str]:
        if not isinstance(node, yaml.MappingNode):
            self._refuse(
                node,
                f"{what} is {_described(node)}: it says which property contains what text, like "
                "{creatorType: premium}",
            )
        parts = self._mapping(node, what)
        return {name: self._text(parts[name], f"`{name}` in {what}", plain=True) for name in parts}

    def _check_name(
        self,
        name: str,
        node: yaml.Node,
        own: Sequence[str] = _OWN_COLUMNS,
        table: str = "subscribers",
    ) -> None:
        if not _NAME.fullmatch(name):
            possible = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")
            possible = possible if _NAME.fullmatch(possible) else f"metric_{possible}".strip("_")
            self._refuse(
                node,
                f"`{name}` cannot be the name of a column, which has only "
                f"a to z, digits and underscores: write {possible}",
            )
        if len(name) > _NAME_LENGTH:
            self._refuse(node, f"the name `{name}` is longer than {_NAME_LENGTH} characters")
        if name in own:
            self._refuse(node, f"`{name}` is a column of `{table}` already: name it otherwise")
        if name in _SYSTEM_COLUMNS:
            self._refuse(node, f"`{name}` is a column of every PostgreSQL table: name it otherwise")

    def _check_invariants(self, node: yaml.Node, metrics: Metrics) -> None:
        example = "a comparison of sums of metrics, like total = regular + premium"
        if not isinstance(node, yaml.SequenceNode):
            self._refuse(node, f"`invariants` is {_described(node)}: write a list, each {example}")
        known = [*metrics, "events_processed"]
        for item in node.value:
            invariant = self._text(item, "an invariant")
            for name in _NAME.findall(invariant):
                if name not in known:
                    self._refuse(
                        item,
                        f"the invariant `{invariant}` says `{name}`, which is no metric"
                        f"{_did_you_mean(name, known)}",
                    )
            if not _INVARIANT.fullmatch(invariant):
                self._refuse(item, f"the invariant `{invariant}` is not {example}")

    def _text(self, node: yaml.Node, what: str, *, plain: bool = False) -> str:
        """The text of a node; with `plain` also a number or truth that dbt spells as it is here."""
        if not isinstance(node, yaml.ScalarNode) or _type(node) == "null":
            self._refuse(node, f"{what} is {_described(node)}: write a text")
        if _type(node) != "str":
            plain = plain and _type(node) in ("bool", "int", "float")
            if not (plain and str(yaml.safe_load(node.value)).lower() == node.value.lower()):
                self._refuse(
                    node,
                    f"{what} is {node.value}, which YAML takes for {_described(node)}: write it in "
                    f'quotes, "{node.value}"',
                )
        text = str(node.value)
        if not text:
            self._refuse(node, f"{what} is empty")
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._refuse(node, f"{what} has half a surrogate pair, which no event has")
        return text

    def _mapping(self, node: yaml.Node, what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            self._refuse(
                node, f"{what} is {_described(node)}: it has to be a mapping (name: value)"
            )
        lines: dict[str, int] = {}
        for name, key in self._keys(node):
            if name in lines:
                self._refuse(key, f"{what} has `{name}` twice, also in line {lines[name]}")
            lines[name] = key.start_mark.line + 1
        return {
            name: value for (name, _), (_, value) in zip(self._keys(node), node.value, strict=True)
        }

    def _keys(self, node: yaml.Node) -> list[tuple[str, yaml.Node]]:
        return [(self._text(key, "a name"), key) for key, _ in node.value]

    def _read(self, path: Path) -> yaml.Node:
        file = f"{path.parent.name}/{path.name}"
        try:
            content = path.read_bytes()
            text = content.decode("utf-8")
            stream = io.StringIO(text)
            # The nodes know the file by it.
            stream.name = file
            root = yaml.compose(stream, Loader=yaml.SafeLoader)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigurationError(
                f"{file}, line {line}: byte 0x{content[error.start]:02X} is not UTF-8; save "
                "the file in that encoding"
            ) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigurationError(
                f"{file}, line {line}: a character that YAML does not allow, "
                f"U+{ord(text[error.position]):04X}"
            ) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f", line {mark.line + 1}" if mark else ""
            said = ", ".join(part for part in (error.context, error.problem) if part)
            raise ConfigurationError(f"{file}{where}: not YAML: {said}") from error
        if root is None:
            raise ConfigurationError(f"{file} is empty")
        return root

    def _refuse(self, node: yaml.Node, problem: str) -> NoReturn:
        mark = node.start_mark
        raise ConfigurationError(f"{mark.name}, line {mark.line + 1}: {problem}")


def _type(node: yaml.Node) -> str:
    return str(node.tag).rpartition(":")[2]


def _described(node: yaml.Node) -> str:
    return _TYPES.get(_type(node), "a text")


def _listed(words: Iterable[str]) -> str:
    *first, last = (f"`{word}`" for word in words)
    return f"{', '.join(first)} or {last}"


def _nearest(word: str, words: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(word, list(words), 1)), None)


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    nearest = _nearest(word, words)
    return f": did you mean `{nearest}`?" if nearest else ""
