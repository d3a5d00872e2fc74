"""The command as it is started, in a checkout and installed."""

import signal
import sys
from typing import NoReturn


def command() -> NoReturn:
    """Run the command; see its `--help`."""
    # Until it can tell that it was interrupted: signals are delayed, not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))

    from mixpanel_pipeline.cli.main import run

    run()


def dbt() -> NoReturn:
    """`mixpanel-pipeline dbt`, for tools that take the path of dbt's program and no arguments."""
    sys.argv.insert(1, "dbt")
    command()
