"""What a run is doing, for whoever waits for it."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mixpanel_pipeline.runs.load import Loaded
from mixpanel_pipeline.source.client import MixpanelClient

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

# Often enough to see that it lives, seldom enough for a log that is kept.
_LOG_SECONDS = 5.0
# A wait may last an hour.
_WAIT_LOG_SECONDS = 300.0


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
            # Answers are loaded some at a time: until then they are what there is to see.
            ahead = loaded.days_downloaded - loaded.days_done
            more = f" ({ahead} downloaded)" if ahead > 0 else ""
            parts.append(f"{loaded.days_done} of {loaded.days_total} days{more}")
        events = max(loaded.events_downloaded, loaded.delivery.events_received)
        rate = events / max(time.monotonic() - self._started, 0.001)
        parts.append(f"{events:,} events")
        parts.append(f"{client.bytes_received / 1e6:,.1f} MB")
        until = client.waiting.until
        if until and self.waits:
            seconds = (until - datetime.now(UTC)).total_seconds()
            parts.append(f"waiting until {until:%H:%M:%S} UTC, {seconds:,.0f} s more")
        else:
            parts.append(f"{rate:,.0f}/s")
        return ", ".join(parts)

    @property
    def waits(self) -> bool:
        """Whether a request waits for its turn."""
        until = self._client.waiting.until if self._client else None
        return until is not None and until > datetime.now(UTC)


class LiveProgress(Progress):
    """A line that changes, on a terminal.

    Args:
        console: Writes to the terminal; whatever else is written there has to go through it.
    """

    def __init__(self, console: "Console") -> None:
        super().__init__()
        self._console = console

    @contextmanager
    def shown(self) -> Iterator[None]:
        # Only a terminal needs it.
        from rich.live import Live
        from rich.spinner import Spinner

        spinner = Spinner("dots")

        def line() -> Spinner:
            spinner.update(text=self.text)
            return spinner

        with Live(get_renderable=line, console=self._console, transient=True):
            yield


class LoggedProgress(Progress):
    """A line in the log every few seconds; while a request waits, every few minutes."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        over = threading.Event()

        def log() -> None:
            quiet_until = 0.0
            while not over.wait(_LOG_SECONDS):
                now = time.monotonic()
                if not self.waits:
                    quiet_until = 0.0
                elif not quiet_until:
                    # That it began to wait has been told.
                    quiet_until = now + _WAIT_LOG_SECONDS
                if now >= quiet_until:
                    logger.info("%s", self.text)
                    quiet_until = quiet_until and now + _WAIT_LOG_SECONDS

        thread = threading.Thread(target=log, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
