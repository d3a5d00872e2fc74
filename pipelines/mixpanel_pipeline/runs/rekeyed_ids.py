"""The table `rekeyed_ids`: ids that Mixpanel exported events under instead of their own.

An identity merge rewrites the `distinct_id` of events that happened before it, in later exports and
not in all. What it says of who is who is kept, of copies of loaded events too.
"""

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

import duckdb

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.engines.positions import row_groups, view_delivered
from mixpanel_pipeline.engines.warehouse import KEYS_MEMORY
from mixpanel_pipeline.events.decoding import EVENTS

NAME = "rekeyed_ids"
_BEFORE = "distinct_id_before_identity"
# A statement with more parameters gains nothing.
_PAIRS_AT_ONCE = 1000

Pair = tuple[str, str, datetime]
"""The ids before and after, and when the first event under both happened."""


def prepare(warehouse: Warehouse) -> None:
    """Create the table where there is none, with what events of earlier versions tell.

    Args:
        warehouse: Where; the caller holds its lock.
    """
    if warehouse.has_table(warehouse.raw, NAME):
        return
    table, events = f"{warehouse.raw}.{NAME}", f"{warehouse.raw}.events"
    statements = [
        f"create table {table} ({_BEFORE} text not null, distinct_id text not null, "
        "occurred_at timestamp with time zone not null, _dlt_load_id text not null)"
    ]
    if columns := warehouse.columns(warehouse.raw, "events"):
        if _BEFORE not in columns:
            warehouse.execute(f"alter table {events} add column {_BEFORE} text")
        before = warehouse.property_text(f"${_BEFORE}")
        statements += [
            f"update {events} set {_BEFORE} = {before} where {before} <> ''",
            f"insert into {table} select {_BEFORE}, distinct_id, min(occurred_at), "
            f"min(_dlt_load_id) from {events} where {_BEFORE} <> '' and distinct_id <> '' "
            f"and {_BEFORE} <> distinct_id group by {_BEFORE}, distinct_id",
        ]
    warehouse.execute_held([(statement, []) for statement in statements])


def keep(warehouse: Warehouse, delivered: Sequence[Path], load_id: str) -> None:
    """Keep the pairs that are not known yet.

    Args:
        warehouse: Where; the caller holds its lock.
        delivered: Parquet files with the schema `EVENTS`.
        load_id: The load that brings them: they count once it is completed.
    """
    pairs = unknown(warehouse, delivered)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        chunk = pairs[start : start + _PAIRS_AT_ONCE]
        values = ", ".join(["(%s, %s, %s, %s)"] * len(chunk))
        warehouse.execute_held(
            [
                (
                    f"insert into {warehouse.raw}.{NAME} values {values}",
                    [value for pair in chunk for value in (*pair, load_id)],
                )
            ]
        )


def unknown(warehouse: Warehouse, delivered: Sequence[Path]) -> list[Pair]:
    """The pairs that events in some files tell of and the table does not have.

    Args:
        warehouse: Where the table is.
        delivered: Parquet files with the schema `EVENTS`.
    """
    told = _pairs(delivered)
    found: list[Pair] = []
    for start in range(0, len(told), _PAIRS_AT_ONCE):
        chunk = told[start : start + _PAIRS_AT_ONCE]
        values = ", ".join(["(%s, %s)"] * len(chunk))
        known = warehouse.rows(
            f"select {_BEFORE}, distinct_id from {warehouse.raw}.{NAME} "
            f"where ({_BEFORE}, distinct_id) in ({values})",
            [one for pair in chunk for one in pair[:2]],
        )
        found += [pair for pair in chunk if pair[:2] not in set(known)]
    return found


def _pairs(delivered: Sequence[Path]) -> list[Pair]:
    column = EVENTS.get_field_index(_BEFORE)
    groups = [group.metadata.column(column) for group in row_groups(delivered)]
    if all(group.statistics.null_count == group.num_values for group in groups):
        return []
    with closing(duckdb.connect(config={"memory_limit": KEYS_MEMORY})) as connection:
        view_delivered(connection, delivered)
        return connection.execute(
            f"select {_BEFORE}, distinct_id, min(occurred_at) from delivered "
            f"where distinct_id <> '' and distinct_id <> {_BEFORE} group by all"
        ).fetchall()
