"""A console over a connection: frames of output one way, of input, size and signals the other.

Three tasks a session, and none waits for another's peer: a client that does not read delays only its
own viewer, a container that does not read its input only that input.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import trio

from ..errors import ProtocolError, WrongState
from . import protocol
from .connection import Connection, HungUp
from .parameters import Parameters

if TYPE_CHECKING:
    from ..console import Chunk, Console, Viewer

_INPUT_MAX = protocol.WINDOW + protocol.FRAME_MAX


@attrs.frozen
class Options:
    """How a client wants to see a console."""

    read_only: bool
    replay: bool
    stdin: bool
    lossless: bool
    rows: int
    cols: int
    redraw: bool

    @staticmethod
    def read(parameters: Parameters, *, replay: bool, lossless: bool = False) -> Options:
        """From a call's parameters; the defaults differ between methods."""
        rows, cols = parameters.whole("rows", 0, 0xFFFF), parameters.whole("cols", 0, 0xFFFF)
        return Options(
            read_only=parameters.flag("read_only"),
            replay=parameters.flag("replay", replay),
            stdin=parameters.flag("stdin", False),
            lossless=parameters.flag("lossless", lossless),
            rows=rows or 0,
            cols=cols or 0,
            redraw=parameters.flag("redraw", False),
        )

    def view(self, console: Console) -> Viewer:
        return console.view(replay=self.replay, lossless=self.lossless, read_only=self.read_only)


@attrs.define(eq=False)
class Session:
    """One client at one console, from the reply to its call to the exit status."""

    connection: Connection
    console: Console
    viewer: Viewer
    options: Options
    wait: Callable[[], Awaitable[int]]
    kill: Callable[[int], None]
    detached: bool = False
    _input: bytearray = attrs.Factory(bytearray)
    _input_ended: bool = False
    _wake: trio.Event = attrs.Factory(trio.Event)
    _unchanged: bool = False

    async def run(self) -> bool:
        """Serve until the console ends or the client leaves; whether the client saw the end."""
        saw_end = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, nursery.cancel_scope)
            nursery.start_soon(self._feed)
            if self._unchanged and self.options.redraw:
                nursery.start_soon(self._redraw)
            with suppress(HungUp):
                await self._write()
                saw_end = True
            nursery.cancel_scope.cancel()
        return saw_end

    @property
    def _sized(self) -> bool:
        options = self.options
        return bool(options.rows and options.cols and self.console.tty and not options.read_only)

    def set_size(self) -> None:
        """Give the console the client's size, as far as it owns it."""
        if self._sized:
            self._unchanged = self.console.size == (self.options.rows, self.options.cols)
            self.viewer.resize(self.options.rows, self.options.cols)

    async def _redraw(self) -> None:
        with suppress(OSError):
            await self.console.redraw(self.options.rows, self.options.cols)

    async def _write(self) -> None:
        while (chunk := await self.viewer.receive()) is not None:
            await self.connection.send_bytes(frames(chunk))
        status = await self.wait()
        await self.connection.send_bytes(protocol.json_frame(protocol.EXIT, {"status": status}))

    async def _read(self, scope: trio.CancelScope) -> None:
        splitter = protocol.FrameSplitter(protocol.FROM_CLIENT)
        data = self.connection.take_rest()
        try:
            while True:
                for kind, payload in splitter.feed(data):
                    self._take(kind, payload)
                if self.detached:
                    break
                data = await self.connection.receive()
                if not data:
                    break
        except ProtocolError:
            pass  # a client that speaks something else is hung up on
        scope.cancel()

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == protocol.DETACH:
            self.detached = True
        elif self.options.read_only:
            return
        elif kind == protocol.RESIZE:
            rows, cols = protocol.screen_size(payload)
            if self.console.tty:
                self.viewer.resize(rows, cols)
        elif kind == protocol.SIGNAL:
            self._signal(protocol.number(payload))
        elif self.options.stdin:
            self._take_input(kind, payload)

    def _signal(self, number: int) -> None:
        if number not in signal.valid_signals():
            raise ProtocolError(f"there is no signal {number}")
        # It may have ended meanwhile; its exit status is on the way then.
        with suppress(OSError, WrongState):
            self.kill(number)

    def _take_input(self, kind: bytes, payload: bytes) -> None:
        if kind == protocol.END:
            self._input_ended = True
        else:
            self._input += payload
        if len(self._input) > _INPUT_MAX:
            raise ProtocolError("the client ignores the window for input")
        self._wake.set()

    async def _feed(self) -> None:
        broken = False
        while self._input or not self._input_ended:
            if not self._input:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            data = bytes(self._input[: 64 << 10])
            if not broken:
                broken = not await self._write_input(data)
            # Only now: what stays here counts against the client's window.
            del self._input[: len(data)]
            count = b"%d" % len(data)
            with suppress(HungUp):
                await self.connection.send_bytes(protocol.frame(protocol.ACK, count))
        if not self.console.tty:
            self.console.close_stdin()

    async def _write_input(self, data: bytes) -> bool:
        try:
            await self.console.write(data)
        except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
            return False
        return True


def frames(chunk: Chunk) -> bytes:
    """A piece of output as frames."""
    if chunk.kind == "lost":
        return protocol.frame(protocol.LOST, b"%d" % chunk.lost)
    kind = protocol.STDERR if chunk.kind == "err" else protocol.DATA
    data = chunk.data
    if len(data) <= protocol.FRAME_MAX:
        return protocol.frame(kind, data)
    pieces = range(0, len(data), protocol.FRAME_MAX)
    return b"".join(protocol.frame(kind, data[at : at + protocol.FRAME_MAX]) for at in pieces)
