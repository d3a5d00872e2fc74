"""What people wrote of events and their properties in Mixpanel's Lexicon.

https://docs.mixpanel.com/reference/list-all-schemas-for-project: only what somebody described,
named, hid or uploaded is there, so it tells not which events and properties there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from mixpanel_pipeline.events.characters import replace_lone_surrogates, replace_nul
from mixpanel_pipeline.source.client import MixpanelClient
from mixpanel_pipeline.source.errors import ExportError


@dataclass(frozen=True)
class Described:
    """What the Lexicon has of an event, or of one of its properties.

    Attributes:
        event: The event's name.
        property: The property's; None for the event itself.
        display_name: What reports at Mixpanel call it; None for its name.
        description: What somebody wrote.
        is_hidden: Whether it is hidden from reports at Mixpanel.
    """

    event: str
    property: str | None
    display_name: str | None
    description: str | None
    is_hidden: bool


class _Shown(msgspec.Struct):
    display_name: str | None = msgspec.field(name="displayName", default=None)
    hidden: bool | None = None


class _Metadata(msgspec.Struct):
    mixpanel: _Shown | None = msgspec.field(name="com.mixpanel", default=None)


class _Property(msgspec.Struct):
    description: str | None = None
    metadata: _Metadata | None = None


class _Schema(msgspec.Struct):
    description: str | None = None
    metadata: _Metadata | None = None
    properties: dict[str, _Property] | None = None


class _Entity(msgspec.Struct):
    kind: str = msgspec.field(name="entityType")
    name: str
    schema: _Schema = msgspec.field(name="schemaJson")


class _Lexicon(msgspec.Struct):
    results: list[_Entity]


_lexicons = msgspec.json.Decoder(_Lexicon)


def fetch_lexicon(client: MixpanelClient, *, holds_nul: bool) -> list[Described]:
    """Everything that the Lexicon has of events; see `MixpanelClient.schemas`.

    Args:
        client: Mixpanel.
        holds_nul: Whether where it goes can hold NUL characters.

    Raises:
        ExportError: Mixpanel refused, or gave no answer of a known form.
    """
    answer = replace_lone_surrogates(client.schemas())[0]
    try:
        decoded = _lexicons.decode(answer if holds_nul else replace_nul(answer)[0])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExportError("Mixpanel's Lexicon has a form that is not known.") from error
    # Of one that comes twice, the last.
    found = {(one.event, one.property): one for one in _described(decoded)}
    return list(found.values())


def _described(lexicon: _Lexicon) -> Iterator[Described]:
    for entity in lexicon.results:
        if entity.kind == "event":
            schema = entity.schema
            yield _one(entity.name, None, schema)
            for name, described in (schema.properties or {}).items():
                yield _one(entity.name, name, described)


def _one(event: str, name: str | None, of: _Schema | _Property) -> Described:
    shown = (of.metadata and of.metadata.mixpanel) or _Shown()
    # Cleared fields come empty.
    texts = shown.display_name or None, of.description or None
    return Described(event, name, *texts, bool(shown.hidden))
