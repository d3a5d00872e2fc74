"""How things stand.

    python pipelines/run.py status
    python pipelines/run.py status --json
    python pipelines/run.py status --prometheus /var/lib/node_exporter/mixpanel.prom

Nothing is written to the database, and nothing asked of Mixpanel. It may be called at any time,
while a sync runs too.

exit codes:
  0  all is well, or a sync is writing just now
  1  somebody has to look: the last run failed or died, or no sync succeeded for --max-age-hours
  2  wrong usage or configuration
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mixpanel_pipeline.cli.change import parsed, parser_of
from mixpanel_pipeline.cli.replacing import replace_file

# As `dbt source freshness` does by default.
_MAX_AGE_HOURS = 24.0


def status(arguments: Sequence[str]) -> int:
    """Tell how things stand; returns the exit code.

    Raises:
        ConfigurationError: The connection is not configured, or the file cannot be written.
    """
    parser = parser_of("status", __doc__ or "")
    parser.add_argument(
        "--prometheus",
        type=Path,
        metavar="FILE",
        help="write it there too, for the textfile collector of Prometheus's node exporter",
    )
    parser.add_argument(
        "--max-age-hours",
        type=float,
        default=_MAX_AGE_HOURS,
        metavar="N",
        help="how long ago the last success may be (default 24)",
    )
    options = parsed(parser, arguments)

    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.runs.status import status as status_of

    found = status_of(
        open_warehouse(options.destination),
        now=datetime.now(UTC),
        max_age=timedelta(hours=options.max_age_hours),
    )
    if options.prometheus:
        replace_file(options.prometheus, found.as_prometheus(), "--prometheus")
    if options.json:
        print(found.as_json())
    else:
        from rich.console import Console

        found.print(Console())
    return 0 if found.is_well else 1
