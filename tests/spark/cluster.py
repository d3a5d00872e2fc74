"""A throw-away Spark: a master, two workers, Thrift, and the catalog in a PostgreSQL of its own.

All of it listens on loopback only, and is gone at the end or when this process dies.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

from tests.postgresql import Server, postgresql_server

HOST = "127.0.0.1"
DATABASE = "lake"
# A machine of 2 cores starts Java four times over.
_STARTS_WITHIN = 180
_JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# Compiling would take longer than they do.
_FOR_FEW_ROWS = {
    "spark.sql.shuffle.partitions": 2,
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": _JAVA_OPTIONS,
    "spark.executor.extraJavaOptions": _JAVA_OPTIONS,
}
# Kills what it started when its standard input ends, as it does when this process dies.
_WHILE_WE_LIVE = """
set -m
exec 3<&0
"$@" < /dev/null &
program=$!
{ read -r _ <&3; kill -9 -- -$program; } &
wait $program
kill -- -$!
"""


class Missing(Exception):
    """What Spark needs is not on this machine."""


def jars() -> list[Path]:
    """Iceberg's runtime and PostgreSQL's JDBC driver, of the wheels that are locked.

    Raises:
        Missing: One of them is not installed.
    """
    found = []
    for package, pattern in (
        ("snowpark_connect_deps_iceberg", "jars/iceberg-spark-runtime-3.5_2.12-*.jar"),
        ("wbjdbc", "resources/maven/postgresql/postgresql-*.jar"),
    ):
        spec = find_spec(package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        found += [jar for folder in folders for jar in Path(folder).glob(pattern)]
        if not found or package not in str(found[-1]):
            raise Missing(f"{package} is not installed: make .venv-spark/installed")
    return found


def java() -> str:
    """The program; Spark 3.5 runs on Java 8, 11 and 17.

    Raises:
        Missing: There is none.
    """
    program = shutil.which("java")
    if program is None:
        raise Missing("Java 17 is not installed, as by: apt-get install openjdk-17-jre-headless")
    return program


@dataclass
class Cluster:
    """A running one.

    Attributes:
        postgresql: Holds the catalog, in the database `DATABASE`.
        thrift_port: Where SQL is sent to.
        is_small: Whether it is for a few thousand rows.
    """

    folder: Path
    postgresql: Server
    master_port: int
    master_ui_port: int
    thrift_port: int
    is_small: bool
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def gigabytes(self) -> int:
        """The memory of the driver and of each executor."""
        return 1 if self.is_small else 5

    @property
    def warehouse(self) -> str:
        return f"file://{self.folder / 'lake'}"

    def environment(self) -> dict[str, str]:
        """The variables that make it the destination."""
        return {
            **self.postgresql.environment(DATABASE),
            "DESTINATION__SPARK__WAREHOUSE": self.warehouse,
            "DESTINATION__SPARK__HOST": HOST,
            "DESTINATION__SPARK__PORT": str(self.thrift_port),
        }

    def start(self, name: str, *arguments: str, memory: str = "256m") -> None:
        """Start one of Spark's programs."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["/bin/bash", "-c", _WHILE_WE_LIVE, name, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._spark_environment() | {"SPARK_DAEMON_MEMORY": memory},
                # What a terminal interrupts is us; they end with us.
                start_new_session=True,
            )

    def start_worker(self, number: int) -> None:
        """Start a worker, which offers one core."""
        self.start(
            f"worker-{number}",
            _program("spark-class"),
            "org.apache.spark.deploy.worker.Worker",
            *("--host", f"127.0.0.{number}", "--webui-port", "0"),
            *(
                "-c",
                "1",
                "-m",
                f"{self.gigabytes + 1}g",
                "-d",
                str(self.folder / f"worker-{number}"),
            ),
            f"spark://{HOST}:{self.master_port}",
        )

    def kill(self, name: str) -> None:
        """Kill one of the programs and what it started, as a machine that is lost."""
        process = self.processes.pop(name)
        # A line, as a fork of this process may hold the other end open.
        process.communicate(b"\n")

    def stop(self) -> None:
        """Kill all of it but PostgreSQL."""
        for name in list(self.processes):
            self.kill(name)

    def start_thrift(self) -> None:
        """Start the driver that takes SQL; it is there when this returns."""
        self.start(
            "thrift",
            _program("spark-submit"),
            "--class",
            "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2",
            *("--master", f"spark://{HOST}:{self.master_port}"),
            "spark-internal",
            *("--hiveconf", f"hive.server2.thrift.bind.host={HOST}"),
            *("--hiveconf", f"hive.server2.thrift.port={self.thrift_port}"),
            # Of this driver it is the memory, whatever spark.driver.memory says.
            memory=f"{self.gigabytes}g",
        )
        self._wait("thrift", lambda: _listens(self.thrift_port))

    def alive_workers(self) -> int:
        """How many workers the master has."""
        with urlopen(f"http://{HOST}:{self.master_ui_port}/json/", timeout=10) as answer:
            return int(json.load(answer)["aliveworkers"])

    def _spark_environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "JAVA_HOME": str(Path(java()).resolve().parent.parent),
            "SPARK_HOME": str(_spark_home()),
            "SPARK_CONF_DIR": str(self.folder / "conf"),
            "SPARK_LOCAL_IP": HOST,
            "SPARK_NO_DAEMONIZE": "1",
            "PYSPARK_PYTHON": sys.executable,
            "LC_ALL": "C.UTF-8",
        }

    def _wait(self, name: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _STARTS_WITHIN
        while True:
            try:
                if is_there():
                    return
            except OSError:
                pass
            if self.processes[name].poll() is not None or time.monotonic() > deadline:
                log = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"Spark's {name} did not start:\n{log[-3000:]}")
            time.sleep(0.2)


