"""The event bus: everything that happens to containers, numbered, kept for late listeners."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import trio

Event = dict[str, Any]

KEPT = 10_000


class Bus:
    """Publishes to all subscribers; a slow one reads from what is kept and may miss the oldest."""

    def __init__(self, kept: int = KEPT) -> None:
        self._events: deque[Event] = deque(maxlen=kept)
        self._waiting = trio.lowlevel.ParkingLot()
        self._last = 0

    @property
    def last(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self._last

    def publish(self, kind: str, **fields: object) -> None:
        """Number an event and wake whoever listens. Never blocks."""
        self._last += 1
        self._events.append({"seq": self._last, "time": time.time(), "type": kind, **fields})
        self.wake()

    def wake(self) -> None:
        """Have every subscriber look again."""
        self._waiting.unpark_all()

    async def wait(self) -> None:
        """Sleep until somebody calls `wake`."""
        await self._waiting.park()

    def subscribe(self, since: int | None = None, *, follow: bool = True) -> EventStream:
        """Events after number `since` (None: from now on), then new ones as long as `follow`."""
        return EventStream(self, self._last if since is None else since, follow)

    def after(self, seen: int) -> Event | None:
        """The oldest kept event with a number above `seen`."""
        if seen >= self._last or not self._events:
            return None
        return self._events[max(0, seen - self._events[0]["seq"] + 1)]


class EventStream(trio.abc.ReceiveChannel[Event]):
    """What happens, in order, as a trio channel. A gap in the numbers is what was missed."""

    def __init__(self, bus: Bus, seen: int, follow: bool) -> None:
        self._bus = bus
        self._seen = seen
        self._follow = follow
        self._closed = False

    async def receive(self) -> Event:
        """The next event. EndOfChannel after the last one, unless it follows."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the event stream was closed")
            if event := self._bus.after(self._seen):
                self._seen = event["seq"]
                return event
            if not self._follow:
                raise trio.EndOfChannel
            await self._bus.wait()

    async def aclose(self) -> None:
        """Stop listening; a `receive` that waits raises ClosedResourceError."""
        self._closed = True
        self._bus.wake()
        await trio.lowlevel.checkpoint()
