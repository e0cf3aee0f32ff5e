"""Messages between supervisor, shim and child: JSON and descriptors over SOCK_SEQPACKET.

Facts:
* One sendmsg(2) is one message, whole or not at all; its size is bounded by the send buffer (some
  200 KB by default): what is larger travels in a memfd, as the last descriptor.
* Descriptors arrive by SCM_RIGHTS (unix(7)), close-on-exec by MSG_CMSG_CLOEXEC.
* A receiver at its limit of open files gets the bytes and not the descriptors (MSG_CTRUNC): every
  message therefore says in its bytes whose it is, also one that travels in a memfd.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
from typing import Any

Message = dict[str, Any]

_INLINE = 64 * 1024
_MAX_FDS = 16
_BIG = b"\0"


class Truncated(OSError):
    """A message came without its descriptors: no more may be opened. One from a memfd is lost but for
    its `id`."""

    def __init__(self, message: Message) -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE))
        self.message = message
        self.id: str = message.get("id", "")


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
        _sendmsg(sock, _BIG + message.get("id", "").encode(), (*fds, memfd))
    finally:
        os.close(memfd)


def _sendmsg(sock: socket.socket, data: bytes, fds: tuple[int, ...]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


def receive(sock: socket.socket, *, wait: bool = True) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, None at the end. Without `wait` it never blocks.

    Raises BlockingIOError, Truncated, OSError."""
    how = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    data, ancillary, flags, _ = sock.recvmsg(_INLINE + 1, socket.CMSG_SPACE(_MAX_FDS * 4), how)
    fds = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    if not data:
        return None
    big, held = data.startswith(_BIG), list(fds)
    if flags & socket.MSG_CTRUNC:
        for fd in held:
            os.close(fd)
        raise Truncated({"id": data[1:].decode()} if big else json.loads(data))
    if big:
        with open(held.pop(), "rb") as file:
            file.seek(0)
            data = file.read()
    return json.loads(data), held
