"""The table `rekeyed_ids`: who is who, by events that are not loaded themselves.

An identity merge rewrites the `distinct_id` of events that happened before it, in later exports and
not in all: what that says is kept, of copies of loaded events too. And so are the devices and users
that events of names which nobody asked for name together.
"""

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.engines.positions import row_groups, view_delivered
from mixpanel_pipeline.engines.warehouse import KEYS_MEMORY
from mixpanel_pipeline.events.decoding import EVENTS
from mixpanel_pipeline.events.links import LINKS

NAME = "rekeyed_ids"
_BEFORE = "distinct_id_before_identity"
_COLUMNS = f"{_BEFORE}, distinct_id, occurred_at, _dlt_load_id"
# A statement with more parameters gains nothing.
_PAIRS_AT_ONCE = 1000

Pair = tuple[str, str, datetime, str]
"""The ids before and after, when the first event under both happened, and which evidence it is."""


def prepare(warehouse: Warehouse) -> None:
    """Create the table where there is none, with what events of earlier versions tell.

    Args:
        warehouse: Where; the caller holds its lock.
    """
    table, events = f"{warehouse.raw}.{NAME}", f"{warehouse.raw}.events"
    evidence = "evidence text default 'rekeyed'"
    if columns := warehouse.columns(warehouse.raw, NAME):
        if "evidence" not in columns:
            warehouse.execute(f"alter table {table} add column {evidence}")
        return
    statements = [
        f"create table {table} ({_BEFORE} text not null, distinct_id text not null, "
        f"occurred_at timestamp with time zone not null, _dlt_load_id text not null, {evidence})"
    ]
    if columns := warehouse.columns(warehouse.raw, "events"):
        if _BEFORE not in columns:
            warehouse.execute(f"alter table {events} add column {_BEFORE} text")
        before = warehouse.property_text(f"${_BEFORE}")
        statements += [
            f"update {events} set {_BEFORE} = {before} where {before} <> ''",
            f"insert into {table} ({_COLUMNS}) select {_BEFORE}, distinct_id, min(occurred_at), "
            f"min(_dlt_load_id) from {events} where {_BEFORE} <> '' and distinct_id <> '' "
            f"and {_BEFORE} <> distinct_id group by {_BEFORE}, distinct_id",
        ]
    warehouse.execute_held([(statement, []) for statement in statements])


def keep(
    warehouse: Warehouse, delivered: Sequence[Path], links: Sequence[Path], load_id: str
) -> None:
    """Keep the pairs that are not known yet.

    Args:
        warehouse: Where; the caller holds its lock.
        delivered: Parquet files with the schema `EVENTS`.
        links: Parquet files with the schema `LINKS`.
        load_id: The load that brings them: they count once it is completed.
    """
    pairs = unknown(warehouse, delivered, links)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        chunk = pairs[start : start + _PAIRS_AT_ONCE]
        values = ", ".join(["(%s, %s, %s, %s, %s)"] * len(chunk))
        insertion = f"insert into {warehouse.raw}.{NAME} ({_COLUMNS}, evidence) values {values}"
        parameters = [
            value
            for before, after, first, evidence in chunk
            for value in (before, after, first, load_id, evidence)
        ]
        warehouse.execute_held([(insertion, parameters)])


def unknown(warehouse: Warehouse, delivered: Sequence[Path], links: Sequence[Path]) -> list[Pair]:
    """The pairs that some files tell of and the table does not have.

    A device is of whom it was of first: of its pairs, an earlier event is news too.

    Args:
        warehouse: Where the table is.
        delivered: Parquet files with the schema `EVENTS`.
        links: Parquet files with the schema `LINKS`.
    """
    told = _told(delivered, links)
    if not told.num_rows:
        return []
    return warehouse.query_told(
        told,
        f"""
        select told.*
        from told
        where not exists (
            select 1
            from {warehouse.raw}.{NAME} as known
            where
                known.{_BEFORE} = told.{_BEFORE}
                and known.distinct_id = told.distinct_id
                and known.evidence = told.evidence
                and (told.evidence <> 'device' or known.occurred_at <= told.occurred_at)
        )
        """,
    )


def _told(delivered: Sequence[Path], links: Sequence[Path]) -> pa.Table:
    """The pairs of some files, each once."""
    has_rekeyed = _has_rekeyed(delivered)
    if not has_rekeyed and not links:
        return LINKS.empty_table()
    with closing(duckdb.connect(config={"memory_limit": KEYS_MEMORY})) as connection:
        connection.execute("set timezone = 'UTC'")
        queries = []
        if has_rekeyed:
            view_delivered(connection, delivered)
            queries.append(
                f"select {_BEFORE}, distinct_id, min(occurred_at) as occurred_at, "
                "'rekeyed' as evidence from delivered "
                f"where distinct_id <> '' and distinct_id <> {_BEFORE} group by all"
            )
        if links:
            files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in links)
            queries.append(
                f"select device_id as {_BEFORE}, user_id as distinct_id, "
                "min(occurred_at) as occurred_at, 'device' as evidence "
                f"from read_parquet([{files}]) where device_id <> user_id group by all"
            )
        return connection.sql(" union all ".join(queries)).to_arrow_table()


def _has_rekeyed(delivered: Sequence[Path]) -> bool:
    column = EVENTS.get_field_index(_BEFORE)
    groups = [group.metadata.column(column) for group in row_groups(delivered)]
    return any(group.statistics.null_count < group.num_values for group in groups)
