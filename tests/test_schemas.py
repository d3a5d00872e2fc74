"""Two projects side by side in one database: each has its schemas, whose names are configured."""

import os
from datetime import timedelta
from typing import Any, cast

import pytest
from dbt.cli.main import dbtRunner

from local_mixpanel import LocalMixpanel
from mixpanel_pipeline.engines import Schemas, open_warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.transform import dbt_folders, transform
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from tests import recount
from tests.conftest import NOW, point_at
from tests.warehouses import rows, subscribers

SHOP = {"dataset_name": "shop_raw", "mart_schema": "shop"}


def event(who: str, hours_ago: int = 0) -> dict[str, Any]:
    time = int((NOW - timedelta(hours=hours_ago)).timestamp())
    return {"event": "$ae_session", "properties": {"time": time, "distinct_id": who}}


def configure(monkeypatch, **names):
    for name in ("dataset_name", "mart_schema"):
        monkeypatch.delenv(f"SOURCES__MIXPANEL__{name.upper()}", raising=False)
    for name, value in names.items():
        monkeypatch.setenv(f"SOURCES__MIXPANEL__{name.upper()}", value)


def test_two_projects_in_one_database_never_meet(mixpanel, warehouse, monkeypatch):
    target = os.environ["DBT_TARGET_PATH"]
    with LocalMixpanel(project_id="7654321", today=lambda: NOW.date()) as shop:
        for turn in range(2):
            for server, names in ((mixpanel, {}), (shop, SHOP)):
                point_at(server, monkeypatch)
                configure(monkeypatch, **names)
                monkeypatch.setenv("DBT_TARGET_PATH", f"{target}-{len(names)}" if names else target)
                server.add([event("ada", turn), event(f"{server.project_id}-{turn}")])
                found = open_warehouse(None)
                # Neither waits for the other, which may be syncing.
                other = warehouse if names else open_with(monkeypatch, SHOP)
                with other.lock():
                    summary = sync(found, load_configuration(), now=NOW)
                assert (summary.error, summary.events_new) == (None, 2)
                assert summary.mode == ("incremental" if turn else "first")
        for server, names in ((mixpanel, {}), (shop, SHOP)):
            lines = server.lines(NOW.date(), NOW.date())
            expected = recount.subscribers(recount.deliver({}, lines).values())
            assert len(expected) == 3
            assert subscribers(open_with(monkeypatch, names)) == expected


def open_with(monkeypatch, names):
    with monkeypatch.context() as patch:
        configure(patch, **names)
        return open_warehouse(None)


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_a_dataset_goes_on_under_the_name_that_its_schemas_were_given(
    mixpanel, warehouse, run_sync, monkeypatch
):
    mixpanel.add([event("ada", hours_ago=1)])
    assert run_sync(skip_transform=True).mode == "first"
    warehouse.execute("alter schema mixpanel_raw rename to shop_raw")
    warehouse.execute("alter schema mixpanel_raw_staging rename to shop_raw_staging")
    mixpanel.add([event("eve")])
    renamed = open_with(monkeypatch, SHOP)
    summary = sync(renamed, load_configuration(), now=NOW, skip_transform=True)
    assert (summary.mode, summary.events_new) == ("incremental", 1)
    assert rows(warehouse, "select count(*) from shop_raw.events") == [(2,)]


# What another project's models leave, in brief.
SHOPS_MODELS = (
    "create schema shop_raw; create table shop_raw._dlt_loads (load_id text); "
    "create view mixpanel.stg_mixpanel__events as select * from shop_raw._dlt_loads"
)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (
            "create table mixpanel._dlt_loads (load_id text)",
            "mart_schema is 'mixpanel'.*raw events",
        ),
        (
            "create table mixpanel_raw.counted_loads (load_id text)",
            "dataset_name is 'mixpanel_raw'.*holds counts",
        ),
        (
            SHOPS_MODELS,
            "mart_schema is 'mixpanel'.*counts the events of shop_raw.*another mart_schema",
        ),
    ],
)
def test_schemas_of_another_project_are_left_alone(warehouse, made, problem):
    warehouse.execute("create schema mixpanel_raw; create schema mixpanel")
    warehouse.execute(made)
    with pytest.raises(ConfigurationError, match=problem), warehouse.lock():
        pass
    assert not warehouse.has_table("mixpanel_raw", "sync_lock")


