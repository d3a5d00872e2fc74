"""`python -m benchmarks [section …]`: measure, and write docs/benchmarks.md with its chart."""

import argparse
from collections.abc import Callable, Iterator

from benchmarks.bench import Bench, Row, bench
from benchmarks.growth import idle, on_top
from benchmarks.loads import (
    against_connectors,
    against_loaders,
    first_sync,
    memory,
    slow_server,
)
from benchmarks.people import junk, profiles
from benchmarks.queries import answers
from benchmarks.report import remember, write

Section = Callable[[Bench], Iterator[Row]]


def main() -> None:
    """Measure the sections that were asked for, and write the report of all that are known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help="all by default")
    parser.add_argument("--events", type=int, default=1_000_000, help="of a load")
    parser.add_argument(
        "--peer-events", type=int, default=50_000, help="of a slow connector's load"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 5_000_000])
    parser.add_argument("--base", type=int, default=1_000_000, help="below 2,500 new events")
    parser.add_argument("--times", type=int, default=20, help="and how many times as many")
    options = parser.parse_args()
    sections: dict[str, Section] = {
        "load": lambda b: against_loaders(b, options.events),
        "first": lambda b: first_sync(b, options.events // 5),
        "connectors": lambda b: against_connectors(b, options.events, options.peer_events),
        "memory": lambda b: memory(b, options.sizes),
        "idle": idle,
        "growth": lambda b: on_top(b, options.base, options.times),
        "profiles": lambda b: profiles(b, [options.events // 10, options.events]),
        "junk": lambda b: junk(b, options.events // 10),
        "queries": lambda b: answers(b, options.events),
        "slow": lambda b: slow_server(b, 32, options.events),
    }
    if unknown := set(options.sections) - sections.keys():
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(sections)}")
    with bench() as databases:
        for name in options.sections or sections:
            rows = []
            for row in sections[name](databases):
                print(" | ".join(filter(None, (row.what, row.ours, row.compared, row.ratio))))
                rows.append(row)
            remember(name, rows)
    write(sections)


if __name__ == "__main__":
    main()
