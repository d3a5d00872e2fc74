"""Leads a connector's requests for Mixpanel to the local one; Python runs this at its start.

All connectors that are measured ask through `requests`, so this is where they are led. Nothing of
their own code is changed. Variables:

* `BENCHMARK_MIXPANEL_URL`: where requests for any host of Mixpanel go instead.
* `BENCHMARK_MIXPANEL_PROJECT_ID`: added to requests that name no project.
* `BENCHMARK_MIXPANEL_PROPERTIES`: a JSON file, the names of the events' properties.
"""

import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

_send = HTTPAdapter.send


def _send_locally(
    adapter: HTTPAdapter, request: PreparedRequest, *args: Any, **options: Any
) -> Response:
    """`HTTPAdapter.send`, with Mixpanel's place taken by the local one."""
    url = urlsplit(request.url or "")
    host = str(url.hostname)
    if host != "mixpanel.com" and not host.endswith(".mixpanel.com"):
        return _send(adapter, request, *args, **options)
    # Mixpanel's export answers with and without the slash that some connectors add.
    path = str(url.path).rstrip("/")
    if (known := _known(path)) is not None:
        body = io.BytesIO(json.dumps(known).encode())
        headers = {"Content-Type": "application/json"}
        answer = HTTPResponse(body, headers, status=200, reason="OK", preload_content=False)
        return adapter.build_response(request, answer)
    query = str(url.query)
    # A project's secret, the only account that some connectors know, needs no project id; the
    # service account which they are given in its place does.
    if "project_id" not in parse_qs(query):
        project = urlencode({"project_id": os.environ["BENCHMARK_MIXPANEL_PROJECT_ID"]})
        query = f"{query}&{project}" if query else project
    request = request.copy()
    request.url = f"{os.environ['BENCHMARK_MIXPANEL_URL']}{path}?{query}"
    options["proxies"] = None
    return _send(adapter, request, *args, **options)


def _known(path: str) -> Any:
    """The answer to what the local Mixpanel does not serve; None for what it does.

    These are asked before an export: whether the account is valid, and which columns there are.
    """
    if path.endswith("/events/properties/top"):
        names = json.loads(
            Path(os.environ["BENCHMARK_MIXPANEL_PROPERTIES"]).read_text(encoding="utf-8")
        )
        return {name: {"count": 1} for name in names}
    if path.endswith("/engage/properties"):
        # One of them: a schema without any ends some connectors.
        return {"status": "ok", "results": {"$last_seen": {"count": 1, "type": "datetime"}}}
    if path.endswith("/engage"):
        return {"status": "ok", "results": [], "page": 0, "total": 0}
    return None


HTTPAdapter.send = _send_locally  # type: ignore[assignment, method-assign]
