"""One client of the API: its socket, cut into messages, and the calls it makes."""

from __future__ import annotations

import os
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import attrs
import trio

from ..errors import ProtocolError
from . import protocol
from .parameters import Parameters

if TYPE_CHECKING:
    from ..supervisor import Supervisor

_CHUNK = 64 << 10
_CREDENTIALS = struct.Struct("3i")


class HungUp(Exception):
    """The client has gone; nobody is left to tell."""


class Connection:
    """Messages in and out. Any task may send; one at a time receives."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._stream = trio.SocketStream(sock)
        self._splitter = protocol.Splitter()
        self._sending = trio.Lock()

    def peer_allowed(self) -> bool:
        """Whether the client's user is ours, or root: unix(7), SO_PEERCRED."""
        credentials = self._socket.getsockopt(
            trio.socket.SOL_SOCKET, trio.socket.SO_PEERCRED, _CREDENTIALS.size
        )
        return _CREDENTIALS.unpack(credentials)[1] in (0, os.geteuid())

    async def receive_message(self) -> protocol.Message | None:
        """The next call, None at the end. Raises ProtocolError."""
        while (message := self._splitter.next()) is None:
            data = await self.receive()
            if not data:
                return None
            self._splitter.push(data)
        return message

    async def receive(self) -> bytes:
        """Raw bytes, b"" at the end."""
        try:
            return bytes(await self._stream.receive_some(_CHUNK))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    def take_rest(self) -> bytes:
        """What was received behind the last message."""
        return self._splitter.rest()

    async def wait_hung_up(self) -> None:
        """Return when the client has gone; what else it sends meanwhile is kept for later."""
        while self._splitter.held <= protocol.MESSAGE_MAX:
            data = await self.receive()
            if not data:
                return
            self._splitter.push(data)
        await trio.sleep_forever()

    async def send(self, message: Mapping[str, object]) -> None:
        """Raises HungUp, and ProtocolError when the message is too large."""
        await self.send_bytes(protocol.encode(message))

    async def send_bytes(self, data: bytes) -> None:
        """Raises HungUp."""
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise HungUp from None

    async def close(self) -> None:
        await self._stream.aclose()


@attrs.frozen
class Upgrade:
    """What a method returns when the connection takes no further calls: the session has it from now on,
    and sends the reply itself."""

    session: Callable[[Connection], Awaitable[None]]


@attrs.frozen
class Call:
    """One call of a method."""

    sup: Supervisor
    connection: Connection
    parameters: Parameters
    more: bool
    upgrade: bool

    async def reply(self, **parameters: object) -> None:
        """One of many replies."""
        await self.connection.send({"parameters": parameters, "continues": True})

    def require_more(self) -> None:
        if not self.more:
            raise ProtocolError("this method has many replies", remedy='call it with "more": true')

    def require_upgrade(self) -> None:
        if not self.upgrade:
            raise ProtocolError(
                "this method ends in a session of frames", remedy='call it with "upgrade": true'
            )
