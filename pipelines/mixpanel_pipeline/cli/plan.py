"""What a sync would do now.

    python pipelines/run.py plan
    python pipelines/run.py plan --full-refresh
    python pipelines/run.py plan --from-date 2026-01-01 --to-date 2026-01-31

With the options of a sync: mode and why, days, requests, events and megabytes to expect, what would
wait, what dbt would build. Nothing is written, and nothing asked of Mixpanel. It may be called at
any time, while a sync runs too.

exit codes:
  0  a sync would do that, or be skipped as another one is running
  1  the database could not be read
  2  wrong usage or configuration: a sync would be refused
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from mixpanel_pipeline.cli.change import parsed, parser_of, tell_failure
from mixpanel_pipeline.cli.what_to_sync import (
    add_what_to_sync,
    check_what_to_sync,
    settings_and_days,
)


def plan(arguments: Sequence[str]) -> int:
    """Tell what a sync with these arguments would do; returns the exit code.

    Raises:
        ConfigurationError: A sync would be refused.
    """
    parser = parser_of("plan", __doc__ or "")
    add_what_to_sync(parser)
    options = parsed(parser, arguments)
    check_what_to_sync(parser, options)

    import duckdb
    import psycopg2

    from mixpanel_pipeline.declaration import metrics
    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.errors import SyncError
    from mixpanel_pipeline.runs.dry_run import plan as plan_of

    now = datetime.now(UTC)
    metrics()
    warehouse = open_warehouse(options.destination)
    settings, backfill = settings_and_days(parser, options, now)
    try:
        found = plan_of(
            warehouse,
            settings,
            now=now,
            backfill=backfill,
            full_refresh=options.full_refresh,
            skip_transform=options.skip_transform,
        )
    except (duckdb.Error, psycopg2.Error, OSError) as error:
        told = f"{warehouse.location} cannot be read: {warehouse.told(error)}"
        tell_failure(told, as_json=options.json)
        return 1
    except SyncError as error:
        tell_failure(str(error), as_json=options.json)
        return 1
    if options.json:
        print(found.as_json())
    else:
        from rich.console import Console

        found.print(Console())
    return 0
