"""Windows of many days: how they are asked for, committed piece by piece, and gone on with."""

import threading
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest

from local_mixpanel import Fault, LocalMixpanel, RateLimit
from mixpanel_pipeline.events.decoding import EventDecoder
from mixpanel_pipeline.source import downloads as download
from mixpanel_pipeline.source import plan
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.delivered import decoded
from mixpanel_pipeline.source.downloads import downloads
from mixpanel_pipeline.source.errors import ExportError
from mixpanel_pipeline.source.plan import Stage
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW
from tests.warehouses import rows

DAY = timedelta(days=1)


def happen(mixpanel, days, per_day=1, name="$ae_session", who="ada"):
    """`per_day` events on each of the last `days` days."""
    mixpanel.add(
        {
            "event": name,
            "properties": {
                "time": int((NOW - DAY * ago).timestamp()) - number,
                "distinct_id": who,
                "$insert_id": f"{who}-{ago}-{number}",
            },
        }
        for ago in range(days)
        for number in range(per_day)
    )


@pytest.fixture
def one_day_a_request(monkeypatch):
    """As for a project so large that no two days fit in a request, or in a commit."""
    monkeypatch.setattr(plan, "REQUEST_BYTES", 1)
    monkeypatch.setattr(plan, "COMMIT_BYTES", 1)


def asked(mixpanel, *, after=0):
    """The days of each export after so many requests, in the order of the first."""
    return sorted(
        (request.query["from_date"], request.query["to_date"])
        for request in mixpanel.exports[after:]
        if request.path == "/api/2.0/export"
    )


def last_run(warehouse, columns):
    return rows(warehouse, f"select {columns} from mixpanel_raw.sync_runs order by id desc")[0]


def test_a_small_project_takes_few_requests(mixpanel, warehouse, run_sync):
    happen(mixpanel, days=60)
    run_sync(skip_transform=True)
    assert asked(mixpanel) == [
        ("2026-01-25", "2026-01-25"),
        ("2026-01-26", "2026-02-02"),
        ("2026-02-03", "2026-03-10"),
    ]
    before = len(mixpanel.exports)
    run_sync(skip_transform=True)
    assert len(mixpanel.exports) == before + 1


def test_a_large_project_takes_a_request_a_day(
    mixpanel, warehouse, run_sync, one_day_a_request, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "6")
    happen(mixpanel, days=6)
    assert run_sync(skip_transform=True).events_new == 6
    days = [str(NOW.date() - DAY * ago) for ago in range(5, -1, -1)]
    assert asked(mixpanel) == [(day, day) for day in days]
    assert rows(warehouse, "select count(*) from mixpanel_raw._dlt_loads") == [(6,)]


def test_what_came_before_a_failure_is_kept_and_not_asked_for_again(
    mixpanel, warehouse, run_sync, one_day_a_request, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "8")
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    monkeypatch.setenv("SOURCES__MIXPANEL__PARALLEL_DOWNLOADS", "1")
    happen(mixpanel, days=8)
    # The sixth day cannot be read: its line ends the answer too early.
    sixth = NOW.date() - DAY * 2
    mixpanel.add_lines(sixth, [b'{"error": "timeout"}'], event="$ae_session")
    failed = run_sync(skip_transform=True)
    assert (failed.status, failed.mode, failed.events_new) == ("failed", "first", 5)
    assert failed.error is not None
    assert str(sixth) in failed.error
    assert failed.watermark == NOW - DAY * 3
    assert last_run(warehouse, "status, loaded_to_date, events_new") == (
        "failed",
        sixth - DAY,
        5,
    )
    mixpanel.add_lines(
        sixth,
        [b'{"event": "$ae_session", "properties": {"time": 10000000000}}'],
        event="$ae_session",
    )
    before = len(mixpanel.exports)
    summary = run_sync(skip_transform=True)
    assert (summary.status, summary.mode) == ("ok", "incremental")
    assert min(asked(mixpanel, after=before))[0] >= str(sixth - DAY)
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(9,)]


