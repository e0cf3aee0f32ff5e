"""Preflight: which limits of the host a launch of n containers would hit, before it begins.

Standard library only. A limit that cannot be read is not checked: the kernel has the last word.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Collection
from dataclasses import dataclass

TASKS_EACH = 3
"""init, the workload, and one that it starts."""
FDS_EACH = 6
FDS_SPARE = 64


@dataclass(frozen=True)
class Need:
    """A limit that would be hit; `name` is the sysctl's or the rlimit's."""

    name: str
    needed: int
    free: int
    remedy: str


def check(n: int, *, tty: bool, namespaces: Collection[str], proc: str = "/proc") -> list[Need]:
    """What the host has too little of for `n` containers, each with its own `namespaces`."""
    needs = [_tasks(n, proc), _files(n, proc)]
    if tty:
        needs.append(_terminals(n, proc))
    needs.extend(_namespaces(n, name, proc) for name in sorted(namespaces))
    return [need for need in needs if need and need.free < need.needed]


def _terminals(n: int, proc: str) -> Need | None:
    top = _number(f"{proc}/sys/kernel/pty/max")
    used = _number(f"{proc}/sys/kernel/pty/nr")
    # The reserve is for the devpts of the initial mount namespace; containers have their own.
    reserve = _number(f"{proc}/sys/kernel/pty/reserve") or 0
    if top is None or used is None:
        return None
    return _sysctl("kernel.pty.max", n, max(0, top - reserve - used), top)


def _tasks(n: int, proc: str) -> Need | None:
    top = _number(f"{proc}/sys/kernel/pid_max")
    try:
        used = int(_read(f"{proc}/loadavg").split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return None
    if top is None:
        return None
    return _sysctl("kernel.pid_max", TASKS_EACH * n, max(0, top - used), top)


def _files(n: int, proc: str) -> Need | None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        used = len(os.listdir(f"{proc}/self/fd"))
    except OSError:
        return None
    if hard == resource.RLIM_INFINITY:
        return None
    needed, free = FDS_EACH * n + FDS_SPARE, max(0, hard - used)
    remedy = f"raise the hard limit of open files to {used + needed} (ulimit -Hn, LimitNOFILE=)"
    return Need("RLIMIT_NOFILE", needed, free, remedy)


def _namespaces(n: int, name: str, proc: str) -> Need | None:
    top = _number(f"{proc}/sys/user/max_{name}_namespaces")
    if top is None:
        return None
    # Counting reads a link of every process on the host: only where it may matter.
    used = _used(name, proc) if n > top // 4 else 0
    return _sysctl(f"user.max_{name}_namespaces", n, max(0, top - used), top)


def _used(name: str, proc: str) -> int:
    found = set()
    for entry in os.listdir(proc):
        if entry.isdigit():
            try:
                found.add(os.readlink(f"{proc}/{entry}/ns/{name}"))
            except OSError:  # it ended, or is another user's
                continue
    return len(found)


def _sysctl(name: str, needed: int, free: int, top: int) -> Need:
    return Need(name, needed, free, f"sysctl -w {name}={max(top, top + needed - free)}")


def _number(path: str) -> int | None:
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return None


def _read(path: str) -> str:
    # By descriptor: a dozen of these are read for every launch.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode("ascii", "replace")
    finally:
        os.close(fd)
