"""What runs in a clone: the container's own steps, its console, the fork of the workload, PID 1.

Nothing here returns: every way out is `os._exit`. The report socket tells the supervisor how far the
launch came: one message with the console's master once the steps are done, end of file when the
workload's execve succeeded (the socket is close-on-exec), and a message naming the step when not.
`parent` is a pidfd of the shim: nothing outlives it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import termios
import time
from collections.abc import Callable
from typing import Any, TypeVar

from supervisor.linux import clone, libc, mount, process, pty
from supervisor.shim import command, init, protocol, spawn, steps

Request = dict[str, Any]

LAUNCH_FAILED = 125
_T = TypeVar("_T")


def become_container(request: Request, report_fd: int, stdio: list[int], parent: int) -> None:
    """Run a container's plan in a fresh clone; never returns."""
    report = socket.socket(fileno=report_fd)
    try:
        process.die_with(parent)
        signal.pthread_sigmask(signal.SIG_BLOCK, init.SIGNALS)
        state = steps.State(request["values"])
        state.report = report
        started = time.monotonic_ns()
        steps.run(state, request["own"])
        mounted = time.monotonic_ns()
        master, stdio = open_stdio(request, stdio)
        tell_times(report, request, [started, mounted], master)
        if master >= 0:
            os.close(master)
        _run_workload(state, request, report, stdio, parent)
    except steps.StepError as error:
        tell(report, error)
    except BaseException as error:  # nothing may climb out of a clone
        tell(report, _unforeseen(error))
    os._exit(LAUNCH_FAILED)


def split(own: list[steps.Step]) -> tuple[list[steps.Step], list[steps.Step]] | None:
    """The steps that must be PID 1's, and those that a template can run for it; None where PID 1
    has to run all of them, as proc goes into what the others have made."""
    if any(step[:2] == ["mount_below", "proc"] for step in own):
        return None
    early = [step for step in own if step[:2] == ["mount", "proc"]]
    return early, [step for step in own if step not in early]


def become_replica(
    request: Request, report: socket.socket, stdio: list[int], gate: socket.socket, parent: int
) -> None:
    """The same where a template runs the plan: wait until it has, then be PID 1; never returns.

    Where the shim has died before it can be told of that, so has the template, and closed the gate."""
    try:
        process.set_death_signal(signal.SIGKILL)
        steps.run(steps.State(request["values"]), request["early"])
        gate.send(b"!")
        if request["ready"] is None:
            _go_on(request, report, stdio, gate, parent)
        elif word := gate.recv(1):  # else the template has told why
            spawn.finish(request)
            spawn.run(request["ready"], request["actions"], word[0])
    except steps.StepError as error:
        tell(report, error)
    except BaseException as error:
        tell(report, _unforeseen(error))
    os._exit(LAUNCH_FAILED)


def _go_on(
    request: Request, report: socket.socket, stdio: list[int], gate: socket.socket, parent: int
) -> None:
    received = protocol.receive(gate)
    if received is not None:
        stdio = received[1] * 3 if request["ptmx"] else stdio
        _run_workload(steps.State(request["values"]), request, report, stdio, parent)


def _unforeseen(error: BaseException) -> steps.StepError:
    cause = error if isinstance(error, OSError) else OSError(errno.EIO)
    return steps.StepError(-1, [type(error).__name__, str(error)], cause)


def _run_workload(
    state: steps.State, request: Request, report: socket.socket, stdio: list[int], parent: int
) -> None:
    if request["init"]:
        _spawn_workload(state, request, stdio)
        _fork_workload(request, report)
    _become_workload(state, request, stdio, parent)


def named(step: steps.Step, call: Callable[..., _T], *arguments: Any) -> _T:
    """Call; an OSError is told as the failure of `step`."""
    try:
        return call(*arguments)
    except OSError as error:
        raise steps.StepError(-1, step, error) from error


def tell(report: socket.socket, error: steps.StepError) -> None:
    message = {"failed": error.index, "step": error.step, "errno": error.errno}
    try:
        protocol.send(report, message)
    except OSError:
        return  # the supervisor gave this launch up, or is gone: nobody is left to tell


def open_stdio(request: Request, stdio: list[int]) -> tuple[int, list[int]]:
    """A console's master (-1 without one), and the workload's descriptors 0, 1, 2: the console's
    slave, or the pipes that came along."""
    if not request["ptmx"]:
        return -1, stdio
    path = request["ptmx"]
    # In a shared mount namespace it is the host's, which may lie outside its devpts.
    checked = path.startswith("/dev/pts/")
    master, slave = named(["open", path], pty.open_pair, os.fsencode(path), checked)
    if request.get("size"):  # now: the workload may ask for it before anybody could set it
        named(["ioctl", "TIOCSWINSZ"], pty.set_size, slave, *request["size"])
    if request.get("console"):
        named(["move_mount", "/dev/console"], _bind_console, slave)
    return master, [slave, slave, slave]


