"""Reports of the installed command, and a headless Chromium to look at them."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import mixpanel_pipeline
from local_mixpanel import LocalMixpanel, traffic

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "screenshots"
PROGRAM = Path(sys.executable).parent / "mixpanel-pipeline"
# `--no-sandbox`: for root, as containers are.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
DAYS = 60
EVENTS = 5_000


@dataclass
class Reported:
    """A report, and the database that it is of."""

    page: Path
    database: Path


@dataclass
class Looked:
    """A browser that has the page open."""

    driver: Any

    def tables(self) -> dict[str, list[list[str]]]:
        """What the tables say, without their headings, by the id of the table."""
        found: dict[str, list[list[str]]] = self.driver.execute_script(
            """
            const text = cell => cell.textContent.trim();
            const row = one => [...one.cells].map(text);
            return Object.fromEntries([...document.querySelectorAll("table")].map(
                table => [table.id, [...table.tBodies[0].rows].map(row)]))
            """
        )
        return found

    def violations(self) -> list[str]:
        """What axe finds against the WCAG, level AA, and its own best practices."""
        self.driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = 1)")
        # Drawings are images to whoever does not see them, and have thousands of elements.
        found = Axe().run(self.driver, context={"exclude": [["svg"]]})
        return [
            f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
            for one in found["violations"]
        ]

    def shoot(self, name: str) -> None:
        """Keep how the whole page looks."""
        SCREENSHOTS.mkdir(exist_ok=True)
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True}
        )
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def logged(self) -> list[str]:
        """What the page made the console say."""
        return [line["message"] for line in self.driver.get_log("browser")]

    def requests(self) -> set[str]:
        """What the page asked for; not what Chromium's own first tab did."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and message["params"]["documentURL"].startswith("file:")
        }


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Named, as selenium would fetch one otherwise.
    with webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as driver:
        # A busy machine.
        driver.set_script_timeout(300)
        yield driver


@pytest.fixture
def look(driver: Any) -> Any:
    """Opens a page; takes its path, how wide the window is, and whether it is dark."""

    def look(page: Path, width: int = 1440, *, dark: bool = False) -> Looked:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        for log in ("browser", "performance"):
            driver.get_log(log)
        driver.get(page.as_uri())
        return Looked(driver)

    return look


def _project(folder: Path, mixpanel: LocalMixpanel) -> dict[str, str]:
    """Begins a project whose metrics are those of the package, of which there is made-up traffic.

    Returns:
        The environment for its commands.
    """
    subprocess.run([PROGRAM, "init", folder], check=True)
    secrets = {
        "base_url": mixpanel.url,
        "project_id": mixpanel.project_id,
        "service_account_username": mixpanel.username,
        "service_account_secret": mixpanel.secret,
        "initial_window_days": DAYS,
        "state_directory": str(folder / "state"),
    }
    text = "".join(f"{name} = {value!r}\n" for name, value in secrets.items())
    (folder / ".dlt" / "secrets.toml").write_text(f"[sources.mixpanel]\n{text}", encoding="utf-8")
    package = Path(mixpanel_pipeline.__file__).parent / "dbt_project"
    ours, own = (path / "dbt_project.yml" for path in (package, folder / "dbt_project"))
    declared = yaml.safe_load(own.read_bytes())
    declared["vars"]["metrics"] = yaml.safe_load(ours.read_bytes())["vars"]["metrics"]
    own.write_text(yaml.safe_dump(declared, sort_keys=False), encoding="utf-8")
    unset = ("SOURCES__", "DESTINATION", "DLT_", "DBT_", "RUNTIME__")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    return environment | {"DLT_DATA_DIR": str(folder / "dlt"), "DLT_PROJECT_DIR": str(folder)}


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The report of 5,000 made-up events of some hundred people."""
    folder = tmp_path_factory.mktemp("reported") / "mixpanel"
    with LocalMixpanel() as mixpanel:
        environment = _project(folder, mixpanel)
        end = datetime.now(UTC) - timedelta(minutes=5)
        mixpanel.add(traffic(seed=7, end=end, days=DAYS, events=EVENTS, subscribers=500))
        for command in (
            [],
            ["report", "--funnel", "app_sessions", "portfolio_card_taps", "paywall_views"],
        ):
            subprocess.run([PROGRAM, *command], cwd=folder, env=environment, check=True)
    return Reported(folder / "report.html", folder / "warehouse.duckdb")


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The report of a project that has never synced."""
    folder = tmp_path_factory.mktemp("empty") / "mixpanel"
    with LocalMixpanel() as mixpanel:
        environment = _project(folder, mixpanel)
    subprocess.run([PROGRAM, "report"], cwd=folder, env=environment, check=True)
    return Reported(folder / "report.html", folder / "warehouse.duckdb")
