"""Serve made-up traffic: `python -m local_mixpanel`, from the folder `pipelines`."""

import argparse
import time
from contextlib import suppress
from datetime import UTC, datetime

from local_mixpanel import LocalMixpanel, traffic


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="local_mixpanel", description=__doc__)
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    parser.add_argument("--days", type=int, default=45, help="until now")
    parser.add_argument("--events", type=int, default=95_000)
    parser.add_argument("--seed", type=int, default=7, help="equal seeds make equal traffic")
    options = parser.parse_args()
    try:
        with suppress(KeyboardInterrupt), LocalMixpanel(port=options.port) as mixpanel:
            now = datetime.now(UTC)
            mixpanel.add(traffic(options.seed, now, days=options.days, events=options.events))
            _introduce(mixpanel, options.events, options.days)
            while True:
                time.sleep(3600)
    except OSError as error:
        raise SystemExit(f"port {options.port}: {error.strerror}") from error


def _introduce(mixpanel: LocalMixpanel, events: int, days: int) -> None:
    print(f"{events:,} events of {days} days at {mixpanel.url}\n")
    print(f"export SOURCES__MIXPANEL__BASE_URL={mixpanel.url}")
    print(f"export SOURCES__MIXPANEL__PROJECT_ID={mixpanel.project_id}")
    print(f"export SOURCES__MIXPANEL__SERVICE_ACCOUNT_USERNAME={mixpanel.username}")
    print(f"export SOURCES__MIXPANEL__SERVICE_ACCOUNT_SECRET={mixpanel.secret}")
    print("\nCtrl-C ends it.", flush=True)


if __name__ == "__main__":
    main()
