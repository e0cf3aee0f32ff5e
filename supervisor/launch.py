"""One launch: a request to the shim (or a template), a handshake with a deadline, a live process.

    supervisor                    shim or template                child
        | -- request, report, stdio --> |                           |
        | <-- spawned + pidfd --------- | -- clone3 --------------> |
        | <-- idmap: I wait, -- go -----------------------------> | with ranges of ids
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
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import trio

from supervisor import idmap
from supervisor.errors import (
    CannotExecute,
    CommandNotFound,
    HostLacks,
    LaunchTimeout,
    LimitReached,
    StepFailed,
    SupError,
)
from supervisor.idmap import IdMap
from supervisor.link import Link, Process, receive, shim_lost
from supervisor.shim import protocol
from supervisor.text import escape

DEADLINE = 30.0
PATIENCE = 5.0
"""Seconds for what the kernel does at once: answering a request, dying of SIGKILL."""

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
    ids: tuple[IdMap, IdMap],
    extra: tuple[int, ...] = (),
    maker: str = "",
) -> Launched:
    """Make one process. Raises SupError (StepFailed and its kinds, LaunchTimeout, ShimLost) and
    OSError for what the supervisor itself lacks; nothing is left then."""
    asked = time.monotonic()
    with contextlib.ExitStack() as always, contextlib.ExitStack() as on_failure:
        with contextlib.ExitStack() as passed:
            report, theirs = report_pair(always, passed)
            pipes, given = _pipes(on_failure, passed, tty=tty, stdin=stdin)
            process = link.expect(name, maker)
            try:
                await send({**message, "id": name}, (theirs.fileno(), *given, *extra))
            except BaseException:
                link.forget(name)
                raise
        try:
            with deadline():
                master, times = await _steps_done(report, process, ids)
                if master >= 0:
                    on_failure.callback(os.close, master)
                await _executed(report)
                await process.answered.wait()
                if process.refused is not None or process.lost:
                    raise await ended_early(process)
        except BaseException:
            report.close()
            await undo(link, name, process)
            raise
        on_failure.pop_all()
    return Launched(process, attrs.evolve(pipes, master=master), _phases(queued, asked, times))


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """For a handshake. Raises LaunchTimeout."""
    try:
        with trio.fail_after(DEADLINE):
            yield
    except trio.TooSlowError:
        raise LaunchTimeout(
            f"it did not start within {DEADLINE:g} s and was killed",
            remedy="a mount or file that it needs may hang: see `dmesg`",
        ) from None


def report_pair(
    always: contextlib.ExitStack, passed: contextlib.ExitStack
) -> tuple[socket.socket, socket.socket]:
    """Our end of a report socket, and the one to pass on, each closed by its stack."""
    ours, theirs = protocol.pair()
    always.callback(ours.close)
    passed.callback(theirs.close)
    ours.setblocking(False)
    return ours, theirs


def _pipes(
    ours: contextlib.ExitStack, passed: contextlib.ExitStack, *, tty: bool, stdin: bool
) -> tuple[Stdio, list[int]]:
    """Pipes for a process without a console: our ends, and those to pass on."""

    def pipe() -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        return ends[0], ends[1]

    def own(mine: int, their: int) -> int:
        ours.callback(os.close, mine)
        pass_on(their)
        return mine

    def pass_on(their: int) -> None:
        passed.callback(os.close, their)
        given.append(their)

    given: list[int] = []
    if tty:
        return Stdio(), given
    into = -1
    if stdin:
        their_in, into = pipe()
        own(into, their_in)
    else:
        pass_on(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    return Stdio(stdin=into, stdout=own(*pipe()), stderr=own(*pipe())), given


async def first_word(
    report: socket.socket, process: Process, ids: tuple[IdMap, IdMap]
) -> tuple[dict[str, Any], list[int]] | None:
    """What a child has to say, once it has the ids that it may have asked for. Raises HostLacks."""
    received = await receive(report)
    if received is not None and "idmap" in received[0]:
        await process.answered.wait()
        await idmap.answer(report, process.pid, *ids)
        received = await receive(report)
    return received


async def _steps_done(
    report: socket.socket, process: Process, ids: tuple[IdMap, IdMap]
) -> tuple[int, list[int]]:
    received = await first_word(report, process, ids)
    if received is None:
        raise await ended_early(process)
    message, fds = received
    if "failed" in message:
        raise failure(message)
    return (fds[0] if fds else -1), message["times"]


async def _executed(report: socket.socket) -> None:
    received = await receive(report)
    if received is not None:
        raise failure(received[0])


async def ended_early(process: Process) -> SupError:
    """Why a process went without a word."""
    with trio.move_on_after(PATIENCE):
        await process.ended.wait()
    if process.lost:
        return shim_lost()
    if process.refused is not None:
        return failure(process.refused)
    remedy = "the kernel's log may say why (out of memory?): see `dmesg`"
    if process.status is None:
        return SupError("it was not started, and the shim does not say why", remedy=remedy)
    return SupError(f"it ended with status {process.status} before it was set up", remedy=remedy)


async def undo(link: Link, name: str, process: Process) -> None:
    """Leave nothing: the child is killed as soon as it is known, and its end awaited."""
    with trio.CancelScope(shield=True), trio.move_on_after(PATIENCE):
        await process.answered.wait()
        process.kill()
        await process.ended.wait()
    link.forget(name)  # a later birth is killed at once


def _phases(queued: float, asked: float, times: list[int]) -> dict[str, float]:
    started, mounted, console = (moment / 1e9 for moment in times)
    return {
        "queue": asked - queued,
        "clone": started - asked,
        "mounts": mounted - started,
        "console": console - mounted,
        "exec": time.monotonic() - console,
    }


_PROCESSES = "raise kernel.pid_max, RLIMIT_NPROC or the cgroup's pids.max, or end something"
_REMEDIES = {
    ("setuser", 0): "name a user that the container's /etc/passwd has, or a number",
    ("chdir", 0): "give a directory that exists in the container",
    ("open_tree", 0): "give a path that exists on the host",
    ("open_tree", errno.EPERM): "leave out the options on access times: they are the mount's owner's",
    ("open_tree", errno.EINVAL): "an ordinary user cannot leave out what is mounted below it",
    ("clone3", errno.EAGAIN): _PROCESSES,
    ("fork", errno.EAGAIN): _PROCESSES,
    ("clone3", errno.ENOSPC): "raise the limits user.max_*_namespaces: see `sup doctor`",
    ("open", errno.ENOSPC): "raise kernel.pty.max, or end something that holds a terminal",
    ("recvmsg", errno.EMFILE): "raise the limit of open files (ulimit -n, LimitNOFILE=)",
}


_MOUNTING = ("make_target", "move_mount", "move_below", "mount_below")
_TARGETS = {
    errno.ENOTDIR: "the target is a file: mount a directory on a directory",
    errno.EISDIR: "the target is a directory: mount a file on a file",
    errno.EROFS: "the target is missing on a read-only file system: make it there beforehand",
    errno.ELOOP: "the target leads through links without end, or out of the container",
}


def failure(message: dict[str, Any]) -> SupError:
    """The error that a child or the shim reported, as the exception of its kind."""
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
    if number == errno.EINVAL and call == "setuser":
        return HostLacks(
            f"the container's user namespace has no user {shown.partition(',')[0]}",
            remedy="get ranges in /etc/subuid and /etc/subgid: see `sup doctor`",
        )
    if call in _MOUNTING and number in _TARGETS:
        return StepFailed(call, shown, number, _TARGETS[number])
    remedy = _REMEDIES.get((call, number)) or _REMEDIES.get((call, 0), "")
    return StepFailed(call, shown, number, remedy)


_SHORT = {
    errno.EMFILE: "raise the supervisor's limit of open files (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "raise fs.file-max, or end something",
    errno.ENOSPC: "make room, or choose another place with --root DIR",
    errno.EDQUOT: "make room, or choose another place with --root DIR",
    errno.ENOMEM: "end something, or give the host more memory",
    errno.ETOOMANYREFS: "raise the supervisor's limit of open files (ulimit -n, LimitNOFILE=)",
}


def lacking(what: str, error: OSError) -> SupError:
    """An OSError of the supervisor's own, as one sentence and what to do."""
    on = f" ({escape(os.fsdecode(error.filename))})" if error.filename else ""
    reason = error.strerror or type(error).__name__
    remedy = _SHORT.get(error.errno or 0, "")
    return (LimitReached if remedy else SupError)(f"{what}: {reason}{on}", remedy=remedy)
