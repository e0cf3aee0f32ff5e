"""The files of groups: reading and writing them, and what the kernel's refusals mean.

Facts:
* A group that goes while its files are open: they say ENODEV. By path: ENOENT.
* mkdir says ENOSPC where ids are used up: there are 65,535 memory groups, and one that was removed
  counts until its last page has gone. cgroup.max.descendants of a group above says EAGAIN.
"""

from __future__ import annotations

import errno
import os

from supervisor import text
from supervisor.cgroup.notation import numbers
from supervisor.cgroup.offer import Write
from supervisor.errors import HostLacks, LimitReached, SpecError, SupError, WrongState

GONE = (errno.ENOENT, errno.ENODEV)


def read(path: str) -> str:
    """A file's whole text: one read of a long one may end anywhere."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """One write: the kernel takes or refuses a value as a whole."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def write_and_read(path: str, value: str) -> str:
    """Write, and what the file then holds."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
        return os.pread(fd, 65536, 0).decode()
    finally:
        os.close(fd)


def make(path: str) -> None:
    """A group; raises SupError."""
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        raise not_made(path, error) from None


def not_made(path: str, error: OSError) -> SupError:
    """Why a group was not made."""
    what = f"no group {text.escape(path)}"
    if error.errno in (errno.ENOSPC, errno.EAGAIN, errno.ENOMEM):
        remedy = "remove groups that nobody uses: a hierarchy holds 65535, and a parent may allow less"
        return LimitReached(f"{what}: the kernel has no room for one more", remedy=remedy)
    if error.errno == errno.EEXIST:
        return WrongState(f"{what}: it is there already", remedy="use another name, or remove it")
    if error.errno in GONE:
        return WrongState(
            f"{what}: the group above it has gone", remedy="restart sup: it makes it anew"
        )
    remedy = "give sup a group that it may write to, as systemd-run -p Delegate=yes does"
    return HostLacks(f"{what}: {os.strerror(error.errno or 0)}", remedy=remedy)


def refused(path: str, given: Write, error: OSError) -> SupError:
    """Why a limit was not taken."""
    what = f"{given.field} cannot be held: {path} does not take {text.escape(given.value)!r}"
    if error.errno in GONE:
        what = f"{given.field} cannot be set: the group of {path} has gone"
        return WrongState(what, remedy="restart the container: it gets a new one")
    return HostLacks(f"{what}: {os.strerror(error.errno or 0)}", remedy=_remedy(given, error.errno))


def _remedy(given: Write, number: int | None) -> str:
    if number == errno.EBUSY and given.file.startswith("memory."):
        return "give more than is in use now, or stop something in it"
    if number == errno.EINVAL:
        return "give what the groups above it allow"
    if number == errno.ENODEV and given.file.startswith(("io.", "blkio.")):
        return "name a whole disk, not a part of it"
    return "leave it out, or use --cgroup-optional"


def holds(asked: str, held: str) -> bool:
    """Whether what a file holds is what was written into it."""
    words, lines = asked.split(), [line.split() for line in held.splitlines()]
    if words in lines or any(line[:1] == words[:1] and {*words} <= {*line} for line in lines):
        return True
    if len(words) == 2 and (words[1] == "0" or words[1].endswith("=max")):
        return all(line[:1] != words[:1] for line in lines)  # a rule that is taken away is not shown
    if len(words) == 1 and len(lines) == 1:
        return _same(asked, held.strip())
    return False


def _same(asked: str, held: str) -> bool:
    if asked == "-1":  # v1 shows its largest number
        return held == "-1" or (held.isdigit() and int(held) >= 1 << 60)
    if asked.isdigit() and held.isdigit():  # memory comes back in whole pages
        return 0 <= int(asked) - int(held) < os.sysconf("SC_PAGE_SIZE")
    try:
        return numbers(asked) == numbers(held)
    except (SpecError, ValueError):
        return False
