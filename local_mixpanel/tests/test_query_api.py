import json
from datetime import UTC, datetime, timedelta

import pytest
import requests

from local_mixpanel import LocalMixpanel, RateLimit, traffic
from local_mixpanel.tests.conftest import DAY

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def get(server, path, parameters):
    return requests.get(
        f"{server.url}/api/query/{path}",
        params={name: value for name, value in parameters.items() if value is not None},
        auth=(server.username, server.secret),
        timeout=5,
    )


def ask(server, **parameters):
    query = {
        "event": '["App Opened", "Never"]',
        "type": "general",
        "unit": "day",
        "from_date": "2026-03-09",
        "to_date": "2026-03-10",
        "project_id": server.project_id,
    }
    return get(server, "events", query | parameters)


def ask_names(server, **parameters):
    query = {"type": "general", "project_id": server.project_id}
    return get(server, "events/names", query | parameters)


def opened(server, **parameters):
    return ask(server, **parameters).json()["data"]["values"]["App Opened"]


def test_distinct_events_are_counted_by_name_and_day(mixpanel, event):
    copy = event(**{"$insert_id": "1", "distinct_id": "ada"})
    mixpanel.add([copy, {**copy, "properties": {**copy["properties"], "plan": "pro"}}])
    mixpanel.add([event(), event(), event("Other"), event(second=-1)])
    answer = ask(mixpanel)
    assert answer.json() == {
        "data": {
            "series": ["2026-03-09", "2026-03-10"],
            "values": {
                "App Opened": {"2026-03-09": 1, "2026-03-10": 3},
                "Never": {"2026-03-09": 0, "2026-03-10": 0},
            },
        },
        "legend_size": 2,
    }
    assert mixpanel.requests[-1].path == "/api/query/events"


def test_events_without_an_insert_id_count_as_often_as_they_are_there(mixpanel, event):
    mixpanel.add([event()] * 3 + [event(**{"$insert_id": ""})] * 2)
    assert opened(mixpanel)["2026-03-10"] == 5


def test_days_of_a_window_reach_to_both_its_ends(mixpanel, event):
    mixpanel.add([event(second=86_399 - 2 * 86_400), event(second=-86_400), event(second=86_399)])
    assert opened(mixpanel) == {"2026-03-09": 1, "2026-03-10": 1}
    assert opened(mixpanel, to_date="2026-03-09") == {"2026-03-09": 1}


def test_lines_that_are_events_count_on_the_day_they_were_added_to(mixpanel, event):
    line = b'{"event": "App Opened", "properties": {"time": 1, "$insert_id": "1"}}'
    mixpanel.add_lines(DAY, [line, line], event="Other")
    mixpanel.add_lines(DAY, [line.replace(b'"1"', b"[2]"), b'{"event": "App Opened"}'])
    mixpanel.add_lines(DAY, [b"no event", b"[]", b"\xff", b"[" * 100_000, b'{"properties": {}}'])
    mixpanel.add_lines(DAY, [line.replace(b'"1"', b'"3"').decode().encode("utf-16")])
    mixpanel.add_lines(DAY, [b'{"event": "App Opened", "properties": {}}'])
    assert opened(mixpanel) == {"2026-03-09": 0, "2026-03-10": 2}
    assert ask_names(mixpanel).json() == ["App Opened"]


@pytest.mark.parametrize("other", [{"time": 1}, {"distinct_id": "eve"}, {"$insert_id": "2"}])
def test_what_differs_in_its_identity_is_no_copy(mixpanel, event, other):
    one = event(**{"$insert_id": "1", "distinct_id": "ada"})
    second = {**one["properties"], **other}
    if "time" in other:
        second["time"] = one["properties"]["time"] + 1
    mixpanel.add([one, {**one, "properties": second}])
    assert opened(mixpanel)["2026-03-10"] == 2


