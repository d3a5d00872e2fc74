"""People: their profiles, and an id that everybody seems to have."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day

from benchmarks.bench import LAST_DAY, Bench, Row, expect, rate
from benchmarks.server import Workload, arrive, serving


def profiles(bench: Bench, sizes: list[int]) -> Iterator[Row]:
    """A sweep through all profiles into an empty table, and one that finds nothing changed."""
    peaks: dict[str, list[float]] = {"duckdb": [], "postgres": []}
    for people in sizes:
        workload = Workload(1_000, LAST_DAY.isoformat(), profiles=people)
        with serving(workload) as url:
            for name, found in peaks.items():
                warehouse = bench.warehouse(name)
                settings = {"profiles": "true", "profiles_every_hours": "0"}
                first, summary = bench.sync(warehouse, url, "--skip-transform", **settings)
                expect(summary["profiles_new"], people)
                again, summary = bench.sync(warehouse, url, "--skip-transform", **settings)
                expect(summary["profiles_unchanged"], people)
                bench.drop(warehouse)
                found.append(max(first.peak_bytes, again.peak_bytes) / 1e6)
                yield Row(
                    f"sweep of {people:,} profiles, {name}",
                    f"{first.seconds:.1f} s ({rate(people, first.seconds)}), {found[-1]:,.0f} MB",
                    f"{again.seconds:.1f} s where none has changed",
                )
    for name, found in peaks.items():
        spread = max(found) / min(found) - 1
        yield Row(
            f"peak memory of sweeps, {name}, largest to smallest",
            f"{spread:+.0%}",
            target="within 20 %",
            is_met=spread <= 0.2,
        )


def junk(bench: Bench, devices: int) -> Iterator[Row]:
    """An app signs everybody in under one id: what the sync that brings it takes, and the next."""
    workload = Workload(20_000, LAST_DAY.isoformat())
    noon = datetime.combine(LAST_DAY + timedelta(days=1), time_of_day(12), UTC).timestamp()
    for name in ("duckdb", "postgres"):
        with serving(workload) as url:
            warehouse = bench.warehouse(name)
            bench.initial_load(warehouse, url, workload)
            bench.sync(warehouse, url)
            arrive(
                url,
                [
                    {
                        "event": "$ae_session",
                        "properties": {
                            "time": int(noon) + number % 3600,
                            "distinct_id": "shared",
                            "$insert_id": f"d-{number}",
                            "$device_id": f"d-{number}",
                            "$user_id": "shared",
                        },
                    }
                    for number in range(devices)
                ],
            )
            found, summary = bench.sync(warehouse, url)
            expect(summary["events_new"], devices)
            again, _ = bench.sync(warehouse, url, "--full-refresh")
            bench.drop(warehouse)
            yield Row(
                f"sync that brings {devices:,} devices of one user, {name}",
                f"{found.seconds:.1f} s",
                f"{again.seconds:.1f} s for everything anew",
            )
