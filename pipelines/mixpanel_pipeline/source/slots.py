"""Places for so many threads at once, given in the order in which they were asked for."""

import threading


class Slot:
    """A thread's place among the others; made by `Slots`.

    Args:
        free: Counts the places that are free.
        after: Set once the slot before this one was taken, or given up.
    """

    def __init__(self, free: threading.Semaphore, after: threading.Event) -> None:
        self._free = free
        self._after = after
        self._is_held = False
        self.was_taken = threading.Event()

    def take(self) -> None:
        """Wait for the place, unless it is held already; it can be taken again."""
        if not self._is_held:
            self._after.wait()
            self._free.acquire()
            self._is_held = True
            self.was_taken.set()

    def free(self) -> None:
        """Give the place back, or up if it was never taken."""
        self.was_taken.set()
        if self._is_held:
            self._is_held = False
            self._free.release()


class Slots:
    """Places.

    Args:
        count: How many are held at once.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)
        self._last = threading.Event()
        self._last.set()

    def next(self) -> Slot:
        """A slot that is taken after all those before it."""
        slot = Slot(self._free, after=self._last)
        self._last = slot.was_taken
        return slot
