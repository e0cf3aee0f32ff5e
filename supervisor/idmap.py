"""Which ids a container's user namespace has: found on the host, given to a process.

Facts (user_namespaces(7)):
* A process may map its own id to any one id by itself, and gives up setgroups(2) for it.
* More is written from outside: by newuidmap(1) and newgidmap(1), which are privileged and keep to the
  ranges of subuid(5) and subgid(5), or directly by root.
* Root's containers see the ids as they are, all of them: their capabilities end at the namespace.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import socket
from collections.abc import Sequence

import attrs
import trio

from supervisor.errors import HostLacks
from supervisor.text import escape

DEADLINE = 10.0
_HELPERS = ("newuidmap", "newgidmap")
_REMEDY = "see `sup doctor`; without a line in /etc/subuid and /etc/subgid sup uses one id only"


@attrs.frozen
class IdMap:
    """Extents of ids: (first inside, first outside, count)."""

    extents: tuple[tuple[int, int, int], ...]

    def maps(self, inside: int) -> bool:
        """Whether the namespace has an id."""
        return any(first <= inside < first + count for first, _, count in self.extents)

    @property
    def single(self) -> bool:
        return sum(count for _, _, count in self.extents) == 1

    def text(self) -> str:
        """As /proc/PID/uid_map takes it."""
        return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in self.extents)


def find(uid: int, gid: int) -> tuple[IdMap, IdMap]:
    """The maps of this user's containers: root is who starts sup, further ids from their ranges."""
    if uid == 0:
        return identity(_read("/proc/self/uid_map")), identity(_read("/proc/self/gid_map"))
    own = IdMap(((0, uid, 1),)), IdMap(((0, gid, 1),))
    if not all(shutil.which(helper) for helper in _HELPERS):
        return own
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    uids, gids = (ranges(_read(f"/etc/{name}"), user, uid) for name in ("subuid", "subgid"))
    if not uids or not gids:
        return own
    return following(own[0], uids), following(own[1], gids)


def identity(text: str) -> IdMap:
    """A map of every id that a uid_map has inside to itself."""
    rows = [line.split() for line in text.splitlines()]
    return IdMap(tuple((int(inside), int(inside), int(count)) for inside, _, count in rows))


def ranges(text: str, user: str, uid: int) -> list[tuple[int, int]]:
    """The ranges (first, count) that subuid(5) gives to a user, by name or number."""
    rows = [line.strip().split(":") for line in text.splitlines()]
    return [
        (int(row[1]), int(row[2]))
        for row in rows
        if len(row) == 3
        and row[0] in (user, str(uid))
        and all(part.isascii() and part.isdigit() for part in row[1:])
        and int(row[2]) > 0
    ]


def following(own: IdMap, found: Sequence[tuple[int, int]]) -> IdMap:
    """One's own id as 0, then the ranges one after another."""
    extents, inside = list(own.extents), 1
    for first, count in found:
        extents.append((inside, first, count))
        inside += count
    return IdMap(tuple(extents))


async def answer(report: socket.socket, pid: int, uids: IdMap, gids: IdMap) -> None:
    """Write the maps of a process that waits for them in its namespace. Raises HostLacks."""
    for helper, ids in zip(_HELPERS, (uids, gids), strict=True):
        if _writes_itself():
            _write(f"/proc/{pid}/{helper[3:6]}_map", ids)
        else:
            numbers = [str(number) for extent in ids.extents for number in extent]
            await _run([helper, str(pid), *numbers])
    report.send(b"go")


def _writes_itself() -> bool:
    return os.geteuid() == 0


def _write(path: str, ids: IdMap) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(ids.text())
    except OSError as error:
        raise HostLacks(f"{path} cannot be written: {error.strerror}", remedy=_REMEDY) from None


async def _run(command: list[str]) -> None:
    try:
        with trio.fail_after(DEADLINE):
            done = await trio.run_process(
                command, check=False, capture_stdout=True, capture_stderr=True, deliver_cancel=_kill
            )
    except trio.TooSlowError:
        message = f"{command[0]} did not end within {DEADLINE:.0f} s"
        raise HostLacks(message, remedy=_REMEDY) from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC):
            raise
        message = f"{command[0]} cannot be run: {error.strerror}"
        raise HostLacks(message, remedy=_REMEDY) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or [f"status {done.returncode}"]
        shown = escape(lines[0].removeprefix(f"{command[0]}: "))
        raise HostLacks(f"{command[0]} failed: {shown}", remedy=_REMEDY)


async def _kill(process: trio.Process) -> None:
    process.kill()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
