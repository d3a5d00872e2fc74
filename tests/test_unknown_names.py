"""Names that Mixpanel does not have are told once, and asking for them costs a sync nothing."""

import json
import logging
import socket
import threading

import pytest

from local_mixpanel import LocalMixpanel, RateLimit
from mixpanel_pipeline.runs import unknown_names
from mixpanel_pipeline.runs.unknown_names import absent_names, names_to_check, tell_unknown
from mixpanel_pipeline.source import client as client_module
from mixpanel_pipeline.source.budget import RequestBudget
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.configuration import load_configuration
from tests.conftest import NOW, point_at
from tests.warehouses import rows

NAMES = "/api/query/events/names"


def event(name):
    return {"event": name, "properties": {"time": int(NOW.timestamp()), "distinct_id": "ada"}}


def asked_for_names(mixpanel):
    return sum(request.path == NAMES for request in mixpanel.requests)


def never(seconds):
    raise AssertionError(f"waited {seconds} s")


def client(**budget):
    return MixpanelClient(load_configuration(), RequestBudget(**budget), sleep=never)


def answer_once(listener, raw):
    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(raw)

    threading.Thread(target=answer, daemon=True).start()


@pytest.fixture
def no_metrics(metrics):
    metrics(lambda declared: declared.clear())


def test_a_name_that_mixpanel_does_not_have_is_told_once(
    mixpanel, warehouse, run_sync, no_metrics, monkeypatch, caplog
):
    mixpanel.add([event("Recipe Viewed"), event("RECIPE SAVED"), event("Signed Up")])
    names = ["Recipe Viewed", "Recipe Veiwed", "Recipe Saved", "zzz\0"]
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", json.dumps(names))
    for _ in range(2):
        assert run_sync(skip_transform=True).status == "ok"
    assert caplog.text.count("no event of these names") == 1
    assert '"Recipe Veiwed" (nearest: "Recipe Viewed"' in caplog.text
    assert '"Recipe Saved" (nearest: "RECIPE SAVED"' in caplog.text
    assert r'"zzz\u0000". What counts them is 0' in caplog.text
    assert "$identify" not in caplog.text
    assert asked_for_names(mixpanel) == 1
    runs = "select names_checked, requests from mixpanel_raw.sync_runs order by id"
    (checked, sent), (unchecked, _) = rows(warehouse, runs)
    assert (json.loads(checked), unchecked) == (sorted(names), None)
    assert sent == len(mixpanel.requests) - 1
    caplog.clear()
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", json.dumps([*names, "Signed Upp"]))
    assert run_sync(skip_transform=True).status == "ok"
    assert '"Signed Upp" (nearest: "Signed Up")' in caplog.text


def test_names_that_have_events_are_not_asked_about(
    mixpanel, warehouse, run_sync, no_metrics, monkeypatch
):
    mixpanel.add([event("A"), event("B")])
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", '["A", "B", "$merge"]')
    assert run_sync(skip_transform=True).status == "ok"
    assert asked_for_names(mixpanel) == 0
    assert absent_names(warehouse, ["A", "C"]) == ["C"]


def test_what_a_metric_counts_is_expected_and_what_tells_identities_is_not(metrics):
    metrics(lambda declared: declared.update(more={"event": "Mistyped"}))
    assert "Mistyped" in names_to_check(None)
    names = ["A", "$create_alias", "$identify", "$merge", "$hotshard_events"]
    assert set(names_to_check(names)) & set(names) == {"A"}


def test_a_name_that_mixpanel_has_is_not_warned_of(mixpanel, caplog):
    mixpanel.add([event("A")])
    assert tell_unknown(client(), ["A"])
    assert caplog.text == ""


def test_many_unknown_names_are_told_in_a_few_words(mixpanel, caplog):
    mixpanel.add([event("A")])
    assert tell_unknown(client(), [f"Unknown {number:02}" for number in range(30)])
    assert '"Unknown 09" and 20 more.' in caplog.text
    assert "Unknown 10" not in caplog.text


def test_a_list_that_is_cut_off_says_nothing_of_a_name(mixpanel, monkeypatch, caplog):
    mixpanel.add([event("A"), event("B")])
    for module in (client_module, unknown_names):
        monkeypatch.setattr(module, "LONGEST_LIST_OF_NAMES", 2)
    assert tell_unknown(client(), ["C"])
    assert caplog.text == ""


def test_a_plan_without_the_query_api_is_not_asked_again(monkeypatch, caplog):
    with LocalMixpanel(today=lambda: NOW.date(), has_query_api=False) as server:
        point_at(server, monkeypatch)
        assert tell_unknown(client(), ["A"])
        assert asked_for_names(server) == 1
    assert caplog.text == ""


def test_a_rate_limit_is_not_waited_out_for_names(monkeypatch, caplog):
    limit = RateLimit(per_hour=1, per_second=None)
    with LocalMixpanel(today=lambda: NOW.date(), rate_limit=limit) as server:
        point_at(server, monkeypatch)
        assert tell_unknown(client(), ["A"])
        caplog.clear()
        assert not tell_unknown(client(), ["A"])
        assert asked_for_names(server) == 2
    assert caplog.text == ""


def test_names_leave_most_of_the_hour_to_events(mixpanel, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__REQUESTS_PER_HOUR", "10")
    assert not tell_unknown(client(per_hour=10, spent=[1, 2, 3, 4, 5]), ["A"])
    assert asked_for_names(mixpanel) == 0
    assert tell_unknown(client(per_hour=10, spent=[1, 2, 3, 4]), ["A"])


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(None, id="silence"),
        pytest.param(b"", id="hangs up"),
        pytest.param(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", id="500"),
        pytest.param(b"HTTP/1.1 503 No\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n", id="503"),
        pytest.param(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", id="404"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", id="no JSON"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", id="another form"),
    ],
)
def test_a_failure_to_tell_names_is_no_failure_of_a_sync(mixpanel, monkeypatch, caplog, raw):
    monkeypatch.setattr(client_module, "_IMPATIENT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("SOURCES__MIXPANEL__BASE_URL", url)
        if raw is not None:
            answer_once(listener, raw)
        assert not tell_unknown(client(), ["A"])
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
