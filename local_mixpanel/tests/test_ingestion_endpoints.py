import base64
import gzip
import json
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
import requests
from mixpanel import BufferedConsumer, Consumer, Mixpanel, MixpanelException
from mixpanel.credentials import ServiceAccountCredentials  # type: ignore[import-untyped]

from local_mixpanel import LocalMixpanel

Export = Callable[..., requests.Response]

DAY = date(2026, 3, 10)
NOON = int(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp())


def properties(server: LocalMixpanel, day: date = DAY) -> list[dict[str, Any]]:
    return [json.loads(line)["properties"] for line in server.lines(day, day)]


def consumer(server: LocalMixpanel, kind: Any = Consumer, **options: Any) -> Any:
    return kind(events_url=f"{server.url}/track", import_url=f"{server.url}/import", **options)


def post(server: LocalMixpanel, path: str, **options: Any) -> requests.Response:
    return requests.post(f"{server.url}{path}", timeout=5, **options)


def test_event_tracked_by_the_official_sdk_can_be_exported(
    mixpanel: LocalMixpanel, export: Export
) -> None:
    before_ms = time.time_ns() // 1_000_000
    Mixpanel("any token", consumer=consumer(mixpanel)).track(
        "subscriber", "Viewed Creator Profile", {"creatorType": "premium", "time": NOON}
    )
    after_ms = time.time_ns() // 1_000_000

    event = export().json()
    assert event["event"] == "Viewed Creator Profile"
    stored = event["properties"]
    assert stored["distinct_id"] == "subscriber"
    assert stored["creatorType"] == "premium"
    assert stored["time"] == NOON
    assert len(stored["$insert_id"]) == 32
    assert before_ms <= stored["mp_processing_time_ms"] <= after_ms
    assert before_ms <= stored["$mp_api_timestamp_ms"] <= after_ms
    assert "token" not in stored
    assert "$import" not in stored


def test_sdk_tracks_now_by_its_own_clock() -> None:
    with LocalMixpanel() as server:
        Mixpanel("any token", consumer=consumer(server)).track("subscriber", "App Opened")
        (stored,) = (
            json.loads(line)["properties"] for line in server.lines(date(2020, 1, 1), date.max)
        )

    assert abs(stored["time"] - time.time()) < 60


def test_sdk_imports_with_a_service_account(mixpanel: LocalMixpanel, export: Export) -> None:
    account = ServiceAccountCredentials(mixpanel.username, mixpanel.secret, mixpanel.project_id)
    sdk = Mixpanel("any token", consumer=consumer(mixpanel, credentials=account))
    sdk.import_data(None, "subscriber", "SubscriptionCreated", NOON)

    assert export().json()["properties"]["$import"] is True


def test_sdk_imports_with_the_project_secret(mixpanel: LocalMixpanel) -> None:
    sdk = Mixpanel("any token", consumer=consumer(mixpanel))
    sdk.import_data(
        None, "subscriber", "SubscriptionCreated", NOON, api_secret=mixpanel.project_secret
    )

    assert len(properties(mixpanel)) == 1


def test_sdk_buffers_and_sends_batches(mixpanel: LocalMixpanel) -> None:
    account = ServiceAccountCredentials(mixpanel.username, mixpanel.secret, mixpanel.project_id)
    buffered = consumer(mixpanel, BufferedConsumer, max_size=20, credentials=account)
    sdk = Mixpanel("any token", consumer=buffered)
    for number in range(45):
        sdk.track("subscriber", "App Opened", {"time": NOON, "number": number})
        sdk.import_data(None, "subscriber", "Imported", NOON, {"number": number})
    buffered.flush()

    for name in ("App Opened", "Imported"):
        lines = mixpanel.lines(DAY, DAY, [name])
        assert [json.loads(line)["properties"]["number"] for line in lines] == list(range(45))
    assert [request.path for request in mixpanel.requests].count("/track") == 3


def test_sdk_fails_with_wrong_secret_and_nothing_is_stored(mixpanel: LocalMixpanel) -> None:
    account = ServiceAccountCredentials(mixpanel.username, "wrong", mixpanel.project_id)
    sdk = Mixpanel("any token", consumer=consumer(mixpanel, credentials=account))

    with pytest.raises((MixpanelException, KeyError)):
        sdk.import_data(None, "subscriber", "SubscriptionCreated", NOON)

    assert properties(mixpanel) == []
    assert mixpanel.requests[-1].status == 401


def test_configured_token_is_required() -> None:
    with LocalMixpanel(token="right") as server:
        Mixpanel("right", consumer=consumer(server)).track("s", "A", {"time": NOON})
        with pytest.raises(MixpanelException, match="token"):
            Mixpanel("wrong", consumer=consumer(server)).track("s", "B", {"time": NOON})
        imported = post(
            server,
            "/import",
            json=[{"event": "C", "properties": {"time": NOON}}],
            auth=("right", ""),
        )

        assert imported.status_code == 200
        assert len(server.lines(DAY, DAY, ["A", "C"])) == len(server.lines(DAY, DAY)) == 2


