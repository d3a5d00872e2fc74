"""Who is told how runs end: a webhook of failure and recovery, a heartbeat of each success."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from local_mixpanel import Fault
from local_mixpanel.answers import Answer, text
from local_mixpanel.http_server import HttpServer, Request
from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.redaction import hide, redacted
from mixpanel_pipeline.runs import notifications
from mixpanel_pipeline.runs.pipeline import audit, sync
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.conftest import NOW
from tests.warehouses import rows

HOUR = timedelta(hours=1)
WEBHOOK = "/services/T0001/B0002/s3cr3tw3bh00k"
HEARTBEAT = "/5f0c-s3cr3th34rtb34t"
ON_DUCKDB = pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)


def event(who="ada", ago=HOUR):
    identity = {"time": int((NOW - ago).timestamp()), "distinct_id": who, "$insert_id": who}
    return {"event": "$ae_session", "properties": identity}


class Receiver:
    """Takes what is sent, and answers with a status."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.status = 200

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        return text(self.status, "ok")

    @property
    def texts(self) -> list[str]:
        """What the webhook was told since it was last asked."""
        posts = [one for one in self.requests if one.path == WEBHOOK]
        self.requests = [one for one in self.requests if one not in posts]
        assert all(one.method == "POST" for one in posts)
        return [json.loads(one.body)["text"] for one in posts]

    @property
    def beats(self) -> list[str]:
        """What was asked of the heartbeat since it was last asked."""
        beats = [one.target for one in self.requests if one.path.startswith(HEARTBEAT)]
        self.requests = [one for one in self.requests if one.target not in beats]
        return beats


@pytest.fixture
def receiver(monkeypatch):
    receiver = Receiver()
    server = HttpServer(0, receiver.answer)
    server.start()
    monkeypatch.setenv("SOURCES__MIXPANEL__WEBHOOK_URL", server.url + WEBHOOK)
    monkeypatch.setenv("SOURCES__MIXPANEL__HEARTBEAT_URL", f"{server.url}{HEARTBEAT}?create=1")
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "1")
    yield receiver
    server.close()


def test_failures_and_the_first_success_after_them_are_told(
    mixpanel, warehouse, run_sync, receiver
):
    mixpanel.add([event()])
    assert run_sync(skip_transform=True).status == "ok"
    assert (receiver.texts, receiver.beats) == ([], [f"{HEARTBEAT}?create=1"])

    mixpanel.fail(Fault.GZIP_CUT_AND_CLOSED, times=2)
    for hours in (1, 2):
        failed = run_sync(now=NOW + hours * HOUR, skip_transform=True)
        (told,) = receiver.texts
        assert told == (
            f"Mixpanel sync failed (project 1234567, incremental, {warehouse.name}, "
            f"run {failed.run_id}): {failed.error}"
        )
        assert receiver.beats == [f"{HEARTBEAT}/fail?create=1"]

    with warehouse.lock():
        assert run_sync(skip_transform=True).status == "skipped"
    assert receiver.requests == []

    run = run_sync(now=NOW + 3 * HOUR, skip_transform=True)
    assert receiver.texts == [
        "Mixpanel sync succeeds again, after 2 failed runs since 2026-03-10 13:00 UTC "
        f"(project 1234567, incremental, {warehouse.name}, run {run.run_id})."
    ]
    assert receiver.beats == [f"{HEARTBEAT}?create=1"]
    run_sync(now=NOW + 4 * HOUR, skip_transform=True)
    assert receiver.texts == []


@ON_DUCKDB
def test_an_audit_tells_of_counts_that_differ_and_is_no_heartbeat(
    mixpanel, warehouse, run_sync, receiver
):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    assert receiver.beats
    assert audit(warehouse, load_configuration(), now=NOW).status == "equal"
    assert receiver.requests == []
    mixpanel.add([event("eve", 50 * HOUR)])
    assert audit(warehouse, load_configuration(), now=NOW).status == "differing"
    (told,) = receiver.texts
    assert told.startswith("Mixpanel audit: 1 count differs from Mixpanel's own (project 1234567")
    # A sync's failure and an audit's are two things.
    warehouse.execute("update mixpanel_raw.sync_runs set status = 'failed' where mode = 'audit'")
    run_sync(now=NOW + HOUR, skip_transform=True)
    assert receiver.texts == []
    healed = audit(warehouse, load_configuration(), now=NOW, heal=True, skip_transform=True)
    assert healed.status == "healed"
    (told,) = receiver.texts
    assert told.startswith("Mixpanel audit succeeds again, after 2 failed runs")
    assert receiver.beats == [f"{HEARTBEAT}?create=1"]


