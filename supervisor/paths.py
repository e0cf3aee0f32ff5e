"""Where the files of one supervisor live: its root, and the directories below it.

Standard library only: the thin client finds the socket with it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import NamedTuple

from .errors import SupError

SOCKET_PATH_MAX = 107
"""Bytes that fit into sockaddr_un.sun_path beside the final NUL; unix(7)."""


class Paths(NamedTuple):
    """`run` holds what ends with the machine's uptime, `state` what survives it."""

    run: str
    state: str

    @staticmethod
    def find(root: str | None = None) -> Paths:
        """The directories of `--root`, SUP_ROOT, or the user's own; nothing is made."""
        root = root or os.environ.get("SUP_ROOT")
        if root:
            root = os.path.abspath(root)
            return Paths(os.path.join(root, "run"), os.path.join(root, "state"))
        if os.geteuid() == 0:
            return Paths("/run/sup", "/var/lib/sup")
        return Paths(_user_run(), _user_state())

    @property
    def socket(self) -> str:
        return os.path.join(self.run, "api.sock")

    @property
    def lock(self) -> str:
        return os.path.join(self.run, "lock")

    @property
    def skeleton(self) -> str:
        return os.path.join(self.run, "skeleton")

    @property
    def stage(self) -> str:
        return os.path.join(self.run, "stage")

    @property
    def log(self) -> str:
        return os.path.join(self.state, "sup.log")

    @property
    def containers(self) -> str:
        return os.path.join(self.state, "containers")

    @property
    def layers(self) -> str:
        return os.path.join(self.state, "layers")

    def make(self) -> None:
        """Make the directories, all 0700; refuse those that are not ours alone."""
        self.check_socket()
        private = (self.containers, self.layers, self.skeleton, self.stage)
        for path in (self.run, self.state, *private):
            _make_private(path)

    def check_socket(self) -> None:
        """Raises SupError when no socket can have that path."""
        length = len(os.fsencode(self.socket))
        if length > SOCKET_PATH_MAX:
            raise SupError(
                f"the path of the socket, {self.socket!a}, has {length} bytes"
                f" where a unix socket takes {SOCKET_PATH_MAX}",
                remedy="choose a shorter --root, SUP_ROOT or XDG_RUNTIME_DIR",
            )


def _user_run() -> str:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):
        return os.path.join(base, "sup")
    path = f"/tmp/sup-{os.geteuid()}"
    # Anybody can make this one, and a client would send its secrets to a socket found in it.
    if os.path.lexists(path):
        os.close(_open_private(path))
    return path


def _user_state() -> str:
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "sup")


def _make_private(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        fd = _open_private(path)
    except OSError as error:
        raise SupError(
            f"cannot make the directory {path!a}: {error.strerror}",
            remedy="choose another place with --root DIR",
        ) from error
    try:
        os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def _open_private(path: str) -> int:
    """An fd of the directory, once it is known to be ours and closed to everyone else's writing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, error.strerror or "cannot be opened") from error
    found = os.fstat(fd)
    wrong = ""
    if found.st_uid != os.geteuid():
        wrong = f"belongs to uid {found.st_uid}, not {os.geteuid()}"
    elif stat.S_IMODE(found.st_mode) & 0o022:
        wrong = f"may be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    if wrong:
        os.close(fd)
        raise _refused(path, wrong)
    return fd


def _refused(path: str, why: str) -> SupError:
    return SupError(
        f"{path!a} is not a private directory of this user: {why}",
        remedy="remove it, or choose another place with --root DIR",
    )
