"""Remove events by a condition.

    python pipelines/run.py remove --where "subscriber_id = 'ada'" --dry-run
    python pipelines/run.py remove --where "subscriber_id = 'ada'"

The condition is SQL on the columns of mixpanel.stg_mixpanel__events. The events and their counts go
in one transaction. What Mixpanel still exports comes again with the next sync, audit or backfill of
its days: delete it there first.
"""

from collections.abc import Sequence

from mixpanel_pipeline.cli.change import carried_out, parsed, parser_of_change


def remove(arguments: Sequence[str]) -> int:
    """Remove what the arguments say; returns the exit code.

    Raises:
        ConfigurationError: The connection is not configured.
    """
    parser = parser_of_change("remove", __doc__ or "")
    parser.add_argument("--where", required=True, metavar="SQL", help="which events")
    options = parsed(parser, arguments)

    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.runs.removal import remove_events

    warehouse = open_warehouse(options.destination)
    return carried_out(
        lambda: remove_events(warehouse, options.where, dry_run=options.dry_run), options, "removed"
    )
