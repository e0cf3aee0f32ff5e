"""One launch: a request to the shim (or a template), a handshake with a deadline, a live process.

    supervisor                    shim or template                child
        | -- request, report, stdio --> |                           |
        | <-- spawned + pidfd --------- | -- clone3 --------------> |
        | <-- times + console's master ---------------------------- | steps done
        | <-- end of file ----------------------------------------- | execve succeeded
        | <-- failed: index, step, errno -------------------------- | or a step did not

Whatever goes wrong or is cancelled on the way, the child is killed and reaped before it is told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from supervisor.errors import (
    CannotExecute,
    CommandNotFound,
    HostLacks,
    LaunchTimeout,
    ShimLost,
    StepFailed,
    SupError,
)
from supervisor.link import Link, Process, receive
from supervisor.shim import protocol
from supervisor.text import escape

DEADLINE = 30.0

Send = Callable[[dict[str, Any], tuple[int, ...]], Awaitable[None]]


@attrs.frozen
class Stdio:
    """The supervisor's ends: a console's master, or three pipes (stdin may be missing)."""

    master: int = -1
    stdin: int = -1
    stdout: int = -1
    stderr: int = -1


@attrs.frozen
class Launched:
    """A process whose execve succeeded, with its streams and the time of each phase in seconds."""

    process: Process
    stdio: Stdio
    phases: dict[str, float]


async def launch(
    link: Link,
    name: str,
    message: dict[str, Any],
    send: Send,
    *,
    tty: bool,
    stdin: bool,
    queued: float,
    extra: tuple[int, ...] = (),
) -> Launched:
    """Make one process. Raises StepFailed, LaunchTimeout, ShimLost; nothing is left then."""
    asked = time.monotonic()
    process = link.expect(name)
    with contextlib.ExitStack() as always, contextlib.ExitStack() as on_failure:
        report, theirs = protocol.pair()
        always.callback(report.close)
        report.setblocking(False)
        pipes, passed = _pipes(tty=tty, stdin=stdin)
        for fd in (pipes.stdin, pipes.stdout, pipes.stderr):
            if fd >= 0:
                on_failure.callback(os.close, fd)
        try:
            await send({**message, "id": name}, (theirs.fileno(), *passed, *extra))
        except BaseException:
            link.forget(name)
            raise
        finally:
            theirs.close()
            for fd in passed:
                os.close(fd)
        try:
            with trio.fail_after(DEADLINE):
                master, times = await _steps_done(report)
                if master >= 0:
                    on_failure.callback(os.close, master)
                await _executed(report)
                await process.born.wait()
        except BaseException as error:
            await _undo(link, name, process, report)
            if isinstance(error, trio.TooSlowError):
                raise LaunchTimeout(f"{escape(name)} did not start within {DEADLINE:.0f} s") from None
            raise
        on_failure.pop_all()
    return Launched(process, attrs.evolve(pipes, master=master), _phases(queued, asked, times))


def _pipes(*, tty: bool, stdin: bool) -> tuple[Stdio, list[int]]:
    """Pipes for a process without a console: our ends, and those to pass on."""
    if tty:
        return Stdio(), []
    out, their_out = os.pipe2(os.O_CLOEXEC)
    err, their_err = os.pipe2(os.O_CLOEXEC)
    if stdin:
        their_in, into = os.pipe2(os.O_CLOEXEC)
    else:
        their_in, into = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
    return Stdio(stdin=into, stdout=out, stderr=err), [their_in, their_out, their_err]


async def _steps_done(report: socket.socket) -> tuple[int, list[int]]:
    received = await receive(report)
    if received is None:
        raise SupError("the container ended before it was set up", remedy="see `sup doctor`")
    message, fds = received
    if "failed" in message:
        raise failure(message)
    return (fds[0] if fds else -1), message["times"]


async def _executed(report: socket.socket) -> None:
    received = await receive(report)
    if received is not None:
        raise failure(received[0])


async def _undo(link: Link, name: str, process: Process, report: socket.socket) -> None:
    """Leave nothing: the child is killed as soon as it is known, and its end awaited."""
    report.close()
    with trio.CancelScope(shield=True), trio.move_on_after(5):
        with trio.move_on_after(0.5):  # a clone3 that failed has no birth
            await process.born.wait()
        if not process.born.is_set():
            link.forget(name)
            return
        process.kill()
        await process.ended.wait()


def _phases(queued: float, asked: float, times: list[int]) -> dict[str, float]:
    started, mounted, console = (moment / 1e9 for moment in times)
    return {
        "queue": asked - queued,
        "clone": started - asked,
        "mounts": mounted - started,
        "console": console - mounted,
        "exec": time.monotonic() - console,
    }


_REMEDIES = {
    "setuser": "name a user that the container's /etc/passwd has, or a number",
    "chdir": "give a directory that exists in the container",
    "open_tree": "give a path that exists on the host",
    "overlay": "give a directory that exists, on a file system that overlayfs takes",
}


def failure(message: dict[str, Any]) -> SupError:
    """The error that a child reported, as the exception of its kind."""
    call, *arguments = message["step"]
    number = message["errno"]
    shown = ", ".join(escape(str(part)) for part in arguments)
    if call == "execve":
        kind = CommandNotFound if number in (errno.ENOENT, errno.ENOTDIR) else CannotExecute
        return kind(call, shown, number)
    if number == errno.EPERM and call in ("clone3", "idmap"):
        return HostLacks(
            f"{call} is not permitted here",
            remedy="namespaces are forbidden to this user: see `sup doctor`",
        )
    return StepFailed(call, shown, number, _REMEDIES.get(call, ""))


__all__ = ["DEADLINE", "Launched", "ShimLost", "Stdio", "failure", "launch"]
