"""What is kept of events only in part, or not at all."""

import hmac
from collections.abc import Collection
from hashlib import sha256

import msgspec

from mixpanel_pipeline.events.suppression import ID_PROPERTIES

_IDENTIFIES = "it tells whose the event is: counts, who is who and `forget` go by it"
_DESCRIBES = "it tells which event it is, when it happened or when it came"

NEEDED: dict[str, str] = {
    **dict.fromkeys(ID_PROPERTIES, _IDENTIFIES),
    **dict.fromkeys(
        ("time", "$insert_id", "mp_processing_time_ms", "mp_original_event_name"), _DESCRIBES
    ),
}
"""The properties that cannot be dropped or hashed, and why."""

_tokens = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode
_items = msgspec.json.Decoder(list[msgspec.Raw])


class Minimisation:
    """Removes what is not to be kept from what an export delivered.

    The properties are those of the event itself; what stands inside of their values is a part of
    the value. What identifies an event has to be read before.

    Args:
        dropped: Names of properties to remove.
        hashed: Names of properties whose values are replaced by keyed hashes.
        denied: Names of events that are not to be kept at all.
        secret: What the hashes are keyed with; needed for `hashed`.
    """

    def __init__(
        self,
        dropped: Collection[str] = (),
        hashed: Collection[str] = (),
        denied: Collection[str] = (),
        secret: str | None = None,
    ) -> None:
        self.denied = frozenset(denied)
        self._dropped = frozenset(dropped)
        self._private = self._dropped | frozenset(hashed)
        self._spelled = [_encode(name) for name in sorted(self._private)]
        self._secret = secret.encode() if secret else b""

    def minimised(self, payload: bytes) -> bytes:
        """The properties, a JSON object, without what is private; all else is as it stands there.

        A value becomes the HMAC-SHA-256, in hexadecimal, of its JSON text: of a text in quotes, in
        UTF-8 and with no more escapes than it needs, of a number or truth as it stands there, of a
        list or an object without spaces and in the order of its names. Null stays null.
        """
        # A name can be spelled with escapes too.
        if b"\\" not in payload:
            for spelled in self._spelled:
                if spelled in payload:
                    break
            else:
                return payload
        properties = _tokens.decode(payload)
        found = self._private & properties.keys()
        if not found:
            return payload
        for name in found:
            if name in self._dropped:
                del properties[name]
            elif (token := bytes(properties[name])) != b"null":
                properties[name] = msgspec.Raw(b'"%b"' % self._hashed(token).encode())
        return _encode(properties)

    def described(self, line: bytes) -> str:
        """What is kept of a line that is no event: nobody can say what in it is private.

        The same line is described the same. The hash is keyed where there is a secret.
        """
        if self._secret:
            return f"{len(line)} bytes, HMAC-SHA-256 {self._hash(line)}"
        return f"{len(line)} bytes, SHA-256 {sha256(line).hexdigest()}"

    def _hashed(self, token: bytes) -> str:
        try:
            return self._hash(_canonical(token))
        except RecursionError:
            # Nobody nests so deeply who would spell it in two ways.
            return self._hash(token)

    def _hash(self, text: bytes) -> str:
        return hmac.digest(self._secret, text, "sha256").hex()


def _canonical(token: bytes) -> bytes:
    """The JSON text that equal values have in common."""
    if token.startswith(b'"'):
        return _encode(msgspec.json.decode(token, type=str))
    if token.startswith(b"["):
        return b"[%b]" % b",".join(_canonical(bytes(item)) for item in _items.decode(token))
    if token.startswith(b"{"):
        parts = sorted(_tokens.decode(token).items())
        return b"{%b}" % b",".join(
            b"%b:%b" % (_encode(name), _canonical(bytes(item))) for name, item in parts
        )
    return token
