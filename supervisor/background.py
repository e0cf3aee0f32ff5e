"""Tasks that outlive the cancellation of whoever opened the supervisor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class Background:
    """Tasks that a cancelled caller does not take along: containers are ended with their help."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self._stopped = False

    def start_soon(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a task until it ends, or until `stop`."""
        self._nursery.start_soon(self._run, function, args)

    async def _run(self, function: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
        if self._stopped:
            return
        with trio.CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            try:
                await function(*args)
            finally:
                self._scopes.discard(scope)

    def stop(self) -> None:
        """Cancel them all."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()
