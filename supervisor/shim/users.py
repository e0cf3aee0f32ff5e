"""Users and groups of a container: a bounded reader of its passwd(5) and group(5).

Runs inside the container, as files there may be anything: a FIFO, a device, a gigabyte. A number is
a number, never a name; one that is out of range is refused, never wrapped to 0.
"""

from __future__ import annotations

import errno
import os
import stat

_LARGEST_FILE = 1 << 20
_LARGEST_ID = 0xFFFFFFFE


def read_table(path: str) -> list[list[str]]:
    """The lines of a passwd-like file, split at colons; none where there is no regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        data = os.read(fd, _LARGEST_FILE + 1)
    finally:
        os.close(fd)
    if len(data) > _LARGEST_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return [line.split(":") for line in os.fsdecode(data).split("\n") if ":" in line]


def number(text: str) -> int | None:
    """`text` as an id, None where it is no plain decimal. Raises OSError EINVAL out of range."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > _LARGEST_ID:
        raise OSError(errno.EINVAL, "id out of range", text)
    return int(text)


class User:
    """Who a workload runs as."""

    def __init__(self, wanted: str) -> None:
        name, _, group = wanted.partition(":")
        row = self._find("/etc/passwd", name or "0", required=bool(name))
        self.uid = self._id(row, name or "0")
        self.name = row[0] if row else str(self.uid)
        self.gid = number(row[3]) or 0 if row else 0
        self.home = row[5] if row and row[5].startswith("/") else "/"
        self.shell = row[6].strip() if row and row[6].startswith("/") else "/bin/sh"
        self.groups = [self.gid]
        if group:
            self.gid = self._id(self._find("/etc/group", group, required=True), group)
            self.groups = [self.gid]
        else:
            self.groups += self._supplementary()

    @staticmethod
    def _find(path: str, wanted: str, *, required: bool) -> list[str] | None:
        uid = number(wanted)
        fields = 7 if path == "/etc/passwd" else 4
        for row in read_table(path):
            if len(row) == fields and row[2].isdigit():
                if uid is None and row[0] == wanted:
                    return row
                if uid is not None and row[2] == str(uid):
                    return row
        if uid is None and required:
            raise OSError(errno.ENOENT, f"not in {path}", wanted)
        return None

    @staticmethod
    def _id(row: list[str] | None, wanted: str) -> int:
        found = number(row[2] if row else wanted)
        assert found is not None
        return found

    def _supplementary(self) -> list[int]:
        rows = [row for row in read_table("/etc/group") if len(row) == 4]
        ids = [number(row[2]) for row in rows if self.name in row[3].split(",")]
        return [gid for gid in ids if gid is not None and gid != self.gid]
