"""What the project says of tables and columns stands in the database, as comments."""

import yaml

from mixpanel_pipeline import project
from mixpanel_pipeline.runs.transform import call_dbt
from tests.conftest import NOW
from tests.warehouses import rows

STORED = {
    "duckdb": (
        "select schema_name, table_name, null, comment from duckdb_tables() union all "
        "select schema_name, view_name, null, comment from duckdb_views() union all "
        "select schema_name, table_name, column_name, comment from duckdb_columns()"
    ),
    "postgres": (
        "select nspname, relname, attname, description from pg_class "
        "join pg_namespace on pg_namespace.oid = relnamespace "
        "join pg_description on objoid = pg_class.oid and classoid = 'pg_class'::regclass "
        "left join pg_attribute on attrelid = objoid and attnum = objsubid and attnum > 0"
    ),
}
# Whatever ends a literal somewhere, and what Jinja or a driver would take for its own.
AWKWARD = 'It\'s "so": $$ $dbt_comment_literal_block$ \\ 100 % %s {x} ;--'


def event(who="ada"):
    identity = {"time": int(NOW.timestamp()), "distinct_id": who, "$insert_id": who}
    return {"event": "$ae_session", "properties": identity}


def stored(warehouse):
    """The comments of our schemas, by schema, relation and column; None for the relation's own."""
    return {
        (schema, relation, column): comment
        for schema, relation, column, comment in warehouse.rows(STORED[warehouse.name])
        if schema in ("mixpanel", "mixpanel_raw") and comment
    }


def documented():
    """The same of what the files of the project describe, and of what is built by default."""
    found = {}
    for path in project.DBT_PACKAGE.glob("models/*/*.yml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        sources = {source["name"]: source["tables"] for source in content.get("sources", [])}
        for schema, tables in (
            ("mixpanel", content.get("models", [])),
            ("mixpanel_raw", sources.get("mixpanel", [])),
        ):
            for table in tables:
                # There is none without `event_columns`.
                if (schema, table["name"]) == ("mixpanel", "events"):
                    continue
                found[schema, table["name"], None] = table["description"]
                for column in table["columns"]:
                    found[schema, table["name"], column["name"]] = column["description"]
    return found


def test_every_description_is_in_the_database_and_follows_the_project(
    mixpanel, warehouse, run_sync, metrics, dbt_project
):
    mixpanel.add([event()])
    assert run_sync().error is None
    said = documented()
    found = stored(warehouse)
    assert said.keys() - found.keys() == set()
    assert {
        key: text for key, text in said.items() if "{" not in text and found[key] != text.strip()
    } == {}
    metric = ("mixpanel", "subscribers", "app_sessions")
    assert found[metric].startswith("Sessions in the app")
    assert found["mixpanel", "subscriber_days", "app_sessions"] == found[metric]

    # Nobody else's comment is taken away, and a description that changes is written.
    own = ("mixpanel", "subscribers", "income")
    warehouse.execute("comment on column mixpanel.subscribers.income is 'ours'")
    metrics(lambda declared: declared["app_sessions"].update(description=AWKWARD))
    mixpanel.add([event("eve")])
    assert run_sync().error is None
    changed = found | {own: "ours", metric: AWKWARD}
    changed["mixpanel", "subscriber_days", "app_sessions"] = AWKWARD
    about = ("mixpanel", "subscribers", None)
    assert stored(warehouse) == changed | {about: stored(warehouse)[about]}


def test_neither_a_sync_nor_a_rebuild_changes_comments(mixpanel, warehouse, run_sync):
    mixpanel.add([event()])
    assert run_sync().error is None
    before = stored(warehouse), written(warehouse)
    mixpanel.add([event("eve")])
    assert run_sync().error is None
    assert call_dbt(warehouse, ["run", "--full-refresh"]).success
    assert (stored(warehouse), written(warehouse)) == before


def written(warehouse):
    """The versions of the comments' rows, where there are any: a row written anew has another."""
    if warehouse.name == "duckdb":
        return []
    return rows(warehouse, "select xmin::text, objoid, objsubid from pg_description order by 2, 3")
