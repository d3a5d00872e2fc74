"""A local Mixpanel in a process of its own, so that it shares nothing with what is measured.

`python -m benchmarks.server '{"events": 1000000, …}'` prints its URL once everything is there.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from random import Random
from typing import Any

import requests

from local_mixpanel import LocalMixpanel, traffic

USERNAME, SECRET, PROJECT_ID = "local.service-account", "local-secret", "1234567"
# Brings an event of the made-up traffic to 900 bytes; random text, since real ids are.
_PADDING_BITS = 1_060
# So that a million come twice within an hour's requests; Mixpanel's own are of 1,000.
_PROFILES_PER_PAGE = 50_000


@dataclass(frozen=True)
class Workload:
    """What there is to export.

    Attributes:
        events: How many.
        last_day: The last day of them, ISO.
        days: How many days they are spread over.
        is_small: About 300 bytes an event instead of 900.
        bytes_per_second: How fast an answer comes at most; None for any speed.
        profiles: How many people have a profile.
    """

    events: int
    last_day: str
    days: int = 1
    is_small: bool = False
    bytes_per_second: int | None = None
    profiles: int = 0


@contextmanager
def serving(workload: Workload) -> Iterator[str]:
    """Serve a workload and yield the server's URL."""
    command = [sys.executable, "-m", "benchmarks.server", json.dumps(asdict(workload))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the local Mixpanel did not start")
        yield url
    finally:
        process.kill()
        process.wait()


def environment(url: str) -> dict[str, str]:
    """The variables with which a sync reads from the server."""
    prefix = "SOURCES__MIXPANEL__"
    return {
        prefix + "BASE_URL": url,
        prefix + "PROJECT_ID": PROJECT_ID,
        prefix + "SERVICE_ACCOUNT_USERNAME": USERNAME,
        prefix + "SERVICE_ACCOUNT_SECRET": SECRET,
        prefix + "EVENTS": "all",
    }


def export_url(url: str, first: date, last: date) -> str:
    """The address of an export of some days."""
    query = f"project_id={PROJECT_ID}&from_date={first}&to_date={last}"
    return f"{url}/api/2.0/export?{query}"


def happen(url: str, day: date, events: int, *, seed: int, people: int | None = None) -> None:
    """Let small events of a day arrive at the server now, as Mixpanel's SDKs send them."""
    made = traffic(seed, day, days=1, events=events, subscribers=people, is_small=True)
    arrive(url, list(made))


def arrive(url: str, events: list[dict[str, Any]]) -> None:
    """Send events to the server."""
    requests.post(
        f"{url}/import?project_id={PROJECT_ID}",
        json=events,
        auth=(USERNAME, SECRET),
        timeout=600,
    ).raise_for_status()


def _events(workload: Workload) -> Iterator[dict[str, Any]]:
    last = date.fromisoformat(workload.last_day)
    random = Random(9)
    for event in traffic(
        7, last, days=workload.days, events=workload.events, is_small=workload.is_small
    ):
        if not workload.is_small:
            event["properties"]["note"] = f"{random.getrandbits(_PADDING_BITS):x}"
        yield event


def _profiles(people: int) -> Iterator[tuple[str, dict[str, Any]]]:
    random = Random(11)
    for number in range(people):
        yield (
            f"u{number:08x}",
            {
                "$last_seen": "2026-01-01T00:00:00",
                "$city": random.choice(["Oslo", "Lima", "Pune"]),
                "income": random.choice(["<50k", "50k-100k", ">100k"]),
                "buying_power": random.randrange(100_000) / 100,
                "note": f"{random.getrandbits(_PADDING_BITS):x}",
            },
        )


def main() -> None:
    """Serve until the process is killed."""
    workload = Workload(**json.loads(sys.argv[1]))
    with LocalMixpanel(
        bytes_per_second=workload.bytes_per_second, profiles_per_page=_PROFILES_PER_PAGE
    ) as mixpanel:
        mixpanel.add(_events(workload))
        mixpanel.profiles.set(dict(_profiles(workload.profiles)))
        print(mixpanel.url, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