def test_dbt_by_hand_leaves_the_models_of_another_project_alone(warehouse):
    warehouse.execute("create schema mixpanel")
    warehouse.execute(SHOPS_MODELS)
    view = "select view_definition from information_schema.views where table_schema = 'mixpanel'"
    before = rows(warehouse, view)
    with pytest.raises(SyncError, match="counts the events of shop_raw, not of mixpanel_raw"):
        transform(warehouse, full_refresh=True)
    assert rows(warehouse, view) == before


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"dataset_name": "Shop"}, "a to z"),
        ({"dataset_name": "shop-raw"}, "a to z"),
        ({"dataset_name": "1shop"}, "a to z"),
        ({"dataset_name": "shop__raw"}, "single underscores"),
        ({"mart_schema": "shop_"}, "a to z"),
        ({"mart_schema": 'shop"; drop schema mixpanel; --'}, "a to z"),
        ({"mart_schema": "größe"}, "a to z"),
        ({"dataset_name": "x" * 56}, "56 characters, and may have 55"),
        ({"mart_schema": "information_schema"}, "the database's own"),
        ({"mart_schema": "main"}, "the database's own"),
        ({"mart_schema": "public"}, "the database's own"),
        ({"dataset_name": "pg_raw"}, "the database's own"),
        ({"mart_schema": "mixpanel_raw_staging"}, "stages"),
        ({"dataset_name": "order"}, "word of SQL"),
        ({"mart_schema": "user"}, "word of SQL"),
        ({"mart_schema": "mixpanel_raw"}, "both 'mixpanel_raw'"),
    ],
)
def test_what_cannot_be_a_schema_of_ours_is_refused(names, problem):
    with pytest.raises(ConfigurationError, match=problem) as refused:
        Schemas(**names)
    assert f"sources.mixpanel.{next(iter(names))}" in str(refused.value) or "both" in problem


def test_the_longest_name_is_one(monkeypatch):
    assert len(Schemas("x" * 55, "y" * 55).staging) == 63


def plain_dbt(*arguments):
    folders = ["--project-dir", "dbt_project", "--profiles-dir", "dbt_project"]
    return dbtRunner().invoke(["--quiet", "--log-level-file", "none", *arguments, *folders])


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_dataset_is_not_named_without_its_models(warehouse, monkeypatch):
    configure(monkeypatch, dataset_name="shop_raw")
    with pytest.raises(ConfigurationError, match=r"mart_schema is not set.*like 'shop'"):
        open_warehouse(None)
    assert "SOURCES__MIXPANEL__MART_SCHEMA" in str(plain_dbt("list").exception)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_plain_dbt_reads_the_names_from_the_environment(warehouse, monkeypatch, tmp_path):
    configure(monkeypatch, **SHOP)
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    keys = ["--output", "json", "--output-keys", "schema"]
    result = plain_dbt("list", "--resource-types", "model", "source", *keys)
    assert set(cast(list[str], result.result)) == {'{"schema": "shop"}', '{"schema": "shop_raw"}'}


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_files_of_two_projects_are_apart(warehouse, monkeypatch):
    monkeypatch.delenv("DBT_TARGET_PATH")
    names = [{}, SHOP, SHOP | {"mart_schema": "shop_eu"}]
    found = [open_with(monkeypatch, each) for each in names]
    assert len({dbt_folders(each)[0] for each in found}) == 3
    assert found[0].fingerprint != found[1].fingerprint == found[2].fingerprint
