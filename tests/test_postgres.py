"""What only PostgreSQL can do to a sync."""

import itertools
import os
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import psycopg2
import pytest
from adbc_driver_postgresql import dbapi
from psycopg2 import sql

from mixpanel_pipeline.engines import Postgres, open_warehouse
from mixpanel_pipeline.engines.postgres import _PostgresClient, _PostgresEvents
from mixpanel_pipeline.engines.postgres_connection import Credentials, check_server
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs.pipeline import sync
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.runs.working_directory import working_directory
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.children import start_sync
from tests.conftest import NOW
from tests.warehouses import rows, subscribers

pytestmark = pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
_roles = itertools.count()


def happen(mixpanel, *names, moment=NOW):
    mixpanel.add(
        {
            "event": "$ae_session",
            "properties": {
                "time": int(moment.timestamp()),
                "distinct_id": name,
                "$insert_id": name,
            },
        }
        for name in names
    )


def end_lock(warehouse):
    """End the connection that holds the lock, as a failover or an administrator does."""
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        connection.autocommit = True
        cursor.execute(
            "select pg_terminate_backend(pid, 10000) from pg_locks where locktype = 'advisory' "
            "and database = (select oid from pg_database where datname = current_database())"
        )
        assert cursor.fetchall() == [(True,)]


@pytest.fixture
def between(monkeypatch):
    """Does something once, before a method is called the next time."""

    def between(owner, name, action):
        method = getattr(owner, name)

        def with_action(*arguments):
            monkeypatch.setattr(owner, name, method)
            action()
            return method(*arguments)

        monkeypatch.setattr(owner, name, with_action)

    return between


def counted_once(warehouse, names):
    assert {who: row["app_sessions"] for who, row in subscribers(warehouse).items()} == (
        dict.fromkeys(names, 1)
    )
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(len(names),)]


def test_a_sync_that_lost_its_lock_fails_and_loads_nothing(warehouse, mixpanel, run_sync, between):
    happen(mixpanel, "ada")
    assert run_sync(skip_transform=True).status == "ok"
    happen(mixpanel, "eve")
    # After the copy, before the completion.
    between(_PostgresClient, "complete_load", lambda: end_lock(warehouse))
    failed = run_sync()
    assert failed.status == "failed"
    assert rows(warehouse, "select count(*) from mixpanel_raw.events") == [(2,)]
    assert rows(warehouse, "select status from mixpanel_raw.sync_runs order by id") == [
        ("ok",),
        ("failed",),
    ]
    assert run_sync().events_new == 1
    counted_once(warehouse, {"ada", "eve"})


@pytest.mark.parametrize(
    "moment",
    [(Postgres, "query_delivered"), (_PostgresEvents, "run"), (_PostgresClient, "complete_load")],
    ids=["before_reading", "before_copying", "before_completing"],
)
def test_a_second_sync_that_takes_a_lost_lock_loads_all_and_the_first_nothing(
    warehouse, mixpanel, run_sync, between, moment
):
    happen(mixpanel, "ada")
    assert run_sync(skip_transform=True).status == "ok"
    happen(mixpanel, "eve")

    def lose_it():
        end_lock(warehouse)
        second = start_sync(NOW)
        second.join()
        assert second.exitcode == 0

    between(*moment, lose_it)
    assert run_sync().status == "failed"
    counted_once(warehouse, {"ada", "eve"})
    assert run_sync().events_new == 0
    counted_once(warehouse, {"ada", "eve"})


def test_what_lost_its_lock_writes_no_events_completes_and_removes_nothing(warehouse, run_sync):
    """Also where the server keeps no lock, as behind a pooler that is not known as one."""
    assert run_sync(skip_transform=True).status == "ok"
    with warehouse.lock():
        assert len(warehouse.rows(warehouse.still_held)) == 1
        warehouse.execute("update mixpanel_raw.sync_lock set token = 'of another sync'")
        assert warehouse.rows(warehouse.still_held) == []
        with pytest.raises(Exception, match="lock on mixpanel_raw was lost"):
            warehouse.execute_held([("delete from mixpanel_raw._dlt_loads", [])])
    assert rows(warehouse, "select count(*) from mixpanel_raw._dlt_loads") == [(1,)]


def test_a_lock_is_not_taken_from_a_sync_that_is_writing(warehouse, run_sync, monkeypatch):
    assert run_sync(skip_transform=True).status == "ok"
    monkeypatch.setattr("mixpanel_pipeline.engines.postgres._TAKEOVER_SECONDS", 1)
    with closing(warehouse.connect()) as writing, closing(writing.cursor()) as cursor:
        cursor.execute("select id from mixpanel_raw.sync_lock for share")
        assert run_sync(skip_transform=True).status == "skipped"
    assert run_sync(skip_transform=True).status == "ok"