def test_compaction_keeps_the_last_copy_of_a_calendar_day(mixpanel, event):
    ids = {"$insert_id": "1", "distinct_id": "ada"}
    mixpanel.add([event(second=second, **ids) for second in (5, 9, 7)])
    mixpanel.add([event(second=-5, **ids), event(), event()])
    mixpanel.compact()
    assert opened(mixpanel) == {"2026-03-09": 1, "2026-03-10": 3}
    times = [json.loads(line)["properties"]["time"] for line in mixpanel.lines(DAY, DAY)]
    midnight = int(datetime(2026, 3, 10, tzinfo=UTC).timestamp())
    assert times == [midnight + 7, midnight, midnight]


def test_compaction_leaves_alone_what_is_no_copy(mixpanel, event):
    ids = {"$insert_id": "1", "distinct_id": "ada"}
    events = [event(**ids), event("Other", **ids), event(**ids | {"distinct_id": "eve"})]
    mixpanel.add([*events, event(**ids | {"$insert_id": "2"})])
    mixpanel.add_lines(DAY, [b"no event"] * 2)
    before = mixpanel.lines(DAY, DAY)
    mixpanel.compact()
    assert mixpanel.lines(DAY, DAY) == before


def test_copy_that_is_not_visible_yet_replaces_none(event):
    clock = [NOW]
    ids = {"$insert_id": "1", "distinct_id": "ada"}
    with LocalMixpanel(now=lambda: clock[0], today=lambda: DAY) as server:
        server.add([event(), event(**ids)])
        server.add([event(second=5, **ids)], visible_from=NOW + timedelta(hours=1))
        server.compact()
        assert len(server.lines(DAY, DAY)) == 2
        clock[0] += timedelta(hours=1)
        server.compact()
        seconds = [json.loads(line)["properties"]["time"] for line in server.lines(DAY, DAY)]
        assert [second % 86_400 for second in seconds] == [0, 5]


def test_exports_go_on_while_lines_are_removed(mixpanel, export):
    mixpanel.add(traffic(1, DAY, days=1, events=20_000))
    whole = export().content
    with export(stream=True) as response:
        beginning = response.raw.read(1, decode_content=True)
        assert mixpanel.delete({f"nobody {number}" for number in range(3)}) == 0
        mixpanel.compact()
        assert beginning + response.raw.read(decode_content=True) == whole
    assert len(export().content) < len(whole)


def test_ids_of_any_type_belong_to_nobody_who_is_deleted(mixpanel, event):
    mixpanel.add([event(distinct_id=[1]), event(distinct_id={}), event(distinct_id=7)])
    mixpanel.add([event(distinct_id=None), event(distinct_id="a")])
    assert mixpanel.delete(["7", "None"]) == 0
    assert mixpanel.delete(["a"]) == 1
    assert len(mixpanel.lines(DAY, DAY)) == 4


def test_deleted_people_vanish_before_they_are_visible(event):
    clock = [NOW]
    with LocalMixpanel(now=lambda: clock[0], today=lambda: DAY) as server:
        server.add([event(distinct_id="ada")], visible_from=NOW + timedelta(hours=1))
        assert server.delete({"ada"}) == 1
        clock[0] += timedelta(hours=1)
        assert server.lines(DAY, DAY) == []


