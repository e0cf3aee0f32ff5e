"""prctl(2), close_range(2), waitid(2): what a process says about itself and its children.

Facts:
* PR_SET_PDEATHSIG is cleared by execve of a set-id file and by a change of uid: set it last. It says
  nothing of a parent that has died already, and getppid(2) is 0 for any parent outside the pid
  namespace: only a pidfd tells.
* waitid by pidfd costs the same however many children there are; P_ALL walks them all.
* Children with exit signal 0 are seen with __WALL only; an orphan that a subreaper adopts gets
  SIGCHLD as its exit signal.
"""

from __future__ import annotations

import os
import select
import signal

from supervisor.linux.libc import prctl, syscall

WALL = 0x40000000
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
CLOSE_RANGE_CLOEXEC = 4
_SYS_CLOSE_RANGE = 436
_LAST = 0xFFFFFFFF


def set_name(name: bytes) -> None:
    """The name that ps shows in brackets or as comm (15 bytes)."""
    import ctypes

    buffer = ctypes.create_string_buffer(name[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def set_death_signal(signum: int) -> None:
    """Have the kernel send `signum` when the parent dies."""
    prctl(PR_SET_PDEATHSIG, signum)


def die_with(parent: int) -> None:
    """Be killed when the parent dies, known by its pidfd `parent`; now, if it is dead."""
    set_death_signal(signal.SIGKILL)
    if has_ended(parent):
        os._exit(128 + signal.SIGKILL)


def has_ended(pidfd: int) -> bool:
    """Whether a process is dead, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def become_subreaper() -> None:
    """Adopt every orphan below this process, instead of init."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def children() -> set[int]:
    """The children of the calling thread, zombies too (proc_pid_children(5))."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return {int(pid) for pid in file.read().split()}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_ours(pid)}


def _is_ours(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1]) == os.getpid()
    except (FileNotFoundError, ProcessLookupError):
        return False


def close_from(first: int, *, on_exec: bool = False) -> None:
    """Close every descriptor from `first` on, now or at the next execve."""
    syscall(_SYS_CLOSE_RANGE, first, _LAST, CLOSE_RANGE_CLOEXEC if on_exec else 0)


def gaps(keep: tuple[int, ...]) -> list[tuple[int, int]]:
    """The ranges of descriptors above 2 that are not among `keep`."""
    found, first = [], 3
    for fd in sorted(keep):
        if fd > first:
            found.append((first, fd - 1))
        first = fd + 1
    return [*found, (first, _LAST)]


def close_ranges(ranges: list[tuple[int, int]]) -> None:
    """Close whatever of them is open."""
    for first, last in ranges:
        syscall(_SYS_CLOSE_RANGE, first, last, 0)


def reap(pidfd: int) -> int | None:
    """The exit status of a child by its pidfd (128+n for signal n), None while it runs."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | WALL)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return result.si_status
    return 128 + result.si_status


def ignores(pid: int, signum: int) -> bool:
    """Whether a process ignores a signal: SigIgn in proc_pid_status(5). False if it has gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file.read().splitlines())
    except OSError:
        return False
    return bool(int(lines.get(b"SigIgn", b"0"), 16) >> (signum - 1) & 1)


def first_child(pid: int) -> int:
    """The oldest child that a process has, itself where it has none or the kernel does not say."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            children = file.read().split()
    except OSError:
        return pid
    return int(children[0]) if children else pid
