"""Waits of downloads side by side, told as one."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

logger = logging.getLogger(__name__)

# A budget that frees a request at a time would otherwise have every request told of.
_SECONDS_BETWEEN = 300.0


class Waiting:
    """Tells that somebody waits, how long and why, and that it is over; at most every five minutes.

    `until` is when the last of those who wait, or waited, will ask again.
    """

    def __init__(self) -> None:
        self.until: datetime | None = None
        self._waiting = 0
        self._began = 0.0
        self._told: dict[str, float] = {}
        self._is_told = False
        self._lock = threading.Lock()

    @contextmanager
    def told(self, reason: str, seconds: float) -> Iterator[None]:
        """Meanwhile somebody waits; who leaves with an exception does not go on.

        Args:
            reason: Why, as it may be shown.
            seconds: For how long.
        """
        self._begin(reason, seconds)
        is_going_on = False
        try:
            yield
            is_going_on = True
        finally:
            self._end(is_going_on=is_going_on)

    def _begin(self, reason: str, seconds: float) -> None:
        until, now = datetime.now(UTC) + timedelta(seconds=seconds), time.monotonic()
        with self._lock:
            self.until = max(until, self.until or until)
            self._waiting += 1
            if self._waiting == 1:
                self._began = now
            is_news = now - self._told.get(reason, -_SECONDS_BETWEEN) >= _SECONDS_BETWEEN
            if is_news:
                self._told[reason], self._is_told = now, True
        level = logging.WARNING if is_news else logging.DEBUG
        logger.log(level, "%s: waiting %.0f s, until %s UTC", reason, seconds, f"{until:%H:%M:%S}")

    def _end(self, *, is_going_on: bool) -> None:
        with self._lock:
            self._waiting -= 1
            if self._waiting or not self._is_told:
                return
            self._is_told = False
            seconds = time.monotonic() - self._began
        if is_going_on:
            logger.info("Going on after waiting %.0f s", seconds)