@pytest.mark.parametrize(
    "auth",
    [None, ("wrong", ""), ("local.service-account", "local-secret")],
    ids=["none", "wrong", "without project_id"],
)
def test_import_needs_credentials(mixpanel: LocalMixpanel, auth: tuple[str, str] | None) -> None:
    event = {"event": "A", "properties": {"time": NOON}}

    response = post(mixpanel, "/import", json=[event], auth=auth)

    assert response.status_code == 401
    assert response.json() == {
        "code": 401,
        "error": "Invalid credentials",
        "status": "Unauthorized",
    }
    assert properties(mixpanel) == []


def test_import_of_json_counts_its_records(mixpanel: LocalMixpanel) -> None:
    events = [{"event": "A", "properties": {"time": NOON}} for _ in range(3)]

    response = post(
        mixpanel,
        "/import",
        params={"strict": "1", "project_id": mixpanel.project_id},
        data=gzip.compress(json.dumps(events).encode()),
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        auth=(mixpanel.username, mixpanel.secret),
    )

    assert response.json() == {"code": 200, "status": "OK", "num_records_imported": 3}
    assert len(properties(mixpanel)) == 3


def test_track_answers_as_short_or_verbose_as_asked(mixpanel: LocalMixpanel) -> None:
    event = {"event": "A", "properties": {"time": NOON}}

    assert post(mixpanel, "/track", json=event).text == "1"
    assert post(mixpanel, "/track?verbose=1", json=[event]).json() == {"status": 1, "error": None}
    verbose = {"data": json.dumps(event), "verbose": "1"}
    assert post(mixpanel, "/track", data=verbose).json() == {"status": 1, "error": None}
    encoded = base64.b64encode(json.dumps(event).encode()).decode()
    assert post(mixpanel, "/track", data={"data": encoded}).text == "1"
    assert len(properties(mixpanel)) == 4


def test_time_is_taken_in_seconds_and_in_milliseconds(mixpanel: LocalMixpanel) -> None:
    for sent in (NOON, NOON * 1000 + 7, NOON + 0.007):
        post(mixpanel, "/track", json={"event": "A", "properties": {"time": sent}})

    assert [p["time"] for p in properties(mixpanel)] == [NOON] * 3
    in_ms = mixpanel.lines(DAY, DAY, time_in_ms=True)
    assert [json.loads(line)["properties"]["time"] for line in in_ms] == [
        NOON * 1000,
        NOON * 1000 + 7,
        NOON * 1000 + 7,
    ]


def test_missing_insert_ids_are_generated_and_given_ones_kept(mixpanel: LocalMixpanel) -> None:
    for given in ({}, {}, {"$insert_id": "mine"}):
        post(mixpanel, "/track", json={"event": "A", "properties": {"time": NOON, **given}})

    first, second, third = (p["$insert_id"] for p in properties(mixpanel))
    assert first != second
    assert third == "mine"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="no body"),
        pytest.param({"data": {"data": "{"}}, id="no JSON"),
        pytest.param({"data": {"data": "%%%"}}, id="neither JSON nor base64"),
        pytest.param({"json": ["A"]}, id="no object"),
        pytest.param({"json": {"properties": {}}}, id="no name"),
        pytest.param({"json": {"event": "A"}}, id="no properties"),
        pytest.param({"json": {"event": "A", "properties": {"time": "soon"}}}, id="no time"),
        pytest.param(
            {
                "data": b'{"event": "A", "properties": {"time": 1, "x": NaN}}',
                "headers": {"Content-Type": "application/json"},
            },
            id="NaN",
        ),
        pytest.param(
            {
                "data": b'{"event": "A", "properties": {"time": 1e999}}',
                "headers": {"Content-Type": "application/json"},
            },
            id="time beyond all numbers",
        ),
        pytest.param({"data": b"\x1f\x8b", "headers": {"Content-Encoding": "gzip"}}, id="cut gzip"),
        pytest.param({"data": b"\xff"}, id="no UTF-8"),
    ],
)
def test_what_is_no_event_is_refused(mixpanel: LocalMixpanel, options: dict[str, Any]) -> None:
    tracked = post(mixpanel, "/track?verbose=1", **options)
    imported = post(mixpanel, "/import", auth=(mixpanel.project_secret, ""), **options)

    assert tracked.status_code == imported.status_code == 400
    assert tracked.json()["status"] == 0
    assert imported.json()["status"] == "Bad Request"
    assert mixpanel.lines(date(1, 1, 2), date.max) == []


def test_import_needs_a_time_that_track_can_do_without(mixpanel: LocalMixpanel) -> None:
    event = {"event": "A", "properties": {}}

    assert post(mixpanel, "/track", json=event).text == "1"
    refused = post(mixpanel, "/import", json=[event], auth=(mixpanel.project_secret, ""))
    assert refused.status_code == 400


def test_body_without_a_length_is_refused(mixpanel: LocalMixpanel) -> None:
    assert post(mixpanel, "/track", data=iter([b"{}"])).status_code == 411
