"""Write dbt models of your own: a view per event, with its properties as typed columns.

    python pipelines/run.py generate
    python pipelines/run.py generate --event "Purchase Completed" --min-share 0.01

What there is, and of which types, comes from property_dictionary. The files are yours, in
models/generated of the dbt project: written again, whatever stands outside of their marked part is
left as it is. Columns keep their names. The next sync builds the views.
"""

import json
import logging
from collections.abc import Sequence

from mixpanel_pipeline import project
from mixpanel_pipeline.cli.change import parsed, parser_of

logger = logging.getLogger(__name__)


def generate(arguments: Sequence[str]) -> int:
    """Write the models; returns the exit code.

    Raises:
        ConfigurationError: The connection is not configured, or a file cannot be written.
    """
    parser = parser_of("generate", __doc__ or "")
    parser.add_argument(
        "--event", action="append", default=[], metavar="NAME", help="only of this one; repeatable"
    )
    parser.add_argument(
        "--min-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="leave out what a smaller share of an event's events have, from 0 to 1 (default 0)",
    )
    options = parsed(parser, arguments)
    if not 0 <= options.min_share <= 1:
        parser.error("--min-share is a share from 0 to 1")

    import duckdb
    import psycopg2

    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.errors import SyncError
    from mixpanel_pipeline.runs.generation import generate as generate_models
    from mixpanel_pipeline.source.errors import ConfigurationError

    warehouse = open_warehouse(options.destination)
    try:
        outcome = generate_models(warehouse, events=options.event, min_share=options.min_share)
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be written: {error.strerror}") from error
    except (SyncError, duckdb.Error, psycopg2.Error) as error:
        logger.error("%s", " ".join(str(error).split()))
        return 1
    folder = project.dbt_project().parent
    told = {str(path.relative_to(folder)): become for path, become in outcome.items()}
    if options.json:
        print(json.dumps(told))
        return 0
    for name, become in told.items():
        print(f"{become:9} {name}")
    if "written" in told.values():
        print(f"Next: {project.COMMAND} --skip-load builds them, as each sync does.")
    return 0
