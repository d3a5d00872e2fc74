"""`run.py plan`: what it says is what the sync then does, and it writes and asks nothing."""

import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.runs import run
from mixpanel_pipeline.runs.dry_run import plan
from mixpanel_pipeline.source import budget
from mixpanel_pipeline.source import plan as cutting
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from mixpanel_pipeline.source.window import Window
from tests.conftest import NOW, point_at
from tests.warehouses import rows

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def event(name="$ae_session", ago=0, who="ada", **more):
    moment = NOW - ago * DAY
    stamps = {"time": int(moment.timestamp()), "mp_processing_time_ms": moment.timestamp() * 1000}
    return {"event": name, "properties": stamps | {"distinct_id": who, "$insert_id": who} | more}


@pytest.fixture
def written(warehouse, tmp_path):
    """Tells what is stored anywhere: files with their times, and on PostgreSQL all rows."""
    folders = [tmp_path, Path(os.environ["DBT_TARGET_PATH"])]
    if warehouse.name == "duckdb":
        folders.append(warehouse.path.parent)

    def written():
        files = {
            path: (path.stat().st_mtime_ns, path.is_file() and hashlib.md5(path.read_bytes()))
            for folder in folders
            for path in [folder, *folder.rglob("*")]
            if path.exists()
        }
        found: dict[str, object] = {
            str(path): (time, digest and digest.hexdigest())
            for path, (time, digest) in files.items()
        }
        if warehouse.name == "postgres":
            schemas = (
                "table_schema not in ('pg_catalog', 'information_schema') "
                "and table_type = 'BASE TABLE'"
            )
            tables = "select table_schema || '.' || table_name from information_schema.tables "
            for (table,) in rows(warehouse, f"{tables} where {schemas}"):
                digest = f"select md5(string_agg(t::text, ',' order by t::text)) from {table} as t"
                found[table] = rows(warehouse, digest)
            found["schemas"] = rows(warehouse, "select nspname from pg_namespace order by 1")
        return found

    return written


@pytest.fixture
def planned(mixpanel, warehouse, written):
    """What `plan` says, which is made sure to have written and asked nothing."""

    def planned(now=NOW, **arguments):
        before, asked = written(), len(mixpanel.requests)
        found = plan(warehouse, load_configuration(), now=now, **arguments)
        assert written() == before
        assert len(mixpanel.requests) == asked
        assert json.loads(found.as_json())["destination"] == warehouse.name
        return found

    return planned


@pytest.fixture
def builds(monkeypatch):
    """What dbt was called for, by what the plan calls it."""
    begun = []
    transform = getattr(run, "transform")  # noqa: B009

    def noted(*arguments, **options):
        is_everything = options["with_views"] or options["full_refresh"]
        begun.append("everything" if is_everything else "tables")
        transform(*arguments, **options)

    monkeypatch.setattr(run, "transform", noted)
    return begun


@pytest.fixture
def as_planned(mixpanel, planned, run_sync, builds):
    """Plans a sync, does it, and makes sure that it did what was planned; returns the plan."""

    def as_planned(now=NOW, **arguments):
        found = planned(now, **arguments)
        exports = len(mixpanel.exports)
        summary = run_sync(now=now, **arguments)
        assert summary.status == "ok"
        assert (found.mode, found.from_date, found.to_date) == (
            summary.mode,
            summary.from_date,
            summary.to_date,
        )
        sent = found.requests["events"] + found.requests.get("evidence", 0)
        assert len(mixpanel.exports) - exports == sent
        assert sum(found.requests.values()) == summary.requests
        assert (found.days_missing, found.missing_since) == (
            summary.days_missing,
            summary.missing_since,
        )
        built = found.build_of_new if summary.events_new else found.build
        assert builds == [built] * (built not in (None, "nothing"))
        builds.clear()
        return found

    return as_planned


