"""Our share of what Mixpanel lets a project ask: 60 queries an hour, 3 a second.

https://docs.mixpanel.com/reference/raw-event-export; all tools of the project share the hour.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

PER_HOUR = 60
_PER_SECOND = 3


class RequestBudget:
    """Says when the next request may be sent; safe to ask from several threads.

    Args:
        per_hour: How many requests are ours, at most `PER_HOUR`.
        spent: How many seconds ago each request of the last hour was sent by earlier processes.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        per_hour: int = PER_HOUR,
        spent: Iterable[float] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_hour = per_hour
        self._clock = clock
        self._sent_this_hour = deque(sorted(clock() - ago for ago in spent))
        # What earlier processes sent was more than a second ago: starting takes that long.
        self._sent_this_second: deque[float] = deque(maxlen=_PER_SECOND)
        self._blocked_until = clock()
        self._lock = threading.Lock()

    def take(self) -> float:
        """0, and the request counts as sent; or the seconds to wait before asking again."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            waits = [self._blocked_until - now]
            if len(self._sent_this_hour) >= self._per_hour:
                waits.append(self._sent_this_hour[-self._per_hour] + 3600 - now)
            if len(self._sent_this_second) == _PER_SECOND:
                waits.append(self._sent_this_second[0] + 1 - now)
            wait = max(waits)
            if wait <= 0:
                self._sent_this_hour.append(now)
                self._sent_this_second.append(now)
                return 0.0
            return wait

    def block(self, seconds: float) -> None:
        """Let nobody send for so long: Mixpanel said so."""
        with self._lock:
            self._blocked_until = max(self._blocked_until, self._clock() + seconds)

    @property
    def left(self) -> int:
        """How many requests may still be sent within this hour."""
        with self._lock:
            self._forget(self._clock())
            return max(0, self._per_hour - len(self._sent_this_hour))

    def _forget(self, now: float) -> None:
        while self._sent_this_hour and self._sent_this_hour[0] <= now - 3600:
            self._sent_this_hour.popleft()