@ON_DUCKDB
def test_what_a_database_says_of_events_is_told_to_nobody_else(
    mixpanel, warehouse, run_sync, receiver
):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    # The database says why, and might do so with a value of an event.
    warehouse.execute("create or replace table mixpanel_raw.loads_begun as select true as load_id")
    failed = run_sync(now=NOW + HOUR, skip_transform=True)
    assert failed.error is not None
    assert "Binder Error" in failed.error
    (told,) = receiver.texts
    assert "Binder" not in told
    assert told.endswith(
        f"duckdb at {warehouse.location} failed; the record of runs says more: "
        "python pipelines/run.py status"
    )


@ON_DUCKDB
@pytest.mark.parametrize("is_named", [True, False])
def test_a_wrong_configuration_is_told_once_and_so_is_the_recovery(
    mixpanel, warehouse, receiver, monkeypatch, capsys, is_named
):
    monkeypatch.setenv("SOURCES__MIXPANEL__REGION", "mars")
    if is_named:
        assert main(["--skip-transform", "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["status"] == "failed"
    else:
        with pytest.raises(ConfigurationError):
            sync(now=NOW)
    (told,) = receiver.texts
    assert "wrong configuration" in told
    assert "region is 'mars'" in told
    assert receiver.beats == [f"{HEARTBEAT}/fail?create=1"]
    monkeypatch.setenv("SOURCES__MIXPANEL__REGION", "eu")
    assert sync(now=NOW, skip_transform=True).status == "ok"
    (told,) = receiver.texts
    assert "succeeds again, after 1 failed run since" in told


@ON_DUCKDB
def test_a_dataset_of_another_project_is_told_once(
    mixpanel, warehouse, run_sync, receiver, monkeypatch
):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    assert receiver.texts == []
    monkeypatch.setenv("SOURCES__MIXPANEL__PROJECT_ID", "7654321")
    assert main(["--skip-transform"]) == 2
    (told,) = receiver.texts
    assert "were loaded with '1234567'" in told
    statuses = rows(warehouse, "select status from mixpanel_raw.sync_runs order by id")
    assert statuses == [("ok",), ("failed",)]


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing, until the end."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                over.wait()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/s3cr3t-path-of-the-webhook"
        over.set()


@ON_DUCKDB
def test_whoever_cannot_be_told_costs_a_sync_a_line(
    mixpanel, warehouse, run_sync, receiver, monkeypatch, capfd, caplog
):
    monkeypatch.setattr(notifications, "_LONGEST_SECONDS", 0.2)
    receiver.status = 404
    with silent() as url:
        monkeypatch.setenv("SOURCES__MIXPANEL__WEBHOOK_URL", url)
        # Its today is not that of Mixpanel here.
        assert main(["--skip-transform", "--verbose"]) == 1
    monkeypatch.setenv("SOURCES__MIXPANEL__HEARTBEAT_URL", "http://127.0.0.1:1/s3cr3t-p4th-here")
    monkeypatch.delenv("SOURCES__MIXPANEL__WEBHOOK_URL")
    assert run_sync(skip_transform=True).status == "ok"
    told = [line for line in caplog.messages if "was not told" in line]
    ending = "The run itself is not affected."
    assert told[0].startswith("webhook_url was not told how the run ended: ")
    assert told[1:] == [
        f"heartbeat_url was not told how the run ended: it answered 404. {ending}",
        f"heartbeat_url was not told how the run ended: the request failed "
        f"(ConnectionError). {ending}",
    ]
    everything = "".join(capfd.readouterr()) + caplog.text
    assert "s3cr3t" not in everything


def test_a_url_that_is_a_secret_is_in_no_text():
    hide(f"https://chat.example{WEBHOOK}")
    for said in (f"url: {WEBHOOK} (Caused by)", f"https://chat.example{WEBHOOK}?x=1"):
        assert "s3cr3t" not in redacted(said)


@pytest.mark.parametrize("name", ["webhook_url", "heartbeat_url"])
def test_a_url_that_is_none_is_refused_without_being_shown(mixpanel, monkeypatch, name):
    monkeypatch.setenv(f"SOURCES__MIXPANEL__{name.upper()}", "hooks.example/s3cr3t")
    with pytest.raises(ConfigurationError, match="has to begin with http") as refused:
        load_configuration()
    assert name in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
    monkeypatch.setenv(f"SOURCES__MIXPANEL__{name.upper()}", "")
    load_configuration()


@ON_DUCKDB
def test_markup_in_a_message_is_text(mixpanel, warehouse, receiver, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__REGION", "<!channel>")
    with pytest.raises(ConfigurationError):
        sync(now=NOW)
    (told,) = receiver.texts
    assert "&lt;!channel&gt;" in told
