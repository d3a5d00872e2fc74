"""What the warehouse has to hold, found by other means than the project's: plain dictionaries.

Nothing here is shared with the code under test; the metrics are spelt out once more.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

Event = dict[str, Any]
Row = dict[str, Any]
Links = dict[tuple[str, str], int]
Metrics = dict[str, tuple[str, str]]
"""The event of each, and which of those it counts: `all`, `premium` or `regular`; or `flag`."""

ID_PROPERTIES = (
    "distinct_id",
    "$distinct_id",
    "user_id",
    "$user_id",
    "identified_id",
    "$identified_id",
)
METRICS: Metrics = {
    "total_copies": ("DubAutoCopyInitiated", "all"),
    "total_regular_copies": ("DubAutoCopyInitiated", "regular"),
    "total_premium_copies": ("DubAutoCopyInitiated", "premium"),
    "regular_pdp_views": ("Viewed Portfolio Details", "regular"),
    "premium_pdp_views": ("Viewed Portfolio Details", "premium"),
    "regular_creator_profile_views": ("Viewed Creator Profile", "regular"),
    "premium_creator_profile_views": ("Viewed Creator Profile", "premium"),
    "total_ach_transfers": ("AchTransferInitiated", "all"),
    "paywall_views": ("Viewed Creator Paywall", "all"),
    "total_subscriptions": ("SubscriptionCreated", "all"),
    "app_sessions": ("$ae_session", "all"),
    "stripe_modal_views": ("Viewed Stripe Modal", "all"),
    "creator_card_taps": ("Tapped Creator Card", "all"),
    "portfolio_card_taps": ("Tapped Portfolio Card", "all"),
    "linked_bank_account": ("BankAccountLinked", "flag"),
}
IDENTITY_EVENTS = {"$identify", "$create_alias", "$merge"}
PROFILE_COLUMNS = (
    "income",
    "net_worth",
    "investing_activity",
    "investing_experience_years",
    "investing_objective",
    "investment_type",
    "acquisition_survey",
    "available_copy_credits",
    "buying_power",
    "total_deposits",
    "total_deposit_count",
    "total_withdrawals",
    "total_withdrawal_count",
    "active_created_portfolios",
    "lifetime_created_portfolios",
)
ADDED_BY_IDENTITY = {"$distinct_id_before_identity", "$user_id", "$is_reshuffled"}
JUNK = {"null", "<null>", "none", "undefined", "anonymous", "[object object]", "0" * 32}
JUNK.add("00000000-0000-0000-0000-000000000000")


def tracked(metrics: Metrics) -> set[str]:
    """The events that count."""
    return {event for event, _ in metrics.values()}


def asked(metrics: Metrics) -> set[str]:
    """The events that Mixpanel is asked for."""
    return tracked(metrics) | IDENTITY_EVENTS


def deliver(loaded: dict[Hashable, Event], lines: Iterable[bytes]) -> dict[Hashable, Event]:
    """What one more load makes of the `loaded` events: those it holds stay as they are."""
    identical = Counter[str]()
    delivered: dict[Hashable, Event] = {}
    for line in lines:
        event = json.loads(line)
        key = _key(event, identical)
        if key not in delivered or _processed(event) >= _processed(delivered[key]):
            delivered[key] = event
    return delivered | loaded


def _key(event: Event, identical: Counter[str]) -> Hashable:
    properties = event["properties"]
    original_id = properties.get("$distinct_id_before_identity") or properties.get("distinct_id")
    if properties.get("$insert_id"):
        return event["event"], original_id, second_of(properties), properties["$insert_id"]
    as_it_was = {"distinct_id": original_id, "event": event["event"], "time": second_of(properties)}
    whole = json.dumps(
        {name: what for name, what in properties.items() if name not in ADDED_BY_IDENTITY}
        | as_it_was,
        sort_keys=True,
    )
    identical[whole] += 1
    return whole, identical[whole]


def second_of(properties: Mapping[str, Any]) -> int:
    """When an event happened, whichever unit of time it was asked for in."""
    time: int = properties["time"]
    return time // 1000 if time > 10**11 else time


def _processed(event: Event) -> int:
    processed: int = event["properties"].get("mp_processing_time_ms", 0)
    return processed


def rekeyed(lines: Iterable[bytes]) -> set[tuple[str, str]]:
    """The ids before and after that lines tell of, those of copies too."""
    found = [json.loads(line)["properties"] for line in lines]
    pairs = [(each.get("$distinct_id_before_identity"), each.get("distinct_id")) for each in found]
    return {(before, after) for before, after in pairs if before and after and before != after}


def links(lines: Iterable[bytes], asked: set[str]) -> Links:
    """The devices and users that events which are not `asked` for name, and their first times."""
    found: Links = {}
    for line in lines:
        event = json.loads(line)
        properties = event["properties"]
        device, user = properties.get("$device_id"), properties.get("$user_id")
        if event["event"] not in asked and device and user:
            pair = f"$device:{device}", str(user)
            found[pair] = min(second_of(properties), found.get(pair, 2**60))
    return found


def identities(
    events: Iterable[Event], pairs: Iterable[tuple[str, str]], linked: Links | None = None
) -> dict[str, str]:
    """What each id resolves to that is another's, by union and find.

    Args:
        events: What is loaded.
        pairs: The ids before and after that deliveries told of.
        linked: What `links` found.
    """
    bindings: dict[str, set[tuple[int, str]]] = {}
    for (device, user), time in (linked or {}).items():
        if _is_evidence(device, user):
            bindings.setdefault(device, set()).add((time, user))
    said, merged = set[tuple[str, str]](), set[tuple[str, str]]()
    for event in events:
        name, properties = event["event"], event["properties"]
        device, user = properties.get("$device_id"), properties.get("$user_id")
        if device and user:
            device = f"$device:{device}"
            if device != str(user) and _is_somebody(device) and _is_somebody(str(user)):
                bindings.setdefault(device, set()).add((second_of(properties), str(user)))
        if name == "$identify":
            said.add((properties.get("$anon_id"), properties.get("$identified_id")))
        if name == "$create_alias":
            said.add((properties.get("distinct_id"), properties.get("alias")))
        if name == "$merge":
            first, second = properties["$distinct_ids"]
            merged.add((first, second))
    said = {pair for pair in said if _is_evidence(*pair)}
    merged = {pair for pair in merged if _is_evidence(*pair)}
    pairs = {pair for pair in pairs if _is_evidence(*pair)}
    users = {user for of_device in bindings.values() for _, user in of_device}
    bound = {(device, min(of_device)[1]) for device, of_device in bindings.items()}

    parents = {one: one for pair in {*bound, *said, *merged, *pairs} for one in pair}
    parents |= {user: user for user in users}

    def root(one: str) -> str:
        return one if parents[one] == one else root(parents[one])

    for one, other in bound | said | merged | pairs:
        parents[root(one)] = root(other)

    moved, targets = {before for before, _ in pairs}, {after for _, after in pairs}
    identified = {to for _, to in said}

    def preference(one: str) -> tuple[int, bytes]:
        rules = [
            one in users,
            one in targets and one not in moved,
            one in targets,
            one in identified,
            not one.startswith("$device:"),
            True,
        ]
        return rules.index(True), one.encode()

    clusters: dict[str, list[str]] = {}
    for one in parents:
        clusters.setdefault(root(one), []).append(one)
    return {
        one: one if len(cluster) > 500 else min(cluster, key=preference)
        for cluster in clusters.values()
        for one in cluster
    }


def _is_evidence(one: str | None, other: str | None) -> bool:
    return bool(one and other) and one != other and _is_somebody(one) and _is_somebody(other)


def _is_somebody(one: str | None) -> bool:
    return bool(one) and (one or "").replace("$device:", "").lower() not in JUNK | {""}


def who(event: Event) -> str | None:
    """The id under which an event happened."""
    properties = event["properties"]
    names = ("$distinct_id_before_identity", *ID_PROPERTIES)
    found = next((properties[name] for name in names if properties.get(name)), None)
    return None if found is None else str(found)


def named(event: Event) -> set[str]:
    """Every id that an event names as somebody's."""
    properties = event["properties"]
    names = {*ID_PROPERTIES, "$distinct_id_before_identity", "$anon_id", "alias", "$device_id"}
    found = {str(properties[name]) for name in names if properties.get(name)}
    device = properties.get("$device_id")
    return found | {f"$device:{device}"} | set(properties.get("$distinct_ids", []))


