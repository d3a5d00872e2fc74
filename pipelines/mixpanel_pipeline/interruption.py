"""SIGINT, SIGTERM and SIGHUP: whatever they fall into, the command ends with one line.

A thread of its own waits for them, since the main thread may be in C code for long, or about to
wait for another thread. As long as nothing has to be put in order it ends the process: an
exception in the middle of an import may be swallowed, or turned into another one. While a run
holds the database it raises KeyboardInterrupt in the main thread; whatever fails there from then
on fails of it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

MESSAGE = "Interrupted. It is safe to run again."

# Nobody else uses it; the handler of the signals themselves would have to run in the main thread.
_RAISE = signal.SIGUSR1
# A signal that comes right before the main thread begins to wait is not noticed: it is repeated.
_REPEAT_SECONDS = 0.1

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_lock = threading.Lock()
_came = threading.Event()
_was_raised = threading.Event()
_raises = False
_is_over = False


def catch(leave: Callable[[], object]) -> None:
    """From now on signals end the command; those that the process was told to ignore do not.

    Args:
        leave: Tells that the command was interrupted, by `write`, since other code may be
            printing; the process ends afterwards.
    """
    signals = {signum for signum in _SIGNALS if signal.getsignal(signum) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for signum in signals:
        signal.signal(signum, _hand_over)
    signal.signal(_RAISE, _handle)
    sys.unraisablehook = _without_interruptions
    threading.Thread(target=_watch, args=(signals, leave), daemon=True).start()


def unblock() -> None:
    """Let signals do what they do to any program."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def raised() -> Iterator[None]:
    """Meanwhile the first signal raises KeyboardInterrupt; who sends two does not want to wait."""
    global _raises
    try:
        _raises = True
        yield
    finally:
        _raises = False


def came() -> bool:
    """Whether a signal has come."""
    return _came.is_set()


def check() -> None:
    """Raise KeyboardInterrupt if a signal came that somebody swallowed."""
    if came():
        raise KeyboardInterrupt


def ignore() -> None:
    """From now on signals change nothing: all is done but telling it."""
    global _is_over
    with _lock:
        _is_over = True


def write(file: int, line: str) -> None:
    """Write a line to a file descriptor."""
    with suppress(OSError):
        os.write(file, f"{line}\n".encode(errors="backslashreplace"))


def _watch(signals: set[signal.Signals], leave: Callable[[], object]) -> None:
    main = threading.main_thread().ident
    assert main is not None
    while True:
        signal.sigwait(signals)
        is_first = not came()
        _came.set()
        while is_first and _raises and not _was_raised.is_set():
            signal.pthread_kill(main, _RAISE)
            # Meanwhile another one may come.
            if signal.sigtimedwait(signals, _REPEAT_SECONDS):
                break
        if is_first and _was_raised.is_set():
            continue
        with _lock:
            if not _is_over:
                leave()
                os._exit(1)


def _hand_over(signum: int, frame: FrameType | None) -> None:
    # Python's resource tracker, which dbt starts, lets signals through that were blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    os.kill(os.getpid(), signum)


def _handle(signum: int, frame: FrameType | None) -> None:
    if came() and _raises and not _was_raised.is_set():
        _was_raised.set()
        raise KeyboardInterrupt


def _without_interruptions(unraisable: Any) -> None:
    # In a destructor it cannot be raised; `check` raises it later.
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
