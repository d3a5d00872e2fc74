"""Whatever happened, in whatever order: incremental = full refresh = recount.

`make chaos` runs many more of these.
"""

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from local_mixpanel import Fault, LocalMixpanel
from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.errors import SyncError
from mixpanel_pipeline.events.suppression import hashed
from mixpanel_pipeline.runs.forgetting import forget
from mixpanel_pipeline.runs.pipeline import audit, sync
from mixpanel_pipeline.runs.removal import remove_events
from mixpanel_pipeline.runs.summary import Summary
from mixpanel_pipeline.runs.transform import call_dbt, transform
from mixpanel_pipeline.source import plan
from mixpanel_pipeline.source.configuration import load_configuration
from mixpanel_pipeline.source.window import Window
from tests import recount
from tests.children import EXIT_CODES, start_sync, wait_until_quiet
from tests.conftest import NOW
from tests.postgresql import Server
from tests.warehouses import copy_of, reader, rows, subscribers

HISTORIES = int(os.environ.get("HISTORIES", "15"))
"""How many in all, on the databases in turn."""
STEPS = 6
# A sync of so few events takes about this long: it may be killed at any instant of it.
SECONDS_TO_KILL_IN = 2.5
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

NAMES = sorted(recount.tracked(recount.METRICS))
USERS = ["ada", "bob", "flo", "gil", "hal"]
DEVICES = ["d1", "d2", "d3", "d4", "d5", "d6", "d7", "null"]

HASH_SECRET = "0123456789abcdef0123456789abcdef"

Events = dict[Hashable, recount.Event]
Profiles = dict[str, dict[str, Any]]


