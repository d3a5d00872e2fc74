"""Whether the models are as dbt would leave them: then dbt is not even imported.

Views that are as the same project left them are not built anew either.

Nothing is taken for built that is not known to be. The last build has succeeded, tests included,
not long ago and by the same project; the loads it counted are there, and no others with events;
and what it left behind was not touched since.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from mixpanel_pipeline import project
from mixpanel_pipeline.engines import Warehouse

# What the tests find that nothing here does, as a row that somebody changed by hand, they find
# within a day.
_TESTED_AGAIN_AFTER = timedelta(days=1)
_NAME = "built"
Missing = Literal["nothing", "tables", "everything"]

# dbt's own output.
_NOT_SOURCE = {"target", "logs"}
_PACKAGES = ("dbt-core", "dbt-adapters", "dbt-duckdb", "dbt-postgres")


def to_build(warehouse: Warehouse, arguments: Sequence[str], now: datetime) -> Missing:
    """What a build would change: after one by the same project, no view.

    Args:
        warehouse: Where the models are; the caller holds its lock.
        arguments: What dbt would be called with.
        now: The current instant.
    """
    if not (_is_kept(warehouse) and warehouse.has_all_models()):
        return "everything"
    found = warehouse.rows(f"select fingerprint, state, built_at from {_table(warehouse)}")
    if len(found) != 1:
        return "everything"
    built_by, state, built_at = found[0]
    if built_by != fingerprint(arguments):
        return "everything"
    was, left = state.split(), _state(warehouse).split()
    if was[-1] != left[-1]:
        return "everything"
    is_recent = timedelta(0) <= now - built_at < _TESTED_AGAIN_AFTER
    if is_recent and was == left and not warehouse.has_loads_to_count():
        return "nothing"
    return "tables"


def forget_build(warehouse: Warehouse) -> None:
    """Say that the models are being built: until `keep_build` they are not known to be."""
    if _is_kept(warehouse):
        warehouse.execute(f"delete from {_table(warehouse)}")


def keep_build(warehouse: Warehouse, arguments: Sequence[str], now: datetime) -> None:
    """Keep that the models were built and tested, by what, and what that left."""
    if not warehouse.has_all_models():
        return
    warehouse.execute(
        f"create table if not exists {_table(warehouse)} "
        "(fingerprint text not null, state text not null, "
        "built_at timestamp with time zone not null)"
    )
    warehouse.execute(
        f"insert into {_table(warehouse)} values (%s, %s, %s)",
        [fingerprint(arguments), _state(warehouse), now],
    )


def _table(warehouse: Warehouse) -> str:
    return f"{warehouse.beside_models}.{_NAME}"


def _is_kept(warehouse: Warehouse) -> bool:
    return warehouse.has_table(warehouse.beside_models, _NAME)


def fingerprint(arguments: Sequence[str]) -> str:
    """What decides what a build does: the project, dbt, its settings and how we call it."""
    digest = hashlib.sha256()
    # Once, where it is no package of another project.
    for folder in dict.fromkeys((project.dbt_project(), project.DBT_PACKAGE)):
        for path in _source_files(folder):
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    settings = {name: value for name, value in os.environ.items() if name.startswith("DBT_")}
    versions = [version(package) for package in _PACKAGES]
    digest.update(json.dumps([sorted(settings.items()), versions, list(arguments)]).encode())
    return digest.hexdigest()


def _source_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] not in _NOT_SOURCE
        and not path.name.startswith(".")
        and path.is_file()
    )


def _state(warehouse: Warehouse) -> str:
    """What a build leaves, as two hashes: of the tables, and of the views."""
    return " ".join(_hashed(left) for left in warehouse.models_left())


def _hashed(left: object) -> str:
    return hashlib.sha256(json.dumps(left, default=datetime.isoformat).encode()).hexdigest()
