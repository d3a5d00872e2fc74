"""A page to look at: how the product is used, and how its data are.

    python pipelines/run.py report
    python pipelines/run.py report --output /srv/www/report.html --days 180
    python pipelines/run.py report --funnel signed_up paywall_views total_subscriptions
    python pipelines/run.py report --json

One HTML file that holds all it needs: it can be sent, printed, and opened without a network. With
--json, the same numbers as a JSON object instead; the page too where --output names a file.
Nothing is written to the database, and nothing asked of Mixpanel. It may be called at any time,
while a sync runs too.

exit codes:
  0  the page is written, also when there is nothing to show yet
  1  the database could not be read; a page that is there stays as it is
  2  wrong usage or configuration, or what draws the charts is not installed
"""

import argparse
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mixpanel_pipeline.cli.change import parsed, parser_of
from mixpanel_pipeline.cli.replacing import replace_file

logger = logging.getLogger(__name__)

# Two bars of a day are still apart on a page.
_DAYS_AT_MOST = 366


def report(arguments: Sequence[str]) -> int:
    """Write the page; returns the exit code.

    Raises:
        ConfigurationError: The connection is not configured, a step of the funnel is no metric,
            the file cannot be written, or what draws the charts is not installed.
    """
    parser = parser_of("report", __doc__ or "")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write the page (default report.html)"
    )
    parser.add_argument(
        "--days",
        type=_number_of_days,
        default=90,
        metavar="N",
        help="the last N days, today included (default 90)",
    )
    parser.add_argument(
        "--funnel",
        nargs="+",
        default=[],
        metavar="METRIC",
        help="the metrics that are the funnel's steps, two or more, in order; by default those "
        "that most people reach",
    )
    parser.add_argument(
        "--with-ids", action="store_true", help="name the most active people, by their ids"
    )
    parser.add_argument(
        "--max-age-hours",
        type=float,
        default=24.0,
        metavar="N",
        help="how long ago the last success may be before somebody has to look (default 24)",
    )
    options = parsed(parser, arguments)
    if len(options.funnel) == 1:
        parser.error("--funnel takes two metrics or more")

    import duckdb
    import psycopg2

    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.errors import SyncError
    from mixpanel_pipeline.report.numbers import read
    from mixpanel_pipeline.report.page import check_installed, page

    output = options.output or (None if options.json else Path("report.html"))
    if output:
        check_installed()
    warehouse = open_warehouse(options.destination)
    try:
        numbers = read(
            warehouse,
            now=datetime.now(UTC),
            days=options.days,
            funnel=options.funnel,
            with_ids=options.with_ids,
            max_age=timedelta(hours=options.max_age_hours),
        )
    except (duckdb.Error, psycopg2.Error, OSError) as error:
        logger.error("%s cannot be read: %s", warehouse.location, warehouse.told(error))
        return 1
    except SyncError as error:
        logger.error("%s", error)
        return 1
    if output:
        replace_file(output, page(numbers), "--output")
    if options.json:
        print(numbers.as_json())
    elif numbers.to_date is None:
        print(f"{output}: nothing to show yet.")
    else:
        print(f"{output}: {numbers.from_date} to {numbers.to_date}.")
    return 0


def _number_of_days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _DAYS_AT_MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days up to {_DAYS_AT_MOST}")
    return int(text)