@contextmanager
def spark_cluster(folder: Path, *, workers: int = 2, is_small: bool = True) -> Iterator[Cluster]:
    """A cluster whose files and logs lie in `folder`.

    Raises:
        Missing: Java, or a wheel, is not installed.
        RuntimeError: One of its programs does not start; its log is in the message.
    """
    java(), jars()
    with ExitStack() as stack:
        server = stack.enter_context(postgresql_server(folder))
        server.create_database(DATABASE)
        master, master_ui, thrift = _free_ports(3)
        cluster = Cluster(folder, server, master, master_ui, thrift, is_small)
        stack.callback(cluster.stop)
        (folder / "conf").mkdir()
        (folder / "conf" / "spark-defaults.conf").write_text(
            "".join(f"{name} {value}\n" for name, value in configuration(cluster).items()),
            encoding="utf-8",
        )
        (folder / "conf" / "log4j2.properties").write_text(
            "rootLogger.level = warn\nrootLogger.appenderRef.stdout.ref = console\n"
            "appender.console.type = Console\nappender.console.name = console\n"
            "appender.console.target = SYSTEM_ERR\n"
            "appender.console.layout.type = PatternLayout\n"
            "appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n\n",
            encoding="utf-8",
        )
        cluster.start(
            "master",
            _program("spark-class"),
            "org.apache.spark.deploy.master.Master",
            *("--host", HOST, "--port", str(cluster.master_port)),
            *("--webui-port", str(cluster.master_ui_port)),
        )
        for number in range(1, workers + 1):
            cluster.start_worker(number)
        cluster._wait("master", lambda: cluster.alive_workers() == workers)
        cluster.start_thrift()
        yield cluster


def configuration(cluster: Cluster) -> Mapping[str, object]:
    """What stands in spark-defaults.conf."""
    server = cluster.postgresql
    url = f"jdbc:postgresql://{server.host}:{server.port}/{DATABASE}"
    path = ":".join(map(str, jars()))
    return {
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lake.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
        "spark.sql.catalog.lake.uri": url,
        "spark.sql.catalog.lake.jdbc.user": server.username,
        "spark.sql.catalog.lake.jdbc.password": server.password,
        "spark.sql.catalog.lake.jdbc.schema-version": "V1",
        "spark.sql.catalog.lake.warehouse": cluster.warehouse,
        # Each statement sees what the last one committed, whoever committed it.
        "spark.sql.catalog.lake.cache-enabled": "false",
        # The record of loads and runs, beside the catalog.
        "spark.sql.catalog.record": (
            "org.apache.spark.sql.execution.datasources.v2.jdbc.JDBCTableCatalog"
        ),
        "spark.sql.catalog.record.url": url,
        "spark.sql.catalog.record.driver": "org.postgresql.Driver",
        "spark.sql.catalog.record.user": server.username,
        "spark.sql.catalog.record.password": server.password,
        "spark.sql.defaultCatalog": "lake",
        "spark.sql.session.timeZone": "UTC",
        "spark.driver.extraClassPath": path,
        "spark.executor.extraClassPath": path,
        "spark.driver.host": HOST,
        "spark.executor.memory": f"{cluster.gigabytes}g",
        "spark.executor.cores": 1,
        "spark.cores.max": 2,
        "spark.ui.enabled": "false",
        **(_FOR_FEW_ROWS if cluster.is_small else {"spark.sql.shuffle.partitions": 8}),
    }


def _spark_home() -> Path:
    spec = find_spec("pyspark")
    if spec is None or not spec.submodule_search_locations:
        raise Missing("pyspark is not installed: make .venv-spark/installed")
    return Path(next(iter(spec.submodule_search_locations)))


def _program(name: str) -> str:
    return str(_spark_home() / "bin" / name)


def _listens(port: int) -> bool:
    with socket.create_connection((HOST, port), timeout=1):
        return True


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
