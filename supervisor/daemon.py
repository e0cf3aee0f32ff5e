"""Entry of the supervisor's process: the shim starts it, and starts it again if it dies."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import traceback

import trio

from .api.server import serve
from .errors import SupError
from .paths import Paths
from .supervisor import open_supervisor


class Ready:
    """The pipe to whoever started all this: told once, that we listen or why not."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, data: bytes) -> None:
        """Tell, once. Nobody may be listening any more."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            os.write(fd, data[:4096])
        except OSError:
            pass
        finally:
            os.close(fd)

    def listening(self) -> None:
        """The API's socket takes connections."""
        self.say(b"1")


async def _run(paths: Paths, shim_fd: int, ready: Ready) -> None:
    async with open_supervisor(paths, shim_fd=shim_fd) as sup:
        await serve(sup, paths, ready.listening)


def _raise_nofile() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the preflight check says what the limit allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptor(name: str) -> int:
    """The inherited descriptor that a variable names, kept from what we start ourselves."""
    fd = int(os.environ.pop(name, "-1"))
    if fd >= 0:
        os.set_inheritable(fd, False)
    return fd


def _leaf(error: BaseException) -> BaseException:
    """Of a group, its first member."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _tell(error: BaseException, ready: Ready) -> None:
    """One sentence for whoever waits and for the log, where a defect gets its traceback too."""
    leaf = _leaf(error)
    ours = isinstance(leaf, SupError)
    sentence = str(leaf) if ours else f"{type(leaf).__name__}: {leaf}"
    with contextlib.suppress(OSError):  # the log's disk may be full
        if not ours:
            traceback.print_exception(error)
        print(sentence, file=sys.stderr, flush=True)
    ready.say(sentence.encode(errors="replace"))


def main() -> None:
    """Serve until `sup shutdown`. Exit status 0 is that; the shim restarts after any other."""
    os.umask(0o077)
    _raise_nofile()
    paths = Paths(os.environ["SUP_ROOT_RUN"], os.environ["SUP_ROOT_STATE"])
    ready = Ready(_descriptor("SUP_READY_FD"))
    shim_fd = _descriptor("SUP_SHIM_FD")
    try:
        trio.run(_run, paths, shim_fd, ready)
    except BaseException as error:
        _tell(error, ready)
        sys.exit(1)
