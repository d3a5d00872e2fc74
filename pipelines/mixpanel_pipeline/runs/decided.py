"""What a run asks Mixpanel for, decided before it asks. Pure functions: *now* is an argument."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from mixpanel_pipeline.runs.state import Watermark
from mixpanel_pipeline.source import Mode
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.plan import Stage, arrivals, days_become_askable
from mixpanel_pipeline.source.window import Window, incremental_window, initial_window, last_day


@dataclass(frozen=True)
class Decided:
    """What is to be asked for.

    Attributes:
        mode: What the run is called.
        window: The days of events that it is about.
        stages: What is exported, one after the other.
        goes_on_by_arrival: Afterwards comes what arrived since the newest event of the stages did.
    """

    mode: Mode
    window: Window
    stages: tuple[Stage, ...]
    goes_on_by_arrival: bool = False


def what_is_new(
    settings: MixpanelConfiguration,
    now: datetime,
    watermark: Watermark | None,
    *,
    full_refresh: bool = False,
    since: date | None = None,
    recorded: datetime | None = None,
) -> Decided:
    """What is new since the watermark, or the whole initial window when there is none.

    Args:
        settings: The source's configuration.
        now: The current instant, with a time zone.
        watermark: Up to where everything is loaded.
        full_refresh: The whole initial window, and what is new when that begins earlier.
        since: A day that a full refresh begins at, when it is earlier.
        recorded: The watermark by the record of runs, for when the state does not tell one.
    """
    zone = settings.zone
    mode: Mode = "full_refresh" if full_refresh else "incremental" if watermark else "first"
    last = last_day(now, zone, settings.end_day)
    cursors = {watermark.cursor if watermark else settings.cursor, settings.cursor}
    if watermark and cursors == {"processed_at"} and not full_refresh:
        by_arrival = arrivals_since(settings, now, watermark.instant)
        # Earlier versions did not say to where they had asked.
        asked_to = watermark.asked_to or watermark.instant.astimezone(zone).date() - timedelta(
            days=settings.arrival_days
        )
        become_askable = days_become_askable(asked_to, by_arrival)
        stages = (become_askable, by_arrival) if become_askable else (by_arrival,)
        return Decided(mode, by_arrival.window, stages)
    days = initial_window(last, settings.initial_window_days)
    if watermark is not None:
        # Whole days vouch only for what happened since the watermark. Of an event that arrived
        # since then, all that is known is that it happened at most `arrival_days` before.
        new = incremental_window(
            watermark.instant - settings.lookback,
            last,
            zone,
            days_before=0 if cursors == {"occurred_at"} else settings.arrival_days,
        )
        days = days.joined(new) if full_refresh else new
    elif recorded is not None:
        # Of either cursor: the record is there for when nothing else is.
        days_before = settings.arrival_days
        start = recorded - settings.lookback
        days = days.joined(incremental_window(start, last, zone, days_before=days_before))
    if since is not None and since < days.from_date:
        days = Window(since, last)
    restarts = full_refresh or watermark is None or watermark.cursor != "occurred_at"
    stage = Stage(days, "occurred_at", now, restarts=restarts)
    return Decided(mode, days, (stage,), settings.cursor == "processed_at")


def arrivals_since(settings: MixpanelConfiguration, now: datetime, instant: datetime) -> Stage:
    """What arrived since `instant` less the lookback."""
    return arrivals(
        instant,
        now,
        lookback=settings.lookback,
        arrival_days=settings.arrival_days,
        timezone=settings.zone,
        last_event_day=last_day(now, settings.zone, settings.end_day),
    )


def days_again(days: Window, already: date | None, now: datetime) -> Stage:
    """Whole days once more, without those up to `already`; the watermark stays where it is."""
    return Stage(days.after(already), None, now)
