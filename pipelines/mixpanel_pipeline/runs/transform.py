"""The transformation: dbt builds what depends on the raw dataset."""

import contextlib
import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mixpanel_pipeline import interruption, project
from mixpanel_pipeline.engines import Warehouse, open_warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.runs.built import fingerprint
from mixpanel_pipeline.runs.progress import Progress
from mixpanel_pipeline.runs.working_directory import state_directory
from mixpanel_pipeline.source.errors import ConfigurationError

logger = logging.getLogger(__name__)


def transform(
    warehouse: Warehouse,
    *,
    full_refresh: bool = False,
    with_views: bool = True,
    progress: Progress | None = None,
) -> None:
    """Run `dbt build` for the models on the raw dataset, in this process; views may be left out.

    Tests that read everything stored are left to `dbt build` by hand and to full refreshes: the
    cost of a sync has to follow what is new.

    Raises:
        SyncError: A model or a test failed; the message says whether what was loaded is counted.
    """
    arguments = build_arguments(full_refresh=full_refresh, with_views=with_views)
    result = call_dbt(warehouse, arguments, [_teller(progress)] if progress else [])
    if not result.success:
        raise SyncError(f"dbt build failed: {_reason(result)}")


def build_arguments(*, full_refresh: bool = False, with_views: bool = True) -> list[str]:
    """What dbt is called with, and what it does depends on, beside the project itself."""
    arguments = ["build", "--select", "source:mixpanel+"]
    arguments += ["--exclude", "test_type:unit", "tag:freshness"]
    arguments += [] if with_views else ["config.materialized:view"]
    return [*arguments, *(["--full-refresh"] if full_refresh else ["tag:full_scan"])]


def call_dbt(warehouse: Warehouse, arguments: Sequence[str], callbacks: Sequence[Any] = ()) -> Any:
    """What dbt makes of the arguments, in this process and by the settings of this project only.

    It prints nothing: what it has to say of a failure is in its result.
    """
    target, logs = dbt_folders(warehouse)
    # Nobody reads dbt's files of a sync, and writing them takes longer than its models.
    settings = ["--log-level", "none", "--log-level-file", "none", "--no-write-json"]
    settings += ["--log-path", str(logs)]
    project.link_dbt_package()
    place = ["--project-dir", str(project.dbt_project())]
    place += ["--profiles-dir", str(project.DBT_PACKAGE)]
    place += ["--target", warehouse.name, "--target-path", str(target)]
    environment = warehouse.environment_in(target) | {project.COMMAND_VARIABLE: project.COMMAND}
    with _environment(environment), contextlib.redirect_stdout(_Told()):
        # Importing dbt takes seconds, which a sync that only loads does not owe; what it says
        # before it has read its arguments goes to the stdout that it was imported with.
        from dbt.adapters.base.impl import DEFAULT_BASE_BEHAVIOR_FLAGS
        from dbt.cli.main import dbtRunner

        flags = list(DEFAULT_BASE_BEHAVIOR_FLAGS)
        parsed = _Parsed([fingerprint(place), environment])
        runner = dbtRunner(parsed.manifest(), [*callbacks, parsed.keep])
        with warehouse.dbt_connections():
            result = runner.invoke([*settings, *arguments, *place])
        if not result.success:
            parsed.forget()
        # PostgreSQL's adapter adds its own to the list of all adapters, anew for each call, and
        # looks through the stack for each: a process's hundredth sync would wait seconds for it.
        DEFAULT_BASE_BEHAVIOR_FLAGS[:] = flags
    if isinstance(result.exception, KeyboardInterrupt):
        raise result.exception
    interruption.check()
    return result


def operation(
    warehouse: Warehouse,
    macro: str,
    arguments: Mapping[str, Any],
    *,
    failure: str = "Not all of it was done",
) -> dict[str, int]:
    """Run a macro of ours in the warehouse.

    Args:
        warehouse: Where; the caller holds its lock.
        macro: Its name.
        arguments: Its arguments.
        failure: How things stand if it fails.

    Returns:
        What it logged last, as a JSON object; empty when it logged nothing.

    Raises:
        SyncError: It failed.
    """
    said: list[str] = []
    told: list[dict[str, int]] = [{}]

    def listen(event: Any) -> None:
        # The result of an operation says neither what it found nor why it failed.
        if event.info.name.startswith("RunningOperation"):
            said.append(event.data.exc)
        if event.info.name == "JinjaLogInfo":
            told.append(json.loads(event.data.msg))

    called = ["run-operation", f"mixpanel.{macro}", "--args", json.dumps(arguments)]
    result = call_dbt(warehouse, called, [listen])
    if not result.success:
        reason = in_one_line("; ".join(said) or str(result.exception))
        raise SyncError(f"{failure}: {reason}.")
    return told[-1]


def dbt_environment(warehouse: Warehouse | None = None) -> dict[str, str]:
    """The variables with which dbt, whoever calls it, builds the project's models in `warehouse`.

    They hold the connection, and with it secrets. What the environment says of dbt's folders stays.

    Args:
        warehouse: Where to build; what is configured by default.

    Raises:
        ConfigurationError: The connection is not configured, a folder cannot be written, or our dbt
            project cannot be put among the packages of the user's own.
    """
    warehouse = warehouse or open_warehouse(None)
    target, logs = dbt_folders(warehouse)
    project.link_dbt_package()
    folders = {
        "DBT_PROJECT_DIR": str(project.dbt_project()),
        "DBT_PROFILES_DIR": str(project.DBT_PACKAGE),
        "DBT_TARGET_PATH": str(target),
        "DBT_LOG_PATH": str(logs),
        project.COMMAND_VARIABLE: project.COMMAND,
    }
    said = {name: os.environ[name] for name in folders if name in os.environ}
    connection = {"DESTINATION_TYPE": warehouse.name} | warehouse.environment_in(target)
    return folders | said | connection


