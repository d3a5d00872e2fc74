"""`run.py report`: a page that says what the tables say, compared with counting by hand."""

import json
import random
import sys
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.engines.snapshot import snapshot
from mixpanel_pipeline.report.numbers import read
from mixpanel_pipeline.report.page import page
from tests.conftest import NOW
from tests.warehouses import rows

TODAY = NOW.date()
DAYS = 40
BOUGHT = "Bought <b>&'\"</script>"
METRICS: dict[str, dict[str, Any]] = {
    "opens": {"event": "Opened", "description": "<i>Opened</i> the app."},
    "order": {"event": BOUGHT},
    "gifts": {"event": BOUGHT, "where": {"kind": "gift"}},
    "joined": {"event": "Joined", "kind": "flag"},
}
# Two of the ids are one person's.
PERSONS = {"$device:1": "ada"}


class Tables(HTMLParser):
    """The cells of a page's tables, by the id of the table."""

    def __init__(self, html):
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.rows = self.found[dict(attributes)["id"]] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append(dict(attributes).get("data-people", ""))

    def handle_data(self, data):
        self.text += data
        if getattr(self, "rows", None) and self.rows[-1] and self.lasttag in ("th", "td", "wbr"):
            self.rows[-1][-1] += data.strip()


def shown(html, name):
    """The rows of a table, without its headings."""
    return Tables(html).found[name][1:]


def told(day):
    return f"{day.day} {day:%b %Y}"


def happened(choose, who, name, day):
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(
        seconds=choose.randrange(86_000 if day < TODAY else 40_000)
    )
    properties = {"time": int(moment.timestamp()), "distinct_id": who}
    return {"event": name, "properties": properties | {"kind": choose.choice(["gift", "own"])}}


def traffic(choose):
    for who in ["ada", "bob", "eve", "zoe", "kim", "$device:1", "$device:2"]:
        for ago in range(choose.randrange(5, DAYS)):
            if choose.random() < 0.4:
                for name in choose.choices(["Opened", BOUGHT, "Joined"], [6, 3, 1], k=2):
                    yield happened(choose, who, name, TODAY - timedelta(days=ago))


def counts(sent, metric):
    """Per person and day, how often a metric counted."""
    found: dict[str, Counter[date]] = defaultdict(Counter)
    for event in sent:
        properties = event["properties"]
        if event["event"] == metric["event"]:
            if metric.get("where") and properties["kind"] != "gift":
                continue
            day = datetime.fromtimestamp(properties["time"], UTC).date()
            found[PERSONS.get(properties["distinct_id"], properties["distinct_id"])][day] += 1
    return found


def came(sent, steps, days):
    """How many people came to each step, on the same day as the one before or later."""
    by_metric = [counts(sent, METRICS[step]) for step in steps]
    people = set[str]().union(*by_metric)
    came_to = [0] * len(steps)
    for who in people:
        since = days[0]
        for place, found in enumerate(by_metric):
            later = [day for day in found.get(who, ()) if since <= day <= days[-1]]
            if not later:
                break
            came_to[place] += 1
            since = min(later)
    return came_to


@pytest.fixture
def declared(dbt_project, metrics, monkeypatch):
    def declare(found):
        found.clear()
        found.update(METRICS)

    metrics(declare)
    path = dbt_project / "dbt_project.yml"
    text = path.read_text(encoding="utf-8").replace("\nvars:\n", f"\nvars:\n  as_of: {TODAY}\n")
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", str(DAYS))


def reported(warehouse, days=90, **options):
    return read(warehouse, now=NOW, days=days, max_age=timedelta(hours=24), **options)


