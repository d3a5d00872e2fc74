"""Sync Mixpanel events into a database and count them per subscriber.

    python pipelines/run.py                     load what is new, then build the models
    python pipelines/run.py --from-date 2026-01-01 --to-date 2026-01-31
    python pipelines/run.py --full-refresh
    python pipelines/run.py audit --heal        compare with Mixpanel's own counts, and repair
    python pipelines/run.py init                begin a project in an empty folder (installed)
    python pipelines/run.py check               whether a sync would work
    python pipelines/run.py plan                what a sync would do
    python pipelines/run.py status              how things stand
    python pipelines/run.py report              a page to look at: activity, retention, funnel
    python pipelines/run.py remove --where SQL  remove events, and count without them
    python pipelines/run.py forget ID…          all that is stored of people, for good
    python pipelines/run.py generate            dbt models of your own, a view per event
    python pipelines/run.py maintain            compact and tidy up tables of Spark
    python pipelines/run.py dbt ARGUMENT…       dbt itself, connected to the same database
    python pipelines/run.py demo                try it against a local Mixpanel

Settings come from .dlt/config.toml, .dlt/secrets.toml and the environment; the docs list them.

exit codes:
  0  done, or skipped because another sync is running; audit: equal, or healed
  1  failed, and nothing is lost: the message says what to do; audit: the counts differ
  2  wrong usage or configuration, also when Mixpanel or PostgreSQL refuses it; audit: not possible
"""

import argparse
import atexit
import gc
import io
import json
import locale
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from mixpanel_pipeline import interruption, project
from mixpanel_pipeline.cli.logs import Logs, add_options, level_of
from mixpanel_pipeline.cli.what_to_sync import (
    add_what_to_sync,
    check_what_to_sync,
    settings_and_days,
)
from mixpanel_pipeline.runs.summary import Summary, new_run_id

if TYPE_CHECKING:
    from mixpanel_pipeline.runs.audit import Audit
    from mixpanel_pipeline.runs.progress import Progress
    from mixpanel_pipeline.source import Mode
    from mixpanel_pipeline.source.errors import ConfigurationError

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_USAGE = 2
# Commands with options of their own.
_OF_THEIR_OWN = (
    "check",
    "dbt",
    "forget",
    "generate",
    "init",
    "maintain",
    "plan",
    "remove",
    "report",
    "status",
)
EXIT_AUDIT = {"equal": 0, "healed": 0, "differing": 1, "impossible": 2}


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in _OF_THEIR_OWN:
        return _with_arguments_of_its_own(*arguments)
    parser = _parser()
    for name in _OF_THEIR_OWN:
        if name in arguments:
            usage = f"{project.COMMAND} {name} --help"
            parser.error(f"{name} comes first, with options of its own: {usage}")
    options = parser.parse_args(arguments)
    _check(parser, options)
    options.run_id, options.started_at = new_run_id(), datetime.now(UTC)
    options.logs = Logs(
        options.run_id,
        log_format=options.log_format,
        level=level_of(options),
        as_json=options.json,
    )
    interruption.catch(lambda: _tell_interruption(options))
    project.find_settings()
    # Importing dlt takes a second, which --help and a mistyped option do not owe.
    from mixpanel_pipeline.source.errors import ConfigurationError

    try:
        from mixpanel_pipeline.declaration import metrics
        from mixpanel_pipeline.settings import check_settings

        check_settings()
        if options.command == "demo":
            if not project.IS_INSTALLED:
                # Installed, it counts what the package declares, whatever the folder has.
                metrics()
                sys.path.insert(0, str(project.folder()))
            from local_mixpanel.demo import demo

            with interruption.raised():
                return demo()
        metrics()
        if options.command == "audit":
            return _report_audit(_audit(options), as_json=options.json)
        return _report(_sync(parser, options), as_json=options.json)
    except ConfigurationError as error:
        _tell_refusal(options, error)
        _report_failure(options, str(error))
        return EXIT_USAGE
    except BaseException:
        if not interruption.came():
            raise
        interruption.ignore()
        _tell_interruption(options)
        return EXIT_FAILED


def _tell_interruption(options: argparse.Namespace) -> None:
    if options.logs.console is not None:
        # The line that shows the progress hides the cursor.
        os.write(2, b"\x1b[?25h\r\x1b[K")
    interruption.write(2, options.logs.line(interruption.MESSAGE))
    if options.json and options.command == "audit":
        told = {"status": "impossible", "error": interruption.MESSAGE}
        interruption.write(1, json.dumps(told))
    elif options.json:
        interruption.write(1, _failed(options, interruption.MESSAGE).as_json())


