"""Messages between supervisor, shim and child: JSON and descriptors over SOCK_SEQPACKET.

Facts:
* One sendmsg(2) is one message, whole or not at all; its size is bounded by the send buffer (some
  200 KB by default): what is larger travels in a memfd, as the last descriptor.
* Descriptors arrive by SCM_RIGHTS (unix(7)), close-on-exec by MSG_CMSG_CLOEXEC.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any

Message = dict[str, Any]

_INLINE = 64 * 1024
_MAX_FDS = 16
_BIG = b"\0"


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of message sockets, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(sock: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send one message with its descriptors. Raises OSError; BlockingIOError on a full socket."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) <= _INLINE:
        _sendmsg(sock, data, fds)
        return
    memfd = os.memfd_create("sup-message", os.MFD_CLOEXEC)
    try:
        with open(memfd, "wb", closefd=False) as file:
            file.write(data)
        _sendmsg(sock, _BIG, (*fds, memfd))
    finally:
        os.close(memfd)


def _sendmsg(sock: socket.socket, data: bytes, fds: tuple[int, ...]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, None at the end. Raises BlockingIOError, OSError."""
    data, ancillary, _, _ = sock.recvmsg(
        _INLINE + 1, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    if not data:
        return None
    held = list(fds)
    if data == _BIG:
        with open(held.pop(), "rb") as file:
            file.seek(0)
            data = file.read()
    return json.loads(data), held
