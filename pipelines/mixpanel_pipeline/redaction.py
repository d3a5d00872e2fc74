"""Secrets in texts that are shown or kept: they are hidden where they are known to be."""

import base64
import re
from urllib.parse import quote, quote_plus

# What a URL, a connection string of libpq and a header look like, whoever wrote them.
_PLACES = (
    re.compile(r"(://[^\s/:@]*:)\S*(?=@)"),
    re.compile(r"(\b(?:password|sslpassword)\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE),
    re.compile(r"(\bBasic\s+)[A-Za-z0-9+/_-]{8,}=*"),
)
# Mixpanel's secrets have 32. A shorter one may be a word of any message, which hiding it would
# mangle, and tell.
_RECOGNISABLE = 12


_hidden: set[str] = set()


def hide(url: str) -> None:
    """From now on `redacted` hides a URL that is a secret itself, and its path alone as well."""
    path = url.partition("://")[2].partition("/")[2]
    _hidden.update(text for text in (url, path) if len(text) >= _RECOGNISABLE)


def redacted(text: str) -> str:
    """The text without the secrets that stand in URLs, connection strings and headers."""
    # A URL before its path, which is a part of it.
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, "***")
    for place in _PLACES:
        text = place.sub(r"\1***", text)
    return text


def without_repeated(text: str, secrets: list[str]) -> str:
    """The text of somebody who was told secrets and may repeat them.

    Args:
        text: What was said.
        secrets: What is hidden, in every encoding in which it travels; not where it is a part of
            a longer word.
    """
    for secret in filter(lambda secret: len(secret) >= _RECOGNISABLE, secrets):
        encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
        for form in {secret, quote(secret, safe=""), quote_plus(secret), encoded}:
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", "***", text)
    return text
