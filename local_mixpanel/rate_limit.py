"""Mixpanel's limits on requests: 60 an hour, 3 a second, per project (docs, rate limits)."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RateLimit:
    """How many requests of one kind are answered; None for any number."""

    per_hour: int | None = 60
    per_second: int | None = 3
    per_minute: int | None = None
    tells_wait: bool = True
    """Whether a 429 has Retry-After: with Mixpanel it may or may not."""


class RateLimiter:
    """Counts the answered requests of the last hour; a refused one costs nothing."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._limits = [
            (count, seconds)
            for count, seconds in (
                (limit.per_hour, 3600.0),
                (limit.per_minute, 60.0),
                (limit.per_second, 1.0),
            )
            if count is not None
        ]
        self._clock = clock
        self._answered: deque[float] = deque()
        self._lock = threading.Lock()

    def wait(self) -> int:
        """Seconds until a request is allowed, rounded up; 0 allows and counts this one."""
        with self._lock:
            now = self._clock()
            while self._answered and self._answered[0] <= now - 3600:
                self._answered.popleft()
            wait = max((self._wait(now, *limit) for limit in self._limits), default=0.0)
            if wait <= 0:
                self._answered.append(now)
            return math.ceil(max(wait, 0.0))

    def _wait(self, now: float, count: int, seconds: float) -> float:
        if count == 0:
            return seconds
        if len(self._answered) < count:
            return 0.0
        return self._answered[-count] + seconds - now