def dbt_folders(warehouse: Warehouse) -> tuple[Path, Path]:
    """Where dbt keeps what it parsed, and where its logs go.

    `DBT_TARGET_PATH` and `DBT_LOG_PATH` say otherwise than in the state folder: the checkout may be
    read-only.

    Raises:
        ConfigurationError: One of them, or the state folder, cannot be written.
    """
    target, logs = os.environ.get("DBT_TARGET_PATH"), os.environ.get("DBT_LOG_PATH")
    if not (target and logs):
        # What is parsed is of one project, with the names of one database and its schemas in it:
        # of others, dbt would parse it anew.
        parsed = f"{project.dbt_project()}\n{warehouse.marts}"
        name = f"{hashlib.sha256(parsed.encode()).hexdigest()[:8]}-{warehouse.fingerprint}"
        state = state_directory("dbt") / name
        target, logs = target or str(state / "target"), logs or str(state / "logs")
    folders = Path(target).absolute(), Path(logs).absolute()
    for folder, name in zip(folders, ("DBT_TARGET_PATH", "DBT_LOG_PATH"), strict=True):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ConfigurationError(
                f"dbt's folder {folder} cannot be written: {error.strerror}. Set {name} to one "
                "that this user may write, or leave it out."
            ) from error
    return folders


class _Parsed:
    """What dbt parsed in this process, for as long as it would parse the same again.

    Reading it from its file takes dbt a quarter of the time of a build with little to do. Of more
    databases than two in turn, a process keeps the last two.

    Args:
        key: What is parsed, and with which settings.
    """

    _kept: ClassVar[list[tuple[object, dict[str, str | None], Any]]] = []

    def __init__(self, key: object) -> None:
        self._key = key

    def manifest(self) -> Any:
        """It; None if dbt has to parse."""
        for key, variables, manifest in _Parsed._kept:
            if key == self._key and all(os.environ.get(n) == v for n, v in variables.items()):
                return manifest
        return None

    def keep(self, event: Any) -> None:
        """A callback for dbt's events: keeps what is parsed when that is about to be built."""
        if event.info.name == "FoundStats":
            import click

            manifest = click.get_current_context().obj["manifest"]
            variables = {name: os.environ.get(name) for name in manifest.env_vars}
            self.forget()
            _Parsed._kept[1:] = []
            _Parsed._kept.insert(0, (self._key, variables, manifest))

    def forget(self) -> None:
        """Have dbt parse anew."""
        _Parsed._kept[:] = [kept for kept in _Parsed._kept if kept[0] != self._key]


class _Told(io.TextIOBase):
    """What dbt says; after an interruption it would be the traceback of that."""

    def write(self, text: str) -> int:
        if text.strip() and not interruption.came():
            logger.warning("dbt: %s", text.strip())
        return len(text)


def _teller(progress: Progress):  # type: ignore[no-untyped-def]
    """A callback that takes dbt's events and tells which node is being built."""

    def tell(event) -> None:  # type: ignore[no-untyped-def]
        if event.info.name == "LogStartLine":
            progress.step = f"Building the models: {event.data.description}"
            logger.debug("%s", progress.step)

    return tell


@contextlib.contextmanager
def _environment(variables: dict[str, str]):  # type: ignore[no-untyped-def]
    """Within, the environment is that of the process with `variables`, and without dbt's own.

    Every option of dbt has a variable, and many of them (`DBT_EMPTY`, `DBT_RESOURCE_TYPES`) would
    leave events uncounted without a word.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith("DBT_"):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# Where in a file of dbt's, in which macro and in which line of a function, says nothing that the
# message does not.
_NOISE = ("compiled code at", "CONTEXT:", "> in macro", "> called by")


def _reason(result: Any) -> str:
    """What failed, and what that means for what was loaded."""
    not_built = "What was loaded is kept, and is counted by the next sync that builds the models"
    if result.exception is not None or result.result is None:
        return f"{in_one_line(str(result.exception))}. {not_built}: mend it and run again."
    failed = [n for n in result.result if n.status in ("error", "fail", "runtime error")]
    failure = "; ".join(
        f"{node.node.name}: {in_one_line(node.message or str(node.status))}" for node in failed
    )
    unbuilt = [
        node.node.name
        for node in result.result
        if node.node.resource_type == "model" and node.status != "success"
    ]
    # dbt skips what is built on a model that a test found wrong.
    is_of_tests = "subscribers" not in unbuilt and all(
        node.node.resource_type == "test" for node in failed
    )
    if unbuilt and not is_of_tests:
        return f"{failure}. {not_built} ({', '.join(unbuilt)}): mend it and run again."
    skipped = f" (but for {', '.join(unbuilt)})" if unbuilt else ""
    return (
        f"{failure}. The models are built{skipped} and what was loaded is counted, but a test does "
        f"not pass; look at its rows with: {project.COMMAND} dbt test --store-failures"
    )


def in_one_line(message: str) -> str:
    """A message of dbt without line breaks, full stop and what says nothing to its reader."""
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_NOISE)).rstrip(".")
