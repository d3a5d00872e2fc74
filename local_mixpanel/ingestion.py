"""Bodies of `POST /track` and `POST /import`, and what Mixpanel adds to their events.

https://docs.mixpanel.com/reference/track-event and /reference/import-events; forms and
`verbose` as the official Python SDK sends them.
"""

import base64
import gzip
import json
import uuid
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

# 10^11 is the year 5138 in seconds and 1973 in milliseconds.
_FIRST_MILLISECOND = 10**11


class InvalidBody(ValueError):
    """The body holds no events that can be taken; the message says why."""


def read_body(
    body: bytes, headers: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Read a JSON body, or a form whose `data` is JSON or that in base64; either in gzip.

    Args:
        body: As it came.
        headers: Those of the request, by their names in lower case.

    Returns:
        The events, and the form's other fields (none for a JSON body).

    Raises:
        InvalidBody: It is neither, or holds something that is no event.
    """
    form: dict[str, str] = {}
    try:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        document = body.decode()
        if not headers.get("content-type", "").startswith("application/json"):
            form = dict(parse_qsl(document, keep_blank_values=True))
            document = form.pop("data", "")
            if not document.startswith(("{", "[")):
                document = base64.b64decode(document, validate=True).decode()
        data = json.loads(document)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InvalidBody(f"data, missing or invalid: {error}") from error
    events = data if isinstance(data, list) else [data]
    for event in events:
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise InvalidBody("event, missing or invalid")
        if not isinstance(event.get("properties"), dict):
            raise InvalidBody("properties, missing or invalid")
    return events, form


def received(event: Mapping[str, Any], now_ms: int, *, is_import: bool) -> dict[str, Any]:
    """The event as the export will deliver it.

    Args:
        event: As `read_body` returns it; its `time` may be in seconds or milliseconds. /track
            takes an event without a time as one of now.
        now_ms: When it is received and processed, in milliseconds since 1970 UTC.
        is_import: Whether it came by /import.

    Raises:
        InvalidBody: Its time is missing (/import) or no number.
    """
    properties = dict(event["properties"])
    properties.pop("token", None)
    time = properties.get("time")
    # The SDKs send merges without a time.
    if time is None and (not is_import or event["event"] == "$merge"):
        time = now_ms
    if isinstance(time, bool) or not isinstance(time, int | float):
        raise InvalidBody("properties.time, missing or invalid")
    properties["time"] = time / 1000 if abs(time) >= _FIRST_MILLISECOND else time
    if not properties.get("$insert_id"):
        properties["$insert_id"] = uuid.uuid4().hex
    if is_import:
        properties["$import"] = True
    properties["$mp_api_timestamp_ms"] = now_ms
    properties["mp_processing_time_ms"] = now_ms
    return {"event": event["event"], "properties": properties}
