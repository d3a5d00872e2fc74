"""People's profiles, as Mixpanel's Engage API pages through them, and cohorts of people.

https://docs.mixpanel.com/reference/engage-query and /reference/cohorts-list
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from mixpanel_pipeline.events.characters import replace_lone_surrogates, replace_nul
from mixpanel_pipeline.events.minimisation import Minimisation
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.errors import ExportError


@dataclass(frozen=True)
class Profile:
    """One profile.

    Attributes:
        distinct_id: Whose it is.
        properties: All of it, as JSON.
        content_hash: The same for the same properties, in whatever order they come.
    """

    distinct_id: str
    properties: str
    content_hash: str


@dataclass(frozen=True)
class ProfilePage:
    """One page of a sweep through all profiles.

    Attributes:
        profiles: At most `page_size`.
        session_id: What the next page is asked for with; it fixes what the pages are of.
        page_size: How many profiles a page has that is not the last.
        total: How many profiles all pages have.
    """

    profiles: list[Profile]
    session_id: str
    page_size: int
    total: int


@dataclass(frozen=True)
class Cohort:
    """A group of people that is saved at Mixpanel."""

    id: int
    name: str | None
    description: str | None


class _Result(msgspec.Struct):
    distinct_id: str | int | float = msgspec.field(name="$distinct_id")
    properties: msgspec.Raw = msgspec.field(name="$properties", default=msgspec.Raw(b"{}"))


class _Page(msgspec.Struct):
    results: list[_Result]
    session_id: str
    page_size: int
    total: int


class _Cohort(msgspec.Struct):
    id: int
    name: str | None = None
    description: str | None = None


_pages = msgspec.json.Decoder(_Page)
_cohorts = msgspec.json.Decoder(list[_Cohort])


def fetch_page(client: MixpanelClient, form: Mapping[str, str], *, holds_nul: bool) -> ProfilePage:
    """One page of profiles, without what is not to be kept; it counts as a request of the hour's.

    Args:
        client: Mixpanel.
        form: Which: `page`, from 0 on, and for the others the `session_id` of page 0.
        holds_nul: Whether where they go can hold NUL characters.

    Raises:
        NotInPlan: The project's plan lacks the API.
        ExportError: Mixpanel refused, or gave no answer of a known form.
    """
    answer = client.query_page("engage", form)
    try:
        decoded = _pages.decode(replace_lone_surrogates(answer)[0])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExportError("Mixpanel's page of profiles has a form that is not known.") from error
    return ProfilePage(
        [
            _profile(result, client.settings.minimisation, holds_nul=holds_nul)
            for result in decoded.results
        ],
        decoded.session_id,
        decoded.page_size,
        decoded.total,
    )


def fetch_cohorts(client: MixpanelClient, *, holds_nul: bool) -> list[Cohort]:
    """All cohorts; it counts as a request of the hour's.

    Args:
        client: Mixpanel.
        holds_nul: Whether where they go can hold NUL characters.

    Raises:
        NotInPlan: The project's plan lacks the API.
        ExportError: Mixpanel refused, or gave no answer of a known form.
    """
    answer = replace_lone_surrogates(client.query_page("cohorts/list", {}))[0]
    try:
        decoded = _cohorts.decode(answer if holds_nul else replace_nul(answer)[0])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExportError("Mixpanel's list of cohorts has a form that is not known.") from error
    return [Cohort(one.id, one.name, one.description) for one in decoded]


def _profile(result: _Result, minimisation: Minimisation | None, *, holds_nul: bool) -> Profile:
    properties, distinct_id = bytes(result.properties), str(result.distinct_id)
    if minimisation is not None:
        properties = minimisation.minimised(properties)
    if not holds_nul:
        properties, distinct_id = replace_nul(properties)[0], distinct_id.replace("\0", "�")
    return Profile(distinct_id, properties.decode(), _content_hash(properties))


def _content_hash(properties: bytes) -> str:
    # Numbers as they are spelled: a float would make one of several.
    content = json.loads(properties, parse_float=_Spelled, parse_int=_Spelled)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _Spelled(dict[str, str]):
    """A number, told from a text of the same characters."""

    def __init__(self, number: str) -> None:
        super().__init__({"": number})
