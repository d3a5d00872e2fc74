"""The same models, built by Spark and by DuckDB, row for row."""

import math
from datetime import UTC, date, datetime
from typing import Any

from mixpanel_pipeline.engines import DuckDB, Spark

# What stands in them differs by nature: when rows were worked out, ids of loads, runs.
_NOT_COMPARED = {"updated_at", "_dlt_load_id", "loaded_at", "properties"}
_STORED = (
    "stg_mixpanel__events",
    "subscriber_days",
    "identity_edges",
    "identity_map",
    "subscribers",
    "property_counts",
    "touches",
)
# Of what is stored.
_VIEWS = (
    "active_days",
    "daily_activity",
    "retention_weekly",
    "sessions",
    "event_lateness",
    "profile_column_fit",
    "daily_events",
    "first_touch",
    "last_touch",
    "subscriber_windows",
    "property_dictionary",
)
# DuckDB takes the difference of two instants as floating-point numbers, to a microsecond or so.
_TOLERANCE = 1e-5


def differences(spark: Spark, duck: DuckDB, *, has_views: bool = True) -> list[str]:
    """The tables that are not the same in both, each with a row that only one of them has.

    Args:
        spark: The one.
        duck: The other.
        has_views: Whether what is only worked out of what is stored is compared too.
    """
    found = []
    with spark.session() as cursor:
        for table in (*_STORED, *(_VIEWS if has_views else ())):
            names = sorted(duck.columns(duck.marts, table) - _NOT_COMPARED)
            listed = ", ".join(f"`{one}`" for one in names)
            cursor.execute(f"select {listed} from {spark.marts}.{table}")
            lake = sorted(map(_plain, map(tuple, cursor.fetchall())), key=repr)
            listed = listed.replace("`", '"')
            rows = duck.rows(f"select {listed} from {duck.marts}.{table}")
            file = sorted(map(_plain, rows), key=repr)
            different = [pair for pair in zip(lake, file, strict=False) if not _is_same(*pair)]
            if different or len(lake) != len(file):
                found.append(
                    f"{table}: {len(lake)} rows in Spark, {len(file)} in DuckDB; {different[:1]}"
                )
    return found


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    # Numbers with a fraction last: what is before them is enough to sort by.
    exact = [_value(one) for one in row if not isinstance(one, float)]
    return (*exact, *(one for one in row if isinstance(one, float)))


def _is_same(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return len(left) == len(right) and all(
        math.isclose(one, other, abs_tol=_TOLERANCE)
        if isinstance(one, float) and isinstance(other, float)
        else one == other
        for one, other in zip(left, right, strict=True)
    )


def _value(one: Any) -> Any:
    if isinstance(one, datetime):
        # Thrift's have no zone; the session's is UTC.
        return (one if one.tzinfo else one.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return one.isoformat() if isinstance(one, date) else one
