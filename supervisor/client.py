"""The thin client: one call at a time on the supervisor's socket, synchronously.

`_socket` rather than `socket`, and nothing outside the standard library: it loads in a few
milliseconds, which is most of what `sup ps` costs.
"""

from __future__ import annotations

import errno
import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
from _socket import socket as Socket
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from .api import protocol
from .errors import NoServer, ProtocolError, SupError

if TYPE_CHECKING:
    from .paths import Paths

_ABSENT = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR})
_CHUNK = 256 << 10


class Client:
    """A connection. Calls follow one another; `upgrade` hands the socket on and ends them."""

    def __init__(self, paths: Paths) -> None:
        paths.check_socket()
        self._paths = paths
        self._splitter = protocol.Splitter()
        self._socket = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            self._socket.connect(os.fsencode(paths.socket))
        except OSError as error:
            self._socket.close()
            raise _unreachable(paths, error) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up: the supervisor drops what this connection was still waiting for."""
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def call(self, method: str, **parameters: object) -> dict[str, object]:
        """One call, one reply. Raises the SupError that the supervisor answered with."""
        self._send(protocol.call(method, parameters))
        return self._reply()[0]

    def begin(self, method: str, **parameters: object) -> None:
        """A call whose reply nobody waits for; to close the connection cancels it."""
        self._send(protocol.call(method, parameters))

    def stream(self, method: str, **parameters: object) -> Iterator[dict[str, object]]:
        """A call with many replies; the last one is yielded too."""
        self._send(protocol.call(method, parameters, more=True))
        continues = True
        while continues:
            reply, continues = self._reply()
            yield reply

    def upgrade(self, method: str, **parameters: object) -> tuple[dict[str, object], bytes]:
        """A call after which both sides speak frames: its reply, and the first bytes of those."""
        self._send(protocol.call(method, parameters, upgrade=True))
        reply, _ = self._reply()
        return reply, self._splitter.rest()

    def send(self, data: bytes) -> None:
        """Frames, after an upgrade. Raises OSError."""
        self._socket.sendall(data)

    def receive(self) -> bytes:
        """Bytes of frames, after an upgrade; b"" at the end. Raises OSError."""
        return self._socket.recv(_CHUNK)

    def _send(self, message: Mapping[str, object]) -> None:
        data = protocol.encode(message)
        try:
            self._socket.sendall(data)
        except OSError:
            # It may have said why before it hung up: the reply tells.
            return

    def _reply(self) -> tuple[dict[str, object], bool]:
        message = self._splitter.next()
        while message is None:
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                data = b""
            if not data:
                raise lost(self._paths)
            self._splitter.push(data)
            message = self._splitter.next()
        return _checked(message)


def _checked(message: protocol.Message) -> tuple[dict[str, object], bool]:
    parameters = message.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ProtocolError("the supervisor's reply has no parameters")
    name = message.get("error")
    if name is not None:
        raise SupError.from_wire(str(name), parameters)
    return parameters, message.get("continues") is True


def lost(paths: Paths) -> SupError:
    """The connection ended in the middle of something."""
    return SupError(
        "the connection to the supervisor was lost",
        remedy=f"see `sup info`, and {paths.log!a}",
    )


def _unreachable(paths: Paths, error: OSError) -> SupError:
    shown = ascii(paths.socket)
    if error.errno in _ABSENT:
        return NoServer(f"no supervisor runs on {shown}", remedy="`sup up` or `sup run` starts one")
    return SupError(
        f"cannot connect to {shown}: {error.strerror or error}",
        remedy="choose another place with --root DIR",
    )
