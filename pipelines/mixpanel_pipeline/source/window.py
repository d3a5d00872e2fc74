"""Which days to export. Pure functions: *now* is an argument."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

EndDay = Literal["today", "yesterday"]


@dataclass(frozen=True)
class Window:
    """Days to export, both inclusive, in the project's time zone as Mixpanel's API takes them."""

    from_date: date
    to_date: date

    def __post_init__(self) -> None:
        if self.from_date > self.to_date:
            raise ValueError(f"from {self.from_date} is after to {self.to_date}")

    def __str__(self) -> str:
        return f"{self.from_date} to {self.to_date}"

    @property
    def length(self) -> int:
        """How many days it is."""
        return (self.to_date - self.from_date).days + 1

    @property
    def days(self) -> list[date]:
        """The days themselves."""
        return [self.from_date + timedelta(days=number) for number in range(self.length)]

    def after(self, day: date | None) -> "Window":
        """What of it is later than `day`, a day before its end; all of it for None."""
        return self if day is None else Window(day + timedelta(days=1), self.to_date)

    def joined(self, other: "Window") -> "Window":
        """The days of both, and those between them."""
        return Window(min(self.from_date, other.from_date), max(self.to_date, other.to_date))

    @property
    def only_day(self) -> date | None:
        """The day, when the window is a single one."""
        return self.from_date if self.from_date == self.to_date else None


def last_day(now: datetime, timezone: ZoneInfo, end_day: EndDay) -> date:
    """The newest day to export: `now`'s day in the project's time zone, or the one before."""
    today = now.astimezone(timezone).date()
    return today if end_day == "today" else today - timedelta(days=1)


def initial_window(last: date, days: int) -> Window:
    """`days` whole days that end with `last`, `last` included."""
    return Window(last - timedelta(days=days - 1), last)


def incremental_window(
    start: datetime, last: date, timezone: ZoneInfo, days_before: int = 0
) -> Window:
    """From so many days before that of `start`, an instant in UTC, to `last`, or `last` alone.

    There is no lower bound: after a long pause the window reaches back as far as the pause did.
    """
    first = start.astimezone(timezone).date() - timedelta(days=days_before)
    return Window(min(first, last), last)


def later(*instants: datetime | None) -> datetime | None:
    """The latest of some instants, any of which may be missing."""
    return max(filter(None, instants), default=None)


def parse_instant(value: object) -> datetime | None:
    """A stored watermark as an instant in UTC; None when it cannot be one."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
