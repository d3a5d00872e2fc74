"""A directory for a run's files, which no other run touches while its process lives."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def working_directory(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new directory in `parent`, gone afterwards; those that dead processes left go first.

    Args:
        parent: Is created if it is not there.
        name: What the names of such directories begin with.
    """
    parent.mkdir(parents=True, exist_ok=True)
    # A directory is locked by its process, and so in use until that ends, however it ends.
    with _locked(parent):
        for stale in parent.glob(f"{name}*"):
            _remove_if_unused(stale)
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
        descriptor = os.open(directory, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_if_unused(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
