"""Starts shim and supervisor in the background when nobody answers, as tmux starts its server.

Standard library only. A lock makes twenty at once start one.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
from _socket import socket as Socket

from .errors import SupError
from .paths import Paths
from .shim import ENVIRONMENT

DEADLINE = 10.0
_SHIM = (
    "import os, sys; os.chdir('/'); sys.path.insert(0, {root!r});"
    " from supervisor.shim.server import main; main()"
)
# What a server may take from the shell that happened to start it; a shell's secrets are not among it.
_KEEP = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "TERM")
_KEEP_PREFIXES = ("LC_", "XDG_", "SUP_")


def ensure(paths: Paths) -> None:
    """Return when a supervisor answers under `paths`, started if need be. Raises SupError."""
    if answers(paths):
        return
    paths.make()
    lock = _take_lock(paths.lock)
    try:
        if not answers(paths):
            _start(paths)
    finally:
        os.close(lock)


def answers(paths: Paths) -> bool:
    """Whether a supervisor accepts connections."""
    paths.check_socket()
    probe = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        probe.connect(os.fsencode(paths.socket))
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return False
    except OSError as error:
        shown = ascii(paths.socket)
        raise SupError(f"cannot connect to {shown}: {error.strerror or error}") from None
    finally:
        probe.close()
    return True


def _take_lock(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    deadline = time.monotonic() + 2 * DEADLINE
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise SupError(f"cannot open the lock {path!a}: {error.strerror}") from None
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise SupError(
                    f"another command holds the lock {path!a} for too long",
                    remedy="see which with `fuser`, end it, then repeat",
                ) from None
            time.sleep(0.005)


def _start(paths: Paths) -> None:
    ready, ready_write = os.pipe()
    try:
        os.set_inheritable(ready_write, True)
        _spawn(paths, ready_write)
    except OSError as error:
        os.close(ready)
        raise SupError(f"cannot start the shim: {error.strerror}") from None
    finally:
        os.close(ready_write)
    try:
        said = _said(ready)
    finally:
        os.close(ready)
    if said != b"1":
        _clean_up(paths)
        raise _failure(paths, said)


def _spawn(paths: Paths, ready: int) -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    argv = [sys.executable, "-I", "-S", "-c", _SHIM.format(root=root)]
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    os.posix_spawn(
        sys.executable,
        argv,
        _environment(paths, ready),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, paths.log, append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def _environment(paths: Paths, ready: int) -> dict[str, str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in _KEEP or (key.startswith(_KEEP_PREFIXES) and not key.endswith("_FD"))
    }
    kept.update(SUP_ROOT_RUN=paths.run, SUP_ROOT_STATE=paths.state, SUP_READY_FD=str(ready))
    kept.update(ENVIRONMENT)
    return kept


def _said(ready: int) -> bytes:
    """What comes through the pipe until its end, or b"1" as soon as that came."""
    said = b""
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    deadline = time.monotonic() + DEADLINE
    while said != b"1":
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return said or b"it did not answer within %d seconds" % DEADLINE
        data = os.read(ready, 4096)
        if not data:
            break
        said += data
    return said


def _clean_up(paths: Paths) -> None:
    """What a supervisor that did not start has begun; the lock keeps everybody else out."""
    import shutil

    for path in (paths.skeleton, paths.stage):
        shutil.rmtree(path, ignore_errors=True)


def _failure(paths: Paths, said: bytes) -> SupError:
    why = said or _last_line(paths.log) or b"it ended without a word"
    shown = " ".join(why.decode(errors="replace").split())[:400]
    return SupError(f"the supervisor did not start: {shown}", remedy=f"see {paths.log!a}")


def _last_line(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().split(b"\n")
    except OSError:
        return b""
    return next((line for line in reversed(lines) if line.strip()), b"")
