"""The table `dataset`: what the raw dataset was loaded with, and so has to be loaded with."""

from collections.abc import Collection
from dataclasses import dataclass

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.events.decoding import KEY_RULES, Rules
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.errors import ConfigurationError

# Events of two projects, or of two clocks, would be counted as if they were one's.
_SETTINGS = ("project_id", "timezone", "region")
_RULES = ("event_keys", "time_in_ms")


@dataclass
class Dataset:
    """The record of it in a warehouse, one row; the caller holds the warehouse's lock."""

    warehouse: Warehouse
    settings: MixpanelConfiguration

    def check(self) -> Rules:
        """Record the settings before the first load, and compare them before all others.

        A dataset of an earlier version, which has no record, is taken to be loaded with them.

        Returns:
            What it keeps to since it was begun.

        Raises:
            ConfigurationError: One of them is not what the events were loaded with.
        """
        columns = self.warehouse.columns(self.warehouse.raw, "dataset")
        rules, to_record = self._compared(columns)
        if not columns:
            defined = ", ".join(f"{name} text" for name in (*_SETTINGS, *_RULES))
            self.warehouse.execute(f"create table {self._table} ({defined})")
        else:
            for name in _RULES:
                if name not in columns:
                    self.warehouse.execute(f"alter table {self._table} add column {name} text")
        if to_record:
            self._record(to_record)
        return rules

    def compare(self) -> None:
        """`check`, for who records nothing."""
        self._compared(self.warehouse.columns(self.warehouse.raw, "dataset"))

    def _compared(self, columns: Collection[str]) -> tuple[Rules, dict[str, str | None] | None]:
        """The rules, and what is to be recorded, if anything is."""
        configured = {name: getattr(self.settings, name) for name in _SETTINGS}
        of_rules = [name if name in columns else "null" for name in _RULES]
        read = f"select {', '.join([*_SETTINGS, *of_rules])} from {self._table}"
        found = self.warehouse.rows(read) if columns else []
        recorded = dict(zip(_SETTINGS, found[0], strict=False)) if found else {}
        keys, time_in_ms = found[0][len(_SETTINGS) :] if found else (None, None)
        changed = [
            name
            for name, value in recorded.items()
            # With a project's secret, its id need not be told.
            if value is not None and configured[name] is not None and value != configured[name]
        ]
        if changed and self._has_events():
            raise ConfigurationError(self._refusal(changed[0], recorded[changed[0]]))
        known = configured if changed else {n: configured[n] or recorded.get(n) for n in _SETTINGS}
        if keys and time_in_ms:
            rules = Rules(keys, time_in_ms=time_in_ms == "true")
        else:
            # Of an earlier version, or begun now.
            has_events = self._has_events()
            rules = Rules(
                keys or KEY_RULES[0 if has_events else -1],
                time_in_ms=time_in_ms == "true" if time_in_ms else not has_events,
            )
        kept = {"event_keys": rules.keys, "time_in_ms": str(rules.time_in_ms).lower()}
        is_recorded = known == recorded and tuple(kept.values()) == (keys, time_in_ms)
        return rules, None if is_recorded else known | kept

    @property
    def _table(self) -> str:
        return f"{self.warehouse.raw}.dataset"

    def _has_events(self) -> bool:
        return self.warehouse.has_table(self.warehouse.raw, "events") and bool(
            self.warehouse.rows_of_events(f"select 1 from {self.warehouse.raw}.events limit 1")
        )

    def _record(self, settings: dict[str, str | None]) -> None:
        self.warehouse.execute_held(
            [
                (f"delete from {self._table}", []),
                (
                    f"insert into {self._table} ({', '.join(settings)}) "
                    f"values ({', '.join(['%s'] * len(settings))})",
                    list(settings.values()),
                ),
            ]
        )

    def _refusal(self, name: str, recorded: str) -> str:
        return (
            f"sources.mixpanel.{name} is {getattr(self.settings, name)!r}, but the events in "
            f"{self.warehouse.location} were loaded with {recorded!r}, and the two cannot be "
            "counted together. Nothing was requested or changed. If it was changed by mistake, put "
            f"it back to {recorded!r}; if not, load into new schemas "
            "(sources.mixpanel.dataset_name and mart_schema) or a new database "
            f"(destination.{self.warehouse.name}.credentials): the first sync there loads "
            "initial_window_days, and what is older is loaded with --from-date and --to-date."
        )
