"""Requests to Mixpanel's APIs, repeated until an answer is whole.

Facts of the APIs: https://docs.mixpanel.com/reference/raw-event-export and
https://docs.mixpanel.com/reference/list-recent-events
"""

import codecs
import email.utils
import json
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

import requests
import urllib3

from mixpanel_pipeline.errors import what_to_do
from mixpanel_pipeline.source.answer import Answer, Coming
from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.errors import (
    AccessRefused,
    BrokenAnswer,
    DayNotBegun,
    ExportError,
    NotInPlan,
)
from mixpanel_pipeline.source.plan import Request
from mixpanel_pipeline.source.slots import Slot
from mixpanel_pipeline.source.waiting import Waiting
from mixpanel_pipeline.source.window import Window

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 30
# Mixpanel's queries answer within seconds, and a sync is not held up by what it can do without.
_IMPATIENT_SECONDS = 5.0
# Many more than projects have; Mixpanel would tell 255.
LONGEST_LIST_OF_NAMES = 5000
# A pause longer than a minute brings nothing against errors that are not rate limits.
LONGEST_PAUSE_SECONDS = 60.0
# Mixpanel's budget is by the hour: asking more often than this would itself use it up.
LONGEST_RATE_LIMIT_PAUSE_SECONDS = 600.0
_CHUNK_BYTES = 2**20
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_RATE_LIMITED = 429
_RATE_LIMIT = "Mixpanel's rate limit (60 queries an hour for all tools together) is reached"

_ADVICE = {
    400: "Check the days, the time zone and the region.",
    401: "Check the service account's user name and secret (or the project secret).",
    402: "The project's plan does not include this API.",
    403: "Give the service account access to the project, and check project_id and region.",
    404: "Check region and base_url.",
    407: "That is the proxy: give it a user name and password in HTTPS_PROXY (or HTTP_PROXY).",
}

_T = TypeVar("_T")
# Counts by event name and day.
EventCounts = dict[str, dict[str, int]]


# Servers and proxies refuse URLs of 8 KB; what else is in ours is short.
_CHARACTERS_OF_NAMES = 6000
_PAGE = "a page of HTML, as a proxy or a login has it: check base_url and the way to Mixpanel"
_REFUSALS = (requests.codes.unauthorized, requests.codes.forbidden, requests.codes.not_found)
# What Mixpanel says of credentials and projects with 400, in text or JSON, as it does with 401.
_REFUSED = re.compile("project|authenticat|credential|service.account|api.(?:key|secret)", re.I)
_NOT_BEGUN = "to_date cannot be later than today"


def batches(names: Sequence[str]) -> Iterator[list[str]]:
    """The names in as few requests as their URLs allow, in order."""
    batch: list[str] = []
    for name in names:
        if batch and len(quote(json.dumps([*batch, name]))) > _CHARACTERS_OF_NAMES:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


