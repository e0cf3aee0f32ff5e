"""What runs in a clone: the container's own steps, its console, the fork of the workload, PID 1.

Nothing here returns: every way out is `os._exit`. The report socket tells the supervisor how far the
launch came: one message with the console's master once the steps are done, end of file when the
workload's execve succeeded (the socket is close-on-exec), and a message naming the step when not.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import termios
import time
from typing import Any

from supervisor.linux import clone, libc, mount, process, pty
from supervisor.shim import init, protocol, steps

Request = dict[str, Any]

_LAUNCH_FAILED = 125


def become_container(request: Request, report_fd: int, stdio: list[int]) -> None:
    """Run a container's plan in a fresh clone; never returns."""
    report = socket.socket(fileno=report_fd)
    try:
        process.set_death_signal(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_BLOCK, init.SIGNALS)
        state = steps.State(request["values"])
        state.report = report
        started = time.monotonic_ns()
        steps.run(state, request["own"])
        mounted = time.monotonic_ns()
        stdio = _stdio(state, request, report, stdio, started, mounted)
        if request["init"]:
            _fork_workload(state, request, report, stdio)
        _become_workload(state, request, report, stdio)
    except steps.StepError as error:
        _tell(report, error)
    except BaseException as error:  # nothing may climb out of a clone
        _tell(report, steps.StepError(-1, [type(error).__name__, str(error)], OSError(errno.EIO)))
    os._exit(_LAUNCH_FAILED)


def _tell(report: socket.socket, error: steps.StepError) -> None:
    message = {"failed": error.index, "step": error.step, "errno": error.errno}
    try:
        protocol.send(report, message)
    except OSError:
        os._exit(_LAUNCH_FAILED)  # the supervisor has gone: nobody is left to tell


def _stdio(
    state: steps.State,
    request: Request,
    report: socket.socket,
    stdio: list[int],
    started: int,
    mounted: int,
) -> list[int]:
    """The workload's descriptors 0, 1, 2: a console's slave, or the pipes that came along."""
    fds: tuple[int, ...] = ()
    if request["ptmx"]:
        try:
            master, slave = pty.open_pair(os.fsencode(request["ptmx"]))
            if request.get("size"):  # now: the workload may ask for it before anybody could set it
                pty.set_size(slave, *request["size"])
            if request.get("console"):
                _bind_console(slave)
        except OSError as error:
            raise steps.StepError(-1, ["open", request["ptmx"]], error) from error
        fds, stdio = (master,), [slave, slave, slave]
    times = [started, mounted, time.monotonic_ns()]
    protocol.send(report, {"times": times}, fds)
    if fds:
        os.close(fds[0])
    return stdio


def _bind_console(slave: int) -> None:
    """/dev/console is the console's slave, mounted by descriptor onto the file that waits there."""
    tree = mount.open_tree(b"", recursive=False, directory=slave)
    target = os.open("/dev/console", os.O_PATH | os.O_CLOEXEC)
    mount.move_mount(tree, target)
    os.close(target)
    os.close(tree)


def _fork_workload(
    state: steps.State, request: Request, report: socket.socket, stdio: list[int]
) -> None:
    """In PID 1: fork the workload, keep nothing open, be init, exit with its status."""
    if not request["pid_namespace"]:
        process.become_subreaper()
    workload = os.fork()
    if workload == 0:
        return
    report.detach()
    process.close_from(0)
    os._exit(init.run(workload))


def _become_workload(
    state: steps.State, request: Request, report: socket.socket, stdio: list[int]
) -> None:
    os.setsid()
    if request["ptmx"]:
        fcntl.ioctl(stdio[0], termios.TIOCSCTTY, 0)
    _place_stdio(stdio)
    process.close_from(3, on_exec=True)
    _close_directories(state)
    steps.run(state, request["workload"], len(request["own"]))
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    for signum in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):  # what Python changed
        signal.signal(signum, signal.SIG_DFL)
    process.set_death_signal(signal.SIGKILL)
    _execute(state, request, report)


