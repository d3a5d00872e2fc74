"""Tells others how runs ended: a webhook of failure and recovery, a heartbeat of each success."""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

import requests

from mixpanel_pipeline.engines import Warehouse, open_warehouse
from mixpanel_pipeline.redaction import hide, redacted
from mixpanel_pipeline.runs.summary import Summary
from mixpanel_pipeline.runs.sync_runs import SyncRuns
from mixpanel_pipeline.source import Mode
from mixpanel_pipeline.source.client import LOOPBACK
from mixpanel_pipeline.source.configuration import MixpanelConfiguration, configured_url
from mixpanel_pipeline.source.errors import ConfigurationError

logger = logging.getLogger(__name__)

# The run is over: whoever waits for its end is not kept for longer, whatever becomes of this.
_LONGEST_SECONDS = 5.0
# Slack cuts longer texts, and nobody reads them on a phone.
_LONGEST_REASON = 1000


@dataclass(frozen=True)
class _Message:
    """What is sent: a POST of a text, or a GET without one."""

    setting: str
    url: str
    text: str | None = None


class Told(Protocol):
    """A run, as far as others are told of it."""

    summary: Summary
    reason: str | None
    failures: int
    failing_since: datetime | None

    @property
    def source_settings(self) -> MixpanelConfiguration | None:
        """The source's configuration."""


def tell(run: Told) -> None:
    """Tell how a run ended; nothing of one that was skipped. It takes some seconds at most.

    Audits are told of as well, but for the heartbeat: that says that syncs go on.

    Args:
        run: The run, which is over.
    """
    settings, summary = run.source_settings, run.summary
    is_audit = summary.mode == "audit"
    messages: list[_Message] = []
    text = None
    if summary.status == "failed":
        text = _failure(run.reason or "", summary.mode, _facts(run))
    elif summary.status == "ok" and summary.error:
        text = f"Mixpanel audit: {summary.error} ({_facts(run)})."
    elif summary.status == "ok" and run.failures:
        runs = "run" if run.failures == 1 else "runs"
        since = f" since {_told(run.failing_since)}" if run.failing_since else ""
        text = (
            f"Mixpanel {_kind(summary.mode)} succeeds again, after {run.failures:,} failed {runs}"
            f"{since} ({_facts(run)})."
        )
    if text and (url := configured_url("webhook_url", settings)):
        messages.append(_Message("webhook_url", url, text))
    if not is_audit and summary.status != "skipped":
        messages += _heartbeat(settings, is_success=summary.status == "ok")
    _send(messages)


def tell_refusal(
    error: ConfigurationError,
    *,
    settings: MixpanelConfiguration | None,
    destination: Warehouse | str | None,
    run_id: str,
    now: datetime,
    mode: Mode,
) -> None:
    """Tell of a run that could not begin for its configuration, if whom to tell can be read.

    It has no row in `sync_runs`: the next run enters one, so that what succeeds then is known to be
    a recovery.

    Args:
        error: Why; it is told of once.
        settings: The source's configuration, if it could be read.
        destination: Where it was to load, or what that is called; what is configured by default.
        run_id: The run's id.
        now: When it was to begin.
        mode: What it was for.
    """
    if error.is_told:
        return
    error.is_told = True
    said = settings.without_secrets(str(error)) if settings else redacted(str(error))
    messages = [] if mode == "audit" else _heartbeat(settings, is_success=False)
    if url := configured_url("webhook_url", settings):
        text = _failure(said, mode, f"{mode}, wrong configuration, run {run_id}")
        messages.append(_Message("webhook_url", url, text))
        # Of the configuration nothing may be right.
        with suppress(Exception):
            warehouse = (
                destination if isinstance(destination, Warehouse) else open_warehouse(destination)
            )
            SyncRuns(warehouse).note(
                run_id, now, mode, status="failed", error=said, finished_at=now
            )
    _send(messages)


def _failure(reason: str, mode: Mode, facts: str) -> str:
    cut = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
    return f"Mixpanel {_kind(mode)} failed ({facts}): {cut}"


def _kind(mode: Mode) -> str:
    return "audit" if mode == "audit" else "sync"


def _facts(run: Told) -> str:
    summary, settings = run.summary, run.source_settings
    project = settings.project_id if settings else None
    facts = [summary.mode, str(summary.destination), f"run {summary.run_id}"]
    return ", ".join([f"project {project}", *facts] if project else facts)


def _heartbeat(settings: MixpanelConfiguration | None, *, is_success: bool) -> list[_Message]:
    """A success is a request of the URL itself, a failure one of /fail below it.

    https://healthchecks.io/docs/signaling_failures/
    """
    url = configured_url("heartbeat_url", settings)
    if url is None:
        return []
    if not is_success:
        parts = urlsplit(url)
        url = parts._replace(path=f"{parts.path.rstrip('/')}/fail").geturl()
    return [_Message("heartbeat_url", url)]


def _send(messages: Sequence[_Message]) -> None:
    """Send all at once, and warn of each that does not arrive."""
    problems: dict[str, str | None] = {}

    def send(message: _Message) -> None:
        problems[message.setting] = _problem(message)

    # A server that sends a byte now and then keeps to every timeout; a thread can be left alone.
    threads = [threading.Thread(target=send, args=(one,), daemon=True) for one in messages]
    deadline = time.monotonic() + _LONGEST_SECONDS
    for message in messages:
        hide(message.url)
    for thread in threads:
        thread.start()
    for message, thread in zip(messages, threads, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        late = f"it gave no answer within {_LONGEST_SECONDS:g} seconds"
        problem = problems.get(message.setting, late)
        if problem:
            logger.warning(
                "%s was not told how the run ended: %s. The run itself is not affected.",
                message.setting,
                problem,
            )


def _problem(message: _Message) -> str | None:
    """Send a message; returns what came in its way, without the URL, which is a secret."""
    try:
        with requests.Session() as session:
            # What runs on this machine is behind no proxy.
            session.trust_env = urlsplit(message.url).hostname not in LOOPBACK
            with session.request(
                "GET" if message.text is None else "POST",
                message.url,
                json=None if message.text is None else {"text": _escaped(message.text)},
                timeout=_LONGEST_SECONDS,
                stream=True,
            ) as response:
                return None if response.ok else f"it answered {response.status_code}"
    # Whatever it is, the run is over and what it did stands.
    except Exception as error:
        return f"the request failed ({type(error).__name__})"


def _escaped(text: str) -> str:
    """The text with what Slack takes for markup: it could notify a whole channel.

    https://docs.slack.dev/messaging/formatting-message-text
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _told(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
