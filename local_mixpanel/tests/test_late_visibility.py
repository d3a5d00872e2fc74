from datetime import UTC, datetime, timedelta, timezone

import pytest
import requests

from local_mixpanel import LocalMixpanel
from local_mixpanel.event_store import EventStore
from local_mixpanel.tests.conftest import DAY

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
# More than Mixpanel sends uncompressed.
MANY = 40


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def mixpanel(clock):
    with LocalMixpanel(now=clock) as server:
        yield server


def opened(server):
    answer = requests.get(
        f"{server.url}/api/query/events",
        {"event": '["App Opened"]', "type": "general", "unit": "day"}
        | {"from_date": "2026-03-10", "to_date": "2026-03-10"},
        auth=(server.project_secret, ""),
        timeout=5,
    )
    return answer.json()["data"]["values"]["App Opened"]["2026-03-10"]


def exported(export):
    """How many lines a compressed export has."""
    return export().content.count(b"\n")


def test_events_are_exported_and_counted_from_their_instant_on(mixpanel, export, event, clock):
    mixpanel.add([event()] * MANY)
    assert mixpanel.add([event()] * 2, visible_from=NOW + timedelta(minutes=30)) == 2
    assert exported(export) == opened(mixpanel) == len(mixpanel.lines(DAY, DAY)) == MANY

    clock.now += timedelta(minutes=30, microseconds=-1)
    assert exported(export) == opened(mixpanel) == len(mixpanel.lines(DAY, DAY)) == MANY

    clock.now += timedelta(microseconds=1)
    assert exported(export) == opened(mixpanel) == len(mixpanel.lines(DAY, DAY)) == MANY + 2


def test_kept_answer_is_not_sent_when_the_clock_goes_back_and_forth(mixpanel, export, event, clock):
    mixpanel.add([event()] * MANY)
    mixpanel.add([event()], visible_from=NOW + timedelta(hours=1))
    seen = []
    for hours in (0, 1, -1, 1, -1):
        clock.now += timedelta(hours=hours)
        seen.append(exported(export))
        mixpanel.add([event()])

    assert seen == [MANY, MANY + 2, MANY + 2, MANY + 4, MANY + 4]


def test_events_before_one_that_is_refused_become_visible(mixpanel, export, event, clock):
    mixpanel.add([event()] * MANY)
    with pytest.raises(ValueError, match="not an event"):
        mixpanel.add([event()] * 1_000 + [{}], visible_from=NOW + timedelta(hours=1))
    assert exported(export) == MANY

    clock.now += timedelta(hours=1)

    assert exported(export) == MANY + 1_000


def test_instants_of_any_time_zone_are_compared(mixpanel, event, clock):
    berlin = timezone(timedelta(hours=1))
    mixpanel.add([event()], visible_from=datetime(2026, 3, 10, 13, 0, 1, tzinfo=berlin))
    assert mixpanel.lines(DAY, DAY) == []

    clock.now += timedelta(seconds=1)

    assert len(mixpanel.lines(DAY, DAY)) == 1


def test_instant_without_a_time_zone_is_refused(mixpanel, event):
    with pytest.raises(ValueError, match="time zone"):
        mixpanel.add([event()], visible_from=datetime(2026, 3, 10))
    assert mixpanel.lines(DAY, DAY) == []


def test_today_is_that_of_the_clock_in_utc(export, mixpanel, clock):
    clock.now = datetime(2026, 3, 11, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert export().status_code == 200
    assert export(to_date="2026-03-11").text == "to_date cannot be later than today"


def test_tracked_events_are_those_of_the_clock(mixpanel, export):
    requests.post(f"{mixpanel.url}/track", json={"event": "A", "properties": {}}, timeout=5)

    properties = export().json()["properties"]
    assert properties["time"] == NOW.timestamp()
    assert properties["mp_processing_time_ms"] == NOW.timestamp() * 1000


def test_selection_stays_that_of_its_instant(event):
    store = EventStore()
    later = NOW.timestamp() + 60
    store.add([event()], later)
    before = store.select(DAY, DAY, None, time_in_ms=False, now=later - 1)
    after = store.select(DAY, DAY, None, time_in_ms=False, now=later)

    assert after.version > before.version
    assert (list(before.lines()), len(list(after.lines()))) == ([], 1)