def test_a_backfill_goes_on_where_it_came_to(
    mixpanel, warehouse, run_sync, one_day_a_request, monkeypatch, caplog
):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    monkeypatch.setenv("SOURCES__MIXPANEL__PARALLEL_DOWNLOADS", "1")
    happen(mixpanel, days=30)
    window = Window(NOW.date() - DAY * 29, NOW.date() - DAY * 24)
    fourth = window.days[3]
    mixpanel.add_lines(fourth, [b'{"error": "timeout"}'], event="$ae_session")
    for _ in range(2):
        assert run_sync(backfill=window, skip_transform=True).status == "failed"
    assert last_run(warehouse, "mode, from_date, to_date, loaded_to_date") == (
        "backfill",
        window.from_date,
        window.to_date,
        fourth - DAY,
    )
    mixpanel.add_lines(
        fourth,
        [b'{"event": "$ae_session", "properties": {"time": 10000000000}}'],
        event="$ae_session",
    )
    before = len(mixpanel.exports)
    summary = run_sync(backfill=window, skip_transform=True)
    assert (summary.status, summary.from_date, summary.to_date) == (
        "ok",
        window.from_date,
        window.to_date,
    )
    assert f"after {fourth - DAY}" in caplog.text
    assert [days for days, _ in asked(mixpanel, after=before)] == [
        str(day) for day in window.days[3:]
    ]
    assert len(mixpanel.exports) == before + 3
    # It came to its end: the next one is a new one.
    run_sync(backfill=window, skip_transform=True)
    assert len(mixpanel.exports) == before + 9


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"SOURCES__MIXPANEL__EVENTS": "all"}, id="other events"),
        pytest.param({}, id="other days"),
    ],
)
def test_another_backfill_begins_anew(mixpanel, run_sync, one_day_a_request, monkeypatch, other):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    monkeypatch.setenv("SOURCES__MIXPANEL__PARALLEL_DOWNLOADS", "1")
    happen(mixpanel, days=10)
    window = Window(NOW.date() - DAY * 4, NOW.date())
    mixpanel.fail(Fault.CHUNKED_CUT)
    run_sync(backfill=window, skip_transform=True)
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    again = window if other else Window(window.from_date, window.to_date - DAY)
    before = len(mixpanel.exports)
    assert run_sync(backfill=again, skip_transform=True).status == "ok"
    assert len(mixpanel.exports) == before + again.length


def read(answer):
    return decoded(answer, EventDecoder(ZoneInfo("UTC"), holds_nul=True, only_day=None))


def test_answers_come_side_by_side_and_are_handed_out_in_order(
    mixpanel, one_day_a_request, tmp_path
):
    happen(mixpanel, days=10)
    together, most = 0, 0
    lock, all_there = threading.Lock(), threading.Barrier(3)
    first = NOW.date() - DAY * 9
    client = MixpanelClient(load_configuration())
    stage = Stage(Window(first, NOW.date()), "occurred_at", NOW)

    def fetch(request, path, slot):
        def read_beside(answer):
            nonlocal together
            with lock:
                together -= 1
            return read(answer)

        nonlocal together, most
        slot.take()
        with lock:
            together += 1
            most = max(most, together)
        # After the first, three have to be on their way at once, or this breaks.
        if request.window.from_date != first:
            all_there.wait(timeout=20)
        return client.fetch(request, None, path, read_beside, slot)

    got = [download.days.from_date for download in downloads(stage, fetch, tmp_path, parallel=3)]
    assert got == stage.days.days
    assert most == 3


def test_an_answer_comes_while_the_one_before_is_read(mixpanel, one_day_a_request, tmp_path):
    happen(mixpanel, days=4)
    client = MixpanelClient(load_configuration())
    stage = Stage(Window(NOW.date() - DAY * 3, NOW.date()), "occurred_at", NOW)
    comes = {day: threading.Event() for day in stage.days.days}
    second, third = stage.days.days[1:3]

    def fetch(request, path, slot):
        def read_meanwhile(answer):
            if day == second:
                assert comes[third].wait(20)
            return read(answer)

        day = request.window.from_date
        slot.take()
        comes[day].set()
        return client.fetch(request, None, path, read_meanwhile, slot)

    answers = downloads(stage, fetch, tmp_path, parallel=1)
    assert [download.days.from_date for download in answers] == stage.days.days


