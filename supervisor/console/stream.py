"""A console as a trio stream."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from supervisor.console.console import Console


class ConsoleStream(trio.abc.HalfCloseableStream):
    """Reads a console's output, both kinds as one, and writes its input.

    It is lossless unless told otherwise: who does not read it holds the container back. Closing it
    leaves the console alone, unless `close_console` says that the stream owns it.
    """

    def __init__(
        self,
        console: Console,
        *,
        replay: bool = True,
        lossless: bool = True,
        read_only: bool = False,
        close_console: bool = False,
    ) -> None:
        self.console = console
        self.viewer = console.view(
            replay=replay, lossless=lossless, read_only=read_only, until_eof=True
        )
        self._close_console = close_console
        self._rest = memoryview(b"")
        self._eof_sent = False
        self._scopes: set[trio.CancelScope] = set()
        self._sending = _Detector("another task is sending to this console stream")
        self._receiving = _Detector("another task is receiving from this console stream")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write to the console's input."""
        with self._sending, self._until_closed(sending=True):
            await trio.lowlevel.checkpoint()
            await self.console.write(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Sleep until the console's input has room."""
        with self._sending, self._until_closed(sending=True):
            await self.console.wait_writable()

    async def send_eof(self) -> None:
        """Close the console's input; on a terminal, type its end-of-file character."""
        with self._sending, self._until_closed():
            self._check_writable()
            await trio.lowlevel.checkpoint()
            if not self._eof_sent:
                self._eof_sent = True
                self.console.close_stdin()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some output, or b"" when no more can come."""
        limit = _check_limit(max_bytes)
        with self._receiving, self._until_closed():
            if self._rest:
                await trio.lowlevel.checkpoint()
            while not self._rest:
                chunk = await self.viewer.receive()
                if chunk is None:
                    return b""
                self._rest = memoryview(chunk.data)
            data = bytes(self._rest[:limit])
            self._rest = self._rest[len(data) :]
            return data

    def resize(self, rows: int, cols: int) -> None:
        """Say how large the reader's screen is: the newest stream that may write decides."""
        self.viewer.resize(rows, cols)

    async def redraw(self) -> None:
        """Make the program draw its screen anew."""
        if self.console.size is not None:
            await self.console.redraw(*self.console.size)

    async def aclose(self) -> None:
        """Leave the console; whoever waits in this stream gets ClosedResourceError."""
        if not self.viewer.closed:
            self.viewer.close()
            for scope in self._scopes:
                scope.cancel()
            if self._close_console:
                self.console.finish()
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _until_closed(self, *, sending: bool = False) -> Iterator[None]:
        self._check_open(sending)
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            except BrokenPipeError as error:
                self._check_open(sending)
                raise trio.BrokenResourceError(str(error)) from error
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise trio.ClosedResourceError("the console stream was closed")

    def _check_open(self, sending: bool) -> None:
        if self.viewer.closed or (sending and self._eof_sent):
            raise trio.ClosedResourceError("the console stream was closed")
        if sending:
            self._check_writable()

    def _check_writable(self) -> None:
        if self.viewer.read_only:
            raise trio.ClosedResourceError("the console stream was opened for reading only")


class _Detector:
    """Refuses a second task."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(self._message)
        self._taken = True

    def __exit__(self, *_: object) -> None:
        self._taken = False


def _check_limit(max_bytes: int | None) -> int | None:
    if max_bytes is not None and operator.index(max_bytes) < 1:
        raise ValueError("max_bytes must be at least 1")
    return max_bytes
