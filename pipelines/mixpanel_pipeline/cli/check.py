"""Whether a sync would work.

    python pipelines/run.py check
    python pipelines/run.py check --skip-transform

Settings, declaration, database with its rights, credentials, project, region, clock, plan and event
names, a line each: ok, a warning, or an error with what to do. Nothing is loaded.

exit codes:
  0  a sync would work, warnings or not
  1  it would not
  2  wrong usage
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from mixpanel_pipeline.cli.change import parsed, parser_of

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def check(arguments: Sequence[str]) -> int:
    """Check what the arguments say; returns the exit code."""
    parser = parser_of("check", __doc__ or "")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--skip-transform", action="store_true", help="of a sync that only loads")
    half.add_argument("--skip-load", action="store_true", help="of one that only builds the models")
    options = parsed(parser, arguments)

    from mixpanel_pipeline.runs.check import check as checked

    found = checked(
        options.destination,
        datetime.now(UTC),
        loads=not options.skip_load,
        builds=not options.skip_transform,
    )
    if options.json:
        print(found.as_json())
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console()
        width = max(len(line.what) for line in found.lines)
        for line in found.lines:
            text = Text(f"{line.result:8}", style=_STYLES[line.result])
            console.print(
                text.append(f"{line.what:{width}}  {line.told}", style="default"), soft_wrap=True
            )
    return 0 if found.is_ok else 1
