import json
from datetime import UTC, datetime, timedelta

import pytest
import requests

from local_mixpanel import LocalMixpanel, RateLimit
from tests.local_mixpanel.conftest import DAY

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def ask(server, path="events", **parameters):
    query = {
        "event": '["App Opened", "Never"]',
        "type": "general",
        "unit": "day",
        "from_date": "2026-03-09",
        "to_date": "2026-03-10",
        "project_id": server.project_id,
    } | parameters
    return requests.get(
        f"{server.url}/api/query/{path}",
        params={name: value for name, value in query.items() if value is not None},
        auth=(server.username, server.secret),
        timeout=5,
    )


def opened(server, **parameters):
    return ask(server, **parameters).json()["data"]["values"]["App Opened"]


def test_distinct_events_are_counted_by_name_and_day(mixpanel, event):
    copy = event(**{"$insert_id": "1", "distinct_id": "ada"})
    mixpanel.add([copy, {**copy, "properties": {**copy["properties"], "plan": "pro"}}])
    mixpanel.add([event(), event(), event("Other"), event(second=-1)])
    mixpanel.add_lines(DAY, [b"no event", b'{"event": "App Opened", "properties": {"time": 1}}'])
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
    ],
)
def test_what_is_not_counted_is_refused(mixpanel, parameters, reason):
    answer = ask(mixpanel, **parameters)
    assert answer.status_code == 400
    assert reason in answer.text


def test_names_come_by_frequency(mixpanel, event):
    mixpanel.add([event("A"), event("B"), event("B"), event("C", second=-1)])
    mixpanel.add([event("C"), event("C")])
    assert ask(mixpanel, "events/names").json() == ["C", "B", "A"]
    assert ask(mixpanel, "events/names", limit="1").json() == ["C"]


@pytest.mark.parametrize("path", ["events", "events/names"])
def test_a_plan_may_lack_the_query_api(path):
    with LocalMixpanel(has_query_api=False) as server:
        assert ask(server, path).status_code == 402


def test_queries_and_exports_have_limits_of_their_own(export):
    limit = RateLimit(per_hour=1, per_second=None)
    with LocalMixpanel(rate_limit=limit, today=lambda: DAY) as server:
        assert [ask(server).status_code for _ in range(2)] == [200, 429]
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


def test_events_may_become_visible_later(event):
    clock = [NOW]
    with LocalMixpanel(now=lambda: clock[0]) as server:
        server.add([event()])
        server.add([event()] * 40, visible_from=NOW + timedelta(minutes=30))
        assert (len(server.lines(DAY, DAY)), opened(server)["2026-03-10"]) == (1, 1)
        # Compressed answers are kept, but not beyond the instant at which they change.
        query = {"from_date": "2026-03-10", "to_date": "2026-03-10"}
        address = f"{server.url}/api/2.0/export"
        auth = (server.project_secret, "")
        assert len(requests.get(address, query, auth=auth, timeout=5).text.splitlines()) == 1
        clock[0] += timedelta(minutes=31)
        assert len(requests.get(address, query, auth=auth, timeout=5).text.splitlines()) == 41
        assert (len(server.lines(DAY, DAY)), opened(server)["2026-03-10"]) == (41, 41)


def test_an_export_can_be_filtered(mixpanel, event, export):
    mixpanel.add([event(mp_processing_time_ms=number) for number in range(5)])
    mixpanel.add([event()])
    mixpanel.add_lines(DAY, [b"no event"])
    processed = 'properties["mp_processing_time_ms"]'
    where = f"(number({processed}) >= 1 and number({processed}) < 4) or not defined({processed})"
    lines = export(where=where).text.splitlines()
    assert [json.loads(line)["properties"].get("mp_processing_time_ms") for line in lines] == [
        1,
        2,
        3,
        None,
    ]
    assert [line.encode() for line in lines] == mixpanel.lines(DAY, DAY, where=where)
    assert len(export().text.splitlines()) == 7


def test_faults_can_be_dropped(mixpanel, event, export):
    from local_mixpanel import Fault

    mixpanel.fail(Fault.BAD_GATEWAY, times=3)
    assert export().status_code == 502
    mixpanel.forgive()
    assert export().status_code == 200