@pytest.mark.parametrize("commit_bytes", [1, plan.COMMIT_BYTES])
def test_what_was_answered_before_a_failure_is_handed_out_first(
    mixpanel, one_day_a_request, monkeypatch, tmp_path, commit_bytes
):
    monkeypatch.setattr(plan, "COMMIT_BYTES", commit_bytes)
    happen(mixpanel, days=10)
    client = MixpanelClient(load_configuration())
    stage = Stage(Window(NOW.date() - DAY * 3, NOW.date()), "occurred_at", NOW)

    def fetch(request, path, slot):
        if request.window.from_date == NOW.date() - DAY:
            raise ExportError("no more")
        return client.fetch(request, None, path, read, slot)

    answers = downloads(stage, fetch, tmp_path, parallel=4)
    before = next(answers).days.days
    if commit_bytes == 1:
        before += next(answers).days.days
    assert before == stage.days.days[:2]
    with pytest.raises(ExportError, match="no more"):
        next(answers)


def test_what_came_is_handed_out_together(mixpanel, one_day_a_request, monkeypatch, tmp_path):
    happen(mixpanel, days=5)
    client = MixpanelClient(load_configuration())
    stage = Stage(Window(NOW.date() - DAY * 4, NOW.date()), "occurred_at", NOW)

    def fetch(request, path, slot):
        return client.fetch(request, None, path, read, slot)

    (alone, *_) = downloads(stage, fetch, tmp_path, parallel=2)
    # As much as two of the days measure.
    monkeypatch.setattr(plan, "COMMIT_BYTES", alone.delivered.answer_bytes + 1)
    together = list(downloads(stage, fetch, tmp_path, parallel=2))
    assert [answer.days.length for answer in together] == [2, 2, 1]
    assert [answer.delivered.event_count for answer in together] == [2, 2, 1]
    assert [len(answer.delivered.events) for answer in together] == [2, 2, 1]
    assert [answer.delivered.newest_occurred for answer in together] == [
        NOW - DAY * 3,
        NOW - DAY,
        NOW,
    ]


def test_what_came_does_not_wait_long_for_the_next_answer(
    mixpanel, one_day_a_request, monkeypatch, tmp_path
):
    monkeypatch.setattr(plan, "COMMIT_BYTES", 2**20)
    monkeypatch.setattr(download, "_LONGEST_WAIT_SECONDS", 0.01)
    happen(mixpanel, days=3)
    client = MixpanelClient(load_configuration())
    stage = Stage(Window(NOW.date() - DAY * 2, NOW.date()), "occurred_at", NOW)
    is_taken = threading.Event()

    def fetch(request, path, slot):
        if request.window.from_date != stage.days.from_date:
            assert is_taken.wait(20)
        return client.fetch(request, None, path, read, slot)

    answers = downloads(stage, fetch, tmp_path, parallel=2)
    assert next(answers).days.only_day == stage.days.from_date
    is_taken.set()
    assert sum(answer.days.length for answer in answers) == 2


def test_the_hours_budget_includes_earlier_runs(mixpanel, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__REQUESTS_PER_HOUR", "4")
    monkeypatch.setenv("SOURCES__MIXPANEL__MAX_WAIT_MINUTES", "0")
    happen(mixpanel, days=45)
    assert run_sync(skip_transform=True).status == "ok"
    assert len(mixpanel.exports) == 3
    assert run_sync(now=NOW + timedelta(minutes=10), skip_transform=True).status == "ok"
    refused = run_sync(now=NOW + timedelta(minutes=20), skip_transform=True)
    assert refused.status == "failed"
    assert refused.error is not None
    assert "requests_per_hour" in refused.error
    assert "stays" in refused.error
    assert len(mixpanel.exports) == 4
    later = run_sync(now=NOW + timedelta(minutes=65), skip_transform=True)
    assert later.status == "ok"


def test_a_used_up_limit_keeps_what_was_committed(warehouse, mixpanel, run_sync, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__MAX_WAIT_MINUTES", "0.01")
    monkeypatch.setenv("SOURCES__MIXPANEL__PARALLEL_DOWNLOADS", "1")
    limit = RateLimit(per_hour=2, per_second=None)
    with LocalMixpanel(today=lambda: NOW.date(), rate_limit=limit) as limited:
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", limited.url)
        happen(limited, days=45)
        summary = run_sync(skip_transform=True)
    assert summary.status == "failed"
    assert summary.error is not None
    assert "rate limit" in summary.error
    assert summary.events_new == 9
    assert summary.watermark is not None
    assert summary.watermark.date() == date(2026, 2, 2)
