"""Forget people.

    python pipelines/run.py forget ada --dry-run
    python pipelines/run.py forget ada eve
    python pipelines/run.py forget --file ids.txt

All that is stored of the people whose ids these are goes, in one transaction, under whatever other
ids it is; and nothing of them is loaded again, though Mixpanel still exports it. They are known
again by hashes keyed with sources.mixpanel.hash_secret, which every sync needs from then on.
"""

from collections.abc import Sequence
from pathlib import Path

from mixpanel_pipeline.cli.change import carried_out, parsed, parser_of_change


def forget(arguments: Sequence[str]) -> int:
    """Forget whom the arguments say; returns the exit code.

    Raises:
        ConfigurationError: The connection or the secret is not configured.
    """
    parser = parser_of_change("forget", __doc__ or "")
    parser.add_argument("ids", nargs="*", metavar="ID", help="any id of the person")
    parser.add_argument("--file", type=Path, help="a file of ids, one a line")
    options = parsed(parser, arguments)
    ids = list(options.ids)
    if options.file is not None:
        try:
            ids += options.file.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"{options.file} cannot be read: {error}")
    if not any(ids):
        parser.error("whom to forget? Name ids, or a --file of them.")

    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.runs.forgetting import forget as forget_people
    from mixpanel_pipeline.source.configuration import load_configuration

    warehouse = open_warehouse(options.destination)
    secret = load_configuration().hash_secret
    return carried_out(
        lambda: forget_people(warehouse, ids, secret, dry_run=options.dry_run), options, "forgotten"
    )