def linked(event: Event, forgotten: set[str]) -> set[str]:
    """The ids that an event tells to have been somebody's who is forgotten by others."""
    told = _signs_in(event)
    properties = event["properties"]
    told.append((properties.get("$distinct_id_before_identity"), properties.get("distinct_id")))
    if event["event"] == "$merge":
        first, second = properties["$distinct_ids"]
        told += [(first, second), (second, first)]
    return {
        str(one)
        for one, other in told
        if other in forgotten and one not in forgotten and _is_somebody(one)
    }


def signed_in(events: Iterable[Event], links: Links) -> set[str]:
    """The ids that somebody is known to have signed in as."""
    told = [*links, *(pair for event in events for pair in _signs_in(event))]
    return {str(other) for one, other in told if _is_evidence(one, other)}


def _signs_in(event: Event) -> list[tuple[str | None, str | None]]:
    properties = event["properties"]
    device, user = properties.get("$device_id"), properties.get("$user_id")
    told: list[tuple[str | None, str | None]] = []
    if device and user:
        told.append((f"$device:{device}", str(user)))
    if event["event"] == "$identify":
        told.append((properties["$anon_id"], properties["$identified_id"]))
    if event["event"] == "$create_alias":
        told.append((properties["distinct_id"], properties["alias"]))
    return told


