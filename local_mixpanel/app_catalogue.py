"""The made-up app behind the traffic: who uses it, on what, and in which steps.

People follow creators, look at their portfolios and copy their trades.
"""

from itertools import product
from typing import Any

Properties = dict[str, Any]
Step = tuple[str, Properties]

_DEVICES: list[Properties] = [
    {"$os": system, "$model": model, "$screen_width": width, "$screen_height": height}
    | {"$manufacturer": maker, "mp_lib": library, "$lib_version": version}
    for system, model, width, height, maker, library, version in (
        ("iOS", "iPhone15,3", 430, 932, "Apple", "swift", "4.3.0"),
        ("iOS", "iPhone16,1", 393, 852, "Apple", "swift", "4.3.0"),
        ("iOS", "iPhone14,7", 390, 844, "Apple", "swift", "4.2.7"),
        ("iOS", "iPhone12,1", 414, 896, "Apple", "swift", "4.2.7"),
        ("Android", "SM-S921B", 1080, 2340, "samsung", "android", "7.5.2"),
        ("Android", "Pixel 8", 1080, 2400, "Google", "android", "7.5.2"),
    )
]
_APP_VERSIONS: list[Properties] = [
    {"$app_version_string": version, "$app_build_number": build}
    for version, build in (("5.12.0", "2210"), ("5.12.1", "2214"), ("5.11.3", "2188"))
]
_CITIES: list[tuple[Properties, int]] = [
    ({"$city": city, "$region": region, "mp_country_code": country}, hours)
    for city, region, country, hours in (
        ("New York", "New York", "US", -5),
        ("Boston", "Massachusetts", "US", -5),
        ("Miami", "Florida", "US", -5),
        ("Atlanta", "Georgia", "US", -5),
        ("Chicago", "Illinois", "US", -6),
        ("Houston", "Texas", "US", -6),
        ("Denver", "Colorado", "US", -7),
        ("Los Angeles", "California", "US", -8),
        ("Seattle", "Washington", "US", -8),
        ("São Paulo", "São Paulo", "BR", -3),
        ("London", "England", "GB", 0),
    )
]
PROFILES: list[tuple[Properties, int]] = [
    (device | version | city, hours)
    for device, version, (city, hours) in product(_DEVICES, _APP_VERSIONS, _CITIES)
]
"""What a subscriber's events have in common, and the hours by which local time is ahead of UTC."""

# How many of a thousand sessions begin in each local hour: markets open at 9:30 in New York.
_SESSIONS_BY_HOUR = (
    *(9, 5, 3, 2, 3, 8, 22, 40, 58, 92, 84, 66),
    *(62, 55, 52, 66, 72, 54, 48, 50, 52, 46, 34, 17),
)
SESSION_HOURS: list[int] = [
    hour for hour, count in enumerate(_SESSIONS_BY_HOUR) for _ in range(count)
]
"""Draw one of these for the local hour of a session."""

_CREATORS = 60
_TICKERS = ("NVDA", "AAPL", "TSLA", "PLTR", "AMZN", "MSFT", "AMD", "META", "COIN", "HOOD")
_SCREENS = ("Home", "Discover", "Search", "Leaderboard", "Feed", "Notification")

_PATHS: list[tuple[int, tuple[str, ...]]] = [
    (30, ("Tapped Portfolio Card", "Viewed Portfolio Details")),
    (20, ("Viewed Portfolio Details",)),
    (18, ("Tapped Creator Card", "Viewed Creator Profile")),
    (10, ("Viewed Creator Profile", "Viewed Portfolio Details")),
    (7, ("Tapped Portfolio Card", "Viewed Portfolio Details", "DubAutoCopyInitiated")),
    (6, ("Tapped Creator Card", "Viewed Creator Profile", "Viewed Creator Paywall")),
    (3, ("Viewed Creator Paywall", "Viewed Stripe Modal")),
    (2, ("Viewed Creator Paywall", "Viewed Stripe Modal", "SubscriptionCreated")),
    (1, ("BankAccountLinked", "AchTransferInitiated")),
    (2, ("AchTransferInitiated",)),
    (1, ("Push Notification Opened", "Viewed Portfolio Details")),
]
"""Steps that follow one another, by how often they do."""


def _creator(number: int) -> Properties:
    return {
        "creatorId": f"cr_{number:04d}",
        "creatorUsername": f"creator.{number:02d}",
        "source": _SCREENS[number % len(_SCREENS)],
    }


def _creator_type(number: int, variant: int) -> Properties:
    if variant % 19 == 7:
        return {}
    if number % 3:
        return {"creatorType": "regular"}
    # The app's older versions wrote the same type differently.
    return {"creatorType": "Premium Creator" if variant % 4 == 1 else "premium"}


def _portfolio(number: int) -> Properties:
    ticker = _TICKERS[number % len(_TICKERS)]
    return {
        "portfolioId": f"pf_{number * 37 % 9973:05d}",
        "portfolioTicker": f"${ticker}{number % 7}",
        "source": _SCREENS[number % len(_SCREENS)],
    }


def _step(event: str, number: int, variant: int) -> Step:
    amount = (25, 50, 100, 250, 500, 1000)[number % 6]
    match event:
        case "Tapped Portfolio Card":
            return event, _portfolio(number)
        case "Viewed Portfolio Details":
            return event, _portfolio(number) | _creator_type(number, variant)
        case "DubAutoCopyInitiated":
            copied = {"copyAmount": amount, "isRecurring": number % 5 == 0}
            return event, _portfolio(number) | copied | _creator_type(number, variant)
        case "Viewed Creator Profile" | "Viewed Creator Paywall":
            return event, _creator(number) | _creator_type(number, variant)
        case "Tapped Creator Card" | "Viewed Stripe Modal":
            return event, _creator(number)
        case "SubscriptionCreated":
            return event, _creator(number) | {"plan": "monthly", "price": 9.99, "currency": "USD"}
        case "AchTransferInitiated":
            return event, {"amount": amount, "currency": "USD", "direction": "deposit"}
        case "BankAccountLinked":
            return event, {"provider": "Plaid", "institution": f"Bank {number % 12}"}
        case _:
            return event, {"campaign": f"Weekly movers {number % 9}"}


PATHS: list[tuple[Step, ...]] = [
    tuple(_step(event, number, number + copy) for event in path)
    for frequency, path in _PATHS
    for copy in range(frequency)
    for number in range(_CREATORS)
]
"""Draw one of these for what a subscriber does next; a path keeps to one creator."""
