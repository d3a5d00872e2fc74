"""Random histories on Spark, and what dies in them: afterwards every model is as in DuckDB.

`HISTORIES=100` has as many of them.
"""

import os
import random
import signal
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from mixpanel_pipeline.engines import Spark
from mixpanel_pipeline.runs.forgetting import forget
from mixpanel_pipeline.runs.pipeline import audit, sync
from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.runs.transform import transform
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.window import Window
from tests import test_histories
from tests.spark.cluster import Cluster
from tests.spark.compared import differences
from tests.spark.history import NOW, SECRET, WITHIN, History, history

HISTORIES = int(os.environ.get("HISTORIES", "1"))
_STEPS = 3
# A sync of these takes longer on a machine of two cores.
_DIES_WITHIN_SECONDS = 25.0


@dataclass
class Steps:
    """Whatever may happen, one after the other."""

    both: History
    random: random.Random
    events: test_histories.History

    def step(self) -> str:
        """Something happens, and something is done; returns what."""
        action = self.random.choice(
            [
                self.killed_loader,
                self.killed_driver,
                self.lost_worker,
                self.two_builds_at_once,
                self.two_syncs_at_once,
                self.full_refresh,
                self.backfill,
                self.removal,
                self.forget_somebody,
                self.audit,
            ]
        )
        self.events.happen()
        self.both.now = self.events.now
        action()
        self.both.sync()
        return action.__name__

    def _wait(self) -> None:
        time.sleep(self.random.uniform(0, _DIES_WITHIN_SECONDS))

    def _sync(self, spark: Spark) -> None:
        sync(spark, load_configuration(), now=self.both.now)

    def killed_loader(self) -> None:
        """Whoever loads, and has the models built, is no more; Spark may go on for a while."""
        process = self.both.begin(self._sync)
        self._wait()
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()

    def killed_driver(self) -> None:
        process = self.both.begin(self._sync)
        self._wait()
        self.both.cluster.kill("thrift")
        process.join(WITHIN)
        self.both.cluster.start_thrift()

    def lost_worker(self) -> None:
        process = self.both.begin(self._sync)
        self._wait()
        number = self.random.choice([1, 2])
        self.both.cluster.kill(f"worker-{number}")
        process.join(WITHIN)
        self.both.cluster.start_worker(number)

    def two_builds_at_once(self) -> None:
        self.both.load()
        # As by dbt alone, which asks for no lock.
        processes = [self.both.begin(transform) for _ in range(2)]
        for process in processes:
            process.join(WITHIN)

    def two_syncs_at_once(self) -> None:
        processes = [self.both.begin(self._sync) for _ in range(2)]
        for process in processes:
            process.join(WITHIN)

    def full_refresh(self) -> None:
        self.both.sync(full_refresh=True)

    def backfill(self) -> None:
        first = self.both.now.date() - timedelta(days=self.random.randrange(40))
        self.both.sync(backfill=Window(first, min(first + timedelta(5), self.both.now.date())))

    def removal(self) -> None:
        self.both.sync()
        condition = f"event_key like '{self.random.choice('0123456789abcdef')}%'"
        counts = [remove_events(each, condition) for each in (self.both.duck, self.both.spark)]
        assert counts[0] == counts[1]

    def forget_somebody(self) -> None:
        self.both.sync()
        one = self.random.choice(test_histories.USERS)
        counts = [forget(each, [one], SECRET) for each in (self.both.duck, self.both.spark)]
        assert counts[0] == counts[1]

    def audit(self) -> None:
        self.both.sync()
        for each in (self.both.duck, self.both.spark):
            audit(each, load_configuration(), now=self.both.now, days=30, heal=True)


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_every_model_is_as_in_duckdb_after_any_history(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("SOURCES__MIXPANEL__PROFILES", "true")
    with history(cluster, tmp_path, f"_{seed}") as both:
        choose = random.Random(seed)
        events = test_histories.History(both.duck, both.mixpanel, choose, None, now=NOW)
        steps = Steps(both, choose, events)
        events.happen()
        both.sync()
        done = [steps.step() for _ in range(_STEPS)]
        assert differences(both.spark, both.duck) == [], f"after {done}"
