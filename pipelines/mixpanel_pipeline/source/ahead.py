"""Iterators that are worked on in a thread of their own, a little ahead of their taker."""

import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import TypeVar

_Item = TypeVar("_Item")
_WAIT_SECONDS = 0.1


def ahead(items: Iterable[_Item], *, by: int = 1) -> Generator[_Item, None, None]:
    """Yield the same items, made in a thread while the ones before are dealt with.

    It pays where the work is done outside Python's interpreter lock, as by zlib or Arrow.

    Args:
        items: Iterated over in the thread alone; closed there when the taker stops early.
        by: How many items may wait.

    Raises:
        Exception: Whatever `items` raises, after the items before it.
    """
    made: Queue[tuple[_Item | None, BaseException | None, bool]] = Queue(by)
    stopped = threading.Event()

    def put(item: _Item | None, error: BaseException | None, is_last: bool) -> None:
        while not stopped.is_set():
            with suppress(Full):
                made.put((item, error, is_last), timeout=_WAIT_SECONDS)
                return

    def make() -> None:
        error: BaseException | None = None
        iterator = iter(items)
        try:
            for item in iterator:
                put(item, None, False)
                if stopped.is_set():
                    break
        except BaseException as raised:
            error = raised
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
        put(None, error, True)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error, is_last = made.get()
            if error is not None:
                raise error
            if is_last:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        with suppress(Empty):
            made.get_nowait()
        thread.join()
