"""People's profiles: what updates make of them, and how they are paged through.

https://docs.mixpanel.com/reference/profile-set and /reference/engage-query
"""

import copy
import json
import threading
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from local_mixpanel.answers import Answer, Refused, as_json
from local_mixpanel.ingestion import InvalidBody

Properties = dict[str, Any]

_PARAMETERS = {
    "page",
    "session_id",
    "filter_by_cohort",
    "include_all_users",
    "output_properties",
}


class ProfileStore:
    """Profiles by id, and the sweeps through them that are under way.

    Args:
        page_size: How many profiles a page has.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._profiles: dict[str, Properties] = {}
        self._cohorts: dict[int, tuple[str, list[str]]] = {}
        self._sessions: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def set(self, profiles: Mapping[str, Properties]) -> None:
        """Set properties of profiles, which are there from then on."""
        with self._lock:
            for distinct_id, properties in profiles.items():
                self._profiles.setdefault(distinct_id, {}).update(copy.deepcopy(properties))

    def delete(self, distinct_id: str) -> None:
        """Delete a profile, if there is one."""
        with self._lock:
            self._profiles.pop(distinct_id, None)

    def save_cohort(self, cohort_id: int, name: str, members: list[str]) -> None:
        """Save a cohort, in the place of the one with that id; members need no profile."""
        with self._lock:
            self._cohorts[cohort_id] = name, sorted(members)

    def delete_cohort(self, cohort_id: int) -> None:
        """Delete a cohort."""
        with self._lock:
            del self._cohorts[cohort_id]

    def cohorts(self) -> Answer:
        """The list of cohorts."""
        with self._lock:
            found = [
                {"id": cohort_id, "name": name, "description": "", "count": len(members)}
                for cohort_id, (name, members) in sorted(self._cohorts.items())
            ]
        return as_json(200, found)

    def forget_sessions(self) -> None:
        """Let no sweep that is under way go on."""
        with self._lock:
            self._sessions.clear()

    def update(self, updates: list[Mapping[str, Any]]) -> None:
        """What `POST /engage` brings.

        Raises:
            InvalidBody: Something of it is no update that is known here.
        """
        for update in updates:
            distinct_id = update.get("$distinct_id")
            if not isinstance(distinct_id, str):
                raise InvalidBody("$distinct_id, missing or invalid")
            if "$set" in update:
                self.set({distinct_id: update["$set"]})
            elif "$delete" in update:
                self.delete(distinct_id)
            else:
                raise InvalidBody("the local Mixpanel knows only $set and $delete")

    def page(self, body: bytes) -> Answer:
        """The page that a form asks for; page 0 begins a session, in which nothing changes.

        Raises:
            Refused: With 400 and the reason.
        """
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        page = form.get("page", "0")
        if form.keys() - _PARAMETERS or not page.isdecimal():
            raise Refused(as_json(400, {"error": "invalid parameters", "status": "error"}))
        with self._lock:
            session_id = form.get("session_id")
            if session_id is None:
                session_id = f"{uuid.uuid4().int % 10**16}-local"
                self._sessions[session_id] = self._results(form)
            found = self._sessions.get(session_id)
        if found is None:
            raise Refused(as_json(400, {"error": "session_id is not valid", "status": "error"}))
        start = int(page) * self._page_size
        return as_json(
            200,
            {
                "page": int(page),
                "page_size": self._page_size,
                "results": found[start : start + self._page_size],
                "session_id": session_id,
                "status": "ok",
                "total": len(found),
            },
        )

    def _results(self, form: Mapping[str, str]) -> list[dict[str, Any]]:
        ids = sorted(self._profiles)
        if "filter_by_cohort" in form:
            cohort = self._cohorts.get(json.loads(form["filter_by_cohort"])["id"])
            if cohort is None:
                raise Refused(as_json(400, {"error": "no such cohort", "status": "error"}))
            ids = cohort[1]
        wanted = json.loads(form["output_properties"]) if "output_properties" in form else None
        return [
            {
                "$distinct_id": distinct_id,
                "$properties": {
                    name: copy.deepcopy(value)
                    for name, value in self._profiles.get(distinct_id, {}).items()
                    if wanted is None or name in wanted
                },
            }
            for distinct_id in ids
        ]


def read_updates(body: bytes) -> list[Mapping[str, Any]]:
    """The updates in a form as Mixpanel's SDKs send it.

    Raises:
        InvalidBody: It holds something else.
    """
    try:
        data = json.loads(dict(parse_qsl(body.decode(), keep_blank_values=True))["data"])
    except (KeyError, ValueError) as error:
        raise InvalidBody(f"data, missing or invalid: {error}") from error
    updates = data if isinstance(data, list) else [data]
    if not all(isinstance(update, dict) for update in updates):
        raise InvalidBody("data, missing or invalid")
    return updates
