import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import pytest

from tests import postgresql as servers
from tests.postgresql import HOST, Server, postgresql_server

SERVE_UNTIL_KILLED = """
import signal, sys
from pathlib import Path
from tests.postgresql import postgresql_server

with postgresql_server(Path(sys.argv[1])) as server:
    print(server.port, flush=True)
    signal.pause()
"""


@pytest.fixture
def database(postgresql: Server) -> Iterator[str]:
    # A name that works only where it is quoted.
    name = "Server's own"
    postgresql.create_database(name)
    yield name
    postgresql.drop_database(name)


def test_a_row_comes_back_as_it_was_written(postgresql: Server, database: str) -> None:
    with closing(postgresql.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("create table city (name text, properties jsonb)")
        cursor.execute("insert into city values (%s, %s)", ("Zürich", '{"$city": "東京"}'))
        cursor.execute("select name, properties ->> '$city' from city")
        assert cursor.fetchall() == [("Zürich", "東京")]


def test_a_port_that_was_taken_meanwhile_is_left_to_whoever_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free_port = servers._free_port
    with socket.create_server((HOST, 0)) as other:
        taken: int = other.getsockname()[1]
        ports = iter([taken])
        monkeypatch.setattr(servers, "_free_port", lambda: next(ports, 0) or free_port())
        with (
            postgresql_server(tmp_path) as server,
            closing(server.connect("postgres")) as connection,
            connection.cursor() as cursor,
        ):
            assert server.port != taken
            cursor.execute("show port")
            assert cursor.fetchall() == [(str(server.port),)]


def test_restart_keeps_committed_rows_and_cuts_connections(
    postgresql: Server, database: str
) -> None:
    with closing(postgresql.connect(database)) as before, before.cursor() as cursor:
        cursor.execute("create table number as select generate_series(1, 1000) as n")
        postgresql.restart()
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute("select 1")
    with closing(postgresql.connect(database)) as after, after.cursor() as cursor:
        cursor.execute("select count(*), sum(n) from number")
        assert cursor.fetchone() == (1000, 500500)


def test_nothing_is_left_when_the_process_is_killed(tmp_path: Path) -> None:
    with TemporaryDirectory() as directory:
        # The server's user makes and removes its files here.
        temporary = Path(directory)
        temporary.chmod(0o1777)
        with subprocess.Popen(
            [sys.executable, "-c", SERVE_UNTIL_KILLED, tmp_path],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"TMPDIR": directory},
            stdout=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            assert list(temporary.iterdir())
            process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while list(temporary.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(temporary.iterdir()) == []
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            psycopg2.connect(host="127.0.0.1", port=port, user="mixpanel", dbname="postgres")
