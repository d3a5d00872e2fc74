"""Ids that were forgotten: whatever they did is not loaded again."""

import hmac
import re
from collections.abc import Collection
from functools import lru_cache

import msgspec

# Every property by which an event tells whose it is, beside those that all events have.
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NULL = msgspec.Raw(b"null")
# An id comes again and again within an answer.
_REMEMBERED = 100_000


class _Ids(msgspec.Struct):
    distinct_id: msgspec.Raw = _NULL
    other_distinct_id: msgspec.Raw = msgspec.field(default=_NULL, name="$distinct_id")
    before: msgspec.Raw = msgspec.field(default=_NULL, name="$distinct_id_before_identity")
    before_shuffle: msgspec.Raw = msgspec.field(default=_NULL, name="$preshuffle_distinct_id")
    device: msgspec.Raw = msgspec.field(default=_NULL, name="$device_id")
    user: msgspec.Raw = msgspec.field(default=_NULL, name="$user_id")
    other_user: msgspec.Raw = msgspec.field(default=_NULL, name="user_id")
    identified: msgspec.Raw = msgspec.field(default=_NULL, name="$identified_id")
    other_identified: msgspec.Raw = msgspec.field(default=_NULL, name="identified_id")
    anonymous: msgspec.Raw = msgspec.field(default=_NULL, name="$anon_id")
    other_anonymous: msgspec.Raw = msgspec.field(default=_NULL, name="$anon_distinct_id")
    alias: msgspec.Raw = msgspec.field(default=_NULL, name="alias")
    merged: msgspec.Raw = msgspec.field(default=_NULL, name="$distinct_ids")
    hot_shard: msgspec.Raw = msgspec.field(default=_NULL, name="mp_original_distinct_id")


_ids = msgspec.json.Decoder(_Ids)


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
        ids = _ids.decode(payload)
        device = _text(bytes(ids.device))
        told = [_text(bytes(getattr(ids, name))) for name in ids.__struct_fields__]
        told += [_text(one) for one in _TEXT.findall(bytes(ids.merged))]
        told.append(device and f"$device:{device}")
        return any(one and self._is_forgotten(one) for one in told)

    def hides_line(self, line: bytes) -> bool:
        """Whether a line that is no event has a text that is a forgotten id."""
        return any(self._is_forgotten(_text(one)) for one in _TEXT.findall(line))


def _text(token: bytes) -> str:
    """A string's content; of anything else the JSON text, empty for null."""
    if token == b"null":
        return ""
    try:
        found: str = msgspec.json.decode(token, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return token.decode("utf-8", "replace")
    return found