def tell_times(report: socket.socket, request: Request, times: list[int], master: int) -> None:
    """All is built: tell when, and pass the console's master."""
    message = {"id": request["id"], "times": [*times, time.monotonic_ns()]}
    fds = (master,) if master >= 0 else ()
    named(["sendmsg", "console"], protocol.send, report, message, fds)


def _bind_console(slave: int) -> None:
    """/dev/console is the console's slave, mounted by descriptor onto the file that waits there."""
    tree = mount.open_tree(b"", recursive=False, directory=slave)
    target = os.open("/dev/console", os.O_PATH | os.O_CLOEXEC)
    mount.move_mount(tree, target)
    os.close(target)
    os.close(tree)


def _fork_workload(request: Request, report: socket.socket) -> None:
    """In PID 1: fork the workload, keep nothing open, be init, exit with its status."""
    if not request["pid_namespace"]:
        process.become_subreaper()
    workload = named(["fork"], os.fork)
    if workload == 0:
        return
    report.detach()
    process.close_from(0)
    os._exit(init.run(workload))


def _spawn_workload(state: steps.State, request: Request, stdio: list[int]) -> None:
    """In PID 1: the same without a copy of it. Returns only where that cannot be done."""
    terminal: bytes | None = b""
    if request["ptmx"]:
        terminal = spawn.terminal_path(stdio[0], request["ptmx"])
    if terminal is None or min(stdio) < 3 or not spawn.possible(request):
        return
    process.close_from(3, on_exec=True)
    spawn.prepare(state, request)
    spawn.run(command.find(state, request), spawn.place(stdio, terminal))


def _become_workload(state: steps.State, request: Request, stdio: list[int], parent: int) -> None:
    os.setsid()
    if not (request["pid_namespace"] or request["init"]):  # its orphans are its own as long as it lives
        process.become_subreaper()
    if request["ptmx"]:
        named(["ioctl", "TIOCSCTTY"], fcntl.ioctl, stdio[0], termios.TIOCSCTTY, 0)
    named(["dup2"], _place_stdio, stdio)
    process.close_from(3, on_exec=True)
    close_directories(state)
    steps.run(state, request["workload"], len(request["own"]))
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    for signum in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):  # what Python changed
        signal.signal(signum, signal.SIG_DFL)
    process.die_with(parent)
    _execute(state, request)


def _place_stdio(stdio: list[int]) -> None:
    """dup2 cannot trip over itself: first everything above 2, then down to its place."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for target, fd in enumerate(high):
        os.dup2(fd, target)


def close_directories(state: steps.State) -> None:
    for fd in state.held.values():
        os.close(fd)
    state.held.clear()


def _execute(state: steps.State, request: Request) -> None:
    found = command.find(state, request)

    def attempt(candidate: str) -> None:
        os.execve(candidate, found.argv, found.env)

    raise command.first_refusal(found, attempt)


def become_joiner(
    request: Request, report_fd: int, stdio: list[int], births: socket.socket, parent: int
) -> None:
    """Run a command in the namespaces of the process whose pidfd is the last of `stdio`.

    This clone of the shim only joins: what it clones there is the shim's child by CLONE_PARENT,
    and is announced to it by `births`. Never returns."""
    try:
        process.die_with(parent)
        target = stdio.pop()
        if request["join"]:  # else it shares all of them
            named(["setns"], libc.setns, target, request["join"])
        named(["clone3"], give_birth, request, report_fd, stdio, births, parent)
    except steps.StepError as error:
        refuse(births, request["id"], error.step[0], error.errno)
    os._exit(LAUNCH_FAILED)


def give_birth(
    request: Request, report_fd: int, stdio: list[int], births: socket.socket, parent: int
) -> None:
    """Clone a container whose parent is the shim, and tell the shim. Raises OSError from clone3."""
    pid, pidfd = clone.clone3(request["flags"] | clone.CLONE_PARENT)
    if pid == 0:
        become_container(request, report_fd, stdio, parent)
    try:
        announce(births, request, pid, pidfd)
    finally:
        os.close(pidfd)


def announce(births: socket.socket, request: Request, pid: int, pidfd: int) -> None:
    """Tell the shim of a child that was cloned on its behalf."""
    birth = {"id": request["id"], "pid": pid, "pid_namespace": request["pid_namespace"]}
    try:
        protocol.send(births, birth, (pidfd,))
    except OSError:  # no descriptor may be in flight: the shim has to look for it by its number
        protocol.send(births, birth)


def refuse(births: socket.socket, name: str, call: str, number: int) -> None:
    """Tell, by way of the shim, that a request made no process."""
    protocol.send(births, {"id": name, "refused": call, "errno": number})
