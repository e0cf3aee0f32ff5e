"""pts(4), ioctl_tty(2): a pseudo-terminal pair out of a given devpts instance.

Facts:
* Opening `ptmx` of a devpts mount makes a pair in that instance: the first is /dev/pts/0 inside.
* TIOCGPTPEER opens the slave by the master's descriptor: no path in a container is trusted.
* The master's file system tells whose instance it is (DEVPTS_SUPER_MAGIC), whatever the path said.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios

from supervisor.linux.libc import fstatfs_type
from supervisor.linux.mount import DEVPTS_SUPER_MAGIC

TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


def open_pair(ptmx: bytes, checked: bool = True) -> tuple[int, int]:
    """(master, slave) out of the devpts instance that `ptmx` belongs to, both close-on-exec.

    `checked` refuses a ptmx that is not of a devpts: a container may have mounted over it."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master = os.open(ptmx, flags)
    try:
        if checked and fstatfs_type(master) != DEVPTS_SUPER_MAGIC:
            raise OSError(errno.ENOTTY, "not of a devpts file system", ptmx)
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, TIOCGPTPEER, flags)
    except BaseException:
        os.close(master)
        raise
    return master, slave


def set_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ; the kernel sends SIGWINCH only when the size changes."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
