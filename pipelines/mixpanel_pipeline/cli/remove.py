"""`run.py remove`: remove events by a condition.

    python pipelines/run.py remove --where "subscriber_id = 'ada'" --dry-run
    python pipelines/run.py remove --where "subscriber_id = 'ada'"

The condition is SQL on the columns of mixpanel.stg_mixpanel__events. The events and their counts go
in one transaction. What Mixpanel still exports comes again with the next sync, audit or backfill of
its days: delete it there first.
"""

import argparse
import logging
from collections.abc import Sequence

from mixpanel_pipeline.cli.logs import Logs, add_options, level_of

logger = logging.getLogger(__name__)


def remove(arguments: Sequence[str]) -> int:
    """Remove what the arguments say; returns the exit code.

    Raises:
        ConfigurationError: The connection is not configured.
    """
    usage, _, description = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python pipelines/run.py remove",
        description=usage,
        epilog=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--where", required=True, metavar="SQL", help="which events")
    parser.add_argument("--dry-run", action="store_true", help="only say how many there are")
    parser.add_argument("--destination", choices=["duckdb", "postgres"])
    parser.add_argument("--json", action="store_true", help="print the outcome as a JSON object")
    add_options(parser)
    options = parser.parse_args(arguments)
    Logs(log_format=options.log_format, level=level_of(options), as_json=options.json)

    import duckdb
    import psycopg2

    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError
    from mixpanel_pipeline.sync.removal import remove_events

    warehouse = open_warehouse(options.destination)
    try:
        removal = remove_events(warehouse, options.where, dry_run=options.dry_run)
    except AnotherSyncIsRunning as holder:
        error = f"Nothing was removed: another sync of this database is running: {holder}."
    except KeyboardInterrupt:
        error = "Interrupted: all of them are removed or none; --dry-run tells."
    except (SyncError, duckdb.Error, psycopg2.Error) as failure:
        error = " ".join(str(failure).split())
    else:
        verb = "removed" if removal.is_done else "would be removed"
        text = f"{removal.events:,} events of {removal.subscribers:,} subscribers {verb}."
        print(removal.as_json() if options.json else text)
        return 0
    logger.error("%s", error)
    return 1
