"""The local Mixpanel itself: its routes and what a test can do with it."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

from local_mixpanel.answers import Answer, Refused, as_json, text
from local_mixpanel.compression import GzipCache, accepts_gzip
from local_mixpanel.credentials import Credentials, Identity
from local_mixpanel.event_store import EventStore, Selection
from local_mixpanel.export import ExportQuery, events_answer, join_lines, matcher, parse_query
from local_mixpanel.faults import Fault, PlannedFault, too_many_requests
from local_mixpanel.http_server import HttpServer, Request
from local_mixpanel.ingestion import InvalidBody, read_body, received
from local_mixpanel.lexicon import Lexicon
from local_mixpanel.profiles import ProfileStore, read_updates
from local_mixpanel.query import (
    counts_answer,
    names_answer,
    not_in_plan,
    parse_count_query,
    parse_names_query,
)
from local_mixpanel.rate_limit import RateLimit, RateLimiter
from local_mixpanel.stored_events import events_of, older_copies
from local_mixpanel.throttle import throttled

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class RecordedRequest:
    """A request that was answered, or cut off without an answer."""

    method: str
    path: str
    query: Mapping[str, str]
    status: int | None
    """None when the connection was closed instead."""


class LocalMixpanel:
    """A Mixpanel project on 127.0.0.1, served between `with` and its end.

    Events and faults may be added at any time, from any thread.
    """

    def __init__(
        self,
        *,
        project_id: str = "1234567",
        username: str = "local.service-account",
        secret: str = "local-secret",
        project_secret: str = "local-project-secret",
        token: str | None = None,
        today: Callable[[], date] | None = None,
        port: int = 0,
        rate_limit: RateLimit | None = None,
        has_query_api: bool = True,
        now: Callable[[], datetime] | None = None,
        bytes_per_second: int | None = None,
        profiles_per_page: int = 1000,
    ) -> None:
        """Prepare a project without events.

        Args:
            project_id: The project's id.
            username: The service account's user name.
            secret: The service account's secret.
            project_secret: Opens the project as a user name without a password.
            token: The only token that `/track` takes; None takes any.
            today: The latest day that can be exported; that of `now` in UTC by default.
            port: Where to listen; 0 takes a free port.
            rate_limit: When requests are answered with 429, exports and queries each for
                themselves; never by default. The Lexicon has a limit of its own, always.
            has_query_api: Whether the project's plan includes the Query API.
            now: The clock by which events are received and become visible, with a time zone; the
                machine's by default.
            bytes_per_second: How fast the body of an export comes at most; None for any speed.
            profiles_per_page: How many profiles a page of them has.

        Raises:
            ValueError: `bytes_per_second` is below 1.
        """
        if bytes_per_second is not None and bytes_per_second < 1:
            raise ValueError(f"bytes_per_second has to be at least 1, not {bytes_per_second}")
        self.project_id = project_id
        self.username = username
        self.secret = secret
        self.project_secret = project_secret
        self.token = token
        self._credentials = Credentials(project_id, username, secret, project_secret, token)
        self._now = now or (lambda: datetime.now(UTC))
        self._today = today or (lambda: self._now().astimezone(UTC).date())
        self._port = port
        self._export_limiter = RateLimiter(rate_limit) if rate_limit else None
        self._query_limiter = RateLimiter(rate_limit) if rate_limit else None
        self._has_query_api = has_query_api
        self._bytes_per_second = bytes_per_second
        self._store = EventStore()
        self.profiles = ProfileStore(profiles_per_page)
        self.lexicon = Lexicon()
        self._lexicon_limiter = RateLimiter(Lexicon.limit)
        self._cache = GzipCache()
        self._faults: deque[PlannedFault] = deque()
        self._requests: list[RecordedRequest] = []
        self._closing = threading.Event()
        self._http: HttpServer | None = None

    def __enter__(self) -> Self:
        self._closing.clear()
        self._http = HttpServer(self._port, self._answer)
        self._http.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        if self._http:
            self._http.close()
            self._http = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, while it serves."""
        if self._http is None:
            raise RuntimeError("the local Mixpanel serves only inside its with block")
        return self._http.url

    @property
    def requests(self) -> list[RecordedRequest]:
        """What came, in the order of the answers."""
        return list(self._requests)

    @property
    def exports(self) -> list[RecordedRequest]:
        """Those of `requests` that asked for events."""
        return [request for request in self._requests if request.path == "/api/2.0/export"]

    def add(
        self, events: Iterable[Mapping[str, Any]], *, visible_from: datetime | None = None
    ) -> int:
        """Add events as Mixpanel exports them and return how many.

        Args:
            events: `{"event": str, "properties": {"time": seconds since 1970 UTC, …}}` each;
                nothing is added to their properties.
            visible_from: From when on exports deliver and queries count them; at once by default.

        Raises:
            ValueError: An event has no name or no time; those before it may be added already. Or
                `visible_from` has no time zone.
        """
        if visible_from and visible_from.tzinfo is None:
            raise ValueError("visible_from needs a time zone")
        return self._store.add(events, visible_from.timestamp() if visible_from else 0.0)

    def add_lines(self, day: date, lines: Iterable[bytes], event: str | None = None) -> None:
        """Add bytes that an export of this UTC day delivers as they are.

        Args:
            day: The day they count to, whatever time they hold.
            lines: Anything, without the line end.
            event: The name by which an export's `event` finds them; None is never found.
        """
        self._store.add_lines(day, lines, event)

    def lines(
        self,
        from_date: date,
        to_date: date,
        events: Collection[str] | None = None,
        *,
        time_in_ms: bool = False,
        where: str | None = None,
    ) -> list[bytes]:
        """What a whole export of these UTC days (inclusive) and names delivers, line by line.

        Raises:
            ValueError: `where` is no expression that an export takes.
        """
        query = ExportQuery(
            from_date, to_date, None if events is None else frozenset(events), time_in_ms, where
        )
        return list(self._select(query).lines())

    def compact(self) -> None:
        """Remove copies as Mixpanel does after a while: by calendar day, the last one stays.

        Events that are not visible yet are no copies yet.

        https://docs.mixpanel.com/docs/tracking-methods/deduplication
        """
        self._store.remove(older_copies, self._now().timestamp())

    def delete(self, distinct_ids: Collection[str]) -> int:
        """Remove the events of these people, as a deletion request does; return how many.

        Those that are not visible yet go as well.
        """
        return self._store.remove(partial(events_of, distinct_ids=frozenset(distinct_ids)))

    def fail(
        self,
        fault: Fault,
        *,
        times: int = 1,
        at: float = 0.5,
        is_mid_line: bool = True,
        retry_after: int | str | None = None,
        seconds: float = 60.0,
    ) -> None:
        """Queue a fault: each export that would be answered with events takes the next one.

        Args:
            fault: What happens.
            times: To how many exports in a row.
            at: The share of the lines that comes before a cut, an early end or a silence.
            is_mid_line: Whether a cut falls inside the next line, or between two.
            retry_after: The Retry-After of a 429 or 503, in seconds or as an HTTP date.
            seconds: How long a stalled answer is silent.

        Raises:
            ValueError: A measure does not fit the fault.
        """
        planned = PlannedFault(fault, at, is_mid_line, retry_after, seconds)
        self._faults.extend([planned] * times)

    def forgive(self) -> None:
        """Drop the faults that were not taken yet."""
        self._faults.clear()

    def _answer(self, request: Request) -> Answer | None:
        answer: Answer | None
        try:
            match request.method, request.path:
                case "GET", "/api/2.0/export":
                    answer = self._export(request)
                case "GET", "/api/query/events":
                    answer = self._count(request)
                case "GET", "/api/query/events/names":
                    answer = self._names(request)
                case "POST", "/api/query/engage":
                    answer = self._profile_page(request)
                case "POST", "/api/query/cohorts/list":
                    answer = self._cohorts(request)
                case "GET", path if path == f"/api/app/projects/{self.project_id}/schemas":
                    answer = self._schemas(request)
                case "POST", "/engage":
                    answer = self._update_profiles(request)
                case "POST", "/track":
                    answer = self._track(request)
                case "POST", "/import":
                    answer = self._import(request)
                case _:
                    answer = as_json(404, {"error": "not found", "status": "error"})
        except Refused as refused:
            answer = refused.answer
        self._requests.append(
            RecordedRequest(
                request.method, request.path, request.query, answer.status if answer else None
            )
        )
        return answer

    def _export(self, request: Request) -> Answer | None:
        self._authorize(request)
        query = parse_query(request.query, self._today())
        _limit(self._export_limiter)
        selection = self._select(query)
        is_gzip = accepts_gzip(request.headers.get("accept-encoding"))
        answer: Answer | None
        if fault := self._next_fault():
            answer = fault.answer(selection.lines(), is_gzip, self._closing)
        else:
            compress = partial(self._cache.compressed, query, selection.version)
            answer = events_answer(join_lines(selection.lines()), compress if is_gzip else None)
        if answer is None or self._bytes_per_second is None:
            return answer
        return replace(answer, parts=throttled(answer.parts, self._bytes_per_second, self._closing))

    def _select(self, query: ExportQuery) -> Selection:
        return self._store.select(
            query.from_date,
            query.to_date,
            query.events,
            query.time_in_ms,
            self._now().timestamp(),
            matcher(query.where),
        )

    def _count(self, request: Request) -> Answer:
        self._authorize_query(request)
        from_date, to_date, names = parse_count_query(request.query, self._today())
        _limit(self._query_limiter)
        # All names: those of lines that were added as bytes stand in the lines only.
        selection = self._select(ExportQuery(from_date, to_date, None, time_in_ms=False))
        return counts_answer(from_date, to_date, names, selection.lines_by_day())

    def _names(self, request: Request) -> Answer:
        self._authorize_query(request)
        from_date, to_date, limit = parse_names_query(request.query, self._today())
        _limit(self._query_limiter)
        selection = self._select(ExportQuery(from_date, to_date, None, time_in_ms=False))
        return names_answer(limit, selection.lines_by_day())

    def _profile_page(self, request: Request) -> Answer:
        self._authorize_query(request)
        _limit(self._query_limiter)
        return self.profiles.page(request.body)

    def _cohorts(self, request: Request) -> Answer:
        self._authorize_query(request)
        _limit(self._query_limiter)
        return self.profiles.cohorts()

    def _schemas(self, request: Request) -> Answer:
        identity = self._credentials.identify(request.headers.get("authorization"))
        if identity is not Identity.SERVICE_ACCOUNT:
            raise Refused(as_json(401, {"error": "service account needed", "status": "error"}))
        _limit(self._lexicon_limiter)
        return self.lexicon.schemas()

    def _update_profiles(self, request: Request) -> Answer:
        try:
            updates = read_updates(request.body)
            if self.token is not None and any(
                update.get("$token") != self.token for update in updates
            ):
                return _status({}, "token, missing or invalid", 401)
            self.profiles.update(updates)
        except InvalidBody as error:
            return _status({}, str(error), 400)
        return _status({"verbose": "1"}, None, 200)

    def _authorize_query(self, request: Request) -> None:
        self._authorize(request)
        if not self._has_query_api:
            raise Refused(not_in_plan())

    def _authorize(self, request: Request) -> None:
        identity = self._credentials.identify(request.headers.get("authorization"))
        if identity not in (Identity.SERVICE_ACCOUNT, Identity.PROJECT_SECRET):
            error = {"error": "Unable to authenticate request", "request": request.target}
            raise Refused(as_json(401, error, {"WWW-Authenticate": 'Basic realm="mixpanel"'}))
        project_id = request.query.get("project_id")
        if project_id is None and identity is Identity.SERVICE_ACCOUNT:
            raise Refused(text(400, "project_id is a required parameter"))
        if project_id not in (None, self.project_id):
            raise Refused(as_json(403, {"error": "no access to this project", "status": "error"}))

    def _next_fault(self) -> PlannedFault | None:
        try:
            return self._faults.popleft()
        except IndexError:
            return None

    def _track(self, request: Request) -> Answer:
        try:
            events, form = read_body(request.body, request.headers)
        except InvalidBody as error:
            return _status(request.query, str(error), 400)
        options = {**request.query, **form}
        if self.token is not None and any(
            event["properties"].get("token") != self.token for event in events
        ):
            return _status(options, "token, missing or invalid", 401)
        try:
            self._receive(events, is_import=False)
        except ValueError as error:
            return _status(options, str(error), 400)
        return _status(options, None, 200)

    def _import(self, request: Request) -> Answer:
        identity = self._credentials.identify(request.headers.get("authorization"))
        project_id = request.query.get("project_id")
        if identity is Identity.NOBODY or (
            identity is Identity.SERVICE_ACCOUNT and project_id != self.project_id
        ):
            return _code(401, "Unauthorized", error="Invalid credentials")
        try:
            events, form = read_body(request.body, request.headers)
            self._receive(events, is_import=True)
        except ValueError as error:
            return _code(400, "Bad Request", error=str(error))
        # The SDK posts forms and reads /track's answer from /import, too.
        if form:
            return _status({**request.query, **form}, None, 200)
        return _code(200, "OK", num_records_imported=len(events))

    def _receive(self, events: Iterable[Mapping[str, Any]], *, is_import: bool) -> None:
        now_ms = (self._now() - _EPOCH) // timedelta(milliseconds=1)
        self._store.add([received(event, now_ms, is_import=is_import) for event in events])


def _limit(limiter: RateLimiter | None) -> None:
    if limiter and (wait := limiter.wait()):
        raise Refused(too_many_requests(wait if limiter.limit.tells_wait else None))


def _status(options: Mapping[str, str], error: str | None, status: int) -> Answer:
    taken = int(error is None)
    if options.get("verbose") == "1":
        return as_json(status, {"error": error, "status": taken})
    return text(status, str(taken))


def _code(code: int, status: str, **more: Any) -> Answer:
    return as_json(code, {"code": code, "status": status, **more})
