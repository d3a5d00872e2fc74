"""What dbt and dlt work out anew for each sync, and each time the same, is worked out once.

A command syncs once; the tests do so a thousand times in a few processes. Nothing is left out.
"""

import functools
from collections.abc import Hashable, Iterable
from typing import Any

import agate
import jinja2
from dbt.context.macros import MacroNamespace
from dbt.plugins.manager import PluginManager
from dbt_common.behavior_flags import BehaviorFlagRendered
from dbt_common.clients import agate_helper
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager
from dlt.common.configuration.specs import BaseConfiguration


def work_out_once() -> None:
    """Have this process and its forks do so."""
    for owner, name, instead in (
        # dbt looks through the whole stack for the name of a module, for each flag of an adapter
        # and each time that it is called, and pytest's stack is deep.
        (BehaviorFlagRendered, "_default_source", staticmethod(lambda: "dbt")),
        # Which of all installed packages are plugins of dbt.
        (PluginManager, "get_prefixed_modules", staticmethod(_plugins)),
        # How dates can be written, for each answer of the database.
        (agate_helper, "build_type_tester", _type_tester),
        (jinja2.Environment, "compile", _compiled),
        # Which of several macros of a name is meant, for all macros and each node.
        (MacroNamespace, "__init__", _make_namespace),
        (MacroNamespace, "__getitem__", lambda self, key: self.found[key]),
        (MacroNamespace, "__iter__", lambda self: iter(self.found)),
        (EventManager, "fire_event", _fire_event),
        (BaseConfiguration, "get_resolvable_fields", classmethod(_fields)),
    ):
        setattr(owner, name, instead)


_plugins = functools.cache(PluginManager.get_prefixed_modules)
_new_type_tester = agate_helper.build_type_tester
_really_make_namespace = MacroNamespace.__init__
_compile = jinja2.Environment.compile
_really_fire_event = EventManager.fire_event
_get_fields = BaseConfiguration.get_resolvable_fields.__func__  # type: ignore[attr-defined]


@functools.cache
def _types(nulls: tuple[str, ...]) -> tuple[Any, Any]:
    tester = _new_type_tester([""], nulls)
    return tester._possible_types, tester._force[""]


def _type_tester(
    text_columns: Iterable[str], string_null_values: Iterable[str] | None = ("null", "")
) -> agate.TypeTester:
    types, text = _types(tuple(string_null_values or ()))
    return agate.TypeTester(force=dict.fromkeys(text_columns, text), types=types)


_compiled_before: dict[Hashable, Any] = {}


def _compiled(self: jinja2.Environment, source: Any, *arguments: Any, **options: Any) -> Any:
    if not isinstance(source, str):
        return _compile(self, source, *arguments, **options)
    key = (type(self), *self.extensions, source, arguments, *options.items())
    if key not in _compiled_before:
        _compiled_before[key] = _compile(self, source, *arguments, **options)
    return _compiled_before[key]


def _make_namespace(self: Any, *arguments: Any, **named: Any) -> None:
    _really_make_namespace(self, *arguments, **named)
    self.found = {}
    for searched in reversed(list(self._search_order())):
        self.found.update(searched)


def _fire_event(
    self: EventManager, e: BaseEvent, level: EventLevel | None = None, *more: Any, **named: Any
) -> None:
    # A message of which nobody is told: without logs, syncs listen to what is of interest only.
    if self.loggers or (level or e.level_tag()) != EventLevel.DEBUG:
        _really_fire_event(self, e, level, *more, **named)


@functools.cache
def _fields_of(cls: type[BaseConfiguration]) -> dict[str, type]:
    fields: dict[str, type] = _get_fields(cls)
    return fields


def _fields(cls: type[BaseConfiguration]) -> dict[str, type]:
    return dict(_fields_of(cls))
