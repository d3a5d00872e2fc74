"""What is asked of Mixpanel: days in a row, cut into requests. Pure functions."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from mixpanel_pipeline.source.window import Window

Cursor = Literal["occurred_at", "processed_at"]

# Compressed. Some hundred thousand events: seconds to load, and little to repeat when it fails.
REQUEST_BYTES = 32 * 2**20
# A load has costs of its own, and DuckDB rewrites what fills less than three of its row groups.
COMMIT_BYTES = 3 * REQUEST_BYTES
# How much more to dare with each request while the days so far were nearly empty.
_GROWTH = 8
# What Mixpanel is processing this very moment may become visible out of order.
_ARRIVAL_DELAY = timedelta(minutes=1)
_DAY = timedelta(days=1)
_BOTH_IDS = 'defined(properties["$device_id"]) and defined(properties["$user_id"])'


@dataclass(frozen=True)
class Arrival:
    """When Mixpanel processed the events that are asked for: from `since`, before `until`.

    A `since` of None is any time.
    """

    since: datetime | None
    until: datetime


@dataclass(frozen=True)
class Request:
    """One export: the events of whole days, or those of them that arrived in some time.

    With `links`, of those only the ones that name a device and a user.
    """

    window: Window
    arrival: Arrival | None = None
    links: bool = False

    @property
    def where(self) -> str | None:
        """The filter in Mixpanel's segmentation expressions.

        An event that does not say when it was processed matches always: it is known by its key.
        https://docs.mixpanel.com/reference/segmentation-expressions
        """
        if self.links:
            of_time = replace(self, links=False).where
            return f"({of_time}) and {_BOTH_IDS}" if of_time else _BOTH_IDS
        if self.arrival is None:
            return None
        processed = 'properties["mp_processing_time_ms"]'
        arrived = f"number({processed}) < {_milliseconds(self.arrival.until)}"
        if self.arrival.since is not None:
            arrived = f"number({processed}) >= {_milliseconds(self.arrival.since)} and {arrived}"
        return f"({arrived}) or not defined({processed})"

    def __str__(self) -> str:
        if self.links:
            return f"devices and users of {replace(self, links=False)}"
        if self.arrival is None:
            return str(self.window)
        if self.arrival.since is None:
            return f"{self.window}, arrived before {self.arrival.until:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.window}, arrived {self.arrival.since:%Y-%m-%d %H:%M:%S} UTC or later"


@dataclass(frozen=True)
class Stage:
    """Days in a row that are exported oldest first.

    Args:
        days: The days of events; with `arrival_days` days of arrival, in UTC.
        cursor: The watermark that the stage moves; None for a backfill.
        restarts: The watermark is set anew, also to before where it was.
        until: The watermark never gets later than this.
        arrival: The time of arrival that is asked for, instead of all events of the days.
        arrival_days: How many days before its arrival an event may have occurred; None when the
            stage goes by days of events.
        last_event_day: The last day to ask for events of.
        timezone: The project's, in which days of events are cut.
    """

    days: Window
    cursor: Cursor | None
    until: datetime
    restarts: bool = False
    arrival: Arrival | None = None
    arrival_days: int | None = None
    last_event_day: date | None = None
    timezone: ZoneInfo | None = None

    def request(self, first: date, last: date) -> Request:
        """The request for some of the days."""
        if self.arrival is None or self.arrival_days is None:
            return Request(Window(first, last), self.arrival)
        since = datetime.combine(first, time(), UTC)
        if self.arrival.since is not None:
            since = max(self.arrival.since, since)
        until = min(self.arrival.until, datetime.combine(last + _DAY, time(), UTC))
        # A clock that is fast dates an event after its arrival.
        to_date = self.last_event_day or last
        since_day = since.astimezone(self.timezone).date() - timedelta(days=self.arrival_days)
        return Request(Window(min(since_day, to_date), to_date), Arrival(since, until))

    def part(self, first: date, number: int) -> Window:
        """So many of the days from `first` on, or as many as there are."""
        return Window(first, min(first + timedelta(days=number - 1), self.days.to_date))

    @property
    def window(self) -> Window:
        """The days of events that the whole stage asks for."""
        return self.request(self.days.from_date, self.days.to_date).window


def days_at_once(bytes_per_day: float | None, days_answered: int) -> tuple[int, bool]:
    """How many days to ask for in one request, and whether that fills it.

    Args:
        bytes_per_day: What a day of the last answer measured; None before the first.
        days_answered: How many days that answer was for.

    Returns:
        The days, and whether they are as many as fit. Otherwise the next answer has to be seen
        before anything more is asked for: a project that grew may have been nearly empty so far.
    """
    if bytes_per_day is None:
        return 1, False
    fitting = max(int(REQUEST_BYTES // max(bytes_per_day, 1.0)), 1)
    dared = days_answered * _GROWTH
    return min(fitting, dared), fitting <= dared


def requests_expected(stage: Stage, bytes_per_day: float) -> list[Request]:
    """The requests that a stage takes, if the answer of each of its days measures the same."""
    found: list[Request] = []
    first, days_answered = stage.days.from_date, 0
    while first <= stage.days.to_date:
        number, _ = days_at_once(bytes_per_day if found else None, days_answered)
        days = stage.part(first, number)
        found.append(stage.request(days.from_date, days.to_date))
        first, days_answered = days.to_date + _DAY, days.length
    return found


def arrivals(
    watermark: datetime,
    now: datetime,
    *,
    lookback: timedelta,
    arrival_days: int,
    timezone: ZoneInfo,
    last_event_day: date,
) -> Stage:
    """The events that arrived since `watermark` less the lookback, until a little before `now`.

    Nothing is asked for beyond `last_event_day`, so nothing that arrived after it counts as read.
    """
    end_of_days = datetime.combine(last_event_day + _DAY, time(), timezone).astimezone(UTC)
    until = min(now - _ARRIVAL_DELAY, end_of_days)
    # A watermark beyond that is of a clock that was fast, or of days that are not over yet.
    since = min(watermark, until) - max(lookback, _ARRIVAL_DELAY)
    return Stage(
        Window(since.date(), (until - timedelta(microseconds=1)).date()),
        "processed_at",
        until,
        arrival=Arrival(since, until),
        arrival_days=arrival_days,
        last_event_day=last_event_day,
        timezone=timezone,
    )


def days_become_askable(asked_to: date, by_arrival: Stage) -> Stage | None:
    """What arrived before its own day could be asked for, of the days that now can be.

    Mixpanel takes no day that is yet to come, so an event that a clock that is fast dated there is
    not among the arrivals of its time.

    Args:
        asked_to: The last day of events that the arrivals before were asked for.
        by_arrival: The arrivals that follow; they move the watermark, this does not.

    Returns:
        The days after `asked_to`; None when there are none.
    """
    last, arrival = by_arrival.last_event_day, by_arrival.arrival
    if last is None or arrival is None or arrival.since is None or asked_to >= last:
        return None
    days = Window(asked_to + _DAY, last)
    return Stage(days, None, by_arrival.until, arrival=Arrival(None, arrival.since))


def _milliseconds(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)
