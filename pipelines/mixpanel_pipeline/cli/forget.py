"""`run.py forget`: forget people.

    python pipelines/run.py forget ada --dry-run
    python pipelines/run.py forget ada eve
    python pipelines/run.py forget --file ids.txt

All that is stored of the people whose ids these are goes, in one transaction, under whatever other
ids it is; and nothing of them is loaded again, though Mixpanel still exports it. They are known
again by hashes keyed with sources.mixpanel.hash_secret, which every sync needs from then on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def forget(arguments: Sequence[str]) -> int:
    """Forget whom the arguments say; returns the exit code.

    Raises:
        ConfigurationError: The connection or the secret is not configured.
    """
    usage, _, description = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python pipelines/run.py forget",
        description=usage,
        epilog=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="any id of the person")
    parser.add_argument("--file", type=Path, help="a file of ids, one a line")
    parser.add_argument("--dry-run", action="store_true", help="only say how much there is")
    parser.add_argument("--destination", choices=["duckdb", "postgres"])
    parser.add_argument("--json", action="store_true", help="print the outcome as a JSON object")
    options = parser.parse_args(arguments)
    ids = list(options.ids)
    if options.file is not None:
        try:
            ids += options.file.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as unreadable:
            parser.error(f"{options.file} cannot be read: {unreadable}")
    if not any(ids):
        parser.error("whom to forget? Name ids, or a --file of them.")

    import duckdb
    import psycopg2

    from mixpanel_pipeline.engines import open_warehouse
    from mixpanel_pipeline.errors import AnotherSyncIsRunning, SyncError
    from mixpanel_pipeline.source.configuration import load_configuration
    from mixpanel_pipeline.sync.forgetting import forget as forget_people

    warehouse = open_warehouse(options.destination)
    secret = load_configuration().hash_secret
    try:
        found = forget_people(warehouse, ids, secret, dry_run=options.dry_run)
    except AnotherSyncIsRunning as holder:
        error = f"Nothing was forgotten: another sync of this database is running: {holder}."
    except KeyboardInterrupt:
        error = "Interrupted: all of it is forgotten or none; --dry-run tells."
    except (SyncError, duckdb.Error, psycopg2.Error) as failure:
        error = " ".join(str(failure).split())
    else:
        verb = "forgotten" if found.is_done else "would be forgotten"
        text = (
            f"{found.ids:,} ids, {found.events:,} events, {found.rejected_lines:,} rejected lines "
            f"and {found.subscribers:,} subscribers {verb}."
        )
        print(found.as_json() if options.json else text)
        return 0
    print(f"error: {error}", file=sys.stderr)
    return 1
