"""Loading: against the databases' loaders and other connectors, and what it holds in memory."""

import sys
from collections.abc import Iterator

from benchmarks.bench import LAST_DAY, PSQL, REPEATS, Bench, Row, expect, rate, shell
from benchmarks.measure import Measured, measured
from benchmarks.peers import PEERS, PeerFailed, Source
from benchmarks.server import PROJECT_ID, SECRET, USERNAME, Workload, export_url, serving

# The events' own columns, read and written by DuckDB alone, with a key of the same kind.
_DUCKDB_READER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], config={"memory_limit": "2GB"})
connection.execute("set enable_progress_bar = false")
connection.execute('''
    create table events as
    select
        left(sha256(concat_ws('|', event, distinct_id, time, insert_id)), 32) as event_key,
        event, distinct_id, insert_id,
        to_timestamp(time) as occurred_at,
        make_timestamptz(processed * 1000) as processed_at,
        properties, 0::bigint as replaced_characters, 0::bigint as copy_order,
        'load' as _dlt_load_id
    from (
        select
            event, properties,
            properties ->> 'distinct_id' as distinct_id,
            (properties ->> 'time')::bigint as time,
            properties ->> '$."$insert_id"' as insert_id,
            (properties ->> 'mp_processing_time_ms')::bigint as processed
        from read_json(
            ?, format = 'newline_delimited', columns = {event: 'varchar', properties: 'json'}
        )
    )
''', [sys.argv[2]])
print(connection.execute("select count(*) from events").fetchone()[0])
connection.close()
"""
# Of the events' JSON, as the local Mixpanel compresses it.
_GZIP_SHARE = 0.273
_CURL = 'curl --silent --fail --compressed --user "$ACCOUNT" "$URL"'


def _variables(url: str) -> dict[str, str]:
    """What `_CURL` is told of the server."""
    return {"URL": export_url(url, LAST_DAY, LAST_DAY), "ACCOUNT": f"{USERNAME}:{SECRET}"}


def _download(url: str, path: str) -> Measured:
    """Download the workload as it is. The server compresses it the first time, and keeps that."""
    return shell(f"{_CURL} > '{path}'", **_variables(url))


def against_loaders(bench: Bench, events: int) -> Iterator[Row]:
    """HTTP to the raw table, and what else could fill a table with the same bytes."""
    workload = Workload(events, LAST_DAY.isoformat())
    with serving(workload) as url:
        lines = bench.directory / "export.jsonl"
        _download(url, str(lines))
        ceiling = _download(url, "/dev/null")
        size = lines.stat().st_size / events
        yield Row(
            f"the local Mixpanel alone: curl, {events:,} events of {size:.0f} bytes",
            rate(events, ceiling.seconds),
        )

        def read_by_duckdb() -> float:
            database = bench.directory / "reader.duckdb"
            reader = measured([sys.executable, "-c", _DUCKDB_READER, database, lines])
            expect(int(reader.output), events)
            database.unlink()
            return reader.seconds

        def copy_by_psql() -> float:
            copied = shell(
                f"""'{PSQL}' --quiet "$DATABASE" --command 'create table lines (line jsonb)'; """
                f"""{_CURL} | '{PSQL}' --quiet "$DATABASE" --command """
                r""""copy lines from stdin with (format csv, quote e'\x01', delimiter e'\x02')"; """
                f"""'{PSQL}' "$DATABASE" --tuples-only --command 'select count(*) from lines'""",
                DATABASE=bench.postgres_url(),
                **_variables(url),
            )
            expect(int(copied.output), events)
            return copied.seconds

        for name, read, what in (
            ("duckdb", read_by_duckdb, "DuckDB's own reader on the downloaded file"),
            ("postgres", copy_by_psql, "curl | psql COPY into one jsonb column"),
        ):
            # The fastest of some, in turns: what else the machine does only makes them slower.
            ours, theirs = [], []
            for _ in range(REPEATS):
                theirs.append(read())
                warehouse = bench.warehouse(name)
                ours.append(bench.initial_load(warehouse, url, workload).seconds)
                bench.drop(warehouse)
            share = min(theirs) / min(ours)
            yield Row(
                f"HTTP to raw table, {name}, {events:,} events",
                rate(events, min(ours)),
                f"{rate(events, min(theirs))}: {what}",
                f"{share:.0%}",
                "at least 75 %",
                share >= 0.75,
            )


def first_sync(bench: Bench, events: int) -> Iterator[Row]:
    """A small project's first sync, against curl into a file that DuckDB reads."""
    workload = Workload(events, LAST_DAY.isoformat())
    with serving(workload) as url:
        lines, database = bench.directory / "first.jsonl", bench.directory / "first.duckdb"
        ours, theirs = [], []
        _download(url, str(lines))
        for _ in range(REPEATS):
            read = [sys.executable, "-c", _DUCKDB_READER, str(database), str(lines)]
            theirs.append(_download(url, str(lines)).seconds + measured(read).seconds)
            database.unlink()
            warehouse = bench.warehouse("duckdb")
            ours.append(bench.initial_load(warehouse, url, workload).seconds)
            bench.drop(warehouse)
    times = min(ours) / min(theirs)
    yield Row(
        f"first sync of {events:,} events, duckdb, the whole command without models",
        f"{min(ours):.1f} s",
        f"{min(theirs):.1f} s: curl, and DuckDB's own reader",
        f"{times:.1f} x",
        "at most 3.5 x",
        times <= 3.5,
    )


