"""Requests in, decoded answers out."""

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from mixpanel_pipeline.events.decoding import HOT_SHARD_EVENT, EventDecoder, Rules
from mixpanel_pipeline.events.suppression import Suppression
from mixpanel_pipeline.source.answer import Answer
from mixpanel_pipeline.source.client import MixpanelClient, batches
from mixpanel_pipeline.source.delivered import Delivered, decoded, decoded_links, joined
from mixpanel_pipeline.source.plan import Request
from mixpanel_pipeline.source.slots import Slot
from mixpanel_pipeline.source.window import Window


def asked_for(names: Sequence[str] | None) -> list[list[str] | None]:
    """The names that each of the exports of the same days asks for; None for all.

    Renamed events are asked for as well, and once: their own names are in their properties.

    Args:
        names: Those that are to be loaded; None for all.
    """
    if names is None:
        return [None]
    return list(batches([HOT_SHARD_EVENT, *(name for name in names if name != HOT_SHARD_EVENT)]))


class Fetcher:
    """Fetches requests and decodes their answers; several threads may at once.

    Args:
        client: Where to fetch from.
        names: The names of the events to ask for; None for all.
        links: Whether to ask what events of other names say of who is who as well.
        holds_nul: Whether the destination's text can hold NUL characters.
        rules: Those of the dataset; whole seconds by default.
        suppression: Tells what is not to be loaded; None for nothing.
    """

    def __init__(
        self,
        client: MixpanelClient,
        names: Sequence[str] | None,
        *,
        links: bool = False,
        holds_nul: bool,
        rules: Rules | None = None,
        suppression: Suppression | None = None,
    ) -> None:
        self._links = links and names is not None
        self._suppression = suppression
        self._minimisation = client.settings.minimisation
        self._client = client
        self._names = names
        self._asked = asked_for(names)
        self._holds_nul = holds_nul
        self._rules = rules or Rules()
        self._decoding = threading.Lock()

    def fetch(self, request: Request, path: Path, slot: Slot) -> Delivered:
        """What a request delivers, as files beside `path`.

        Raises:
            ExportError: Mixpanel refused, or no whole answer came.
        """
        if len(self._asked) == 1 and not self._links:
            return self._fetch(request, self._asked[0], path, slot)
        answers = [
            self._fetch(request, asked, path.with_name(f"{path.name}{number:04}"), slot)
            for number, asked in enumerate(self._asked)
        ]
        if self._links:
            answers.append(self._fetch_links(replace(request, links=True), path, slot))
        return joined(answers)

    def _fetch_links(self, request: Request, path: Path, slot: Slot) -> Delivered:
        def read(answer: Answer) -> Delivered:
            with nullcontext() if answer.coming else self._decoding:
                decoder = self._decoder(request.window, names=None)
                return decoded_links(answer, decoder, self._names or ())

        return self._client.fetch(
            request, None, path, read, slot, time_in_ms=self._rules.time_in_ms
        )

    def _fetch(
        self, request: Request, asked: Sequence[str] | None, path: Path, slot: Slot
    ) -> Delivered:
        def read(answer: Answer) -> Delivered:
            # One at a time: side by side they would take as long, and more memory. But none that is
            # still coming can be kept waiting.
            with nullcontext() if answer.coming else self._decoding:
                return self.decode(answer, request.window)

        return self._client.fetch(
            request, asked, path, read, slot, time_in_ms=self._rules.time_in_ms
        )

    def decode(self, answer: Answer, window: Window) -> Delivered:
        """What an answer for the days of `window` delivers of events of the names, or of all.

        Raises:
            BrokenAnswer: The answer is not whole.
        """
        return decoded(answer, self._decoder(window, self._names))

    def _decoder(self, window: Window, names: Sequence[str] | None) -> EventDecoder:
        return EventDecoder(
            self._client.settings.zone,
            holds_nul=self._holds_nul,
            only_day=window.only_day,
            names=names,
            rules=self._rules,
            suppression=self._suppression,
            minimisation=self._minimisation,
        )
