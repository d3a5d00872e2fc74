"""How long a command takes, and how much memory its processes hold at once."""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Memory is read this often: a peak that is shorter than this may be missed.
_SAMPLE_SECONDS = 0.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class CommandFailed(Exception):
    """A measured command ended with another code than 0; its last lines are the message."""


@dataclass(frozen=True)
class Measured:
    """What a command cost."""

    seconds: float
    peak_bytes: int
    """The most that it and its descendants held at one instant."""
    output: str


def measured(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    timeout: float = 3600,
) -> Measured:
    """Run a command to its end and measure it whole, its start included.

    Args:
        command: The program and its arguments.
        environment: Variables beside those of this process.
        directory: Where to run it.
        timeout: After so many seconds it is stopped.

    Raises:
        CommandFailed: It did not end with 0, or not in time.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **(environment or {})},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _held_by(process.pid))
            if time.perf_counter() - started > timeout:
                process.kill()
                process.wait()
                break
            try:
                process.wait(_SAMPLE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode != 0:
        last = "\n".join(text.strip().splitlines()[-15:])
        raise CommandFailed(f"exit {process.returncode} after {seconds:.0f} s: {last}")
    return Measured(seconds, peak, text)


def _held_by(pid: int) -> int:
    """The resident memory of a process and its descendants, in bytes; pages they share twice."""
    total = 0
    try:
        resident = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]
        total += int(resident) * _PAGE_BYTES
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="utf-8").split():
                total += _held_by(int(child))
    except (OSError, IndexError):
        # It has just ended.
        pass
    return total
