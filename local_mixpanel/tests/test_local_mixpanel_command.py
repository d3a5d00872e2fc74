import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests

ROOT = Path(__file__).parents[2]


def command(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "local_mixpanel", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # A shell's background job would inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_printed_settings_open_the_export_until_ctrl_c() -> None:
    with command("--port", "0", "--days", "3", "--events", "500", "--seed", "1") as process:
        assert process.stdout
        printed = "".join(iter(process.stdout.readline, "Ctrl-C ends it.\n"))
        settings = dict(re.findall(r"^export SOURCES__MIXPANEL__(\w+)=(.+)$", printed, re.M))
        today = datetime.now(UTC).date()
        response = requests.get(
            settings["BASE_URL"] + "/api/2.0/export",
            {
                "from_date": today - timedelta(days=3),
                "to_date": today,
                "project_id": settings["PROJECT_ID"],
            },
            auth=(settings["SERVICE_ACCOUNT_USERNAME"], settings["SERVICE_ACCOUNT_SECRET"]),
            timeout=5,
        )
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=5)

    assert response.content.count(b"\n") == 500
    assert (process.returncode, errors) == (0, "")


def test_taken_port_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with command("--port", port, "--events", "10") as process:
            _, errors = process.communicate(timeout=5)

    assert process.returncode == 1
    assert errors == f"port {port}: Address already in use\n"