def test_deleted_people_vanish(mixpanel, event):
    mixpanel.add([event(distinct_id="ada"), event(distinct_id="eve"), event()])
    mixpanel.add_lines(DAY, [b"no event"])
    assert mixpanel.delete({"eve", "nobody"}) == 1
    assert opened(mixpanel)["2026-03-10"] == 2
    assert len(mixpanel.lines(DAY, DAY)) == 3


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"type": "unique"}, "type=general"),
        ({"unit": "hour"}, "unit=day"),
        ({"event": None}, "event is a required parameter"),
        ({"event": "App Opened"}, "JSON array"),
        ({"from_date": None}, "from_date is a required parameter"),
        ({"from_date": "2026-03-11"}, "earlier"),
        ({"project_id": None}, "project_id"),
        ({"type": None}, "type=general"),
        ({"unit": None}, "unit=day"),
        ({"to_date": "2026-03-11"}, "later than today"),
        ({"where": "1 == 1"}, "does not support: where"),
        ({"interval": "7"}, "does not support: interval"),
    ],
)
def test_what_is_not_counted_is_refused(mixpanel, parameters, reason):
    answer = ask(mixpanel, **parameters)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert reason in answer.text


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"type": "average"}, "type=general"),
        ({"type": None}, "type=general"),
        ({"limit": "0"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"limit": "9" * 5_000}, "limit"),
        ({"unit": "day"}, "does not support: unit"),
        ({"project_id": None}, "project_id"),
    ],
)
def test_names_that_cannot_be_told_are_refused(mixpanel, parameters, reason):
    answer = ask_names(mixpanel, **parameters)
    assert answer.status_code == 400
    assert reason in answer.text


@pytest.mark.parametrize("path", ["events", "events/names"])
@pytest.mark.parametrize(
    ("auth", "project_id", "status"),
    [
        (("wrong", ""), "1234567", 401),
        (("local.service-account", "local-secret"), "7654321", 403),
        (("local-project-secret", ""), "1234567", 400),
    ],
)
def test_queries_need_the_credentials_of_an_export(mixpanel, path, auth, project_id, status):
    url = f"{mixpanel.url}/api/query/{path}"
    assert requests.get(url, {"project_id": project_id}, auth=auth, timeout=5).status_code == status


def test_names_come_by_frequency(mixpanel, event):
    mixpanel.add([event("A"), event("B"), event("B"), event("C", second=-1)])
    mixpanel.add([event("C"), event("C")])
    assert ask_names(mixpanel).json() == ["C", "B", "A"]
    assert ask_names(mixpanel, limit="1").json() == ["C"]
    assert mixpanel.requests[-1].path == "/api/query/events/names"


def test_copies_make_no_name_more_common(mixpanel, event):
    mixpanel.add([event("A", **{"$insert_id": "1"})] * 3 + [event("B")] * 2)
    assert ask_names(mixpanel).json() == ["B", "A"]


def test_255_names_come_unless_told(mixpanel, event):
    mixpanel.add([event(f"Event {number}") for number in range(300)])
    assert len(ask_names(mixpanel).json()) == 255
    assert len(ask_names(mixpanel, limit="5000").json()) == 300


def test_names_are_those_of_31_days(mixpanel, event):
    mixpanel.add([event(f"{days} days ago", second=-days * 86_400) for days in (0, 30, 31, -1)])
    assert sorted(ask_names(mixpanel).json()) == ["0 days ago", "30 days ago"]


@pytest.mark.parametrize("question", [ask, ask_names])
def test_a_plan_may_lack_the_query_api(question):
    with LocalMixpanel(has_query_api=False) as server:
        answer = question(server)
        assert question(server, project_id="7654321").status_code == 403
        url = f"{server.url}/api/2.0/export"
        assert requests.get(url, auth=(server.project_secret, ""), timeout=5).status_code == 400
    assert answer.status_code == 402
    assert answer.json() == {
        "error": "Your plan does not allow API calls. Upgrade at mixpanel.com/pricing",
        "status": "error",
    }


def test_queries_and_exports_have_limits_of_their_own():
    limit = RateLimit(per_hour=1, per_second=None)
    with LocalMixpanel(rate_limit=limit, today=lambda: DAY) as server:
        assert ask(server, unit="hour").status_code == 400
        assert [ask(server).status_code for _ in range(2)] == [200, 429]
        assert ask_names(server).status_code == 429
        answer = requests.get(
            f"{server.url}/api/2.0/export",
            params={
                "from_date": DAY.isoformat(),
                "to_date": DAY.isoformat(),
                "project_id": server.project_id,
            },
            auth=(server.username, server.secret),
            timeout=5,
        )
        assert answer.status_code == 200
