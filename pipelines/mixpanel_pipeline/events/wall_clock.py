"""Wall-clock times as instants."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

INSTANT = pa.timestamp("us", tz="UTC")


def instants(wall_clock: pa.Array, zone: ZoneInfo) -> pa.Array:
    """The instants at which a clock in `zone` shows these times.

    In the hour that autumn repeats, the earlier one; in the one that spring leaves out, that at
    which the clock was changed.
    """
    if zone.key == "UTC":
        return wall_clock.cast(INSTANT)
    try:
        return pc.assume_timezone(
            wall_clock, zone.key, ambiguous="earliest", nonexistent="latest"
        ).cast(INSTANT)
    except pa.ArrowInvalid:
        # Arrow knows the system's time zones alone, and an image may have none.
        return instants_by_python(wall_clock, zone)


def instants_by_python(wall_clock: pa.Array, zone: ZoneInfo) -> pa.Array:
    """`instants` with the time zones that Python knows, one time after the other."""
    found = [_instant(moment, zone) for moment in wall_clock.to_pylist()]
    return pa.array(found, INSTANT)


def _instant(moment: datetime, zone: ZoneInfo) -> datetime:
    first, second = (moment.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return first
    # The clock never showed it: it was changed after `second`, and by `first`.
    while (step := (first - second) // 2) >= timedelta(microseconds=1):
        middle = second + step
        if middle.astimezone(zone).utcoffset() == second.astimezone(zone).utcoffset():
            second = middle
        else:
            first = middle
    return first
