from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixpanel_pipeline.engines.positions import row_groups, rows_without
from mixpanel_pipeline.events.decoding import EVENTS
from mixpanel_pipeline.runs.new_events import NewEvents
from mixpanel_pipeline.source import answer

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def delivered(tmp_path):
    """Writes a file of events, given as (key, copy order), in row groups of a size."""

    def delivered(events, *, group=2, moment=NOON, name="delivered"):
        path = tmp_path / f"{name}.parquet"
        rows = [
            dict.fromkeys(EVENTS.names)
            | {"event_key": key, "copy_order": order, "occurred_at": moment}
            | {"event": "App Opened", "properties": f'{{"order":{order}}}'}
            | {"replaced_characters": 0}
            for key, order in events
        ]
        pq.write_table(pa.Table.from_pylist(rows, EVENTS), path, row_group_size=group)
        return path

    return delivered


def selected(warehouse, *files):
    return [
        (row["event_key"], row["copy_order"])
        for table in rows_without(row_groups(files), NewEvents(warehouse).not_new(files))
        for row in table.to_pylist()
    ]


def test_of_copies_the_last_one_processed_is_new(warehouse, delivered):
    file = delivered([("a", 2), ("b", 1), ("a", 3), ("c", 1), ("a", 1), ("b", 1)])
    # Of two that were processed at the same place, either one.
    assert selected(warehouse, file) == [("a", 3), ("c", 1), ("b", 1)]


def test_copies_are_found_in_several_files(warehouse, delivered):
    files = [
        delivered([("a", 2), ("b", 1), ("c", 1)], name="it's the first"),
        delivered([], name="nothing"),
        delivered([("d", 1), ("a", 3), ("b", 0), ("e", 1)], name="last"),
    ]
    # Of copies in several, one of the first stays, whether or not they are committed together.
    assert selected(warehouse, *files) == [("a", 2), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]


def test_nothing_is_new_in_nothing(warehouse, delivered):
    assert selected(warehouse, delivered([])) == []


@pytest.mark.parametrize("moved", [timedelta(0), timedelta(hours=26), timedelta(hours=-26)])
def test_what_is_loaded_is_not_new(warehouse, delivered, run_sync, mixpanel, moved):
    properties = {"time": int(NOON.timestamp()), "distinct_id": "ada", "$insert_id": "i1"}
    mixpanel.add([{"event": "$ae_session", "properties": properties}])
    assert run_sync(now=NOON, skip_transform=True).events_new == 1
    loaded = warehouse.value("select event_key from mixpanel_raw.events")
    first = delivered([("a", 1), ("c", 1)], moment=NOON + moved, name="first")
    last = delivered([(loaded, 1), ("b", 1)], moment=NOON + moved, name="last")
    assert selected(warehouse, first, last) == [("a", 1), ("c", 1), ("b", 1)]


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_what_a_failed_connection_left_half_copied_does_not_count(
    warehouse, run_sync, mixpanel, monkeypatch
):
    """A load is copied on several connections, so one may fail when another has committed."""
    monkeypatch.setattr(answer, "BLOCK_BYTES", 2_000)
    noon = int(NOON.timestamp())

    def happen(first, count):
        mixpanel.add(
            {
                "event": "$ae_session",
                "properties": {"time": noon - number, "$insert_id": f"i{number}", "text": "x" * 90},
            }
            for number in range(first, first + count)
        )

    happen(0, 100)
    assert run_sync(now=NOON, skip_transform=True).events_new == 100
    happen(100, 100)
    warehouse.execute(
        "alter table mixpanel_raw.events add constraint refused check (insert_id <> 'i199') "
        "not valid"
    )
    failed = run_sync(now=NOON, skip_transform=True)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "refused" in failed.error
    assert 100 < warehouse.value("select count(*) from mixpanel_raw.events") < 200
    warehouse.execute("alter table mixpanel_raw.events drop constraint refused")
    assert run_sync(now=NOON).events_new == 100
    assert warehouse.value("select count(*) from mixpanel_raw.events") == 200
    assert warehouse.value("select count(*) from mixpanel.stg_mixpanel__events") == 200
