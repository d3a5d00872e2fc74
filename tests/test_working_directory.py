"""Where working files go: into one folder, which is configured, and never into the checkout."""

import stat

import pytest

from mixpanel_pipeline.cli.main import main
from mixpanel_pipeline.runs.transform import dbt_folders
from mixpanel_pipeline.runs.working_directory import state_directory
from tests.conftest import NOW


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The state folder that is configured, not there yet."""
    path = tmp_path / "var" / "state"
    monkeypatch.setenv("SOURCES__MIXPANEL__STATE_DIRECTORY", str(path))
    monkeypatch.setenv("DLT_DATA_DIR", "/proc/nothing can be made here")
    for name in ("DBT_TARGET_PATH", "DBT_LOG_PATH"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_a_sync_writes_into_the_state_folder_alone(mixpanel, warehouse, run_sync, folder):
    properties = {"time": int(NOW.timestamp()), "distinct_id": "ada"}
    mixpanel.add([{"event": "$ae_session", "properties": properties}])
    assert run_sync(skip_transform=True).error is None
    assert {path.name for path in folder.iterdir()} == {"pipelines"}
    for path in dbt_folders(warehouse):
        assert path.is_relative_to(folder)


def test_only_this_user_reads_the_state_folder(folder):
    for path in (folder, state_directory("pipelines")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
@pytest.mark.parametrize("command", [["--skip-load"], ["dbt", "debug"]])
def test_a_state_folder_that_cannot_be_written_is_told_in_one_line(
    mixpanel, warehouse, folder, capsys, command
):
    folder.parent.mkdir()
    folder.write_text("a file", encoding="utf-8")
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert str(folder) in said.err
    assert "sources.mixpanel.state_directory" in said.err