@dataclass
class History:
    """A warehouse, its Mixpanel, and what the warehouse has to hold by now."""

    warehouse: Warehouse
    mixpanel: LocalMixpanel
    random: random.Random
    server: Server | None
    """The server of a warehouse that is one."""
    declare: Callable[[Callable[[dict[str, Any]], object]], None] | None = None
    """Changes the declared metrics."""
    now: datetime = NOW - timedelta(days=20)
    cursor: str = "occurred_at"
    sent: list[recount.Event] = field(default_factory=list)
    loaded: Events = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    """The ids that were forgotten."""
    linked: set[str] = field(default_factory=set)
    """Those that are to be forgotten as well, as they turned out to be of the same person."""
    may_be_linked: set[str] = field(default_factory=set)
    """Those that a sync which came to no known end may have found out."""
    removed: set[Hashable] = field(default_factory=set)
    """The events that were once removed."""
    pairs: set[tuple[str, str]] = field(default_factory=set)
    """The ids before and after that were delivered."""
    links: recount.Links = field(default_factory=dict)
    """What events that are not loaded said of who is who."""
    served: Profiles = field(default_factory=dict)
    """The profiles that Mixpanel has."""
    profiles: Profiles = field(default_factory=dict)
    """Those that are loaded."""
    metrics: recount.Metrics = field(default_factory=lambda: dict(recount.METRICS))
    """Those that are declared."""
    always_asked: set[str] = field(default_factory=lambda: recount.asked(recount.METRICS))
    """The events that Mixpanel was asked for from the beginning."""
    ever_asked: set[str] = field(default_factory=lambda: recount.asked(recount.METRICS))
    """Those that it was asked for at any time."""
    since: date = date.max
    """The first day that a sync loaded."""
    counted: "Counted | None" = None
    """What the last transformation counted; None before the first."""
    did: Counter[str] = field(default_factory=Counter)

    def step(self) -> str:
        """Do something at random and return what."""
        actions: list[Callable[[], str | None]] = [
            self.sync,
            self.sync,
            self.sync_without_transform,
            self.transform_twice,
            self.backfill,
            self.full_refresh,
            self.failing_sync,
            self.cut_that_cannot_be_seen,
            self.switch_cursor,
            self.switch_cursor,
            self.killed_sync,
            self.killed_sync,
            self.sync_on_a_full_disk,
            self.two_syncs_at_once,
            self.sync_with_a_wrong_clock,
            self.interrupted_sync,
            self.full_refresh_after_an_outage,
            self.sync_beside_a_reader,
            self.removal,
            self.pruning,
            self.change_of_metrics,
            self.forget_somebody,
        ]
        if self.server is not None:
            actions += [self.sync_while_the_server_restarts, self.sync_that_loses_its_lock]
        action = self.random.choice(actions)
        self.happen()
        done = action() or action.__name__
        self.did[action.__name__] += 1
        return done

    def happen(self) -> None:
        """Time passes; events happen, arrive minutes to 40 days late, and arrive again."""
        choose = self.random
        self.now += timedelta(hours=choose.choice([0, 1, 5, 26]))
        events = []
        for _ in range(choose.randrange(25)):
            # The last is the clock of a phone that is fast.
            late = choose.choice(
                [
                    timedelta(minutes=30),
                    timedelta(days=2),
                    timedelta(days=40),
                    timedelta(hours=-30),
                ]
            )
            events.append(self._event(self.now - late * choose.random()))
        events += [self._evidence() for _ in range(choose.randrange(3))]
        events += [self._link() for _ in range(choose.randrange(3))]
        for original in choose.sample(self.sent, min(len(self.sent), choose.randrange(6))):
            copy = {"event": original["event"], "properties": dict(original["properties"])}
            if "$insert_id" in copy["properties"] and choose.random() < 0.7:
                copy["properties"]["mp_processing_time_ms"] += choose.randrange(-5, 100_000)
                copy["properties"]["creatorType"] = choose.choice(["premium", "regular"])
                if str(copy["properties"]["distinct_id"]).startswith("$device:"):
                    # As after an identity merge: late, and of some events.
                    properties = copy["properties"]
                    properties["$distinct_id_before_identity"] = properties["distinct_id"]
                    properties["distinct_id"] = choose.choice(USERS)
            events.append(copy)
        self.mixpanel.add(events)
        self.sent += events
        for _ in range(choose.randrange(3)):
            self._change_a_profile()

    def _change_a_profile(self) -> None:
        choose = self.random
        one = choose.choice([*USERS, "eve", "nobody", *(f"$device:{name}" for name in DEVICES)])
        if one in self.served and choose.random() < 0.3:
            del self.served[one]
            self.mixpanel.profiles.delete(one)
            return
        said = {
            "income": choose.choice(["little", "much"]),
            "total_deposit_count": choose.randrange(9),
        }
        self.served[one] = said
        self.mixpanel.profiles.set({one: said})

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
        if choose.random() < 0.3:
            device = choose.choice(DEVICES)
            is_signed_in = choose.random() < 0.3
            properties["$device_id"] = device
            properties["distinct_id"] = f"$device:{device}"
            if is_signed_in:
                properties["distinct_id"] = properties["$user_id"] = choose.choice(USERS)
        if choose.random() < 0.2:
            properties["utm_source"] = choose.choice(["mail", "site", ""])
        name = choose.choice([*NAMES, "DubAutoCopyInitiated", "App Opened"])
        return {"event": name, "properties": properties}

    def _evidence(self) -> recount.Event:
        """An event by which an app says who is who."""
        choose = self.random
        event = self._event(self.now - timedelta(days=2) * choose.random())
        one, other = choose.sample([*USERS, *(f"$device:{device}" for device in DEVICES)], 2)
        match choose.choice(["$identify", "$create_alias", "$merge"]):
            case "$identify" as name:
                what: dict[str, Any] = {"$anon_id": one, "$identified_id": other}
            case "$create_alias" as name:
                what = {"distinct_id": one, "alias": other}
            case name:
                what = {"$distinct_ids": [one, other]}
        return {"event": name, "properties": event["properties"] | what}

    def _link(self) -> recount.Event:
        """An event that nobody asks for, of somebody who is signed in on a device."""
        choose = self.random
        event = self._event(self.now - timedelta(days=3) * choose.random())
        # Whoever is forgotten goes on using the app.
        user = choose.choice([*USERS, *3 * sorted(self.forgotten & set(USERS))])
        both = {"$device_id": choose.choice(DEVICES), "$user_id": user}
        return {"event": "App Opened", "properties": event["properties"] | both}

    def sync(self, **arguments: Any) -> str | None:
        with self._delivering() as delivered:
            summary = self._sync(**arguments)
        assert summary.status == "ok", summary.error
        assert summary.from_date is not None
        self.since = min(self.since, summary.from_date)
        before, lines = len(self.loaded), delivered.lines
        self._accept(delivered)
        if "backfill" not in arguments:
            self.profiles = {
                one: said for one, said in self.served.items() if one not in self.forgotten
            }
        assert summary.events_received == lines
        assert summary.events_new == len(self.loaded) - before
        assert summary.events_duplicate == lines - summary.events_new
        if not arguments.get("skip_transform"):
            self.counted = self._what_is_loaded()
            self._forget_linked(delivered)
        if self.cursor == "processed_at" and summary.mode == "incremental":
            self._check_that_nothing_is_late()
        return None

    def _accept(self, delivered: "Delivered") -> None:
        self.loaded, self.pairs = delivered.everything, delivered.pairs
        self.links = delivered.links
        self.linked |= delivered.linked

    def _forget_linked(self, delivered: "Delivered", *, is_sure: bool = True) -> None:
        """Who turned out to be somebody forgotten is forgotten as well, in the end of a sync."""
        resolved = recount.identities(self.loaded.values(), self.pairs, self.links)
        signed_in = recount.signed_in(self.loaded.values(), self.links)
        expected = set[str]()
        for one in self.linked:
            same = recount.cluster(one, resolved)
            expected |= same if not same & signed_in else set()
        new = self._suppressed() - self.forgotten
        if is_sure:
            assert expected <= new, f"not forgotten: {expected - new}"
        assert not new or self.linked | self.may_be_linked | delivered.linked
        maybe = set() if is_sure else self.linked | self.may_be_linked | delivered.linked
        self.linked, self.may_be_linked = set(), maybe
        if new:
            self.did["ids forgotten as well"] += len(new)
            self._drop(new)
            delivered.everything = _naming_none_of(new, delivered.everything)
            delivered.pairs = {pair for pair in delivered.pairs if not new & set(pair)}

    def _suppressed(self) -> set[str]:
        """Of all ids there are, those that are suppressed."""
        if not self.forgotten:
            return set()
        found = {one for (one,) in rows(self.warehouse, "table mixpanel_raw.suppressed_ids")}
        everybody = [*USERS, "eve", "zoe", "17", *DEVICES, *(f"$device:{one}" for one in DEVICES)]
        return {one for one in everybody if hashed(one, HASH_SECRET) in found}

    def _drop(self, theirs: set[str]) -> None:
        """Nothing of some ids is there any more, or counted."""
        kept = _naming_none_of(theirs, self.loaded)
        self.removed |= self.loaded.keys() - kept.keys()
        self.forgotten, self.loaded = self.forgotten | theirs, kept
        self.pairs = {pair for pair in self.pairs if not theirs & set(pair)}
        self.links = {pair: at for pair, at in self.links.items() if not theirs & set(pair)}
        self.profiles = {one: said for one, said in self.profiles.items() if one not in theirs}
        self.counted = self._what_is_loaded()

    def _check_that_nothing_is_late(self) -> None:
        """Whatever arrived until a minute ago is loaded, however long ago it happened.

        Of days to come nothing can be asked for.
        """
        # Once each: a line that comes again says that it was processed when it came first.
        arrived = {
            json.dumps(event).encode()
            for event in self.sent
            if event["event"] in self.always_asked
            and not recount.named(event) & self.forgotten
            and event["properties"]["mp_processing_time_ms"] < (self.now.timestamp() - 60) * 1000
            and _day(event) <= self.now.date()
        }
        missing = recount.deliver({}, arrived).keys() - self.loaded.keys() - self.removed
        assert not missing, f"not loaded: {missing}"

    def _sync(self, **arguments: Any) -> Summary:
        return sync(self.warehouse, load_configuration(), now=self.now, **arguments)

    @contextmanager
    def _delivering(self) -> Iterator["Delivered"]:
        """What Mixpanel delivers meanwhile."""
        asked = self._asked()
        delivered = Delivered(self.loaded, set(self.pairs), dict(self.links))
        before = len(self.mixpanel.requests)
        yield delivered
        forgotten = set(self.forgotten)
        for request in self.mixpanel.requests[before:]:
            if request.path == "/api/2.0/export" and request.status == 200:
                query = request.query
                first = date.fromisoformat(query["from_date"])
                last = date.fromisoformat(query["to_date"])
                names = asked if "event" in query else None
                told = self.mixpanel.lines(
                    first, last, names, time_in_ms=True, where=query.get("where")
                )
                delivered.linked |= {
                    one for line in told for one in recount.linked(json.loads(line), forgotten)
                }
                if "event" not in query:
                    lines = self._delivered(first, last, None, query["where"])
                    links = recount.links(lines, asked)
                    for pair, time in links.items():
                        delivered.links[pair] = min(time, delivered.links.get(pair, time))
                    continue
                lines = self._delivered(first, last, asked, query.get("where"))
                delivered.everything = recount.deliver(delivered.everything, lines)
                delivered.pairs |= recount.rekeyed(lines)
                delivered.lines += len(lines)

    def sync_without_transform(self) -> None:
        self.sync(skip_transform=True)

    def transform_twice(self) -> str | None:
        if not rows(self.warehouse, "select 1 from information_schema.tables limit 1"):
            return "nothing to transform yet"
        if not self.warehouse.has_table("mixpanel_raw", "events"):
            return "nothing to transform yet"
        transform(self.warehouse)
        transform(self.warehouse)
        self.counted = self._what_is_loaded()
        return None

    def backfill(self, days: Window | None = None) -> None:
        self.sync(backfill=days or self._some_days())

    def _some_days(self) -> Window:
        day = (self.now - timedelta(days=self.random.randrange(45))).date()
        return Window(day, min(day + timedelta(days=3), self.now.date()))

    def full_refresh(self) -> None:
        """All days from the initial window or the watermark on are there afterwards."""
        first = self.now.date() - timedelta(days=load_configuration().initial_window_days - 1)
        if self.cursor == "occurred_at":
            reached = max((_day(event) for event in self.loaded.values()), default=first)
            first = min(first, reached)
        self.sync(full_refresh=True)
        lines = self._delivered(first, self.now.date(), self._asked())
        missing = recount.deliver({}, lines).keys() - self.loaded.keys()
        assert not missing, f"not loaded: {missing}"

    def full_refresh_after_an_outage(self) -> None:
        """Nobody synced for longer than the initial window."""
        self.now += timedelta(days=5)
        self.happen()
        self._full_refresh_of_two_days()

    def _full_refresh_of_two_days(self) -> None:
        """That is its initial window; all else that it loads is for another reason."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOURCES__MIXPANEL__INITIAL_WINDOW_DAYS", "2")
            self.full_refresh()

    def failing_sync(self) -> str:
        fault = self.random.choice(BROKEN)
        self.mixpanel.fail(fault, times=9, at=self.random.random())
        with self._delivering() as delivered:
            summary = self._sync()
        self.mixpanel.forgive()
        assert summary.status == "failed"
        self._accept_some_of(delivered)
        return f"sync that fails with {fault.name}"

    def cut_that_cannot_be_seen(self) -> None:
        """An answer lacks lines and is whole to all appearances; the audit loads them."""
        self.mixpanel.fail(Fault.LINES_MISSING, times=9, at=self.random.random())
        with self._delivering() as delivered:
            summary = self._sync(skip_transform=True)
            assert summary.status == "ok", summary.error
        self.mixpanel.forgive()
        self._accept_some_of(delivered)
        self.heal(self.random.choice([2, 4, 45]))

    def heal(self, days: int = 45) -> None:
        """An audit of so many days; nothing that Mixpanel exports of them lacks afterwards."""
        with self._delivering() as delivered:
            found = audit(self.warehouse, load_configuration(), now=self.now, days=days, heal=True)
        # What was forgotten, Mixpanel still counts.
        assert found.status in ("equal", "healed"), found
        self._accept(delivered)
        if found.healed_days:
            self.counted = self._what_is_loaded()
            self._forget_linked(delivered)
        first = (self.now - timedelta(days=days - 1)).date()
        everything = self._delivered(first, self.now.date(), self._asked())
        assert recount.deliver({}, everything).keys() <= self.loaded.keys()

    def switch_cursor(self) -> str:
        self.cursor = "occurred_at" if self.cursor == "processed_at" else "processed_at"
        os.environ["SOURCES__MIXPANEL__CURSOR"] = self.cursor
        return f"sync by {self.cursor}{self.sync() or ''}"

    def killed_sync(self) -> str:
        choose = self.random
        arguments: dict[str, Any] = choose.choice(
            [{}, {}, {"full_refresh": True}, {"backfill": self._some_days()}]
        )
        seconds = choose.random() * SECONDS_TO_KILL_IN
        with self._delivering() as delivered:
            process = start_sync(self.now, **arguments)
            process.join(seconds)
            was_alive = process.is_alive()
            process.kill()
            process.join()
            wait_until_quiet(self.warehouse)
        self._accept_some_of(delivered)
        self.did["killed while it ran"] += was_alive
        return f"sync {arguments} killed after {seconds:.2f} s"

    def interrupted_sync(self) -> str:
        """As by Ctrl-C."""
        seconds = self.random.random() * SECONDS_TO_KILL_IN
        with self._delivering() as delivered:
            process = start_sync(self.now)
            process.join(seconds)
            if process.pid is not None and process.is_alive():
                self.did["interrupted while it ran"] += 1
                os.kill(process.pid, signal.SIGINT)
            process.join()
            wait_until_quiet(self.warehouse)
        self._accept_some_of(delivered)
        return f"sync interrupted after {seconds:.2f} s: {process.exitcode}"

    def sync_beside_a_reader(self) -> None:
        """An analyst who leaves a query open, which on DuckDB keeps everybody else out."""
        if self.counted is None:
            self.sync()
        with reader(self.warehouse, seconds=self.random.random() * 2):
            self.sync()

    def removal(self) -> str:
        """The events of one id go, and what they told of who is who."""
        one = self.random.choice([*USERS, "eve", "zoe", *(f"$device:{name}" for name in DEVICES)])
        if self.counted is None:
            return "nothing to remove from yet"
        gone = {key for key, event in self.loaded.items() if recount.who(event) == one}
        self._remove(f"subscriber_id = '{one}'", gone)
        return f"removal of {len(gone)} events of {one}"

    def _remove(self, condition: str, gone: set[Hashable]) -> None:
        assert self.counted is not None
        assert remove_events(self.warehouse, condition).events == len(gone)
        self.removed |= gone
        self.loaded = _without(gone, self.loaded)
        # Who is touched has their profile worked out anew with what is left; others not.
        self.counted = replace(self.counted, events=_without(gone, self.counted.events))
        self.did["events removed"] += len(gone)

    def pruning(self) -> str:
        """Old events go, by the command or by hand; what reads their days brings them back."""
        if self.counted is None:
            self.sync()
        first = self.now.date() - timedelta(days=self.random.randrange(40))
        condition = f"occurred_at < timestamp with time zone '{first} 00:00+00'"
        gone = {key for key, event in self.loaded.items() if _day(event) < first}
        remove = self.random.choice([self._remove, self._delete_by_hand])
        remove(condition, gone)
        self.check()

        def backfill() -> None:
            self.backfill(Window(first - timedelta(days=4), first - timedelta(days=1)))

        def nothing() -> None:
            pass

        actions: list[Callable[[], None]] = [nothing, backfill, self.full_refresh, self.heal]
        again = self.random.choice(actions)
        again()
        done = f"{remove.__name__} of {len(gone)} events of before {first}"
        return f"{done}, and {again.__name__}"

    def _delete_by_hand(self, condition: str, gone: set[Hashable]) -> None:
        """A test tells of it, and counting anew is all that is to be done."""
        assert self.counted is not None
        self.warehouse.execute(f"delete from mixpanel_raw.events where {condition}")
        self.removed |= gone
        self.loaded = _without(gone, self.loaded)
        counted = [self.counted.events[key] for key in gone & self.counted.events.keys()]
        names = recount.tracked(self.counted.metrics)
        told = call_dbt(self.warehouse, ["test", "--select", "subscribers_equal_a_recount"])
        assert told.success != any(one["event"] in names and recount.who(one) for one in counted)
        self.counted = None
        if self.random.random() < 0.5:
            self.sync_without_transform()
        transform(self.warehouse, full_refresh=True)
        self.counted = self._what_is_loaded()
        self.did["events deleted by hand"] += len(gone)

    def change_of_metrics(self) -> str:
        """Some are renamed, taken away, redefined or added, of an event of any name.

        A sync refuses to add to what counts others, and says what to do.
        """
        if self.counted is None:
            self.sync()
        assert self.declare is not None
        self.metrics = self._other_metrics()
        self.declare(self._declare_metrics)
        new = self._asked() - self.ever_asked
        is_all_there = self._asked() <= self.always_asked
        self.ever_asked |= self._asked()
        self.always_asked &= self._asked()
        between: list[Callable[[], str | None]] = [
            lambda: None,
            self.sync_without_transform,
            self.refused_removal,
            self.killed_sync,
        ]
        action = self.random.choice(between)
        done = [action() or action.__name__]
        # What is killed may have been a full refresh.
        is_sure = action != self.killed_sync and bool(self.loaded)
        with self._delivering() as delivered:
            summary = self._sync()
        self._accept_some_of(delivered)
        self.check()
        error = summary.error or ""
        is_refused = "another declaration" in error
        assert is_refused or not is_sure, error
        assert is_refused != (summary.status == "ok"), error
        if is_refused:
            load = "--skip-load --full-refresh" not in error
            assert not is_sure or load or not new
            assert not load or not is_all_there
            if load:
                self._full_refresh_of_two_days()
                # Of all days that were loaded without.
                lines = self._delivered(self.since, self.now.date(), new)
                self.did["events of new metrics"] += len(lines)
                missing = recount.deliver({}, lines).keys() - self.loaded.keys()
                assert not missing, f"not loaded: {missing}"
            else:
                transform(self.warehouse, full_refresh=True)
                self.counted = self._what_is_loaded()
            done.append(f"load: {load}")
        return f"change to {self.metrics}, {done}"

    def _other_metrics(self) -> recount.Metrics:
        choose = self.random
        others = dict(self.metrics)
        while others == self.metrics or choose.random() < 0.5:
            name, new = choose.choice(list(others)), f"metric_{choose.randrange(1000)}"
            # Half of the new ones are of events that nobody asked for before.
            event = choose.choice([choose.choice(NAMES), "App Opened"])
            which = choose.choice(["all", "premium", "regular", "flag"])
            match choose.choice(["rename", "take away", "redefine", "add"]):
                case "rename":
                    others[new] = others.pop(name)
                case "take away":
                    del others[name]
                case "redefine":
                    others[name] = event, which
                case _:
                    others[new] = event, which
        return others

    def _declare_metrics(self, declared: dict[str, Any]) -> None:
        conditions: dict[str, dict[str, Any]] = {
            "all": {},
            "premium": {"where": {"creatorType": "premium"}},
            "regular": {"unless": {"creatorType": "premium"}},
            "flag": {"kind": "flag"},
        }
        declared.clear()
        for name, (event, which) in self.metrics.items():
            declared[name] = {"event": event} | conditions[which]

    def refused_removal(self) -> None:
        """Whoever did what is removed would be counted by other metrics than everybody else."""
        if not any(recount.who(event) for event in self.loaded.values()):
            return
        with pytest.raises(SyncError, match="another declaration"):
            remove_events(self.warehouse, "subscriber_id is not null")
        with pytest.raises(SyncError, match="another declaration"):
            forget(self.warehouse, ["ada"], HASH_SECRET)

    def forget_somebody(self) -> str:
        """Once in a history: with everybody gone there would be none."""
        if self.counted is None or self.forgotten:
            return "nobody to forget"
        self.sync()
        known = {recount.who(event) for event in self.loaded.values()}
        everybody = [*USERS, "eve", "zoe", "$device:d1"]
        one = self.random.choice([one for one in everybody if one in known] or everybody)
        resolved = recount.identities(self.loaded.values(), self.pairs, self.links)
        theirs = recount.cluster(one, resolved)
        done = forget(self.warehouse, [one], HASH_SECRET)
        assert done.ids == len(theirs)
        before = len(self.loaded)
        self._drop(theirs)
        assert done.events == before - len(self.loaded)
        self.did["events forgotten"] += done.events
        return f"forget {theirs}"

    def _delivered(
        self, first: date, last: date, names: set[str] | None, where: str | None = None
    ) -> list[bytes]:
        """What Mixpanel exports of these days, and is not to be forgotten."""
        lines = self.mixpanel.lines(first, last, names, time_in_ms=True, where=where)
        return [line for line in lines if not recount.named(json.loads(line)) & self.forgotten]

    def sync_on_a_full_disk(self) -> str:
        file_bytes = self.random.choice([20_000, 200_000, 2_000_000])
        code = self._sync_apart(file_bytes=file_bytes)
        return f"sync with files of at most {file_bytes} bytes: {code}"

    def two_syncs_at_once(self) -> None:
        with self._delivering() as delivered:
            processes = [start_sync(self.now) for _ in range(2)]
            for process in processes:
                process.join()
        codes = sorted(process.exitcode or 0 for process in processes)
        assert codes in ([0, 0], [0, EXIT_CODES["skipped"]]), codes
        self.did["skipped"] += codes[1] != 0
        self._accept_some_of(delivered)

    def sync_with_a_wrong_clock(self) -> str:
        right = self.now
        self.now += self.random.choice([-1, 1]) * timedelta(days=3) * self.random.random()
        wrong = self.now
        self.sync()
        self.now = right
        return f"sync at {right} with a clock that shows {wrong}"

    def sync_while_the_server_restarts(self) -> str:
        assert self.server is not None
        with self._delivering() as delivered:
            process = start_sync(self.now)
            process.join(self.random.random() * SECONDS_TO_KILL_IN)
            self.server.restart()
            process.join()
            wait_until_quiet(self.warehouse)
        self._accept_some_of(delivered)
        return f"sync while the server restarts: {process.exitcode}"

    def sync_that_loses_its_lock(self) -> str:
        """The connection that holds the lock is ended, and another sync begins."""
        assert self.server is not None
        with self._delivering() as delivered:
            process = start_sync(self.now)
            process.join(self.random.random() * SECONDS_TO_KILL_IN)
            ended = rows(
                self.warehouse,
                "select count(pg_terminate_backend(pid)) from pg_locks "
                "where locktype = 'advisory' and granted and database = "
                "(select oid from pg_database where datname = current_database())",
            )
            self.did["lost its lock while it ran"] += ended[0][0]
            other = start_sync(self.now)
            process.join()
            other.join()
            wait_until_quiet(self.warehouse)
        self._accept_some_of(delivered)
        return f"sync that loses its lock: {process.exitcode}, beside: {other.exitcode}"

    def _sync_apart(self, **arguments: Any) -> int | None:
        with self._delivering() as delivered:
            process = start_sync(self.now, **arguments)
            process.join()
            wait_until_quiet(self.warehouse)
        self._accept_some_of(delivered)
        return process.exitcode

    def _accept_some_of(self, delivered: "Delivered") -> None:
        """A sync came to no known end: it may have loaded and counted all, some or nothing."""
        self._forget_linked(delivered, is_sure=False)
        found = stored(self.warehouse)
        assert found.keys() >= self.loaded.keys(), "something was lost"
        assert found.keys() <= delivered.everything.keys(), "something was invented"
        assert {key: found[key] for key in self.loaded} == self.loaded
        told = stored_pairs(self.warehouse)
        assert self.pairs <= told <= delivered.pairs
        self.loaded, self.pairs = found, told
        links = stored_links(self.warehouse)
        assert self.links.keys() <= links.keys() <= delivered.links.keys()
        assert all(delivered.links[pair] <= at for pair, at in links.items())
        assert all(links[pair] <= at for pair, at in self.links.items())
        self.links = links
        self.profiles = stored_profiles(self.warehouse)
        if not self.warehouse.has_table("mixpanel", "subscribers"):
            return
        counts = subscribers(self.warehouse)
        if counts != (self.counted or Counted({}, set(), {}, {}, {})).subscribers():
            assert counts == self._what_is_loaded().subscribers()
            self.counted = self._what_is_loaded()

    def step_that_could_bring_back(self) -> str:
        """Whatever reads days again, after somebody was forgotten."""
        actions: list[Callable[[], str | None]] = [
            self.backfill,
            self.full_refresh,
            self.cut_that_cannot_be_seen,
            self.killed_sync,
            self.killed_sync,
        ]
        action = self.random.choice(actions)
        self.happen()
        done = action() or action.__name__
        self.did[action.__name__] += 1
        return done

    def check(self) -> None:
        """Compare the warehouse with what it has to hold."""
        assert stored(self.warehouse) == self.loaded
        assert stored_links(self.warehouse) == self.links
        assert stored_profiles(self.warehouse) == self.profiles
        if self.counted is not None:
            assert subscribers(self.warehouse) == self.counted.subscribers()

    def _what_is_loaded(self) -> "Counted":
        return Counted(
            self.loaded, set(self.pairs), self.profiles, dict(self.links), dict(self.metrics)
        )

    def _asked(self) -> set[str]:
        return recount.asked(self.metrics)

    def check_full_refresh(self) -> None:
        """Compare incremental counts, counts made anew, and the recount."""
        self.sync()
        self.check()
        with copy_of(self.warehouse) as copy:
            transform(copy, full_refresh=True)
            assert subscribers(copy) == subscribers(self.warehouse)
            assert subscribers(copy) == self._what_is_loaded().subscribers()
            assert property_counts(copy) == property_counts(self.warehouse)
            assert touches(copy) == touches(self.warehouse)
            assert touches(copy) == self._what_is_loaded().touches()


@dataclass
class Counted:
    """What was loaded when it was counted."""

    events: Events
    pairs: set[tuple[str, str]]
    profiles: Profiles
    links: recount.Links
    metrics: recount.Metrics

    def subscribers(self) -> dict[str, recount.Row]:
        return recount.subscribers(
            self.events.values(), self.pairs, self.profiles, self.links, self.metrics
        )

    def touches(self) -> list[tuple[Any, ...]]:
        return sorted(
            (who, recount.second_of(event["properties"]), event["properties"]["utm_source"])
            for event in self.events.values()
            if (who := recount.who(event)) and event["properties"].get("utm_source")
        )


@dataclass
class Delivered:
    """What answers brought to what was loaded before."""

    everything: Events
    pairs: set[tuple[str, str]]
    links: recount.Links
    linked: set[str] = field(default_factory=set)
    """Ids that turned out to be of somebody forgotten."""
    lines: int = 0


def _without(gone: set[Hashable], events: Events) -> Events:
    return {key: event for key, event in events.items() if key not in gone}


def _naming_none_of(ids: set[str], events: Events) -> Events:
    return {key: event for key, event in events.items() if not recount.named(event) & ids}


def _day(event: recount.Event) -> date:
    return datetime.fromtimestamp(recount.second_of(event["properties"]), UTC).date()


def stored(warehouse: Warehouse) -> Events:
    """The events of the completed loads, in Mixpanel's form."""
    if not warehouse.has_table("mixpanel_raw", "events"):
        return {}
    found = rows(
        warehouse,
        "select event, cast(properties as text) from mixpanel_raw.events where _dlt_load_id in "
        "(select load_id from mixpanel_raw._dlt_loads where status = 0)",
    )
    lines = [f'{{"event": {json.dumps(event)}, "properties": {text}}}' for event, text in found]
    events = recount.deliver({}, [line.encode() for line in lines])
    assert len(events) == len(found), "an event is stored twice"
    return events


