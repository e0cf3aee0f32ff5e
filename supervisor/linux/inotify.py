"""inotify(7): be told when a file changes.

Facts:
* Instances are few (fs.inotify.max_user_instances, 128), watches many: one instance serves all.
* A watch of a file that goes says IN_IGNORED, and its number is not used again soon.
"""

from __future__ import annotations

import os
import struct

from supervisor.linux.libc import syscall

IN_MODIFY = 0x2
_INIT1, _ADD_WATCH, _RM_WATCH = {"x86_64": (294, 254, 255), "aarch64": (26, 27, 28)}[os.uname().machine]
_EVENT = struct.Struct("=iIII")


def init() -> int:
    """A new instance, non-blocking."""
    return syscall(_INIT1, os.O_CLOEXEC | os.O_NONBLOCK)


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch a file; returns the number of the watch."""
    return syscall(_ADD_WATCH, fd, os.fsencode(path) + b"\0", mask)


def remove_watch(fd: int, watch: int) -> None:
    """Forget a watch."""
    syscall(_RM_WATCH, fd, watch)


def decode(data: bytes) -> list[int]:
    """The watches that a read tells of, each once, in their order."""
    found, at = dict[int, None](), 0
    while at < len(data):
        watch, _, _, length = _EVENT.unpack_from(data, at)
        found[watch] = None
        at += _EVENT.size + length
    return list(found)