@pytest.mark.usefixtures("declared")
def test_the_page_says_what_the_tables_say(mixpanel, warehouse, run_sync):
    html = page(reported(warehouse))
    assert "Nothing was ever loaded" in html
    assert Tables(html).found == {}

    choose = random.Random(1)
    mixpanel.add([first := happened(choose, "ada", "Opened", TODAY)])
    assert run_sync(skip_transform=True).error is None
    assert "the models are not built" in page(reported(warehouse))
    assert run_sync(skip_load=True).error is None
    numbers = reported(warehouse)
    html = page(numbers)
    assert (numbers.from_date, numbers.to_date, numbers.whole_to) == (TODAY, TODAY, None)
    assert shown(html, "days") == [[told(TODAY), "1", "1", "0", "0", "0", "1", "1"]]
    assert "Retention begins with the second week" in html
    assert "A funnel takes at least two metrics" in html

    identified = happened(choose, "ada", "$identify", TODAY)
    identified["properties"] |= {"$identified_id": "ada", "$anon_distinct_id": "$device:1"}
    # Whoever is away for weeks is in none of them.
    away = [happened(choose, "tim", "Opened", TODAY - timedelta(days=ago)) for ago in (35, 2)]
    sent = [first, *traffic(choose), *away]
    mixpanel.add([*sent[1:], identified])
    assert run_sync(full_refresh=True).error is None
    warehouse.execute(
        "update mixpanel_raw.sync_runs set error = '<script>alert(1)</script>' where mode = 'first'"
    )

    steps = ["opens", "order", "joined"]
    for days in (12, 90):
        numbers = reported(warehouse, days, funnel=steps, with_ids=days == 12)
        html = page(numbers)
        window = [day["event_date"] for day in numbers.days]
        assert window[-1] == TODAY
        assert len(window) <= days
        of_days = rows(warehouse, "select * from mixpanel.daily_activity order by 1 desc")
        # In another order than the table's columns.
        expected = [[told(day), *map(str, them)] for day, *them in of_days[: len(window)]]
        assert shown(html, "days") == expected
        for name, metric in METRICS.items():
            (found,) = (each for each in numbers.metrics if each.name == name)
            by_person = counts(sent, metric)
            if metric.get("kind") == "flag":
                by_person = {who: Counter(set(days_of)) for who, days_of in by_person.items()}
            assert found.by_day == [
                sum(days_of[day] for days_of in by_person.values()) for day in window
            ]
            active = [who for who, days_of in by_person.items() if days_of.keys() & set(window)]
            assert found.people == len(active)
        by_day = zip(*(each.by_day for each in numbers.metrics), strict=True)
        expected = [[told(day), *map(str, n)] for day, n in zip(window, by_day, strict=True)]
        assert shown(html, "metric-days") == expected[::-1]
        assert [step.people for step in numbers.funnel] == came(sent, steps, window)
        assert [row[2] for row in shown(html, "steps")] == [
            str(step.people) for step in numbers.funnel
        ]

        people = shown(html, "people")
        if days == 12:
            by_events = rows(
                warehouse,
                "select subscriber_id, events_processed from mixpanel.subscribers "
                "order by events_processed desc, subscriber_id",
            )
            assert [row[:2] for row in people] == [[who, str(n)] for who, n in by_events]
            assert {who for who, _ in by_events}.isdisjoint(PERSONS)

    # Nobody is named who was not asked for.
    assert [row[0] for row in people] == [str(n) for n in range(1, len(by_events) + 1)]
    assert not any(who in html.partition("</style>")[2] for who in ("ada", "bob", "zoe", "device"))
    assert "subscriber_id" not in numbers.as_json()
    retained = {
        (told(week), later): (people, back)
        for week, later, people, back, _ in rows(
            warehouse, "select * from mixpanel.retention_weekly"
        )
    }
    *cohorts, _ = shown(html, "cohorts")
    assert any(0 in cohort.retained for cohort in numbers.cohorts)
    assert len(cohorts) == len({week for week, _ in retained})
    for week, people, *weeks in cohorts:
        assert people == str(retained[week, 0][0])
        for later, cell in enumerate(weeks, 1):
            _, back = retained.get((week, later), (0, 0 if cell else ""))
            assert cell.startswith(str(back))
    ((new, again, runs),) = rows(
        warehouse,
        "select sum(events_new), sum(events_duplicate), count(*) from mixpanel_raw.sync_runs",
    )
    ((_, told_runs, _, _, told_new, _, told_again, _),) = shown(html, "syncs")
    assert (told_runs, told_new, told_again) == (str(runs), str(new), str(again))
    # What is not ours is text.
    assert "&lt;i&gt;Opened" in html
    assert "<script" not in html
    assert "alert(1)" in html


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_what_is_read_is_of_one_instant(warehouse):
    warehouse.execute("create schema mixpanel")
    warehouse.execute("create table mixpanel.numbers (number bigint)")
    with snapshot(warehouse) as seen:
        query = "select count(*) from mixpanel.numbers"
        assert seen.rows(query) == [(0,)]
        warehouse.execute("insert into mixpanel.numbers values (1)")
        assert seen.rows(query) == [(0,)]


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_command_writes_a_page_or_says_why_not(
    warehouse, monkeypatch, tmp_path, capsys, caplog
):
    file = tmp_path / "report.html"
    # A sync runs.
    with warehouse.lock():
        assert main(["report", "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: nothing to show yet.\n"
    written = file.read_text(encoding="utf-8")
    assert "A sync was running: process" in written
    assert [path.name for path in tmp_path.glob("report*")] == ["report.html"]

    assert main(["report", "--output", str(tmp_path / "nowhere" / "report.html")]) == 2
    assert "--output" in caplog.messages[-1]
    assert main(["report", "--funnel", "app_session", "paywall_views"]) == 2
    assert "did you mean app_sessions?" in caplog.messages[-1]

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(["report", "--output", str(file)]) == 2
    assert "pip install vl-convert-python" in caplog.messages[-1]
    assert file.read_text(encoding="utf-8") == written
    capsys.readouterr()
    assert main(["report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["days"] == []
