"""Keep the tables of the destination spark quick to read, and no larger than they have to be.

    python pipelines/run.py maintain                  keeps what tables were in the last 3 days
    python pipelines/run.py maintain --keep-hours 1

Each sync writes files of its own. This writes small ones anew as larger ones, and drops snapshots
of before, with the files that only they have, and files that runs which died left behind. No sync
runs meanwhile; once a day is enough. Other destinations take care of themselves.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from mixpanel_pipeline.cli.change import carried_out, parsed, parser_of


@dataclass(frozen=True)
class _Maintained:
    """Of what before which instant nothing is left."""

    snapshots_before: str

    def __str__(self) -> str:
        return f"Tables, without what they were before {self.snapshots_before},"

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def maintain(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = parser_of("maintain", __doc__ or "")
    parser.add_argument(
        "--keep-hours",
        type=_hours,
        default=72,
        metavar="N",
        help="for how long back a query may read tables as they were (default 72)",
    )
    options = parsed(parser, arguments)
    options.dry_run = False

    def change() -> _Maintained:
        from mixpanel_pipeline.engines import open_warehouse
        from mixpanel_pipeline.runs import maintenance

        now, keep = datetime.now(UTC), timedelta(hours=options.keep_hours)
        maintenance.maintain(open_warehouse(options.destination), now=now, keep=keep)
        return _Maintained((now - keep).isoformat(timespec="seconds"))

    return carried_out(change, options, "maintained")


def _hours(text: str) -> int:
    hours = int(text)
    if not 0 <= hours <= 24 * 3650:
        raise argparse.ArgumentTypeError("takes hours, up to ten years")
    return hours
