"""Answers on their way: fetched side by side, handed out in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

from mixpanel_pipeline.source import plan
from mixpanel_pipeline.source.delivered import Delivered, joined
from mixpanel_pipeline.source.errors import DayNotBegun
from mixpanel_pipeline.source.plan import Request, Stage, days_at_once
from mixpanel_pipeline.source.slots import Slot, Slots
from mixpanel_pipeline.source.window import Window

Fetch = Callable[[Request, Path, Slot], Delivered]
# For each answer that comes, another one may be decoded or wait for its turn to be loaded.
_AHEAD = 2
# What is there is not kept from the database for longer, to be loaded with what follows.
_LONGEST_WAIT_SECONDS = 30


@dataclass(frozen=True)
class Download:
    """What whole answers delivered, and the days of their stage that they complete."""

    days: Window
    delivered: Delivered


def downloads(
    stage: Stage,
    fetch: Fetch,
    spool: Path,
    *,
    parallel: int,
    came: Callable[[Download], object] | None = None,
) -> Iterator[Download]:
    """Yield the answers of a stage, oldest days first, while the next ones are being fetched.

    Several are handed out together until they come to `COMMIT_BYTES`.
    The first request is a single day; the next ones are as many days as fit in `REQUEST_BYTES`,
    by the size of the last answer, and side by side only when that is what limits them.

    Args:
        stage: What to export.
        fetch: Fetches a request; called with a path for its files and a slot to hold while the
            answer comes, in threads of their own.
        spool: A directory for the answers; whoever takes one removes it.
        parallel: How many answers may come at once.
        came: Called with each answer that is there, in order, before it is handed out.

    Raises:
        ExportError: What `fetch` raised, once all answers before it were handed out.
    """
    next_day = stage.days.from_date
    bytes_per_day: float | None = None
    days_answered = 0
    pending: deque[tuple[Window, Future[Delivered]]] = deque()
    names = count()
    slots = Slots(parallel)
    gathered: list[Download] = []

    def fill() -> None:
        nonlocal next_day
        days_to_ask, is_filled = days_at_once(bytes_per_day, days_answered)
        limit = _AHEAD * parallel if is_filled else 1
        while next_day <= stage.days.to_date and len(pending) < limit:
            days = stage.part(next_day, days_to_ask)
            request = stage.request(days.from_date, days.to_date)
            path = spool / f"answer-{next(names)}"
            pending.append((days, _in_thread(partial(fetch, request, path), slots.next())))
            next_day = days.to_date + timedelta(days=1)

    fill()
    while pending:
        days, future = pending[0]
        if gathered and (_is_enough(gathered) or not _succeeds_soon(future)):
            yield _together(gathered)
            gathered.clear()
        try:
            delivered = future.result()
        except DayNotBegun:
            if days.length > 1 and stage.arrival is None:
                # Only the last of them has not begun.
                begun = Window(days.from_date, days.to_date - timedelta(days=1))
                request = stage.request(begun.from_date, begun.to_date)
                path = spool / f"answer-{next(names)}"
                yield Download(begun, fetch(request, path, slots.next()))
            raise
        pending.popleft()
        gathered.append(Download(days, delivered))
        if came is not None:
            came(gathered[-1])
        bytes_per_day, days_answered = delivered.answer_bytes / days.length, days.length
        fill()
    if gathered:
        yield _together(gathered)


def _is_enough(gathered: list[Download]) -> bool:
    return sum(download.delivered.answer_bytes for download in gathered) >= plan.COMMIT_BYTES


def _succeeds_soon(future: Future[Delivered]) -> bool:
    wait([future], _LONGEST_WAIT_SECONDS)
    return future.done() and future.exception() is None


def _together(gathered: list[Download]) -> Download:
    days = Window(gathered[0].days.from_date, gathered[-1].days.to_date)
    return Download(days, joined([download.delivered for download in gathered]))


def _in_thread(fetch: Callable[[Slot], Delivered], slot: Slot) -> "Future[Delivered]":
    """`fetch(slot)` in a daemon thread: a sync that ends does not wait for a silent server."""
    future: Future[Delivered] = Future()

    def run() -> None:
        try:
            future.set_result(fetch(slot))
        except BaseException as error:
            future.set_exception(error)
        finally:
            slot.free()

    threading.Thread(target=run, name="download", daemon=True).start()
    return future