def test_a_sync_does_what_was_planned(mixpanel, warehouse, planned, as_planned, monkeypatch):
    mixpanel.add([event(ago=ago, who=f"ada-{ago}") for ago in range(60)])
    first = as_planned()
    assert (first.mode, first.build, first.watermark) == ("first", "everything", None)
    assert (first.is_at_least, first.compared_runs, first.requests_left) == (True, 0, 60)
    assert first.build_why == "nothing is known to be built"

    nothing_new = as_planned(NOW + HOUR / 2)
    assert (nothing_new.mode, nothing_new.build) == ("incremental", "nothing")
    assert nothing_new.why is not None
    assert "watermark 2026-03-10 12:00:00 UTC, less 2 h of lookback" in nothing_new.why
    assert nothing_new.requests_left == 56
    assert nothing_new.expected_events == 1

    with monkeypatch.context() as changed:
        changed.setenv("DBT_SOMETHING", "else")
        assert "has changed. If a metric has" in (planned().build_why or "")
    mixpanel.add([event(who="new"), event("Viewed", ago=9)])
    assert as_planned().build_of_new == "tables"

    names = json.dumps([*(nothing_new.names or [[]])[0][1:], "Viewed"])
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", names)
    more = as_planned(skip_transform=True)
    assert (more.days_missing, more.build) == (44, None)
    assert "2026-01-25" in (more.missing or "")

    days = Window((NOW - 50 * DAY).date(), (NOW - 46 * DAY).date())
    backfill = as_planned(backfill=days, skip_transform=True)
    assert (backfill.mode, backfill.watermark) == ("backfill", NOW)

    refresh = as_planned(full_refresh=True)
    assert (refresh.mode, refresh.build, refresh.from_date) == (
        "full_refresh",
        "everything",
        (NOW - 44 * DAY).date(),
    )
    assert "lack names" in (refresh.why or "")
    assert rows(warehouse, "select count(*) from mixpanel_raw.events where event = 'Viewed'") == [
        (1,)
    ]


def test_arrivals_are_planned_as_they_are_read(mixpanel, warehouse, as_planned, monkeypatch):
    monkeypatch.setenv("SOURCES__MIXPANEL__CURSOR", "processed_at")
    monkeypatch.setenv("SOURCES__MIXPANEL__EVIDENCE_OF_ALL_EVENTS", "true")
    mixpanel.add([event(ago=ago + 0.01, who=f"ada-{ago}") for ago in range(3, 60)])
    first = as_planned(NOW - 3 * DAY, skip_transform=True)
    assert (first.requests["events"], first.requests["evidence"]) == (4, 4)
    found = as_planned(NOW - 3 * DAY + HOUR, skip_transform=True)
    assert "what arrived since then, of the days from arrival_days = 5 before on" in found.why
    # Days that had not begun then are asked for once more.
    later = as_planned(NOW, skip_transform=True)
    assert (later.from_date, later.requests["events"]) == ((NOW - 8 * DAY).date(), 4)
    monkeypatch.setenv("SOURCES__MIXPANEL__CURSOR", "occurred_at")
    changed = as_planned(NOW, skip_transform=True)
    assert "cursor was changed from processed_at to occurred_at" in changed.why


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_what_large_answers_take_is_known_from_earlier_runs(
    mixpanel, warehouse, planned, as_planned, run_sync, monkeypatch
):
    monkeypatch.setattr(cutting, "REQUEST_BYTES", 10_500)
    names = ["$ae_session", *(f"{number:03} {'x' * 200}" for number in range(50))]
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", json.dumps(names))
    # As much of each day, whether it travels alone or with others.
    mixpanel.add(
        [event(ago=ago, who=str(ago), text=Random(ago).randbytes(2000).hex()) for ago in range(60)]
    )
    assert planned(skip_transform=True).is_at_least
    run_sync(backfill=Window((NOW - 40 * DAY).date(), NOW.date()), skip_transform=True)
    found = as_planned(full_refresh=True, skip_transform=True)
    assert found.names is not None
    assert len(found.names) == 2
    assert (found.is_at_least, found.compared_runs, found.expected_events) == (False, 1, 45)
    assert found.requests["events"] > 2 * 9
    assert found.expected_mb is not None
    assert 0.09 < found.expected_mb < 0.12


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_what_would_wait_is_told(mixpanel, warehouse, planned, run_sync, monkeypatch):
    run_sync(now=NOW - HOUR / 2, skip_transform=True)
    monkeypatch.setenv("SOURCES__MIXPANEL__REQUESTS_PER_HOUR", "5")
    monkeypatch.setenv("SOURCES__MIXPANEL__AUDIT_AFTER_SYNC", "7")
    monkeypatch.setenv("SOURCES__MIXPANEL__PROFILES", "true")
    found = planned(full_refresh=True)
    assert found.requests == {"events": 3}
    waits = " ".join(found.waits)
    assert "2 of 3 exports wait for the hour's requests, until about 2026-03-10 12:30" in waits
    assert "The audit is left out: it needs 5 requests, and the hour has 0." in waits
    assert "Profiles and cohorts are left to a later sync" in waits
    monkeypatch.setenv("SOURCES__MIXPANEL__MAX_WAIT_MINUTES", "5")
    assert "The sync would give up" in planned(full_refresh=True).waits[0]
    with warehouse.lock():
        assert "process" in (planned().running or "")


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_sweeps_and_the_audit_are_planned(warehouse, run_sync, monkeypatch):
    monkeypatch.setattr(budget, "_PER_SECOND", 1000)
    for name in ("PROFILES", "COHORTS", "LEXICON"):
        monkeypatch.setenv(f"SOURCES__MIXPANEL__{name}", "true")
    monkeypatch.setenv("SOURCES__MIXPANEL__AUDIT_AFTER_SYNC", "3")
    with LocalMixpanel(today=lambda: (NOW + DAY).date(), profiles_per_page=2) as server:
        point_at(server, monkeypatch)
        server.profiles.set({who: {} for who in "abc"})
        server.add([event()])

        def said(now):
            return plan(warehouse, load_configuration(), now=now)

        assert said(NOW).sweeps["all profiles"] == "due"
        run_sync(skip_transform=True)
        assert said(NOW).sweeps["all profiles"] == "not due until 2026-03-11 12:00:00 UTC"
        found = said(NOW + DAY)
        assert (found.requests["profiles"], found.sweeps["all profiles"]) == (2, "due")
        assert found.requests.pop("lexicon") == 1
        assert sum(found.requests.values()) == run_sync(NOW + DAY, skip_transform=True).requests
        warehouse.execute("update mixpanel_raw.sweeps set finished_at = null, next_page = 1")
        found = said(NOW + DAY)
        assert found.sweeps["all profiles"] == "gone on with at page 2"


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_record_of_an_older_version_is_read(mixpanel, warehouse, planned, run_sync):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    for column in ("bytes", "names_checked", "events_denied"):
        warehouse.execute(f"alter table mixpanel_raw.sync_runs drop column {column}")
    assert (planned().mode, planned().expected_events) == ("incremental", None)
    warehouse.execute("drop table mixpanel_raw.sync_runs")
    assert (planned().mode, planned().watermark) == ("incremental", NOW)


