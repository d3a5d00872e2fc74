"""The table `lexicon`: what people wrote of events and properties at Mixpanel."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.runs.sweeps import Statement, places
from mixpanel_pipeline.source.lexicon import Described

NAME = "lexicon"
# People write there now and then.
_EVERY = timedelta(hours=24)
# A statement with more parameters gains nothing.
_ROWS_AT_ONCE = 1000


def prepare(warehouse: Warehouse) -> None:
    """Create the table where there is none; `property_dictionary` reads it, empty or not.

    Args:
        warehouse: Where; the caller holds its lock.
    """
    if not warehouse.has_table(warehouse.raw, NAME):
        warehouse.execute(
            f"create table if not exists {warehouse.raw}.{NAME} (event text not null, "
            "property text, display_name text, description text, is_hidden boolean not null, "
            "loaded_at timestamp with time zone not null)"
        )


def is_due(warehouse: Warehouse, now: datetime) -> bool:
    """Whether it is a day old, or says nothing."""
    loaded: datetime | None = warehouse.value(
        f"select max(loaded_at) from {warehouse.raw}.{NAME} where loaded_at <= %s", [now]
    )
    return loaded is None or loaded <= now - _EVERY


def keep(warehouse: Warehouse, everything: Sequence[Described], now: datetime) -> None:
    """Keep what the Lexicon says now, in the place of what it said.

    Args:
        warehouse: Where; the caller holds its lock.
        everything: All that it says.
        now: The current instant, with a time zone.
    """
    statements: list[Statement] = [(f"delete from {warehouse.raw}.{NAME}", [])]
    for first in range(0, len(everything), _ROWS_AT_ONCE):
        some = everything[first : first + _ROWS_AT_ONCE]
        statements.append(
            (
                f"insert into {warehouse.raw}.{NAME} values {places(6, len(some))}",
                [
                    value
                    for one in some
                    for value in (
                        *(one.event, one.property, one.display_name),
                        *(one.description, one.is_hidden, now),
                    )
                ],
            )
        )
    warehouse.execute_held(statements)
