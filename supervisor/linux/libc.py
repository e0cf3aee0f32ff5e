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
import sys
from collections.abc import Callable

_libc = ctypes.PyDLL(None, use_errno=True)


def _function(name: str, *types: type) -> Callable[..., int]:
    """A function of the library. Its arguments are converted in C, by their types: objects made and
    dropped for each would dirty pages in every clone."""
    function: Callable[..., int] = getattr(_libc, name)
    function.argtypes = types  # type: ignore[attr-defined]
    function.restype = ctypes.c_long  # type: ignore[attr-defined]
    return function


_TEXT = ctypes.c_char_p
_syscall = _function("syscall", ctypes.c_long, *[ctypes.c_void_p] * 6)
_prctl = _function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)
_mount = _function("mount", _TEXT, _TEXT, _TEXT, ctypes.c_ulong, _TEXT)
_umount2 = _function("umount2", _TEXT, ctypes.c_int)
_setns = _function("setns", ctypes.c_int, ctypes.c_int)
_unshare = _function("unshare", ctypes.c_int)
_sethostname = _function("sethostname", _TEXT, ctypes.c_size_t)
_fstatfs = _function("fstatfs", ctypes.c_int, ctypes.c_void_p)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *arguments: int | bytes | ctypes.c_void_p | None) -> int:
    """Call the kernel. Integers go as longs, bytes as pointers, None as NULL.

    Raises OSError with the kernel's errno."""
    return _checked(_syscall(number, *arguments, *(0,) * (6 - len(arguments))))


def prctl(option: int, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0) -> int:
    """prctl(2)."""
    return _checked(_prctl(option, a2, a3, a4, a5))


def mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes) -> None:
    """mount(2)."""
    _checked(_mount(source, target, fstype or None, flags, data or None))


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    _checked(_umount2(target, flags))


def setns(fd: int, flags: int) -> None:
    """setns(2); a pidfd joins several namespaces at once since Linux 5.8."""
    _checked(_setns(fd, flags))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _checked(_unshare(flags))


def sethostname(name: bytes) -> None:
    """sethostname(2)."""
    _checked(_sethostname(name, len(name)))


def fstatfs_type(fd: int) -> int:
    """The `f_type` of fstatfs(2): which kind of file system `fd` is on."""
    buffer = bytes(bytearray(256))  # struct statfs has 120
    _checked(_fstatfs(fd, buffer))
    return int.from_bytes(buffer[:8], sys.byteorder)
