"""Requests to the Raw Event Export API, repeated until an answer is whole.

Facts of the API: https://docs.mixpanel.com/reference/raw-event-export
"""

import email.utils
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import requests
import urllib3

from mixpanel_export.answer import Answer
from mixpanel_export.configuration import MixpanelConfiguration
from mixpanel_export.errors import BrokenAnswer, ExportError
from mixpanel_export.window import Window

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 30
# A pause longer than a minute brings nothing against errors that are not rate limits.
LONGEST_PAUSE_SECONDS = 60.0
# Mixpanel's budget is by the hour: asking more often than this would itself use it up.
LONGEST_RATE_LIMIT_PAUSE_SECONDS = 600.0
_CHUNK_BYTES = 2**20
_RATE_LIMITED = 429

_ADVICE = {
    400: "Check the days, the time zone and the region.",
    401: "Check the service account's user name and secret (or the project secret).",
    402: "The project's plan does not include this API.",
    403: "Give the service account access to the project, and check project_id and region.",
    404: "Check region and base_url.",
}


class _Transient(Exception):
    """An answer worth asking for again, after `retry_after` seconds if the server said so."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _RateLimited(_Transient):
    pass


@dataclass
class ExportClient:
    """Fetches whole answers."""

    settings: MixpanelConfiguration
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, window: Window, events: Sequence[str] | None, path: Path) -> Answer:
        """Download the events of `window`, named `events` or all, to `path`, and prove it whole.

        A broken answer, a 5xx and a lost connection are asked for again, `attempts` times with
        growing pauses; a 429 is waited out. A server that says when to come back is believed, up
        to `max_wait_minutes` in all.

        Raises:
            ExportError: Mixpanel refused, or no whole answer came. Nothing of a broken one is
                handed out.
        """
        failures, limited, waited = 0, 0, 0.0
        while True:
            try:
                answer = self._download(window, events, path)
                answer.prove_whole()
                return answer
            except _RateLimited as error:
                reason, told = str(error), error.retry_after
                pause = self._pause(limited, LONGEST_RATE_LIMIT_PAUSE_SECONDS)
                limited += 1
            except (BrokenAnswer, _Transient) as error:
                failures += 1
                if failures >= self.settings.attempts:
                    raise ExportError(
                        f"No whole answer for {window} in {failures} attempts; the last one: "
                        f"{error}. Nothing of it was loaded: run again later."
                    ) from error
                reason = str(error)
                told = error.retry_after if isinstance(error, _Transient) else None
                pause = self._pause(failures - 1, LONGEST_PAUSE_SECONDS)
            pause = pause if told is None else told
            if waited + pause > self.settings.max_wait_minutes * 60:
                raise ExportError(
                    f"{reason}, and that did not change within "
                    f"{self.settings.max_wait_minutes:g} minutes (max_wait_minutes). Nothing was "
                    "loaded: run again later."
                )
            waited += pause
            logger.warning("%s: asking again in %.0f s", reason, pause)
            self.sleep(pause)

    def _pause(self, repetitions: int, longest: float) -> float:
        return min(self.settings.retry_pause_seconds * 2.0**repetitions, longest)

    def _download(self, window: Window, events: Sequence[str] | None, path: Path) -> Answer:
        parameters = {"from_date": str(window.from_date), "to_date": str(window.to_date)}
        if self.settings.project_id:
            parameters["project_id"] = self.settings.project_id
        if events is not None:
            parameters["event"] = json.dumps(events)
        try:
            with requests.get(
                f"{self.settings.host}/api/2.0/export",
                params=parameters,
                auth=self.settings.auth,
                headers={"Accept-Encoding": "gzip"},
                stream=True,
                timeout=(CONNECT_TIMEOUT_SECONDS, self.settings.read_timeout_seconds),
            ) as response:
                if response.status_code != requests.codes.ok:
                    _refuse(response)
                encoding = response.headers.get("Content-Encoding", "identity").lower()
                if encoding not in ("gzip", "identity"):
                    raise BrokenAnswer(f"the answer came encoded as {encoding}")
                with path.open("wb") as body:
                    # urllib3 checks chunks and Content-Length; decoding would hide a cut gzip.
                    for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                        body.write(chunk)
                has_trailer = encoding == "gzip" and path.stat().st_size > 0
                if not has_trailer and not _announces_its_end(response):
                    raise BrokenAnswer("the answer has no length and no end that could be checked")
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _Transient(f"the connection failed ({_root(error)})") from error
        return Answer(path, is_gzip=encoding == "gzip")


def _announces_its_end(response: requests.Response) -> bool:
    headers = response.headers
    return "Content-Length" in headers or headers.get("Transfer-Encoding", "").lower() == "chunked"


def _refuse(response: requests.Response) -> NoReturn:
    status = response.status_code
    retry_after = _retry_after(response.headers.get("Retry-After"))
    if status == _RATE_LIMITED:
        reason = "Mixpanel's rate limit (60 queries an hour for all tools together) is reached"
        raise _RateLimited(reason, retry_after)
    # Reading the body may fail like any other; then it is as transient.
    body = response.raw.read(2_000, decode_content=True).decode("utf-8", "replace")
    said = f"Mixpanel answered {status}: {' '.join(body.split())[:300]}"
    if status >= 500:
        raise _Transient(said, retry_after)
    raise ExportError(f"{said.rstrip('.')}. {_ADVICE.get(status, 'Check the configuration.')}")


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait as the header says, in seconds or as an HTTP date; None when it does not."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _root(error: BaseException) -> str:
    """The innermost cause: the outer ones repeat the URL and the names of their classes."""
    while isinstance(inner := (error.__cause__ or error.__context__), Exception):
        error = inner
    return f"{type(error).__name__}: {error}"
