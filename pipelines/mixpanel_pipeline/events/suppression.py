"""Ids that were forgotten: whatever they did is not loaded again."""

import hmac
import re
from collections.abc import Collection
from functools import lru_cache

import msgspec

ID_PROPERTIES = (
    "distinct_id",
    "$distinct_id",
    "$distinct_id_before_identity",
    "$preshuffle_distinct_id",
    "$device_id",
    "$user_id",
    "user_id",
    "$identified_id",
    "identified_id",
    "$anon_id",
    "$anon_distinct_id",
    "alias",
    "mp_original_distinct_id",
    "$distinct_ids",
)
"""Every property by which an event tells whose it is; the last one is a list of ids."""

DEVICE_PREFIX = "$device:"
"""What stands before a device's id where it is the id of a person."""

_DEVICE, _LIST = ID_PROPERTIES.index("$device_id"), ID_PROPERTIES.index("$distinct_ids")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(rb"(?<=[:,\[ ])-?[0-9][0-9.eE+-]*(?=[\],} ])")
_NULL = msgspec.Raw(b"null")
# An id comes again and again within an answer.
_REMEMBERED = 100_000

_ids = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Ids",
        [
            (f"id_{number}", msgspec.Raw, msgspec.field(default=_NULL, name=name))
            for number, name in enumerate(ID_PROPERTIES)
        ],
    )
)


def hashed(one: str, secret: str) -> str:
    """The keyed hash by which an id is recognised without being kept: HMAC-SHA256."""
    return hmac.new(secret.encode(), one.encode("utf-8", "surrogatepass"), "sha256").hexdigest()


class Suppression:
    """Tells which lines of an export are about forgotten ids.

    Args:
        hashes: Those of the ids, by `hashed`.
        secret: What they are keyed with.
    """

    def __init__(self, hashes: Collection[str], secret: str) -> None:
        found = frozenset(hashes)
        self._is_forgotten = lru_cache(_REMEMBERED)(lambda one: hashed(one, secret) in found)

    def hides(self, payload: bytes) -> bool:
        """Whether an event with these properties is about a forgotten id."""
        tokens = [bytes(token) for token in msgspec.structs.astuple(_ids.decode(payload))]
        told = [text_of(token) for token in (*tokens, *_TEXT.findall(tokens[_LIST]))]
        if device := told[_DEVICE]:
            told.append(f"{DEVICE_PREFIX}{device}")
        return any(one and self._is_forgotten(one) for one in told)

    def linked(self, event: str, payload: bytes) -> set[str]:
        """The ids that an event tells to be of somebody forgotten, and that were not known to be.

        That is who somebody forgotten was before: the device, or the anonymous id, of who signed in
        under a forgotten one. Of who signs in anew on a forgotten device nobody says that.

        Args:
            event: Its name.
            payload: Its properties.
        """
        tokens = [bytes(token) for token in msgspec.structs.astuple(_ids.decode(payload))]
        told = dict(zip(ID_PROPERTIES, map(text_of, tokens), strict=True))
        device, user = told["$device_id"], told["$user_id"]
        if device and not device.startswith(DEVICE_PREFIX):
            device = f"{DEVICE_PREFIX}{device}"
        pairs = [(device, user), (told["$distinct_id_before_identity"], told["distinct_id"])]
        if event == "$identify":
            anonymous = told["$anon_id"] or told["$anon_distinct_id"]
            pairs.append((anonymous, told["$identified_id"] or told["distinct_id"]))
        if event == "$create_alias":
            pairs.append((told["distinct_id"], told["alias"]))
        if event == "$merge":
            merged = [text_of(token) for token in _TEXT.findall(tokens[_LIST])][:2]
            pairs += [(one, other) for one in merged for other in merged]
        return {
            one
            for one, other in pairs
            if one and other and self._is_forgotten(other) and not self._is_forgotten(one)
        }

    def hides_id(self, one: str) -> bool:
        """Whether an id is a forgotten one."""
        return self._is_forgotten(one)

    def hides_line(self, line: bytes) -> bool:
        """Whether a line that is no event has a text or number that is a forgotten id."""
        found = (*_TEXT.findall(line), *_NUMBER.findall(line))
        return any(self._is_forgotten(text_of(one)) for one in found)


def text_of(token: bytes) -> str:
    """A string's content; of anything else the JSON text, empty for null."""
    if token == b"null":
        return ""
    try:
        found: str = msgspec.json.decode(token, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return token.decode("utf-8", "replace")
    return found
