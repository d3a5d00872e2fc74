"""What Mixpanel makes of the events of a distinct_id that has too many on one day.

https://docs.mixpanel.com/docs/debugging/distinct-id-limits
"""

from collections.abc import Mapping
from typing import Any


def hot_sharded(event: Mapping[str, Any]) -> dict[str, Any]:
    """What `event` becomes beyond 200,000 events of its distinct_id and day.

    It is named `$hotshard_events` and belongs to nobody; what it was stands in its properties.

    Args:
        event: `{"event": str, "properties": {"distinct_id": str, …}}`.

    Raises:
        KeyError: It has no name or no distinct_id, so it cannot be one of too many.
    """
    properties = event["properties"]
    return {
        "event": "$hotshard_events",
        "properties": {
            **properties,
            "distinct_id": "",
            "mp_original_event_name": event["event"],
            "mp_original_distinct_id": properties["distinct_id"],
        },
    }
