"""clone3(2): make a process in new namespaces, with a pidfd, in one call.

Facts:
* Only a single-threaded process may run Python in the child: a thread that held a lock of the
  interpreter does not exist there any more.
* With CLONE_PARENT `exit_signal` must be 0 and the child inherits the caller's. sup's containers
  all have exit signal 0: no SIGCHLD storm, and waitid(2) sees them with __WALL only.
* CLONE_NEWTIME lies in the bits of the old exit signal: clone3 and unshare(2) alone know it.
"""

from __future__ import annotations

import ctypes
import struct

from supervisor.linux.libc import syscall

CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

NAMESPACES = {
    "mnt": CLONE_NEWNS,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "net": CLONE_NEWNET,
    "pid": CLONE_NEWPID,
    "cgroup": CLONE_NEWCGROUP,
    "user": CLONE_NEWUSER,
    "time": CLONE_NEWTIME,
}

_SYS_CLONE3 = 435


def clone3(flags: int, cgroup: int = 0) -> tuple[int, int]:
    """Clone the calling process; returns (pid, pidfd) in the parent and (0, -1) in the child."""
    pidfd = ctypes.c_int(-1)
    if cgroup:
        flags |= CLONE_INTO_CGROUP
    arguments = struct.pack(
        "=11Q", flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, 0, 0, 0, 0, 0, 0, cgroup
    )
    pid = syscall(_SYS_CLONE3, arguments, len(arguments))
    return pid, pidfd.value if pid else -1