class _Transient(Exception):
    """An answer worth asking for again, after `retry_after` seconds if the server said so."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _RateLimited(_Transient):
    pass


@dataclass
class MixpanelClient:
    """Fetches whole answers; several threads may at once.

    Args:
        settings: The checked configuration.
        budget: When requests may be sent.
        sleep: Waits so many seconds; for as long as nobody calls `stop` by default.
    """

    settings: MixpanelConfiguration
    budget: RequestBudget = field(default_factory=RequestBudget)
    sleep: Callable[[float], object] | None = None

    requests_sent: int = 0
    bytes_received: int = 0
    """As they came: compressed."""

    def __post_init__(self) -> None:
        self.waiting = Waiting()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._sleep = self.sleep or self._stopped.wait

    def stop(self) -> None:
        """Let threads that wait, or receive an answer, end soon with an `ExportError`."""
        self._stopped.set()

    def fetch(
        self,
        request: Request,
        events: Sequence[str] | None,
        path: Path,
        read: Callable[[Answer], _T],
        slot: Slot | None = None,
        *,
        time_in_ms: bool = False,
    ) -> _T:
        """Download what `request` asks for, of events named `events` or all, and read it.

        A broken answer, a 5xx and a lost connection are asked for again, `attempts` times with
        growing pauses; a 429 is waited out. A server that says when to come back is believed, up
        to `max_wait_minutes` in all.

        Args:
            request: What to ask for.
            events: The names to ask for; None for all.
            path: Where the answer is kept while it is read; with settings by which not all of it
                may be kept, it is read while it comes instead.
            read: Reads an answer to its end; it raises `BrokenAnswer` if that is not whole.
            slot: Held while the answer is asked for and comes.
            time_in_ms: Ask for times in milliseconds, rather than in seconds.

        Returns:
            What `read` made of the answer that is whole.

        Raises:
            AccessRefused: Mixpanel refused the credentials or the project.
            ExportError: Mixpanel refused, or no whole answer came.
        """
        window = request.window
        parameters = {"from_date": str(window.from_date), "to_date": str(window.to_date)}
        if events is not None:
            parameters["event"] = json.dumps(events)
        if request.where is not None:
            parameters["where"] = request.where
        if time_in_ms:
            parameters["time_in_ms"] = "true"

        def attempt() -> _T:
            if self.settings.minimisation is not None:
                return self._read_coming(parameters, path, read)
            answer = self._download(parameters, path)
            if slot is not None:
                slot.free()
            try:
                return read(answer)
            except OSError as error:
                raise _not_kept(path, error) from error
            finally:
                path.unlink(missing_ok=True)

        return self._repeated(str(request), attempt, slot)

    def count_events(self, names: Sequence[str], window: Window) -> EventCounts:
        """How many events Mixpanel itself counts, by name and day of the project (YYYY-MM-DD).

        Raises:
            NotInPlan: The project's plan lacks the Query API.
            ExportError: Mixpanel refused, or gave no answer.
        """
        parameters = {
            "event": json.dumps(names),
            "type": "general",
            "unit": "day",
            "from_date": str(window.from_date),
            "to_date": str(window.to_date),
        }
        answer = self._query("events", parameters)
        try:
            counts: EventCounts = answer["data"]["values"]
            return {
                name: {day: int(number) for day, number in days.items()}
                for name, days in counts.items()
            }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ExportError("Mixpanel's counts have a form that is not known.") from error

    def event_names(self, *, patient: bool = True) -> list[str]:
        """The names of the project's most common events of the last 31 days, not of all.

        Args:
            patient: Wait for Mixpanel as for what has to be loaded; otherwise it is asked once, and
                waited for `_IMPATIENT_SECONDS` at most.

        Raises:
            NotInPlan: The project's plan lacks the Query API.
            ExportError: Mixpanel refused, or gave no answer.
        """
        parameters = {"type": "general", "limit": str(LONGEST_LIST_OF_NAMES)}
        names = self._query("events/names", parameters, patient=patient)
        if not isinstance(names, list):
            raise ExportError("Mixpanel's list of event names has a form that is not known.")
        return [str(name) for name in names]

    def try_export(self, day: date) -> datetime | None:
        """Ask for an event that nobody sends: who may export it may export all.

        Returns:
            Mixpanel's clock; None if the answer does not tell.

        Raises:
            AccessRefused: Mixpanel refused the credentials or the project.
            ExportError: Mixpanel refused, or gave no answer.
        """
        days = {"from_date": str(day), "to_date": str(day)}
        parameters = {**days, "event": json.dumps(["$mixpanel_pipeline_check"])}

        def ask() -> datetime | None:
            with self._exported(parameters) as (response, _):
                told = response.headers.get("Date")
            return email.utils.parsedate_to_datetime(told) if told else None

        return self._repeated("a day without events", ask, patient=False)

    def query_page(self, path: str, form: Mapping[str, str]) -> bytes:
        """One page of a Query API that takes a form, as it came.

        Raises:
            NotInPlan: The project's plan lacks the Query API.
            ExportError: Mixpanel refused, or gave no answer.
        """
        url = f"{self.settings.query_host}/api/query/{path}"

        def read() -> bytes:
            with self._send(url, {}, form=form) as response:
                return bytes(response.content)

        return self._repeated(f"the query of {path}", read)

    def schemas(self) -> bytes:
        """What the project's Lexicon has of events and profiles, as it came.

        It is asked once, and not waited for, as only descriptions depend on it. It is none of the
        hour's queries: its API has a limit of its own, 5 requests a minute.

        Raises:
            ExportError: Mixpanel refused, or gave no answer.
        """
        url = f"{self.settings.query_host}/api/app/projects/{self.settings.project_id}/schemas"
        try:
            with self._send(url, {}, patient=False, names_project=False) as response:
                return bytes(response.content)
        except _RateLimited as error:
            raise ExportError("Mixpanel allows 5 such requests a minute, and had them.") from error
        except (BrokenAnswer, _Transient) as error:
            raise ExportError(f"{error}.") from error

    def _query(self, path: str, parameters: dict[str, str], *, patient: bool = True) -> Any:
        url = f"{self.settings.query_host}/api/query/{path}"

        def read() -> Any:
            with self._send(url, parameters, patient=patient) as response:
                try:
                    return response.json()
                except requests.JSONDecodeError as error:
                    raise BrokenAnswer("the answer is no JSON") from error

        return self._repeated(f"the query of {path}", read, patient=patient)

    def _repeated(
        self, what: str, ask: Callable[[], _T], slot: Slot | None = None, *, patient: bool = True
    ) -> _T:
        attempts = self.settings.attempts if patient else 1
        # Who is not patient has waited as long as anybody may.
        failures, limited, waited = 0, 0, 0.0 if patient else self.settings.max_wait_minutes * 60
        reason = "Our share of Mixpanel's rate limit (requests_per_hour) is used up"
        while True:
            if slot is not None:
                slot.take()
                self._check_stopped()
            waited = self._take_turn(waited, reason)
            try:
                return ask()
            except _RateLimited as error:
                reason, told = str(error), error.retry_after
                pause = self._pause(limited, LONGEST_RATE_LIMIT_PAUSE_SECONDS)
                limited += 1
                # Told the same again and again, coming back as told would spend the hour's queries.
                self.budget.block(max(told or 0.0, pause))
                if not patient:
                    raise ExportError(f"{reason}.") from error
                continue
            except (BrokenAnswer, _Transient) as error:
                failures += 1
                if failures >= attempts:
                    raise ExportError(
                        f"No whole answer for {what} in {failures} attempts; the last one: "
                        f"{error}. Nothing of it was loaded: run again later."
                    ) from error
                reason = str(error)
                told = error.retry_after if isinstance(error, _Transient) else None
                pause = self._pause(failures - 1, LONGEST_PAUSE_SECONDS)
            # To come back at once, or at a time that our clock has passed, would only be hammering.
            waited = self._wait(told or pause, waited, reason)

    def _take_turn(self, waited: float, reason: str) -> float:
        """Wait until the budget has room for a request; the seconds waited, with those before."""
        while pause := self.budget.take():
            waited = self._wait(pause, waited, reason)
        with self._lock:
            self.requests_sent += 1
        return waited

    def _wait(self, pause: float, waited: float, reason: str) -> float:
        # Keeping to three requests a second is no waiting that anybody has to be told of.
        if pause <= 1:
            self._sleep(pause)
            self._check_stopped()
            return waited
        if waited + pause > self.settings.max_wait_minutes * 60:
            raise ExportError(
                f"{reason}, and that did not change within "
                f"{self.settings.max_wait_minutes:g} minutes (max_wait_minutes). What was loaded "
                "before stays: run again later."
            )
        with self.waiting.told(self.settings.without_secrets(reason), pause):
            self._sleep(pause)
            self._check_stopped()
        return waited + pause

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise ExportError("The sync ended before this answer was there.")

    def _pause(self, repetitions: int, longest: float) -> float:
        return min(self.settings.retry_pause_seconds * 2.0**repetitions, longest)

    def _download(self, parameters: Mapping[str, str], path: Path) -> Answer:
        with self._exported(parameters) as (response, is_gzip):
            self._keep(self._chunks(response), path)
            _require_end(response, has_trailer=is_gzip and path.stat().st_size > 0)
        return Answer(path, is_gzip)

    def _read_coming(
        self, parameters: Mapping[str, str], path: Path, read: Callable[[Answer], _T]
    ) -> _T:
        with self._exported(parameters) as (response, is_gzip):
            coming = Coming(self._chunks(response))
            try:
                found = read(Answer(path, is_gzip, coming))
            except OSError as error:
                raise _not_kept(path, error) from error
            coming.finish()
            _require_end(response, has_trailer=is_gzip and coming.size > 0)
            return found

    @contextmanager
    def _exported(self, parameters: Mapping[str, str]) -> Iterator[tuple[requests.Response, bool]]:
        """The response to an export, and whether its body is compressed."""
        with self._send(f"{self.settings.host}/api/2.0/export", parameters) as response:
            if _is_page(response, b""):
                raise BrokenAnswer(f"not events came but {_PAGE}")
            encoding = response.headers.get("Content-Encoding", "identity").lower()
            if encoding not in ("gzip", "identity"):
                raise BrokenAnswer(f"the answer came encoded as {encoding}")
            yield response, encoding == "gzip"

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        # urllib3 checks chunks and Content-Length; decoding would hide a cut gzip.
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            self._check_stopped()
            with self._lock:
                self.bytes_received += len(chunk)
            yield chunk

    def _keep(self, chunks: Iterator[bytes], path: Path) -> None:
        with path.open("wb") as body:
            for chunk in chunks:
                try:
                    body.write(chunk)
                    body.flush()
                except OSError as error:
                    raise _not_kept(path, error) from error

    @contextmanager
    def _send(  # type: ignore[no-untyped-def]
        self,
        url: str,
        parameters: Mapping[str, str],
        *,
        form: Mapping[str, str] | None = None,
        patient: bool = True,
        names_project: bool = True,
    ):
        """The response to a GET, or a form's POST, of status 200; its body still to be read."""
        if names_project and self.settings.project_id:
            parameters = {**parameters, "project_id": self.settings.project_id}
        with requests.Session() as session:
            # What runs on this machine is behind no proxy.
            session.trust_env = urlsplit(url).hostname not in LOOPBACK
            timeout = float(CONNECT_TIMEOUT_SECONDS), self.settings.read_timeout_seconds
            if not patient:
                timeout = _IMPATIENT_SECONDS, min(timeout[1], _IMPATIENT_SECONDS)
            yield from self._ask(session, url, parameters, form, timeout)

    def _ask(
        self,
        session: requests.Session,
        url: str,
        parameters: Mapping[str, str],
        form: Mapping[str, str] | None,
        timeout: tuple[float, float],
    ) -> Iterator[requests.Response]:
        try:
            with session.request(
                "GET" if form is None else "POST",
                url,
                params=parameters,
                data=form,
                auth=self.settings.auth,
                headers={"Accept-Encoding": "gzip"},
                stream=True,
                # Each would be a request that nobody counted, with our credentials.
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                logger.debug(
                    "%s, %s to %s: %s",
                    urlsplit(url).path,
                    parameters.get("from_date"),
                    parameters.get("to_date"),
                    response.status_code,
                )
                if response.status_code != requests.codes.ok:
                    _refuse(response)
                yield response
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _not_connected(error, urlsplit(url).hostname) from error


def _not_connected(error: Exception, host: str | None) -> Exception:
    """The error to raise instead: one to end with where asking again would bring the same."""
    root = _innermost(error)
    said = f"the connection failed ({type(root).__name__}: {root})"
    if isinstance(root, ssl.SSLCertVerificationError):
        return ExportError(
            f"The certificate of {host} is not trusted ({root.verify_message}). Check base_url; "
            "if a proxy opens TLS, set REQUESTS_CA_BUNDLE to the file with its certificate."
        )
    if isinstance(error, requests.exceptions.InvalidProxyURL):
        return AccessRefused(
            "HTTPS_PROXY (or HTTP_PROXY) is no URL like http://proxy.example:3128."
        )
    if isinstance(error, requests.exceptions.ProxyError):
        if "407" in str(root):
            return ExportError(f"The proxy refused the connection to {host}. {_ADVICE[407]}")
        return _Transient(f"{said}; check the proxy in HTTPS_PROXY (or HTTP_PROXY)")
    if isinstance(root, socket.gaierror):
        return _Transient(f"{said}; {host} was not found: check base_url, region and the network")
    if isinstance(root, ConnectionRefusedError):
        return _Transient(f"{said}; {host} does not listen there: check base_url and HTTPS_PROXY")
    return _Transient(said)


def _not_kept(path: Path, error: OSError) -> ExportError:
    return ExportError(
        f"The answer could not be kept in {path.parent}: {error.strerror}. "
        f"{what_to_do(error)} What was loaded before stays."
    )


def _require_end(response: requests.Response, *, has_trailer: bool) -> None:
    headers = response.headers
    is_chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    if not (has_trailer or is_chunked or "Content-Length" in headers):
        raise BrokenAnswer("the answer has no length and no end that could be checked")


def _refuse(response: requests.Response) -> NoReturn:
    status = response.status_code
    retry_after = _retry_after(response.headers.get("Retry-After"))
    if status == _RATE_LIMITED:
        raise _RateLimited(_RATE_LIMIT, retry_after)
    if response.is_redirect:
        target = urlsplit(response.headers["Location"])
        host = f"{target.scheme}://{target.hostname}" if target.hostname else "another page"
        raise ExportError(
            f"Mixpanel answered {status}, a redirection to {host}, which is not followed. "
            "Check region and base_url."
        )
    if status < requests.codes.bad_request:
        # Its body may be events, and they are personal data.
        raise ExportError(
            f"Mixpanel answered {status}, which is no whole answer. "
            "Check region, base_url and the way to Mixpanel."
        )
    # Reading the body may fail like any other; then it is as transient.
    body = response.raw.read(2_000, decode_content=True)
    text = _PAGE if _is_page(response, body) else body.decode("utf-8-sig", "replace")
    quoted = " ".join(text.split())[:300] or response.reason or "nothing more"
    said = f"Mixpanel answered {status}: {quoted}"
    if status >= 500:
        raise _Transient(said, retry_after)
    if _NOT_BEGUN in said:
        raise DayNotBegun(
            f"{said.rstrip('.')}. There the day has not begun. What was loaded before stays. For a "
            'project that exports UTC, set end_day = "yesterday" or run again later. For one that '
            "exports its own time (created before 2023), set timezone in [sources.mixpanel] to its "
            "time zone, and load into a new database if this one has events already."
        )
    is_access = status in _REFUSALS
    advice = _ADVICE.get(status, "Check the configuration.")
    if status == requests.codes.bad_request and _REFUSED.search(quoted):
        is_access, advice = True, f"{_ADVICE[403]} {_ADVICE[401]}"
    refusal = f"{said.rstrip('.')}. {advice}"
    # A page is a proxy's or a firewall's, and says nothing about the credentials.
    if is_access and text is not _PAGE:
        raise AccessRefused(refusal)
    raise NotInPlan(refusal) if status == requests.codes.payment_required else ExportError(refusal)


def _is_page(response: requests.Response, body: bytes) -> bool:
    """Whether somebody else answered, with a page for people."""
    is_html = "html" in response.headers.get("Content-Type", "").lower()
    return is_html or body.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<"


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


def _innermost(error: BaseException) -> BaseException:
    """The innermost cause: the outer ones repeat the URL and the names of their classes."""
    while isinstance(inner := (error.__cause__ or error.__context__), Exception):
        error = inner
    return error
