"""The event bus: everything that happens to containers, numbered, kept for late listeners."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import trio

Event = dict[str, Any]

KEPT = 10_000


class Bus:
    """Publishes to all subscribers; a slow one reads from what is kept and may miss the oldest."""

    def __init__(self, kept: int = KEPT) -> None:
        self._events: deque[Event] = deque(maxlen=kept)
        self._news = trio.Event()
        self._last = 0

    @property
    def last(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self._last

    def publish(self, kind: str, **fields: object) -> None:
        """Number an event and wake whoever listens. Never blocks."""
        self._last += 1
        self._events.append({"seq": self._last, "time": time.time(), "type": kind, **fields})
        self._news.set()
        self._news = trio.Event()

    async def subscribe(self, since: int | None = None, *, follow: bool = True) -> AsyncIterator[Event]:
        """Events after number `since` (None: from now on), then new ones as long as `follow`."""
        seen = self._last if since is None else since
        while True:
            news = self._news
            for event in self._after(seen):
                seen = event["seq"]
                yield event
            if seen < self._last:
                continue
            if not follow:
                return
            await news.wait()

    def _after(self, seen: int) -> list[Event]:
        if not self._events:
            return []
        skip = max(0, seen - self._events[0]["seq"] + 1)
        return list(itertools.islice(self._events, skip, None))
