"""On PostgreSQL, what others built on the models and were granted stays, and nobody waits."""

from contextlib import closing

import pytest
import yaml

from tests.children import start_command
from tests.conftest import NOW
from tests.warehouses import rows, subscribers

pytestmark = [
    pytest.mark.parametrize("warehouse", ["postgres"], indirect=True),
    pytest.mark.usefixtures("built"),
]

VIEWS = ("stg_mixpanel__events", "event_lateness", "subscriber_windows", "sync_health")


def event(who="ada", name="$ae_session"):
    return {"event": name, "properties": {"time": int(NOW.timestamp()), "distinct_id": who}}


@pytest.fixture
def kept(warehouse):
    """Returns every view and table, by its identity, with who may read it."""

    def kept():
        return rows(
            warehouse,
            "select c.oid, n.nspname, c.relname, c.relacl::text from pg_class c "
            "join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname in ('analysts', 'mixpanel') and c.relkind in ('v', 'r') order by 1",
        )

    return kept


@pytest.fixture
def analyst(warehouse, kept):
    """Builds views on every model, lets everybody read, and returns what is to be kept."""

    def build():
        warehouse.execute("create schema analysts")
        for name in (*VIEWS, "subscribers"):
            columns = "subscriber_id, app_sessions" if name == "subscribers" else "*"
            warehouse.execute(
                f"create view analysts.my_{name} as select {columns} from mixpanel.{name};"
                f"grant select on mixpanel.{name} to public"
            )
        return kept()

    return build


def test_views_and_grants_of_others_survive_whatever_is_built(
    mixpanel, warehouse, run_sync, analyst, kept, metrics
):
    mixpanel.add([event()])
    assert run_sync().status == "ok"
    before = analyst()
    mixpanel.add([event("eve")])
    assert run_sync().error is None
    assert kept() == before
    assert run_sync(full_refresh=True).error is None
    assert kept() == before
    metrics(lambda declared: declared.update(again={"event": "$ae_session"}))
    metrics(lambda declared: declared.pop("paywall_views"))
    assert run_sync(full_refresh=True).error is None
    assert kept() == before
    assert {who: row["again"] for who, row in subscribers(warehouse).items()} == {
        "ada": 1,
        "eve": 1,
    }
    assert rows(warehouse, "select * from analysts.my_subscribers order by 1") == [
        ("ada", 1),
        ("eve", 1),
    ]
    # None is of the last days; but there is the column that others may read.
    assert rows(warehouse, "select paywall_views from analysts.my_subscriber_windows") == []


def test_a_column_that_others_use_is_not_dropped(
    mixpanel, warehouse, run_sync, analyst, kept, metrics
):
    mixpanel.add([event()])
    run_sync()
    before = analyst()
    stored = subscribers(warehouse)
    metrics(lambda declared: declared.pop("app_sessions"))
    failed = run_sync(full_refresh=True)
    assert failed.status == "failed"
    assert "analysts.my_subscribers" in str(failed.error)
    assert "app_sessions" in str(failed.error)
    assert "cascade" not in str(failed.error).lower()
    assert kept() == before
    assert subscribers(warehouse) == stored
    warehouse.execute("drop view analysts.my_subscribers")
    metrics(lambda declared: declared.update(one={"event": "$ae_session"}))
    assert run_sync(full_refresh=True).error is None
    assert "app_sessions" not in subscribers(warehouse)["ada"]


def test_an_open_reader_holds_nobody_up(mixpanel, warehouse, run_sync, monkeypatch):
    mixpanel.add([event()])
    run_sync()
    mixpanel.add([event("eve")])
    # Whoever had to wait would fail.
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=2s")
    with closing(warehouse.connect()) as reader, closing(reader.cursor()) as cursor:
        for name in (*VIEWS, "subscribers"):
            cursor.execute(f"select * from mixpanel.{name}")
        assert run_sync().error is None
        assert run_sync(full_refresh=True).error is None
        with closing(warehouse.connect()) as other, closing(other.cursor()) as second:
            second.execute("select count(*) from mixpanel.subscribers")
            assert second.fetchone() == (2,)
        cursor.execute("select count(*) from mixpanel.subscribers")
        assert cursor.fetchone() == (2,)


