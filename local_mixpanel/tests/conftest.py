import gzip
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
import requests

from local_mixpanel import LocalMixpanel

DAY = date(2026, 3, 10)


@pytest.fixture
def mixpanel() -> Iterator[LocalMixpanel]:
    """A project whose today is 2026-03-10, without events."""
    with LocalMixpanel(today=lambda: DAY) as server:
        yield server


@pytest.fixture
def export(mixpanel: LocalMixpanel) -> Iterator[Callable[..., requests.Response]]:
    """Ask for the export of 2026-03-10, or of what the parameters say, by one kept connection."""
    with requests.Session() as session:

        def ask(
            auth: tuple[str, str] | None = None,
            headers: dict[str, str] | None = None,
            stream: bool = False,
            timeout: float = 5,
            **parameters: Any,
        ) -> requests.Response:
            query = {
                "from_date": "2026-03-10",
                "to_date": "2026-03-10",
                "project_id": mixpanel.project_id,
            } | parameters
            return session.get(
                f"{mixpanel.url}/api/2.0/export",
                params=query,
                auth=auth or (mixpanel.username, mixpanel.secret),
                headers=headers,
                stream=stream,
                timeout=timeout,
            )

        yield ask


@pytest.fixture
def event() -> Callable[..., dict[str, Any]]:
    """Make an event of 2026-03-10."""

    def make(name: str = "App Opened", second: float = 0, **properties: Any) -> dict[str, Any]:
        midnight = datetime(2026, 3, 10, tzinfo=UTC).timestamp()
        return {"event": name, "properties": {"time": int(midnight) + second, **properties}}

    return make


@pytest.fixture
def unzipped() -> Callable[[requests.Response], bytes]:
    """Read a streamed answer as it came, check that it is gzip, and decompress it."""

    def read(response: requests.Response) -> bytes:
        assert response.headers["Content-Encoding"] == "gzip"
        return gzip.decompress(response.raw.read(decode_content=False))

    return read