def property_counts(warehouse: Warehouse) -> set[tuple[Any, ...]]:
    """What `property_dictionary` is worked out of."""
    columns = "event, property, type, bucket, events, first_seen_at, last_seen_at, smallest_hash"
    return set(rows(warehouse, f"select {columns} from mixpanel.property_counts"))


def touches(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """Who was led to the app, when, and by what."""
    second = "cast(floor(extract(epoch from occurred_at)) as bigint)"
    return sorted(
        rows(warehouse, f"select subscriber_id, {second}, utm_source from mixpanel.touches")
    )


def stored_profiles(warehouse: Warehouse) -> Profiles:
    """The profiles that the last sweep found."""
    if not warehouse.has_table("mixpanel_raw", "profiles"):
        return {}
    found = rows(
        warehouse,
        "select distinct_id, cast(properties as text) from mixpanel_raw.profiles "
        "where not is_deleted",
    )
    return {one: json.loads(said) for one, said in found}


def stored_pairs(warehouse: Warehouse) -> set[tuple[str, str]]:
    """The ids before and after that the completed loads told of."""
    # It is made before dlt makes its own.
    if not warehouse.has_table("mixpanel_raw", "_dlt_loads"):
        return set()
    found = rows(
        warehouse,
        "select distinct_id_before_identity, distinct_id from mixpanel_raw.rekeyed_ids "
        "where evidence = 'rekeyed' and _dlt_load_id in "
        "(select load_id from mixpanel_raw._dlt_loads where status = 0)",
    )
    assert len(found) == len(set(found)), "a pair is stored twice"
    return set(found)


def stored_links(warehouse: Warehouse) -> recount.Links:
    """The devices and users that the completed loads told of."""
    if not warehouse.has_table("mixpanel_raw", "_dlt_loads"):
        return {}
    found = rows(
        warehouse,
        "select distinct_id_before_identity, distinct_id, min(extract(epoch from occurred_at)) "
        "from mixpanel_raw.rekeyed_ids where evidence = 'device' and _dlt_load_id in "
        "(select load_id from mixpanel_raw._dlt_loads where status = 0) group by 1, 2",
    )
    return {(device, user): int(time) for device, user, time in found}


@pytest.fixture
def history(request, warehouse, mixpanel, metrics, monkeypatch):
    """A history by its seed."""
    seed = request.node.callspec.params["seed"]
    monkeypatch.setenv("SOURCES__MIXPANEL__ATTEMPTS", "2")
    monkeypatch.setenv("SOURCES__MIXPANEL__HASH_SECRET", HASH_SECRET)
    monkeypatch.setenv("SOURCES__MIXPANEL__PROFILES", "true")
    monkeypatch.setenv("SOURCES__MIXPANEL__PROFILES_EVERY_HOURS", "0")
    monkeypatch.setenv("SOURCES__MIXPANEL__CURSOR", "occurred_at")
    monkeypatch.setenv("SOURCES__MIXPANEL__ARRIVAL_DAYS", "60")
    monkeypatch.setenv("SOURCES__MIXPANEL__EVIDENCE_OF_ALL_EVENTS", "true")
    if seed % 2:
        # Every answer is committed alone, and a sync may be interrupted between two.
        monkeypatch.setattr(plan, "COMMIT_BYTES", 1)
    server = request.getfixturevalue("postgresql") if warehouse.name == "postgres" else None
    return History(warehouse, mixpanel, random.Random(seed), server, metrics)


def _follow(
    history: History,
    steps: Iterable[Callable[[], str | None]],
    record_property: Callable[[str, object], None],
) -> None:
    """Take the steps, and compare after each; in the end with a full refresh too."""
    done: list[str | None] = []
    try:
        for step in steps:
            done.append(step())
            history.check()
        done.append("sync, and a full refresh of a copy")
        history.check_full_refresh()
    except BaseException as error:
        error.add_note(f"after {json.dumps(done, indent=1)}")
        raise
    finally:
        record_property("did", dict(history.did))


@pytest.mark.parametrize(
    ("warehouse", "seed"),
    [(("duckdb", "postgres")[number % 2], number // 2) for number in range(HISTORIES)],
    indirect=["warehouse"],
)
def test_every_event_counts_once_after_any_history(history, warehouse, record_property, seed):
    _follow(history, [history.step] * STEPS, record_property)


@pytest.mark.parametrize(
    ("warehouse", "seed"),
    [(("duckdb", "postgres")[number % 2], number) for number in range(max(2, HISTORIES // 8))],
    indirect=["warehouse"],
)
def test_nothing_of_who_is_forgotten_comes_back_after_any_history(
    history, warehouse, record_property, seed
):
    for _ in range(3):
        history.happen()
    again = [history.step_that_could_bring_back] * STEPS
    _follow(history, [history.sync, history.forget_somebody, *again], record_property)
    assert history.forgotten
