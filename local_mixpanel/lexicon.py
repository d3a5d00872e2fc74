"""`GET /api/app/projects/{id}/schemas`: what people wrote of events in the Lexicon.

https://docs.mixpanel.com/reference/list-all-schemas-for-project
"""

import threading
from typing import Any

from local_mixpanel.answers import Answer, as_json
from local_mixpanel.rate_limit import RateLimit


class Lexicon:
    """Descriptions of events and their properties."""

    # The documented limit; it is of this API alone.
    limit = RateLimit(per_hour=None, per_second=None, per_minute=5)

    def __init__(self) -> None:
        self._schemas: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self.refused_with: int | None = None
        """The status of every answer, instead of the schemas: 402, 403, 404."""

    def describe(
        self,
        event: str,
        property: str | None = None,
        *,
        description: str | None = None,
        display_name: str | None = None,
        hidden: bool = False,
    ) -> None:
        """Describe an event, or one of its properties, in the place of what was written before."""
        shown: dict[str, Any] = {"hidden": hidden, "dropped": False}
        if display_name is not None:
            shown |= {"displayName": display_name}
        written: dict[str, Any] = {"metadata": {"com.mixpanel": shown}}
        if description is not None:
            written["description"] = description
        with self._lock:
            schema = self._schemas.setdefault(event, {"properties": {}})
            if property is not None:
                schema["properties"][property] = {"type": "string"} | written
            else:
                self._schemas[event] = written | {"properties": schema["properties"]}

    def forget(self, event: str) -> None:
        """Delete an event's schema."""
        with self._lock:
            del self._schemas[event]

    def schemas(self) -> Answer:
        """All schemas, that of profiles too."""
        if self.refused_with is not None:
            return as_json(self.refused_with, {"error": "no Lexicon for you", "status": "error"})
        with self._lock:
            results = [
                {"entityType": "event", "name": name, "schemaJson": schema}
                for name, schema in sorted(self._schemas.items())
            ]
        results.append({"entityType": "profile", "name": "$user", "schemaJson": {"properties": {}}})
        return as_json(200, {"results": results, "status": "ok"})
