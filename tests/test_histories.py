"""Whatever happened, in whatever order: incremental = full refresh = recount."""

import json
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from local_mixpanel import Fault, LocalMixpanel
from mixpanel_export.configuration import load_configuration
from mixpanel_export.window import Window
from sync.pipeline import sync
from sync.summary import Summary
from sync.transform import transform
from sync.warehouse import Warehouse
from tests import recount
from tests.conftest import NOW
from tests.warehouses import copy_of, rows, subscribers

STEPS = 14
BROKEN = [
    Fault.CHUNKED_CUT,
    Fault.LENGTH_CUT,
    Fault.GZIP_CUT,
    Fault.GZIP_CUT_AND_CLOSED,
    Fault.GZIP_CORRUPTED,
    Fault.HALF_LAST_LINE,
    Fault.TERMINATED_EARLY,
    Fault.ERROR_LAST_LINE,
    Fault.NO_ANSWER,
    Fault.HTML,
    Fault.INTERNAL_SERVER_ERROR,
]


@dataclass
class History:
    """A warehouse, its Mixpanel, and what the warehouse has to hold by now."""

    warehouse: Warehouse
    mixpanel: LocalMixpanel
    random: random.Random
    now: datetime = NOW - timedelta(days=20)
    sent: list[recount.Event] = field(default_factory=list)
    loaded: dict[Hashable, recount.Event] = field(default_factory=dict)
    counted: dict[Hashable, recount.Event] | None = None
    """The events at the last transformation; None before the first."""

    def step(self) -> str:
        """Do something at random and return what."""
        actions: list[Callable[[], str | None]] = [
            self.sync,
            self.sync,
            self.sync,
            self.sync_without_transform,
            self.transform_twice,
            self.backfill,
            self.full_refresh,
            self.failing_sync,
        ]
        action = self.random.choice(actions)
        self.happen()
        return action() or action.__name__

    def happen(self) -> None:
        """Time passes; events happen, arrive late, and arrive again."""
        choose = self.random
        self.now += timedelta(hours=choose.choice([0, 1, 5, 26]))
        events = []
        for _ in range(choose.randrange(25)):
            late = choose.choice([timedelta(minutes=30), timedelta(days=2), timedelta(days=40)])
            events.append(self._event(self.now - late * choose.random()))
        for original in choose.sample(self.sent, min(len(self.sent), choose.randrange(6))):
            copy = {"event": original["event"], "properties": dict(original["properties"])}
            if "$insert_id" in copy["properties"] and choose.random() < 0.7:
                copy["properties"]["mp_processing_time_ms"] += choose.randrange(-5, 100_000)
                copy["properties"]["creatorType"] = choose.choice(["premium", "regular"])
            events.append(copy)
        self.mixpanel.add(events)
        self.sent += events

    def _event(self, moment: datetime) -> recount.Event:
        choose = self.random
        properties: dict[str, Any] = {
            "time": int(moment.timestamp()),
            "distinct_id": choose.choice(["ada", "bob", "eve", "", None]),
            "mp_processing_time_ms": int(self.now.timestamp() * 1000),
        }
        if choose.random() < 0.8:
            properties["$insert_id"] = f"{choose.getrandbits(64):x}"
        if choose.random() < 0.5:
            properties["creatorType"] = choose.choice(["premium", "Super Premium", "regular", None])
        if choose.random() < 0.2:
            properties["$user_id"] = choose.choice(["zoe", 17])
        name = choose.choice([*sorted(recount.TRACKED), "DubAutoCopyInitiated", "App Opened"])
        return {"event": name, "properties": properties}

    def sync(self, **arguments: Any) -> str | None:
        summary = self._sync(**arguments)
        assert summary.status == "ok", summary.error
        before = len(self.loaded)
        lines = self._lines(summary)
        self.loaded = recount.deliver(self.loaded, lines)
        assert summary.events_received == len(lines)
        assert summary.events_new == len(self.loaded) - before
        assert summary.events_duplicate == len(lines) - summary.events_new
        if not arguments.get("skip_transform"):
            self.counted = self.loaded
        return None

    def _sync(self, **arguments: Any) -> Summary:
        return sync(self.warehouse, load_configuration(), now=self.now, **arguments)

    def _lines(self, summary: Summary) -> list[bytes]:
        assert summary.from_date is not None
        assert summary.to_date is not None
        return self.mixpanel.lines(summary.from_date, summary.to_date, recount.TRACKED)

    def sync_without_transform(self) -> None:
        self.sync(skip_transform=True)

    def transform_twice(self) -> str | None:
        if not self.loaded:
            return "nothing to transform yet"
        transform(self.warehouse)
        transform(self.warehouse)
        self.counted = self.loaded
        return None

    def backfill(self) -> None:
        day = (self.now - timedelta(days=self.random.randrange(45))).date()
        self.sync(backfill=Window(day, min(day + timedelta(days=3), self.now.date())))

    def full_refresh(self) -> None:
        self.sync(full_refresh=True)

    def failing_sync(self) -> str:
        fault = self.random.choice(BROKEN)
        self.mixpanel.fail(fault, times=2, at=self.random.random())
        summary = self._sync()
        assert summary.status == "failed"
        return f"sync that fails with {fault.name}"

    def check(self) -> None:
        """Compare the warehouse with what it has to hold."""
        if self.loaded:
            keys = rows(self.warehouse, "select count(*) from mixpanel_raw.events")
            assert keys == [(len(self.loaded),)]
        if self.counted is None:
            return
        assert subscribers(self.warehouse) == recount.subscribers(self.counted.values())
        with copy_of(self.warehouse) as copy:
            transform(copy, full_refresh=True)
            assert subscribers(copy) == recount.subscribers(self.loaded.values())


@pytest.mark.parametrize("seed", [1, 2])
def test_every_event_counts_once_after_any_history(warehouse, mixpanel, monkeypatch, seed):
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "2")
    history = History(warehouse, mixpanel, random.Random(seed))
    done = []
    for _ in range(STEPS):
        done.append(history.step())
        try:
            history.check()
        except AssertionError as error:
            error.add_note(f"after {json.dumps(done, indent=1)}")
            raise