def against_connectors(bench: Bench, events: int, peer_events: int) -> Iterator[Row]:
    """HTTP to the raw table, and what other connectors make of the same events, or of fewer."""
    ours: dict[str, float] = {}
    workload = Workload(events, LAST_DAY.isoformat())
    with serving(workload) as url:
        _download(url, "/dev/null")
        for name in ("duckdb", "postgres"):
            warehouse = bench.warehouse(name)
            ours[name] = events / bench.initial_load(warehouse, url, workload).seconds
            bench.drop(warehouse)
    for peer in PEERS:
        # The one that there is a target for gets as many events as ours, so that the start weighs
        # the same; the others would take hours.
        has_target = peer.name.startswith("ingestr")
        count = events if has_target else peer_events
        what = f"{peer.name} to {peer.destination}, {count:,} events"
        with serving(Workload(count, LAST_DAY.isoformat())) as url:
            _download(url, "/dev/null")
            source = Source(url, PROJECT_ID, USERNAME, SECRET, LAST_DAY, LAST_DAY)
            try:
                peer.install(bench.directory)
                outcome = peer.run(bench.directory, source, bench.postgres_url())
            except PeerFailed as problem:
                yield Row(what, "", f"did not run: {problem}")
                continue
        theirs = outcome.rows / outcome.seconds
        for name, target in (("duckdb", 15), ("postgres", 5)):
            times = ours[name] / theirs
            yield Row(
                f"HTTP to raw table, {name}, {events:,} events, against {what}",
                f"{ours[name]:,.0f} events/s",
                f"{theirs:,.0f} events/s: {peer.name}; {outcome.rows:,} rows, "
                f"{outcome.peak_bytes / 1e6:,.0f} MB",
                f"{times:.1f} x",
                f"at least {target} x" if has_target else "",
                times >= target if has_target else None,
            )


def memory(bench: Bench, sizes: list[int]) -> Iterator[Row]:
    """The most that a load holds at once, for a day of whatever size."""
    peaks: dict[str, list[float]] = {"duckdb": [], "postgres": []}
    for events in sizes:
        workload = Workload(events, LAST_DAY.isoformat())
        with serving(workload) as url:
            _download(url, "/dev/null")
            for name, found in peaks.items():
                warehouse = bench.warehouse(name)
                ours = bench.initial_load(warehouse, url, workload)
                bench.drop(warehouse)
                found.append(ours.peak_bytes / 1e6)
                yield Row(
                    f"peak memory, {name}, a day of {events:,} events",
                    f"{found[-1]:,.0f} MB, {rate(events, ours.seconds)}",
                    target="at most 400 MB",
                    is_met=found[-1] <= 400,
                )
    for name, found in peaks.items():
        spread = max(found) / min(found) - 1
        yield Row(
            f"peak memory, {name}, largest to smallest",
            f"{spread:+.0%}",
            target="within 20 %",
            is_met=spread <= 0.2,
        )


def slow_server(bench: Bench, days: int, events: int) -> Iterator[Row]:
    """Parallel downloads from a server that sends so much on each connection."""
    for what, speed, times_as_many in (
        # On four connections that is as many events a second as two cores can load.
        ("5 MB/s of gzip", 5_000_000, 4),
        ("5 MB/s of JSON, as gzip", int(5_000_000 * _GZIP_SHARE), 1),
    ):
        count, last_day = times_as_many * events, LAST_DAY.isoformat()
        workload = Workload(count, last_day, days=days, bytes_per_second=speed)
        seconds = {}
        with serving(workload) as url:
            # The server compresses what it is asked for the first time, beside what is measured.
            for parallel in ("4", "1", "4"):
                warehouse = bench.warehouse("duckdb")
                found = bench.initial_load(warehouse, url, workload, parallel_downloads=parallel)
                bench.drop(warehouse)
                seconds[parallel] = found.seconds
        times = seconds["1"] / seconds["4"]
        yield Row(
            f"{what} on each connection, {days} days of {count // days:,} events, "
            "4 downloads at once",
            f"{seconds['4']:.1f} s",
            f"{seconds['1']:.1f} s one after the other",
            f"{times:.1f} x",
            "at least 3 x",
            times >= 3,
        )
