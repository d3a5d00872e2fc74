import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dlt.common.runtime import run_context

from local_mixpanel import LocalMixpanel


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches a test, and no test leaves files behind elsewhere."""
    for name in os.environ:
        if name.startswith(("SOURCES__", "DESTINATION", "DLT_", "DBT_", "RUNTIME__")):
            monkeypatch.delenv(name)
    settings = tmp_path / "project" / ".dlt"
    settings.mkdir(parents=True)
    (settings / "config.toml").write_text(
        '[runtime]\nlog_level = "ERROR"\ndlthub_telemetry = false\n'
    )
    monkeypatch.setenv("DLT_PROJECT_DIR", str(settings.parent))
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    run_context.active().reload()


@pytest.fixture
def mixpanel(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMixpanel]:
    """A local Mixpanel, and the environment that points the source at it."""
    with LocalMixpanel() as server:
        for name, value in {
            "BASE_URL": server.url,
            "PROJECT_ID": server.project_id,
            "SERVICE_ACCOUNT_USERNAME": server.username,
            "SERVICE_ACCOUNT_SECRET": server.secret,
            "RETRY_PAUSE_SECONDS": "0",
        }.items():
            monkeypatch.setenv(f"SOURCES__MIXPANEL__{name}", value)
        yield server
