"""capabilities(7): the bounding set, capset(2) and what stays of it over an execve.

Facts:
* A process may lower its permitted set, never raise it; execve of an unprivileged file by uid 0
  gives permitted = bounding set (inheritable and ambient empty), by any other uid nothing.
* PR_CAPBSET_DROP needs CAP_SETPCAP, so the bounding set goes first and capset last.
* Granting what the bounding set of the host lacks fails at capset: cut the wish by what is there.
"""

from __future__ import annotations

import errno
import struct

from supervisor.linux.libc import prctl, syscall

NAMES = (
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
)

PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_SYS_CAPGET = {"x86_64": 125, "aarch64": 90}


def mask(names: frozenset[str] | tuple[str, ...]) -> int:
    """The 64-bit mask of capabilities by their lower-case names without `cap_`."""
    return sum(1 << NAMES.index(name) for name in names)


def drop_bounding(keep: int) -> None:
    """Drop every capability that `keep` lacks from the bounding set."""
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the last capability this kernel knows
                return
            if prctl(PR_CAPBSET_READ, number):  # without CAP_SETPCAP: no harm where it is not there
                raise


def set_sets(machine: str, keep: int) -> None:
    """Permitted and effective := what is permitted now, cut by `keep`; inheritable (and with it
    ambient) := empty."""
    header = struct.pack("=Ii", _VERSION_3, 0)
    buffer = bytes(bytearray(24))
    syscall(_SYS_CAPGET[machine], header, buffer)
    words = struct.unpack("=6I", buffer)
    permitted = (words[1] | words[4] << 32) & keep
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    syscall(_SYS_CAPSET[machine], header, struct.pack("=6I", low, low, 0, high, high, 0))
