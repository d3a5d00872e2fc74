"""Definitions for MetricFlow: what it works out of them is what the models have."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from local_mixpanel import traffic
from tests.conftest import NOW
from tests.warehouses import rows

PROGRAMS = Path(sys.executable).parent
EXPECTED = {
    "mixpanel_active_subscribers": "select date_trunc('week', event_date), "
    "count(distinct subscriber_id) from mixpanel.active_days group by 1",
    "mixpanel_sessions": "select date_trunc('week', event_date), count(*) "
    "from mixpanel.sessions group by 1",
    "mixpanel_events": "select date_trunc('week', event_date), sum(events) "
    "from mixpanel.daily_events group by 1",
}


def test_metricflow_works_out_what_the_models_have(
    mixpanel, warehouse, run_sync, dbt_project, tmp_path
):
    mixpanel.add(traffic(seed=1, end=NOW, days=20, events=300))
    assert run_sync().error is None
    answer = tmp_path / "answer.csv"
    query: list[str | Path] = [PROGRAMS / "mf", "query", "--metrics", ",".join(EXPECTED)]
    query += ["--group-by", "metric_time__week", "--csv", answer]
    # It would ask the internet for a newer version of itself.
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    environment = os.environ | nowhere | {"DBT_TARGET_PATH": str(dbt_project / "target")}
    parse: list[str | Path] = [PROGRAMS / "dbt", "parse"]
    for command in (parse, query):
        done = subprocess.run(
            command,
            cwd=dbt_project,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    with answer.open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert len(found) > 2
    for metric, question in EXPECTED.items():
        told = {row["metric_time__week"][:10]: float(row[metric]) for row in found}
        assert told == {f"{week:%Y-%m-%d}": float(n) for week, n in rows(warehouse, question)}
