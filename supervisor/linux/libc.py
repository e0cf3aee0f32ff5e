"""The C library by ctypes: how every other door calls the kernel.

Facts:
* `PyDLL` keeps the GIL held over the call. That is what a process about to clone itself wants: the
  child wakes up holding the only lock of its only thread. None of these calls blocks for long.
* `syscall(2)` is variadic; every argument is passed as a C long, so that upper halves are defined.
* Numbers from 424 on (open_tree ... openat2) are the same on every architecture, clone3 is 435.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: int | bytes | ctypes.c_void_p | None) -> int:
    """Call the kernel. Integers go as longs, bytes as pointers, None as NULL.

    Raises OSError with the kernel's errno."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _syscall(ctypes.c_long(number), *converted)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _call(name: str, *arguments: object) -> int:
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0) -> int:
    """prctl(2)."""
    words = [ctypes.c_ulong(word) for word in (a2, a3, a4, a5)]
    return _call("prctl", ctypes.c_int(option), *words)


def mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes) -> None:
    """mount(2)."""
    _call("mount", source, target, fstype or None, ctypes.c_ulong(flags), data or None)


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    _call("umount2", target, ctypes.c_int(flags))


def setns(fd: int, flags: int) -> None:
    """setns(2); a pidfd joins several namespaces at once since Linux 5.8."""
    _call("setns", ctypes.c_int(fd), ctypes.c_int(flags))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _call("unshare", ctypes.c_int(flags))


def sethostname(name: bytes) -> None:
    """sethostname(2)."""
    _call("sethostname", name, ctypes.c_size_t(len(name)))


def fstatfs_type(fd: int) -> int:
    """The `f_type` of fstatfs(2): which kind of file system `fd` is on."""
    buffer = ctypes.create_string_buffer(256)
    _call("fstatfs", ctypes.c_int(fd), buffer)
    return ctypes.c_long.from_buffer(buffer).value