def test_what_was_denied_is_as_missing_as_the_sync_says(
    mixpanel, warehouse, as_planned, monkeypatch
):
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", "all")
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS_DENIED", '["100%"]')
    mixpanel.add([event(name, ago) for ago in range(4) for name in ("100%", "Viewed")])
    as_planned(NOW - DAY, skip_transform=True)
    assert as_planned(skip_transform=True).days_missing is None
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS_DENIED", "[]")
    assert as_planned(skip_transform=True).days_missing == 45


def test_a_watermark_that_cannot_be_read_is_planned_as_it_is_loaded(
    mixpanel, warehouse, as_planned
):
    mixpanel.add([event(ago=ago) for ago in range(60)])
    as_planned(skip_transform=True)
    warehouse.execute("update mixpanel_raw._dlt_pipeline_state set state = 'x'")
    found = as_planned(skip_transform=True)
    assert (found.mode, found.watermark) == ("first", None)
    assert "no watermark that can be read" in (found.why or "")


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_sync_that_would_be_refused_is_refused(
    mixpanel, warehouse, planned, run_sync, monkeypatch, capsys
):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    monkeypatch.setenv("SOURCES__MIXPANEL__PROJECT_ID", "7654321")
    with pytest.raises(ConfigurationError, match="were loaded with '1234567'"):
        planned()
    assert main(["plan"]) == 2
    assert "were loaded with" in capsys.readouterr().err
    monkeypatch.setenv("SOURCES__MIXPANEL__EVENTS", '["Viewed"]')
    assert main(["plan"]) == 2
    assert "events lacks" in capsys.readouterr().err


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_the_command_tells_people_and_programs(mixpanel, warehouse, written, capsys):
    before = written()
    assert main(["plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mode"] == "first"
    assert main(["plan"]) == 0
    out = capsys.readouterr().out
    assert "there is no watermark yet: the initial window of 45 days" in " ".join(out.split())
    assert "Nothing was written" in out
    assert written() == before
    assert main(["plan", "--skip-load", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["mode"], told["build"]) == (None, "everything")
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--from-date", "2026-01-01"])
    assert ended.value.code == 2
    capsys.readouterr()
    # A file of DuckDB's by its beginning alone.
    warehouse.path.write_bytes(bytes(8) + b"DUCK" + bytes(20_000))
    assert main(["plan"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert f"{warehouse.path} cannot be read: " in told.err