def test_a_sync_outlives_the_servers_limit_for_idle_connections(warehouse):
    with closing(warehouse.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("select current_database()")
        name = sql.Identifier(cursor.fetchone()[0])
        cursor.execute(sql.SQL("alter database {} set idle_session_timeout = '1min'").format(name))
        connection.commit()
    with warehouse.lock(), warehouse.connected() as connection:
        assert warehouse.value("show idle_session_timeout") == "0"
        with warehouse.kept_open(), warehouse.copying() as copying, copying.cursor() as cursor:
            cursor.execute("select current_setting('idle_session_timeout')")
            assert cursor.fetchone() == ("0",)


def test_working_directories_of_two_runs_never_touch(warehouse, tmp_path):
    with working_directory(tmp_path, "run") as first:
        (first / "file").touch()
        with working_directory(tmp_path, "run") as second:
            assert first != second
        assert not second.exists()
        assert (first / "file").exists()
    (tmp_path / "run-of-a-dead-process").mkdir()
    (tmp_path / "other").mkdir()
    with working_directory(tmp_path, "run"):
        assert not (tmp_path / "run-of-a-dead-process").exists()
        assert (tmp_path / "other").exists()


def test_a_database_in_another_encoding_is_refused(warehouse, postgresql):
    name = f"latin_{next(_roles)}"
    with closing(postgresql.connect("postgres")) as connection, connection.cursor() as cursor:
        cursor.execute(f"create database {name} encoding 'LATIN1' locale 'C' template template0")
    other = warehouse.credentials.copy()
    other.database = name
    with (
        pytest.raises(ConfigurationError, match=r"LATIN1.*create database .* encoding 'UTF8'"),
        Postgres(other).lock(),
    ):
        pass
    postgresql.drop_database(name)


def behind_a_pooler(connection):
    """The connection as a pooler shows it: with a process of its own invention."""
    return SimpleNamespace(
        info=SimpleNamespace(backend_pid=-1), cursor=connection.cursor, close=lambda: None
    )


def test_a_pooler_is_refused_unless_it_keeps_sessions(warehouse, mixpanel):
    with closing(warehouse.connect()) as one, closing(warehouse.connect()) as other:
        one.autocommit = True
        pooled = behind_a_pooler(one)
        check_server(pooled, lambda: behind_a_pooler(other), "here")
        # A pool of one session lends it to whoever begins a transaction.
        with pytest.raises(ConfigurationError, match="a connection pooler in transaction mode"):
            check_server(pooled, lambda: pooled, "here")
        other.close()
        with pytest.raises(SyncError, match="no second session"):
            check_server(pooled, lambda: behind_a_pooler(ended(warehouse)), "here")


def ended(warehouse):
    """A connection that the server, or a pooler, has closed meanwhile."""
    connection = warehouse.connect()
    warehouse.execute(f"select pg_terminate_backend({connection.info.backend_pid}, 10000)")
    return connection


def test_text_is_utf_8_whatever_the_environment_says(warehouse, mixpanel, run_sync, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    happen(mixpanel, "Café")
    assert run_sync().status == "ok"
    assert set(subscribers(warehouse)) == {"Café"}


@pytest.fixture
def role(warehouse, postgresql):
    """A role that may do nothing but connect, and a warehouse that is connected as it."""
    name, password = f"loader_{next(_roles)}", " p%C3 a:s@s/w'o\\rd+é "
    database = warehouse.credentials.database

    def administer(*statements):
        with closing(postgresql.connect(database)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    administer(f"revoke all on database {database} from public")
    with closing(postgresql.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"create role {name} login password %s", [password])
    administer(f"grant connect on database {database} to {name}")
    yield name, password, administer
    administer(f"drop owned by {name} cascade", f"drop role {name}")


@pytest.fixture
def as_role(role, monkeypatch, warehouse):
    name, password, _ = role
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__USERNAME", name)
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", password)
    return open_warehouse(None)


def test_missing_rights_are_named_with_what_gives_them(
    warehouse, role, as_role, mixpanel, postgresql
):
    name, _, administer = role
    happen(mixpanel, "ada")
    with pytest.raises(ConfigurationError) as refused:
        sync(as_role, load_configuration(), now=NOW)
    database = warehouse.credentials.database
    told = str(refused.value)
    assert f"grant temporary on database {database} to {name};" in told
    assert f"create schema mixpanel_raw authorization {name};" in told
    assert mixpanel.requests == []
    administer(*told.split("run there: ")[1].rstrip(";").split("; "))
    with pytest.raises(ConfigurationError, match="create schema mixpanel ") as refused:
        sync(as_role, load_configuration(), now=NOW)
    assert mixpanel.requests == []
    administer(*str(refused.value).split("run there: ")[1].rstrip(";").split("; "))
    for _ in range(2):
        assert sync(as_role, load_configuration(), now=NOW).status == "ok"
    assert set(subscribers(as_role)) == {"ada"}


def test_tables_of_another_role_are_refused_before_anything_is_loaded(
    warehouse, role, as_role, run_sync, mixpanel
):
    name, _, administer = role
    database = warehouse.credentials.database
    happen(mixpanel, "ada")
    assert run_sync().status == "ok"
    requests = len(mixpanel.requests)
    administer(
        f"grant create, temporary on database {database} to {name}",
        f"grant all on schema mixpanel_raw, mixpanel_raw_staging, mixpanel to {name}",
    )
    for table in ("mixpanel_raw.events", "mixpanel.subscribers"):
        with pytest.raises(ConfigurationError, match=rf"alter table {table} owner to") as refused:
            sync(as_role, load_configuration(), now=NOW)
        assert len(mixpanel.requests) == requests
        administer(*str(refused.value).split("run there: ")[1].rstrip(";").split("; "))
    assert sync(as_role, load_configuration(), now=NOW).error is None


def test_a_password_of_any_characters_serves_and_is_not_told(
    role, as_role, mixpanel, monkeypatch, tmp_path
):
    name, password, administer = role
    database = as_role.credentials.database
    administer(f"grant create, temporary on database {database} to {name}")
    happen(mixpanel, "ada")
    assert sync(as_role, load_configuration(), now=NOW).status == "ok"
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", password.strip())
    with pytest.raises(ConfigurationError, match="password authentication failed") as refused:
        sync(open_warehouse(None), load_configuration(), now=NOW)
    assert "p%" not in str(refused.value)
    # libpq's own ways to tell one.
    monkeypatch.delenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD")
    with monkeypatch.context() as environment:
        environment.setenv("PGPASSWORD", password)
        assert sync(open_warehouse(None), load_configuration(), now=NOW).status == "ok"
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:*:*:{name}:{escaped}\n", encoding="utf-8")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    assert sync(open_warehouse(None), load_configuration(), now=NOW).status == "ok"


def test_a_short_password_mangles_no_message(warehouse, mixpanel, monkeypatch):
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS__PASSWORD", "lo")
    with pytest.raises(ConfigurationError, match=r"localhost|127\.0\.0\.1") as refused:
        sync(open_warehouse(None), load_configuration(), now=NOW)
    assert "***" not in str(refused.value)


def test_every_parameter_of_the_connection_reaches_dbt(warehouse, mixpanel, run_sync):
    happen(mixpanel, "ada")
    assert run_sync(skip_transform=True).status == "ok"
    # The server has no certificate.
    warehouse.credentials.query = {"sslmode": "require"}
    with pytest.raises(Exception, match="SSL"):
        transform(warehouse)
    # What there is no variable for.
    warehouse.credentials.query = {"keepalives_interval": "x"}
    with pytest.raises(Exception, match='"x" for connection option "keepalives_interval"'):
        transform(warehouse)
    warehouse.credentials.query = {"sslmode": "disable", "options": "-c search_path=nowhere"}
    assert warehouse.environment["PGOPTIONS"] == "-c search_path=nowhere"
    transform(warehouse)


def test_what_has_no_variable_reaches_libpq_in_a_file_that_others_cannot_read(
    warehouse, monkeypatch, tmp_path
):
    rest = {
        "keepalives": "1",
        "keepalives_idle": "30",
        "keepalives_count": "3",
        "tcp_user_timeout": "9000",
        "sslpassword": "of the key",
    }
    warehouse.credentials.query = {**rest, "sslmode": "prefer", "application_name": "nightly"}
    for name, value in warehouse.environment_in(tmp_path / "new").items():
        monkeypatch.setenv(name, value)
    assert Path(os.environ["PGSERVICEFILE"]).stat().st_mode & 0o077 == 0
    found = warehouse.credentials
    # As dbt does, with what it knows.
    with closing(
        psycopg2.connect(
            host=found.host,
            port=found.port,
            user=found.username,
            password=found.password,
            dbname=found.database,
        )
    ) as connection:
        parameters = connection.info.dsn_parameters
    rest.pop("sslpassword")
    expected = rest | {"sslmode": "prefer", "application_name": "nightly"}
    assert {name: parameters.get(name) for name in expected} == expected


@pytest.fixture
def logins(warehouse):
    """Who has connected since they were asked for last, by the names the sessions have."""
    warehouse.execute(
        "create table public.logins (name text);"
        "create function public.note_login() returns event_trigger language plpgsql as $$ begin "
        "insert into public.logins values (current_setting('application_name')); end $$;"
        "create event trigger note_login on login execute function public.note_login()"
    )

    def logins():
        # The last is this very one.
        found = rows(warehouse, "select name from public.logins")[:-1]
        warehouse.execute("delete from public.logins")
        return found

    return logins


def test_a_sync_opens_few_connections(mixpanel, run_sync, logins):
    happen(mixpanel, "ada")
    assert run_sync().status == "ok"
    logins()
    assert run_sync(skip_transform=True).events_duplicate == 1
    assert len(opened := logins()) <= 3, opened
    happen(mixpanel, "eve")
    assert run_sync().events_new == 1
    assert len(opened := logins()) <= 6, opened


def test_a_sync_has_three_connections_at_once(warehouse, role, as_role, mixpanel):
    name, _, administer = role
    database = warehouse.credentials.database
    administer(
        f"grant create, temporary on database {database} to {name}",
        f"alter role {name} connection limit 3",
    )
    for who in ("ada", "eve"):
        happen(mixpanel, who, moment=NOW - timedelta(hours=1))
        assert sync(as_role, load_configuration(), now=NOW).status == "ok"
    assert set(subscribers(as_role)) == {"ada", "eve"}


def test_credentials_may_be_a_url(warehouse, monkeypatch):
    known = warehouse.credentials
    for part in ("HOST", "PORT", "USERNAME", "PASSWORD", "DATABASE"):
        monkeypatch.delenv(f"DESTINATION__POSTGRES__CREDENTIALS__{part}")
    monkeypatch.setenv(
        "DESTINATION__POSTGRES__CREDENTIALS",
        f"postgresql://{known.username}:{known.password}@{known.host}:{known.port}"
        f"/{known.database}?sslmode=prefer&keepalives_idle=30",
    )
    found = open_warehouse(None)
    assert isinstance(found, Postgres)
    assert isinstance(found.credentials, Credentials)
    assert found.environment["PGSSLMODE"] == "prefer"
    assert found.value("select 1") == 1
    assert psycopg2.extensions.parse_dsn(found.credentials.to_native_representation())


@pytest.mark.parametrize("driver", ["psycopg2", "adbc"])
@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            ["set statement_timeout = 1", "create temporary table s as select pg_sleep(1)::text"],
            "canceling statement due to statement timeout. Raise statement_timeout",
        ),
        (
            ["set role pg_monitor", "select rolpassword from pg_authid"],
            "permission denied for table pg_authid. Somebody who may has to grant",
        ),
    ],
)
def test_a_failure_of_the_server_is_one_line_with_advice(warehouse, driver, statements, message):
    connect = psycopg2.connect if driver == "psycopg2" else dbapi.connect
    with closing(connect(warehouse.credentials.to_native_representation())) as connection:
        cursor = connection.cursor()
        cursor.execute(statements[0])
        with pytest.raises((psycopg2.Error, dbapi.Error)) as error:
            cursor.execute(statements[1])
        assert warehouse.told(error.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("password", "wr0ng", r"password authentication failed .*Check password and username of"),
        ("password", None, "no password supplied. Check password and username of"),
        ("password", "wr\0ng", "Check password"),
        ("username", "nobody", "Check password and username of"),
        ("database", "nowhere", r"\"nowhere\" does not exist. Check database of"),
        ("port", 99999, "Check port of"),
        ("connect_timeout", "x", "Check connect_timeout of"),
        ("query", {"sslmode": "require"}, "Check query of"),
        ("query", {"sslmode": "verify"}, "Check query of"),
        ("query", {"sslmod": "require"}, "Check query of"),
        ("query", {"keepalives_idle": "x"}, "Check query of"),
        ("query", {"options": "-c nothing=1"}, "Check query of"),
        ("query", {"service": "nothing"}, "Check query of .* PGAPPNAME in the environment"),
    ],
)
def test_a_connection_refused_for_what_is_configured_says_which_setting(
    warehouse, monkeypatch, name, value, message
):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGAPPNAME", "nightly")
    secret = warehouse.credentials.password
    setattr(warehouse.credentials, name, value)
    with pytest.raises(ConfigurationError, match=message) as refused:
        warehouse.connect()
    assert secret not in str(refused.value)
    assert "wr0ng" not in str(refused.value)


@pytest.mark.parametrize(("name", "value"), [("port", 1), ("host", "nowhere.invalid")])
def test_a_server_that_is_not_there_may_come_back(warehouse, name, value):
    setattr(warehouse.credentials, name, value)
    with pytest.raises(psycopg2.OperationalError):
        warehouse.connect()
