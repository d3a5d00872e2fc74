"""What a run is doing, for whoever waits for it."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.sync.load import Loaded

logger = logging.getLogger(__name__)

# Often enough to see that it lives, seldom enough for a log that is kept.
_LOG_SECONDS = 5.0


class Progress:
    """Shows nothing; knows what there is to show."""

    def __init__(self) -> None:
        self.step = "Starting"
        self._loaded: Loaded | None = None
        self._client: MixpanelClient | None = None
        self._started = time.monotonic()

    def watch(self, loaded: Loaded, client: MixpanelClient) -> None:
        """From now on events are loaded."""
        self.step = "Loading"
        self._loaded, self._client = loaded, client
        self._started = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the progress, meanwhile."""
        yield

    @property
    def text(self) -> str:
        """What is going on, in one line."""
        loaded, client = self._loaded, self._client
        if self.step != "Loading" or loaded is None or client is None:
            return self.step
        parts = [self.step]
        if loaded.days_total:
            parts.append(f"{loaded.days_done} of {loaded.days_total} days")
        events = loaded.delivery.events_received
        rate = events / max(time.monotonic() - self._started, 0.001)
        parts.append(f"{events:,} events")
        parts.append(f"{client.bytes_received / 1e6:,.1f} MB")
        parts.append(f"{rate:,.0f} events/s")
        until = client.waiting_until
        seconds = (until - datetime.now(UTC)).total_seconds() if until else 0
        if until and seconds > 0:
            parts.append(f"waiting until {until:%H:%M:%S} UTC, {seconds:,.0f} s more")
        return ", ".join(parts)


class LiveProgress(Progress):
    """A line that changes, on a terminal."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        # Only a terminal needs it.
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        spinner = Spinner("dots")

        def line() -> Spinner:
            spinner.update(text=self.text)
            return spinner

        with Live(get_renderable=line, console=Console(stderr=True), transient=True):
            yield


class LoggedProgress(Progress):
    """A line in the log every few seconds."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        over = threading.Event()

        def log() -> None:
            while not over.wait(_LOG_SECONDS):
                logger.info("%s", self.text)

        thread = threading.Thread(target=log, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