def _with_arguments_of_its_own(command: str, *arguments: str) -> int:
    project.find_settings()
    from mixpanel_pipeline.cli.change import tell_failure
    from mixpanel_pipeline.cli.check import check
    from mixpanel_pipeline.cli.dbt import run_dbt
    from mixpanel_pipeline.cli.forget import forget
    from mixpanel_pipeline.cli.generate import generate
    from mixpanel_pipeline.cli.init import init
    from mixpanel_pipeline.cli.maintain import maintain
    from mixpanel_pipeline.cli.plan import plan
    from mixpanel_pipeline.cli.remove import remove
    from mixpanel_pipeline.cli.report import report
    from mixpanel_pipeline.cli.status import status
    from mixpanel_pipeline.settings import check_settings
    from mixpanel_pipeline.source.errors import ConfigurationError

    # dbt deals with signals itself, and a removal is one transaction.
    interruption.unblock()
    Logs()
    # The options of dbt are its own.
    as_json = "--json" in arguments and command != "dbt"
    commands = {
        "dbt": run_dbt,
        "forget": forget,
        "generate": generate,
        "maintain": maintain,
        "plan": plan,
        "remove": remove,
        "report": report,
        "status": status,
    }
    try:
        if command == "check":
            return check(arguments)
        if command == "init":
            return init(arguments)
        check_settings()
        return commands[command](arguments)
    except KeyboardInterrupt:
        tell_failure("Interrupted. Nothing was changed.", as_json=as_json)
        return EXIT_FAILED
    except ConfigurationError as error:
        tell_failure(str(error), as_json=as_json)
        return EXIT_USAGE


def _tell_refusal(options: argparse.Namespace, error: "ConfigurationError") -> None:
    """Tell those who are told of failures, where a sync or an audit was to begin."""
    if options.command == "demo":
        return
    from mixpanel_pipeline.runs.notifications import tell_refusal

    tell_refusal(
        error,
        settings=None,
        destination=options.destination,
        run_id=options.run_id,
        now=options.started_at,
        mode="audit" if options.command == "audit" else _mode(options),
    )


def _report_failure(options: argparse.Namespace, message: str) -> int:
    """Report a command that did not come to its own end."""
    if options.command == "audit":
        from mixpanel_pipeline.runs.audit import Audit

        return _report_audit(Audit("impossible", error=message), as_json=options.json)
    from dlt.common.configuration.exceptions import ConfigurationException

    from mixpanel_pipeline.engines import configured_destination

    # What is told may be that no file is readable.
    with suppress(ConfigurationException, OSError, ValueError):
        options.destination = options.destination or configured_destination()
    return _report(_failed(options, message), as_json=options.json)


def _failed(options: argparse.Namespace, message: str) -> Summary:
    return Summary(
        status="failed",
        mode=_mode(options),
        destination=options.destination,
        run_id=options.run_id,
        started_at=options.started_at,
        from_date=options.from_date,
        to_date=options.to_date,
        error=message,
    )


def _mode(options: argparse.Namespace) -> "Mode":
    if options.full_refresh:
        return "full_refresh"
    return "backfill" if options.from_date else "incremental"


def _report(summary: Summary, *, as_json: bool) -> int:
    interruption.ignore()
    if summary.status == "failed":
        logger.error("%s", summary.error)
    if as_json:
        print(summary.as_json())
    elif summary.from_date or summary.status != "failed":
        from rich.console import Console

        summary.print(Console())
    if summary.is_misconfigured:
        return EXIT_USAGE
    return EXIT_FAILED if summary.status == "failed" else 0


def _report_audit(audit: "Audit", *, as_json: bool) -> int:
    interruption.ignore()
    if audit.error:
        logger.error("%s", audit.error)
    if as_json:
        print(audit.as_json())
    else:
        from rich.console import Console

        audit.print(Console())
    return EXIT_FAILED if interruption.came() else EXIT_AUDIT[audit.status]


