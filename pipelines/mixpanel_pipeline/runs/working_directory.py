"""Where a run keeps its files: in the state folder, in a directory that no other run touches."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dlt
from dlt.common.runtime import run_context

from mixpanel_pipeline import project
from mixpanel_pipeline.source.errors import ConfigurationError


def state_directory(name: str) -> Path:
    """A directory in the state folder: what is called so, created if it is not there.

    The folder is `sources.mixpanel.state_directory`, by default dlt's own. Events pass through it,
    so what is created is for this user alone.

    Raises:
        ConfigurationError: This user may not write there.
    """
    configured = dlt.config.get("sources.mixpanel.state_directory", str)
    default = Path(run_context.active().data_dir)
    folder = (project.folder() / Path(configured).expanduser()) if configured else default
    directory = folder / name
    try:
        for path in (folder, directory):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only creating a file tells: rights are not all that a file system can refuse by.
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise ConfigurationError(
            f"The state folder {folder} cannot be written: {error.strerror}. Set "
            "sources.mixpanel.state_directory to a folder that this user may write, like "
            "/var/lib/mixpanel."
        ) from error
    return directory


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
