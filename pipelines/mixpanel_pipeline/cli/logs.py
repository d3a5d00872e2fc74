"""The lines on stderr: one configuration of `logging`, for people at a terminal and for logs."""

import argparse
import json
import logging
import sys
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from mixpanel_pipeline.redaction import redacted

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what is written to stderr, and how."""
    parser.add_argument(
        "--log-format",
        choices=["text", "json"],
        help="lines on stderr: text, or a JSON object each with time, level, run_id and message; "
        "the default is text, with a live display instead on a terminal",
    )
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--quiet", action="store_true", help="only warnings and errors")
    how_much.add_argument(
        "--verbose", action="store_true", help="requests, loads and models as well"
    )


class Logs(logging.Handler):
    """What is logged goes to stderr; so do Python's warnings, mistakes of ours, and dlt's lines.

    Args:
        run_id: Stands in every line.
        log_format: "text" or "json"; None for lines that suit stderr.
        level: Of the lines of this project that are written.
        as_json: The command is for a program, also on a terminal.
    """

    def __init__(
        self,
        run_id: str = "-",
        *,
        log_format: str | None = None,
        level: int = logging.INFO,
        as_json: bool = False,
    ) -> None:
        super().__init__()
        is_for_people = log_format is None and not as_json and sys.stderr.isatty()
        self.console = _terminal() if is_for_people else None
        """The terminal, if a person sits there: what else is shown goes through it."""
        self._run_id = run_id
        self._is_json = log_format == "json"
        logging.getLogger("mixpanel_pipeline").setLevel(level)
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if isinstance(handler, Logs):
                root.removeHandler(handler)
        root.addHandler(self)
        # dlt keeps its lines from the root, and uses the first handler that it finds.
        of_dlt = logging.getLogger("dlt")
        of_dlt.handlers, of_dlt.propagate = [_ToTheRoot()], False
        logging.captureWarnings(True)
        sys.excepthook = lambda *error: root.critical("A mistake of this program", exc_info=error)

    def format(self, record: logging.LogRecord) -> str:
        """The line, or more where the message has several."""
        message = self._message(record)
        time = datetime.fromtimestamp(record.created).astimezone().isoformat("T", "milliseconds")
        if self._is_json:
            fields = {"time": time, "level": record.levelname.lower(), "run_id": self._run_id}
            return json.dumps({**fields, "message": message})
        lines = message.splitlines() or [""]
        return "\n".join(f"{time} {record.levelname} {self._run_id} {line}" for line in lines)

    def _message(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        if self.console is None:
            # A full disk or a reader that left is no reason to end a sync. Not the stderr that was
            # there when this was made: it may be closed.
            with suppress(OSError):
                print(self.format(record), file=sys.stderr, flush=True)
            return
        from rich.text import Text

        level = Text(f"{record.levelname.lower()}: ", _STYLES.get(record.levelname, "dim"))
        self.console.print(level + self._message(record), soft_wrap=True)

    def line(self, message: str) -> str:
        """An error as it is written where nothing can be logged any more."""
        if self.console is not None:
            return f"error: {message}"
        return self.format(logging.makeLogRecord({"levelname": "ERROR", "msg": message}))


def _terminal() -> "Console":
    # Only a terminal needs it.
    from rich.console import Console

    return Console(stderr=True)


class _ToTheRoot(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)


def level_of(options: argparse.Namespace) -> int:
    """The level that the options ask for."""
    if options.quiet:
        return logging.WARNING
    return logging.DEBUG if options.verbose else logging.INFO
