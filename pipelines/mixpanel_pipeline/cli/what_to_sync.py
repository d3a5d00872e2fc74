"""The options that say what to sync: those of a sync, and of what tells about one."""

import argparse
from datetime import date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixpanel_pipeline.source.configuration import MixpanelConfiguration
    from mixpanel_pipeline.source.window import Window


def add_what_to_sync(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--from-date",
        type=_day,
        metavar="D",
        help="load the days from D (YYYY-MM-DD) to --to-date, both included, whatever is loaded "
        "already; the watermark stays where it is",
    )
    parser.add_argument("--to-date", type=_day, metavar="D", help="the last day of the backfill")
    parser.add_argument(
        "--full-refresh",
        action="store_true",
        help="load the whole initial window again, whatever the watermark, and rebuild the models",
    )
    parser.add_argument("--skip-transform", action="store_true", help="only load")
    parser.add_argument("--skip-load", action="store_true", help="only build the models")


def check_what_to_sync(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the command for options that do not go together."""
    if bool(options.from_date) != bool(options.to_date):
        parser.error("--from-date and --to-date go together")
    if options.from_date and options.from_date > options.to_date:
        parser.error(f"--from-date {options.from_date} is after --to-date {options.to_date}")
    if options.from_date and options.full_refresh:
        parser.error("--full-refresh loads the initial window: give it or days, not both")
    if options.skip_load and options.skip_transform:
        parser.error("--skip-load and --skip-transform together leave nothing to do")
    if options.skip_load and options.from_date:
        parser.error("--from-date says what to load, --skip-load not to")


def settings_and_days(
    parser: argparse.ArgumentParser, options: argparse.Namespace, now: datetime
) -> "tuple[MixpanelConfiguration | None, Window | None]":
    """The source's configuration, and the days of a backfill; each None where it is not needed.

    Raises:
        ConfigurationError: A setting is missing or cannot be what it is.
    """
    from mixpanel_pipeline.source.configuration import load_configuration
    from mixpanel_pipeline.source.window import Window, last_day

    if options.skip_load:
        return None, None
    settings = load_configuration()
    if not options.from_date:
        return settings, None
    backfill = Window(options.from_date, options.to_date)
    today = last_day(now, settings.zone, "today")
    if backfill.to_date > today:
        parser.error(f"--to-date {backfill.to_date} is in the future (today is {today})")
    return settings, backfill


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day like 2026-01-31") from None