def cluster(one: str, resolved: dict[str, str]) -> set[str]:
    """The ids that resolve to the same as this one."""
    same = {other for other in resolved if resolved[other] == resolved.get(one)}
    return same | {one}


def subscribers(
    events: Iterable[Event],
    pairs: Iterable[tuple[str, str]] = (),
    profiles: Mapping[str, Mapping[str, Any]] | None = None,
    linked: Links | None = None,
    metrics: Metrics = METRICS,
) -> dict[str, Row]:
    """The rows of `mixpanel.subscribers` by subscriber, without `updated_at`; times in seconds.

    Args:
        events: What is loaded.
        pairs: The ids before and after that deliveries told of.
        profiles: The profiles by id: texts where a column is text, else numbers.
        linked: What `links` found.
        metrics: Those that are declared.
    """
    rows: dict[str, Row] = {}
    events = list(events)
    resolved = identities(events, pairs, linked)
    for event in events:
        name, properties = event["event"], event["properties"]
        one = who(event)
        if one is None or name not in tracked(metrics):
            continue
        row = rows.setdefault(resolved.get(one, one), _nothing_counted(metrics))
        is_premium = "premium" in str(properties.get("creatorType") or "").lower()
        kind = "premium" if is_premium else "regular"
        row["events_processed"] += 1
        row["first_event_at"] = min(row["first_event_at"], second_of(properties))
        row["last_event_at"] = max(row["last_event_at"], second_of(properties))
        for metric, (event_name, which) in metrics.items():
            if name == event_name and which == "flag":
                row[metric] = True
            elif name == event_name and which in ("all", kind):
                row[metric] += 1
    for one in sorted(profiles or {}, key=str.encode, reverse=True):
        # Those that come later take precedence, and the person's own the most.
        person = resolved.get(one, one)
        if person in rows and (one == person or person not in (profiles or {})):
            said = (profiles or {})[one]
            rows[person] |= {name: said.get(name) for name in PROFILE_COLUMNS}
    return rows


def _nothing_counted(metrics: Metrics) -> Row:
    nothing = {name: False if which == "flag" else 0 for name, (_, which) in metrics.items()}
    times = {"events_processed": 0, "first_event_at": 2**60, "last_event_at": 0}
    return nothing | times | dict.fromkeys(PROFILE_COLUMNS)


def properties(events: Iterable[Event]) -> dict[tuple[str, str, str], tuple[int, int, int, int]]:
    """Of each event, property and type: events, their first and last second, different values."""
    found: dict[tuple[str, str, str], list[tuple[int, str]]] = defaultdict(list)
    for event in events:
        for name, value in event["properties"].items():
            text = value if isinstance(value, str) else json.dumps(value)
            found[event["event"], name, _type(value)].append((second_of(event["properties"]), text))
    return {
        key: (len(those), min(those)[0], max(those)[0], len({text for _, text in those}))
        for key, those in found.items()
    }


def _type(value: object) -> str:
    if value in (None, "undefined", "<null>"):
        return "null"
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*", value, re.A):
        with suppress(ValueError):
            datetime.fromisoformat(value)
            return "datetime"
    types = {str: "string", bool: "boolean", int: "number", float: "number", list: "list"}
    return types.get(type(value), "object")
