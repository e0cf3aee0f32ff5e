"""Mounts by file descriptor: open_tree(2), move_mount(2), mount_setattr(2), openat2(2).

Facts:
* A path that a container can change is never walked twice: openat2 with RESOLVE_IN_ROOT opens the
  target below the root's descriptor, symlinks included, and the mount goes onto that descriptor.
* open_tree(OPEN_TREE_CLONE) gives a detached mount: it may be changed by mount_setattr (Linux 5.12)
  before anyone sees it, and goes when the descriptor is closed.
* A detached mount can be attached once; a copy of a process attaches its own clone.
* mount(2) onto "." mounts on the working directory whatever its path has become meanwhile.
"""

from __future__ import annotations

import errno
import os
import struct

from supervisor.linux.libc import syscall

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

AT_FDCWD = -100
_RACES = 64

DEVPTS_SUPER_MAGIC = 0x1CD1
PROC_SUPER_MAGIC = 0x9FA0

_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442


def open_tree(path: bytes, *, recursive: bool = True, directory: int = AT_FDCWD) -> int:
    """A detached copy of the mount (tree) at `path`; b"" means the descriptor itself."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    flags |= AT_RECURSIVE if recursive else 0
    flags |= 0 if path else AT_EMPTY_PATH
    return syscall(_SYS_OPEN_TREE, directory, path, flags)


def move_mount(tree: int, target: int, source: bytes = b"") -> None:
    """Attach the detached mount `tree`, or move the one at the path `source`, onto the file or
    directory open as `target`."""
    flags = MOVE_MOUNT_T_EMPTY_PATH | (0 if source else MOVE_MOUNT_F_EMPTY_PATH)
    syscall(_SYS_MOVE_MOUNT, tree, source, target, b"", flags)


def mount_setattr(tree: int, set_: int, clear: int = 0, *, recursive: bool = True) -> None:
    """Change the attributes of a mount (tree) held by descriptor."""
    attributes = struct.pack("=4Q", set_, clear, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes))


def openat2(directory: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2); the descriptor is close-on-exec."""
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve)
    return syscall(_SYS_OPENAT2, directory, path, how, len(how))


def pivot_root(new: bytes, old: bytes) -> None:
    """pivot_root(2); with (".", ".") the old root lies stacked on the new one and is unmounted
    without any directory being needed for it (the man page's own recipe)."""
    syscall(_SYS_PIVOT_ROOT, new, old)


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """Open `path` as a process chrooted to `root` would, magic links refused."""
    for _ in range(_RACES):
        try:
            return openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except BlockingIOError:  # EAGAIN: something was renamed while ".." was walked
            continue
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def make_target(root: int, path: bytes, *, directory: bool, links: int = 40) -> int:
    """Open `path` below `root` as O_PATH, making what is missing, each component below the
    descriptor of the one before it. Where a link leads nowhere, what it names is made."""
    path = path.rstrip(b"/") or b"/"
    try:
        return open_in_root(root, path, os.O_PATH)
    except FileNotFoundError:
        parent = make_parents(root, os.path.dirname(path), links)
    name = os.path.basename(path)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        if links and (link := _read_link(parent, name)):
            # Not normalised: the kernel knows best what ".." means behind a link.
            target = os.path.join(os.path.dirname(path), link)
            return make_target(root, target, directory=directory, links=links - 1)
    finally:
        os.close(parent)
    return open_in_root(root, path, os.O_PATH)


def make_parents(root: int, path: bytes, links: int = 40) -> int:
    """Open the directory `path` below `root`, made with its parents where it is missing."""
    if path.strip(b"/") == b"":
        return open_in_root(root, b"/", os.O_PATH | os.O_DIRECTORY)
    return make_target(root, path, directory=True, links=links)


def _read_link(directory: int, name: bytes) -> bytes:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:  # no link
        return b""
