"""Names of events that Mixpanel does not have: what counts them would be 0 without a word."""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches

from mixpanel_pipeline.declaration import IDENTITY_EVENTS, metrics
from mixpanel_pipeline.engines import Warehouse
from mixpanel_pipeline.events.characters import REPLACEMENT
from mixpanel_pipeline.events.decoding import HOT_SHARD_EVENT
from mixpanel_pipeline.source.client import LONGEST_LIST_OF_NAMES, MixpanelClient
from mixpanel_pipeline.source.configuration import MixpanelConfiguration
from mixpanel_pipeline.source.errors import ConfigurationError, ExportError, NotInPlan

logger = logging.getLogger(__name__)

# Asked for on our own account, or Mixpanel's own: a project may well have none.
_NEVER_MISSED = {*IDENTITY_EVENTS, HOT_SHARD_EVENT}
# A line of more is not read, and comparing a name with 5,000 others takes a quarter of a second.
_MOST_TOLD = 10


def names_to_check(events: Sequence[str] | None) -> list[str]:
    """The names that events are expected of: those asked for, and those that metrics count."""
    expected = set(events or ())
    # Who only loads may do so with metrics that are not right yet.
    with suppress(ConfigurationError):
        expected |= {metric["event"] for metric in metrics().values()}
    return sorted(expected - _NEVER_MISSED)


def absent_names(warehouse: Warehouse, names: Sequence[str]) -> list[str]:
    """Those names of which no event is loaded."""
    stored = {
        name: name if warehouse.holds_nul else name.replace("\0", REPLACEMENT) for name in names
    }
    # In one reading of the table, however many names are not there.
    places = ", ".join("%s" for _ in stored)
    found = warehouse.rows_of_events(
        f"select distinct event from {warehouse.raw}.events where event in ({places})",
        list(stored.values()),
    )
    loaded = {name for (name,) in found}
    return [name for name in names if stored[name] not in loaded]


def has_room(settings: MixpanelConfiguration, requests_left: int) -> bool:
    """Whether the hour has a request left for this, which can be asked next time.

    Most of the hour's queries are left to what has to be loaded.
    """
    return requests_left * 2 > settings.requests_per_hour


def tell_unknown(client: MixpanelClient, absent: Sequence[str]) -> bool:
    """Warn of names that Mixpanel does not have, with the nearest that it has.

    Mixpanel is asked once and not waited for: no sync fails of it or is held up.

    Args:
        client: Mixpanel.
        absent: The names of which no event is loaded.

    Returns:
        Whether there is nothing more to ask about them; False when Mixpanel gave no answer.
    """
    if not absent:
        return True
    if not has_room(client.settings, client.budget.left):
        return False
    try:
        known = client.event_names(patient=False)
    except NotInPlan:
        return True
    except ExportError as error:
        logger.debug("Event names were not told: %s", client.settings.without_secrets(str(error)))
        return False
    # Of a list that is cut off, nobody can say what is not in it.
    unknown = sorted(set(absent) - set(known)) if len(known) < LONGEST_LIST_OF_NAMES else []
    if unknown:
        more = f" and {len(unknown) - _MOST_TOLD} more" if len(unknown) > _MOST_TOLD else ""
        logger.warning(
            "Mixpanel has had no event of these names for 31 days, and none is loaded: %s%s. What "
            "counts them is 0: check `events` in [sources.mixpanel] and the metrics in "
            "dbt_project.yml.",
            ", ".join(with_nearest(name, known) for name in unknown[:_MOST_TOLD]),
            more,
        )
    return True


def with_nearest(name: str, known: Sequence[str]) -> str:
    """A name in quotes, with the nearest of those that are known."""
    # Names that differ in case only are different events, and the nearest there can be.
    by_lower = {other.lower(): other for other in known}
    nearest = [by_lower[lower] for lower in get_close_matches(name.lower(), by_lower, 3)]
    told = _quoted(name)
    return f"{told} (nearest: {', '.join(map(_quoted, nearest))})" if nearest else told


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
