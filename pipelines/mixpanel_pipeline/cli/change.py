"""What commands with options of their own have in common, and those that change something."""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from mixpanel_pipeline import project
from mixpanel_pipeline.cli.logs import Logs, add_options, level_of

logger = logging.getLogger(__name__)


class Change(Protocol):
    """What a change was about."""

    def as_json(self) -> str:
        """One JSON object on one line."""


def parser_of(command: str, documentation: str, *, plain: bool = False) -> argparse.ArgumentParser:
    """A parser with the options that all commands of their own have.

    Args:
        command: The command's name.
        documentation: Its first line says what it is; the rest is shown below the options.
        plain: Without those options.
    """
    usage, _, description = project.with_command(documentation).partition("\n")
    parser = argparse.ArgumentParser(
        prog=f"{project.COMMAND} {command}",
        description=usage,
        epilog=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if plain:
        return parser
    parser.add_argument("--destination", choices=["duckdb", "postgres", "spark"])
    parser.add_argument("--json", action="store_true", help="print the outcome as a JSON object")
    add_options(parser)
    return parser


def parser_of_change(command: str, documentation: str) -> argparse.ArgumentParser:
    """`parser_of`, for what changes something."""
    parser = parser_of(command, documentation)
    parser.add_argument("--dry-run", action="store_true", help="only say how much there is")
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options; from now on what is logged is written as they say."""
    options = parser.parse_args(arguments)
    Logs(log_format=options.log_format, level=level_of(options), as_json=options.json)
    return options


def carried_out(change: Callable[[], Change], options: argparse.Namespace, done: str) -> int:
    """Make a change of one transaction and tell what it was about; returns the exit code.

    Args:
        change: Makes it.
        options: What `parsed` returned.
        done: What was done, "removed".
    """
    import duckdb
    import psycopg2

    from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError

    try:
        found = change()
    except AnotherSyncIsRunning as holder:
        error = f"Nothing was {done}: another sync of this database is running: {holder}."
    except KeyboardInterrupt:
        error = f"Interrupted: all of it is {done} or none; --dry-run tells."
    except (SyncError, duckdb.Error, psycopg2.Error) as failure:
        error = " ".join(str(failure).split())
    else:
        verb = f"would be {done}" if options.dry_run else done
        print(found.as_json() if options.json else f"{found} {verb}.")
        return 0
    tell_failure(error, as_json=options.json)
    return 1


def tell_failure(error: str, *, as_json: bool) -> None:
    """Say why there is no outcome: to whoever waits for JSON, in that as well."""
    logger.error("%s", error)
    if as_json:
        print(json.dumps({"error": error}))
