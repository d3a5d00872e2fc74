"""Bodies that arrive no faster than a real network would carry them."""

import threading
import time
from collections.abc import Iterable, Iterator

_PART_BYTES = 64 * 1024
# Slow bodies come in parts this often, instead of a large one after a long silence.
_PARTS_PER_SECOND = 10


def throttled(
    parts: Iterable[bytes], bytes_per_second: int, closing: threading.Event
) -> Iterator[bytes]:
    """Yield the same bytes in parts of at most 64 KiB, each not before its last byte is due.

    The time in which the consumer deals with a part counts, so it slows nothing down further.

    Args:
        parts: The body.
        bytes_per_second: How fast it may come, at least 1.
        closing: Ends a wait early when set.

    Raises:
        ConnectionAbortedError: `closing` was set.
    """
    size = max(1, min(_PART_BYTES, bytes_per_second // _PARTS_PER_SECOND))
    started = time.monotonic()
    sent = 0
    for whole in parts:
        for start in range(0, len(whole), size):
            part = whole[start : start + size]
            sent += len(part)
            due = started + sent / bytes_per_second
            if closing.wait(max(0.0, due - time.monotonic())):
                raise ConnectionAbortedError("the server closes")
            yield part
