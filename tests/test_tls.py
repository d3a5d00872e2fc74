"""`sslmode=verify-full`: whoever connects, verifies who answers."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import trustme

from mixpanel_pipeline.engines import open_warehouse
from mixpanel_pipeline.engines.postgres import Postgres
from mixpanel_pipeline.source.errors import ConfigurationError
from tests.postgresql import HOST, postgresql_server

IS_TLS = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"


def certificate(folder: Path, name: str, host: str) -> Path:
    """A certificate for a host; beside it its key, and the root that it is verified by."""
    made, authority = folder / f"{name}.crt", trustme.CA()
    issued = authority.issue_cert(host)
    issued.cert_chain_pems[0].write_to_path(made)
    issued.private_key_pem.write_to_path(made.with_suffix(".key"))
    authority.cert_pem.write_to_path(made.with_suffix(".root"))
    return made


def connected_as_by_dbt(warehouse, folder, monkeypatch):
    """A connection with what dbt's profile gives, and the variables that libpq reads."""
    found = warehouse.credentials
    with monkeypatch.context() as environment:
        for name, value in warehouse.environment_in(folder).items():
            environment.setenv(name, value)
        return psycopg2.connect(
            host=found.host,
            port=found.port,
            user=found.username,
            password=found.password,
            dbname=found.database,
        )


def test_a_server_that_is_not_the_one_is_refused_by_every_driver(tmp_path, monkeypatch):
    own = certificate(tmp_path, "own", HOST)
    anothers = certificate(tmp_path, "anothers", HOST)
    misnamed = certificate(tmp_path, "misnamed", "elsewhere.invalid")
    monkeypatch.setenv("DESTINATION_TYPE", "postgres")
    with postgresql_server(tmp_path) as server:
        server.create_database("warehouse")
        for name, value in server.environment("warehouse").items():
            monkeypatch.setenv(name, value)
        warehouse = open_warehouse(None)
        assert isinstance(warehouse, Postgres)

        def present(made: Path) -> None:
            """Have the server show this certificate from now on."""
            with closing(server.connect("postgres")) as connection, connection.cursor() as cursor:
                cursor.execute("show data_directory")
                ((directory,),) = cursor.fetchall()
                data = Path(directory)
                for file in ("crt", "key"):
                    shown = data / f"server.{file}"
                    shutil.copy(made.with_suffix(f".{file}"), shown)
                    shown.chmod(0o600)
                    os.chown(shown, data.stat().st_uid, data.stat().st_gid)
                cursor.execute("alter system set ssl = on")
            server.restart()

        def verify_by(made: Path) -> None:
            root = str(made.with_suffix(".root"))
            warehouse.credentials.query = {"sslmode": "verify-full", "sslrootcert": root}

        present(own)
        verify_by(own)
        assert warehouse.value(IS_TLS) is True
        with warehouse.copying() as connection, connection.cursor() as cursor:
            cursor.execute(IS_TLS)
            assert cursor.fetchone() == (True,)
        with closing(connected_as_by_dbt(warehouse, tmp_path, monkeypatch)) as connection:
            assert connection.info.ssl_in_use
        for shown, root, told in (
            (own, anothers, "certificate verify failed"),
            (misnamed, misnamed, "does not match host name"),
        ):
            if shown is not own:
                present(shown)
            verify_by(root)
            with pytest.raises(ConfigurationError, match=told):
                warehouse.connect()
            with pytest.raises(psycopg2.OperationalError, match=told), warehouse.copying():
                pass
            with pytest.raises(psycopg2.OperationalError, match=told):
                connected_as_by_dbt(warehouse, tmp_path, monkeypatch)