def _place_stdio(stdio: list[int]) -> None:
    """dup2 cannot trip over itself: first everything above 2, then down to its place."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for target, fd in enumerate(high):
        os.dup2(fd, target)


def _close_directories(state: steps.State) -> None:
    for fd in state.held.values():
        os.close(fd)
    state.held.clear()


def _execute(state: steps.State, request: Request, report: socket.socket) -> None:
    env: dict[str, str] = dict(request["env"])
    user = state.user
    argv: list[str] = request["argv"]
    if user is not None:
        env.setdefault("HOME", user.home)
        env.setdefault("USER", user.name)
    candidates = [argv[0]] if argv else []
    if not argv:  # a login shell has a dash before its name (login(1))
        shell = user.shell if user is not None else "/bin/sh"
        env.setdefault("SHELL", shell)
        argv, candidates = ["-" + os.path.basename(shell)], [shell]
    elif "/" not in argv[0]:
        path = env.get("PATH", os.defpath).split(":")
        candidates = [os.path.join(entry or ".", argv[0]) for entry in path]
    raise _first_refusal(candidates, argv, env, len(request["own"]) + len(request["workload"]))


def _first_refusal(
    candidates: list[str], argv: list[str], env: dict[str, str], index: int
) -> steps.StepError:
    """execve each candidate; as execvp(3) does, EACCES is remembered over ENOENT."""
    refused = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for candidate in candidates:
        try:
            os.execve(candidate, argv, env)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refused = error
                if error.errno != errno.EACCES:
                    break
        except ValueError as error:  # an empty name, or NUL within
            refused = OSError(errno.EINVAL, str(error))
    return steps.StepError(index, ["execve", argv[0].removeprefix("-")], refused)


def become_joiner(request: Request, report_fd: int, stdio: list[int], births: socket.socket) -> None:
    """Run a command in the namespaces of the process whose pidfd is the last of `stdio`.

    This clone of the shim only joins: what it clones there is the shim's child by CLONE_PARENT,
    and is announced to it by `births`. Never returns."""
    try:
        libc.setns(stdio.pop(), request["join"])
        give_birth(request, report_fd, stdio, births)
    except BaseException as error:
        number = error.errno if isinstance(error, OSError) else None
        failure = steps.StepError(-1, ["setns"], OSError(number or errno.EIO))
        _tell(socket.socket(fileno=report_fd), failure)
    os._exit(_LAUNCH_FAILED)


def give_birth(request: Request, report_fd: int, stdio: list[int], births: socket.socket) -> None:
    """Clone a container whose parent is the shim, and tell the shim."""
    pid, pidfd = clone.clone3(request["flags"] | clone.CLONE_PARENT)
    if pid == 0:
        become_container(request, report_fd, stdio)
    protocol.send(births, {"id": request["id"], "pid": pid}, (pidfd,))
    os.close(pidfd)


def become_template(
    request: Request, report_fd: int, requests: socket.socket, births: socket.socket
) -> None:
    """Build what all replicas share, then clone one for each request until the socket closes.

    A request is `{"id", "values"}` with the replica's report socket and stdio. Never returns."""
    report = socket.socket(fileno=report_fd)
    try:
        process.set_death_signal(signal.SIGKILL)
        steps.run(steps.State({}), request["shared"])
        report.close()
        while (received := protocol.receive(requests)) is not None:
            _replicate(request, *received, births)
    except steps.StepError as error:
        _tell(report, error)
    except OSError:
        os._exit(_LAUNCH_FAILED)
    os._exit(0)


def _replicate(request: Request, replica: Request, fds: list[int], births: socket.socket) -> None:
    try:
        give_birth({**request, **replica}, fds[0], fds[1:], births)
    except OSError as error:
        with socket.socket(fileno=os.dup(fds[0])) as report:
            _tell(report, steps.StepError(-1, ["clone3"], error))
    for fd in fds:
        os.close(fd)
