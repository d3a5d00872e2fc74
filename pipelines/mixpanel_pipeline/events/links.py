"""Devices and users that an event names together: evidence that both are one person's."""

from collections.abc import Collection

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mixpanel_pipeline.events.suppression import DEVICE_PREFIX, text_of
from mixpanel_pipeline.events.wall_clock import INSTANT

LINKS = pa.schema(
    [
        pa.field("device_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("occurred_at", INSTANT, nullable=False),
    ]
)

_NULL = msgspec.Raw(b"null")


class _Ids(msgspec.Struct, gc=False):
    device: msgspec.Raw = msgspec.field(default=_NULL, name="$device_id")
    user: msgspec.Raw = msgspec.field(default=_NULL, name="$user_id")


_ids = msgspec.json.Decoder(_Ids)


def links(events: pa.Table, loaded: Collection[str]) -> pa.Table:
    """The pairs that some events name, each once, with when the first of them happened.

    Args:
        events: Events with the schema `EVENTS`.
        loaded: The names of those that are loaded: they tell it themselves.

    Returns:
        A table with the schema `LINKS`.
    """
    others = events.filter(pc.invert(pc.is_in(events["event"], pa.array(loaded, pa.string()))))
    first: dict[tuple[str, str], int] = {}
    times = others["occurred_at"].cast(pa.int64()).to_pylist()
    for payload, time in zip(others["properties"].to_pylist(), times, strict=True):
        ids = _ids.decode(payload)
        device, user = text_of(bytes(ids.device)), text_of(bytes(ids.user))
        if device and user:
            pair = device if device.startswith(DEVICE_PREFIX) else f"{DEVICE_PREFIX}{device}", user
            first[pair] = min(time, first.get(pair, time))
    return pa.table(
        [
            pa.array([device for device, _ in first], pa.string()),
            pa.array([user for _, user in first], pa.string()),
            pa.array(first.values(), pa.int64()).cast(INSTANT),
        ],
        schema=LINKS,
    )
