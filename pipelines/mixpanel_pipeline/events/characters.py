"""Characters that JSON can spell and a database cannot hold."""

import re

REPLACEMENT = "�"
_ESCAPED_REPLACEMENT = rb"\ufffd"

_MAY_NEED_REPAIR = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|\\u(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\u(?P<nul>0000)"
    rb"|\\."
)


def may_need_repair(text: bytes) -> bool:
    """Whether `text` spells NUL or a surrogate, be it a whole pair: a cheap test."""
    return b"\\" in text and _MAY_NEED_REPAIR.search(text) is not None


def replace_lone_surrogates(json_text: bytes) -> tuple[bytes, int]:
    """Replace halves of surrogate pairs by U+FFFD: no Unicode text can hold them.

    Returns the JSON text and how many were replaced.
    """
    return _replace(json_text, "lone")


def replace_nul(json_text: bytes) -> tuple[bytes, int]:
    r"""Replace `\u0000` by U+FFFD: PostgreSQL's text, json and jsonb cannot hold or read it.

    Returns the JSON text and how many were replaced.
    """
    return _replace(json_text, "nul")


def _replace(json_text: bytes, group: str) -> tuple[bytes, int]:
    if not may_need_repair(json_text):
        return json_text, 0
    replaced = 0

    # Every escape is consumed in turn, so that the second half of `\\` is not taken for one.
    def replacement(match: re.Match[bytes]) -> bytes:
        nonlocal replaced
        if match[group] is None:
            return match[0]
        replaced += 1
        return _ESCAPED_REPLACEMENT

    return _ESCAPES.sub(replacement, json_text), replaced
