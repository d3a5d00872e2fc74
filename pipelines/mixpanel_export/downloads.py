"""Answers on their way: fetched side by side, handed out in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

from mixpanel_export.answer import Answer
from mixpanel_export.plan import Request, Stage, days_at_once
from mixpanel_export.window import Window

Fetch = Callable[[Request, Path], Answer]


@dataclass(frozen=True)
class Download:
    """An answer that is whole, and the days of its stage that it completes."""

    days: Window
    request: Request
    answer: Answer


def downloads(
    stage: Stage, fetch: Fetch, spool: Path, *, parallel: int, bytes_per_day: float | None
) -> Iterator[Download]:
    """Yield the answers of a stage, oldest days first, while the next ones are being fetched.

    A request is as many days as fit in `REQUEST_BYTES`, by the size of the answers so far; the
    first is a single day when nothing is known.

    Args:
        stage: What to export.
        fetch: Downloads a request to a path; called in threads of their own.
        spool: A directory for the answers; whoever takes one removes it.
        parallel: How many answers may be on their way, or wait, at a time.
        bytes_per_day: What a day measured earlier; None when that is not known.

    Raises:
        ExportError: What `fetch` raised, once all answers before it were handed out.
    """
    next_day, days_before = stage.days.from_date, None
    pending: deque[tuple[Window, Request, Future[Answer]]] = deque()
    names = count()

    def fill() -> None:
        nonlocal next_day, days_before
        # The first answer tells how much to ask for next.
        limit = 1 if bytes_per_day is None else parallel
        while next_day <= stage.days.to_date and len(pending) < limit:
            days_before = days_at_once(bytes_per_day, days_before)
            days_left = (stage.days.to_date - next_day).days
            days = Window(next_day, next_day + timedelta(days=min(days_before - 1, days_left)))
            request = stage.request(days.from_date, days.to_date)
            path = spool / f"answer-{next(names)}"
            pending.append((days, request, _in_thread(partial(fetch, request, path))))
            next_day = days.to_date + timedelta(days=1)

    fill()
    while pending:
        days, request, future = pending.popleft()
        answer = future.result()
        bytes_per_day = answer.path.stat().st_size / days.length
        fill()
        yield Download(days, request, answer)


def _in_thread(fetch: Callable[[], Answer]) -> "Future[Answer]":
    """`fetch()` in a daemon thread: a sync that ends does not wait for a silent server."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(fetch())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="download", daemon=True).start()
    return future