def edit(copy, model, old, new):
    path = copy / model
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_view_whose_sql_changed_is_replaced_in_place(
    mixpanel, warehouse, run_sync, analyst, kept, dbt_project
):
    mixpanel.add([event()])
    run_sync()
    before = analyst()
    edit(
        dbt_project,
        "models/staging/stg_mixpanel__events.sql",
        "    events.distinct_id,",
        "    cast(upper(events.distinct_id) as varchar) as distinct_id,\n    7 as seven,",
    )
    assert run_sync().error is None
    assert kept() == before
    assert rows(warehouse, "select distinct_id, seven from mixpanel.stg_mixpanel__events") == [
        ("ADA", 7)
    ]


def test_a_view_that_loses_a_column_keeps_its_grants_and_refuses_to_break_others(
    mixpanel, warehouse, run_sync, analyst, kept, dbt_project
):
    mixpanel.add([event()])
    run_sync()
    before = analyst()
    edit(
        dbt_project,
        "models/staging/stg_mixpanel__events.sql",
        "    events.replaced_characters,\n",
        "",
    )
    failed = run_sync()
    assert failed.status == "failed"
    assert "analysts.my_stg_mixpanel__events" in str(failed.error)
    assert kept() == before
    warehouse.execute("drop view analysts.my_stg_mixpanel__events, analysts.my_event_lateness")
    assert run_sync().error is None
    names = {name: acl for _, schema, name, acl in kept() if schema == "mixpanel"}
    assert all("=r/" in names[name].replace("mixpanel=", "") for name in VIEWS)
    assert "replaced_characters" not in warehouse.columns("mixpanel", "stg_mixpanel__events")


def test_who_holds_a_view_that_must_change_is_told(mixpanel, warehouse, run_sync, dbt_project):
    mixpanel.add([event()])
    run_sync()
    edit(dbt_project, "models/marts/sync_health.sql", "<= 7", "<= 8")
    with closing(warehouse.connect()) as reader, closing(reader.cursor()) as cursor:
        cursor.execute("select * from mixpanel.sync_health")
        holder = f"process {reader.info.backend_pid} of mixpanel"
        failed = run_sync()
    assert failed.status == "failed"
    assert holder in str(failed.error)
    assert run_sync().error is None


def test_two_dbt_by_hand_at_once_both_succeed(mixpanel, warehouse, run_sync, tmp_path, monkeypatch):
    mixpanel.add([event()])
    run_sync(skip_transform=True)
    both = []
    for number, arguments in enumerate([[], ["--full-refresh"]]):
        monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / f"target{number}"))
        both.append(start_command("dbt", "run", *arguments))
    for ended in both:
        done = ended()
        assert done.returncode == 0, done.stdout
    assert subscribers(warehouse)["ada"]["app_sessions"] == 1


def test_grants_are_configured_as_in_any_dbt_project(mixpanel, warehouse, run_sync, dbt_project):
    path = dbt_project / "dbt_project.yml"
    declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    declared["models"]["mixpanel"]["+grants"] = {"select": ["pg_monitor"]}
    path.write_text(yaml.safe_dump(declared, sort_keys=False), encoding="utf-8")
    may = "select has_table_privilege('pg_monitor', 'mixpanel.{}', '{}')"
    for who, options in (("ada", {}), ("eve", {}), ("bob", {"full_refresh": True})):
        mixpanel.add([event(who)])
        assert run_sync(**options).error is None
        for name in (*VIEWS, "subscribers"):
            assert rows(warehouse, may.format(name, "select")) == [(True,)]
        # Where grants are configured, dbt takes away all others.
        assert rows(warehouse, may.format("subscribers", "insert")) == [(False,)]
        warehouse.execute("grant insert on mixpanel.subscribers to pg_monitor")