def _audit(options: argparse.Namespace) -> "Audit":
    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.runs.audit import DEFAULT_DAYS
    from mixpanel_pipeline.runs.pipeline import audit
    from mixpanel_pipeline.source.configuration import load_configuration

    warehouse, settings = open_warehouse(options.destination), load_configuration()
    with interruption.raised():
        return audit(
            warehouse,
            settings,
            now=options.started_at,
            run_id=options.run_id,
            days=options.days or DEFAULT_DAYS,
            heal=options.heal,
            skip_transform=options.skip_transform,
            progress=_progress(options),
        )


def _progress(options: argparse.Namespace) -> "Progress":
    from mixpanel_pipeline.runs.progress import LiveProgress, LoggedProgress, Progress

    if options.quiet:
        return Progress()
    console = options.logs.console
    return LoggedProgress() if console is None else LiveProgress(console)


def _sync(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Summary:
    from mixpanel_pipeline.engines import configured_destination, open_warehouse
    from mixpanel_pipeline.runs.pipeline import sync

    now = options.started_at
    name = options.destination or configured_destination()
    if name == "filesystem" and options.skip_transform:
        return _sync_files(parser, options)
    warehouse = open_warehouse(options.destination)
    settings, backfill = settings_and_days(parser, options, now)
    options.destination = warehouse.name
    with interruption.raised():
        return sync(
            warehouse,
            settings,
            now=now,
            run_id=options.run_id,
            backfill=backfill,
            full_refresh=options.full_refresh,
            skip_load=options.skip_load,
            skip_transform=options.skip_transform,
            progress=_progress(options),
        )


def _sync_files(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Summary:
    from mixpanel_pipeline.engines.filesystem import NAME, configured_files
    from mixpanel_pipeline.engines.schemas import configured_schemas
    from mixpanel_pipeline.runs.files import sync_files
    from mixpanel_pipeline.source.errors import ConfigurationError

    options.destination = NAME
    if options.full_refresh:
        raise ConfigurationError(
            "--full-refresh rebuilds a database, and files are only added to. Days are loaded "
            "again with --from-date and --to-date: what is there already is not written twice."
        )
    files = configured_files(configured_schemas())
    settings, backfill = settings_and_days(parser, options, options.started_at)
    # Without it, there is nothing to do, which was refused before.
    assert settings is not None
    with interruption.raised():
        return sync_files(
            files,
            settings,
            now=options.started_at,
            backfill=backfill,
            run_id=options.run_id,
            progress=_progress(options),
        )


def _parser() -> argparse.ArgumentParser:
    usage, _, description = project.with_command(__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog=project.COMMAND,
        description=usage,
        epilog=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=sorted(["audit", "demo", *_OF_THEIR_OWN]),
        help="audit: compare what is loaded with Mixpanel's own counts; "
        "dbt: what follows is dbt's, like `dbt test`; forget and remove: see `remove --help`; "
        "demo: sync twice from a local Mixpanel with made-up events, into demo.duckdb",
    )
    parser.add_argument(
        "--days",
        type=_number_of_days,
        metavar="N",
        help="audit: the last N days, today included (default 7)",
    )
    parser.add_argument(
        "--heal", action="store_true", help="audit: load the days again of which events are missing"
    )
    add_what_to_sync(parser)
    parser.add_argument(
        "--destination",
        choices=["duckdb", "filesystem", "postgres", "spark"],
        help="where to load, instead of the configured destination_type (default duckdb)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the summary as a JSON object, the last line of stdout; all else is on stderr",
    )
    add_options(parser)
    version = f"mixpanel-pipeline {project.version()}"
    parser.add_argument("--version", action="version", version=version)
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.command != "audit" and (options.days or options.heal):
        parser.error("--days and --heal belong to audit")
    if options.command == "audit" and (
        options.from_date or options.full_refresh or options.skip_load
    ):
        parser.error("audit takes --days, --heal, --skip-transform, --destination and --json")
    check_what_to_sync(parser, options)


def _number_of_days(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return int(text)


def run() -> NoReturn:
    """The command as a process of its own."""
    # dbt reads files in the encoding of the locale, whatever they are written in.
    if locale.getencoding() != "UTF-8" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    # Nearly all that is made is kept to the end, as dbt's manifest is: it is searched for garbage
    # less often than Python would.
    gc.set_threshold(20_000)
    # What is printed can be Latin-1 or ASCII (PYTHONIOENCODING), and an event's name anything.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = main()
    # Python would take its modules apart one by one, a third of a second long, and do so under
    # downloads that still wait for a silent server.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
