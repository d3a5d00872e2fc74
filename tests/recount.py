"""What the warehouse has to hold, found by other means than the project's: plain dictionaries.

Nothing here is shared with the code under test; the metrics are spelt out once more.
"""

import json
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

Event = dict[str, Any]
Row = dict[str, Any]

ID_PROPERTIES = (
    "distinct_id",
    "$distinct_id",
    "user_id",
    "$user_id",
    "identified_id",
    "$identified_id",
)
TRACKED = {
    "DubAutoCopyInitiated",
    "Viewed Portfolio Details",
    "Viewed Creator Profile",
    "AchTransferInitiated",
    "Viewed Creator Paywall",
    "SubscriptionCreated",
    "$ae_session",
    "Viewed Stripe Modal",
    "Tapped Creator Card",
    "Tapped Portfolio Card",
    "BankAccountLinked",
}


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
        return event["event"], original_id, properties["time"], properties["$insert_id"]
    whole = json.dumps(event, sort_keys=True)
    identical[whole] += 1
    return whole, identical[whole]


def _processed(event: Event) -> int:
    processed: int = event["properties"].get("mp_processing_time_ms", 0)
    return processed


def subscribers(events: Iterable[Event]) -> dict[str, Row]:
    """The rows of `mixpanel.subscribers` by subscriber, without `updated_at`; times in seconds."""
    rows: dict[str, Row] = {}
    for event in events:
        name, properties = event["event"], event["properties"]
        subscriber = next((properties[key] for key in ID_PROPERTIES if properties.get(key)), None)
        if subscriber is None or name not in TRACKED:
            continue
        row = rows.setdefault(str(subscriber), _nothing_counted())
        is_premium = "premium" in str(properties.get("creatorType") or "").lower()
        kind = "premium" if is_premium else "regular"
        row["events_processed"] += 1
        row["first_event_at"] = min(row["first_event_at"], properties["time"])
        row["last_event_at"] = max(row["last_event_at"], properties["time"])
        match name:
            case "DubAutoCopyInitiated":
                row["total_copies"] += 1
                row[f"total_{kind}_copies"] += 1
            case "Viewed Portfolio Details":
                row[f"{kind}_pdp_views"] += 1
            case "Viewed Creator Profile":
                row[f"{kind}_creator_profile_views"] += 1
            case "AchTransferInitiated":
                row["total_ach_transfers"] += 1
            case "Viewed Creator Paywall":
                row["paywall_views"] += 1
            case "SubscriptionCreated":
                row["total_subscriptions"] += 1
            case "$ae_session":
                row["app_sessions"] += 1
            case "Viewed Stripe Modal":
                row["stripe_modal_views"] += 1
            case "Tapped Creator Card":
                row["creator_card_taps"] += 1
            case "Tapped Portfolio Card":
                row["portfolio_card_taps"] += 1
            case "BankAccountLinked":
                row["linked_bank_account"] = True
    return rows


def _nothing_counted() -> Row:
    return {
        "total_copies": 0,
        "total_regular_copies": 0,
        "total_premium_copies": 0,
        "regular_pdp_views": 0,
        "premium_pdp_views": 0,
        "regular_creator_profile_views": 0,
        "premium_creator_profile_views": 0,
        "total_ach_transfers": 0,
        "paywall_views": 0,
        "total_subscriptions": 0,
        "app_sessions": 0,
        "stripe_modal_views": 0,
        "creator_card_taps": 0,
        "portfolio_card_taps": 0,
        "linked_bank_account": False,
        "events_processed": 0,
        "first_event_at": 2**60,
        "last_event_at": 0,
    }
