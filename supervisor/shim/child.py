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
from supervisor.shim import init, protocol, spawn, steps

Request = dict[str, Any]

_LAUNCH_FAILED = 125
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
        stdio = _stdio(state, request, report, stdio, started, mounted)
        if request["init"]:
            _spawn_workload(state, request, stdio)
            _fork_workload(request, report)
        _become_workload(state, request, stdio, parent)
    except steps.StepError as error:
        _tell(report, error)
    except BaseException as error:  # nothing may climb out of a clone
        cause = error if isinstance(error, OSError) else OSError(errno.EIO)
        _tell(report, steps.StepError(-1, [type(error).__name__, str(error)], cause))
    os._exit(_LAUNCH_FAILED)


def _named(step: steps.Step, call: Callable[..., _T], *arguments: Any) -> _T:
    """Call; an OSError is told as the failure of `step`."""
    try:
        return call(*arguments)
    except OSError as error:
        raise steps.StepError(-1, step, error) from error


def _tell(report: socket.socket, error: steps.StepError) -> None:
    message = {"failed": error.index, "step": error.step, "errno": error.errno}
    try:
        protocol.send(report, message)
    except OSError:
        return  # the supervisor gave this launch up, or is gone: nobody is left to tell


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
        path = request["ptmx"]
        # In a shared mount namespace it is the host's, which may lie outside its devpts.
        checked = path.startswith("/dev/pts/")
        master, slave = _named(["open", path], pty.open_pair, os.fsencode(path), checked)
        if request.get("size"):  # now: the workload may ask for it before anybody could set it
            _named(["ioctl", "TIOCSWINSZ"], pty.set_size, slave, *request["size"])
        if request.get("console"):
            _named(["move_mount", "/dev/console"], _bind_console, slave)
        fds, stdio = (master,), [slave, slave, slave]
    times = [started, mounted, time.monotonic_ns()]
    message = {"id": request["id"], "times": times}
    _named(["sendmsg", "console"], protocol.send, report, message, fds)
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


def _fork_workload(request: Request, report: socket.socket) -> None:
    """In PID 1: fork the workload, keep nothing open, be init, exit with its status."""
    if not request["pid_namespace"]:
        process.become_subreaper()
    workload = _named(["fork"], os.fork)
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
    if terminal is None or not spawn.possible(request, stdio):
        return
    process.close_from(3, on_exec=True)
    spawn.prepare(state, request)
    argv, env, candidates = _command(state, request)
    actions = spawn.place(stdio, terminal)

    def attempt(candidate: str) -> None:
        os.stat(candidate)  # cheaper than a clone that finds nothing
        spawn.be_init(spawn.spawn(candidate, argv, env, actions))

    raise _first_refusal(candidates, attempt, request, argv[0])


def _become_workload(state: steps.State, request: Request, stdio: list[int], parent: int) -> None:
    os.setsid()
    if not (request["pid_namespace"] or request["init"]):  # its orphans are its own as long as it lives
        process.become_subreaper()
    if request["ptmx"]:
        _named(["ioctl", "TIOCSCTTY"], fcntl.ioctl, stdio[0], termios.TIOCSCTTY, 0)
    _named(["dup2"], _place_stdio, stdio)
    process.close_from(3, on_exec=True)
    _close_directories(state)
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


def _close_directories(state: steps.State) -> None:
    for fd in state.held.values():
        os.close(fd)
    state.held.clear()


def _execute(state: steps.State, request: Request) -> None:
    argv, env, candidates = _command(state, request)

    def attempt(candidate: str) -> None:
        os.execve(candidate, argv, env)

    raise _first_refusal(candidates, attempt, request, argv[0])


def _command(state: steps.State, request: Request) -> tuple[list[str], dict[str, str], list[str]]:
    """argv, environment and the paths to try."""
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
    return argv, env, candidates


def _first_refusal(
    candidates: list[str], attempt: Callable[[str], None], request: Request, name: str
) -> steps.StepError:
    """Attempt each candidate; as execvp(3) does, EACCES is remembered over ENOENT."""
    refused = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for candidate in candidates:
        try:
            attempt(candidate)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refused = error
                if error.errno != errno.EACCES:
                    break
        except ValueError as error:  # an empty name, or NUL within
            refused = OSError(errno.EINVAL, str(error))
    index = len(request["own"]) + len(request["workload"])
    return steps.StepError(index, ["execve", name.removeprefix("-")], refused)


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
            _named(["setns"], libc.setns, target, request["join"])
        _named(["clone3"], give_birth, request, report_fd, stdio, births, parent)
    except steps.StepError as error:
        _refuse(births, request["id"], error.step[0], error.errno)
    os._exit(_LAUNCH_FAILED)


def give_birth(
    request: Request, report_fd: int, stdio: list[int], births: socket.socket, parent: int
) -> None:
    """Clone a container whose parent is the shim, and tell the shim. Raises OSError from clone3."""
    pid, pidfd = clone.clone3(request["flags"] | clone.CLONE_PARENT)
    if pid == 0:
        become_container(request, report_fd, stdio, parent)
    birth = {"id": request["id"], "pid": pid, "pid_namespace": request["pid_namespace"]}
    try:
        protocol.send(births, birth, (pidfd,))
    except OSError:  # no descriptor may be in flight: the shim has to look for it by its number
        protocol.send(births, birth)
    finally:
        os.close(pidfd)


def become_template(
    request: Request, report_fd: int, requests: socket.socket, births: socket.socket, parent: int
) -> None:
    """Build what all replicas share, then clone one for each request until the socket closes.

    A request is `{"id", "values"}` with the replica's report socket and stdio. Never returns."""
    report = socket.socket(fileno=report_fd)
    try:
        process.die_with(parent)
        state = steps.State({})
        state.report = report
        steps.run(state, request["shared"])
        report.close()
        while _replicate(request, requests, births, parent):
            pass
    except steps.StepError as error:
        _tell(report, error)
    except OSError:
        os._exit(_LAUNCH_FAILED)
    os._exit(0)


def _replicate(request: Request, requests: socket.socket, births: socket.socket, parent: int) -> bool:
    """One replica; False when no more are asked for."""
    try:
        received = protocol.receive(requests)
    except protocol.Truncated as cut:
        _refuse(births, cut.id, "recvmsg", cut.errno or errno.EMFILE)
        return True
    if received is None:
        return False
    replica, fds = received
    try:
        give_birth({**request, **replica}, fds[0], fds[1:], births, parent)
    except OSError as error:
        _refuse(births, replica["id"], "clone3", error.errno or errno.EIO)
    for fd in fds:
        os.close(fd)
    return True


def _refuse(births: socket.socket, name: str, call: str, number: int) -> None:
    """Tell, by way of the shim, that a request made no process."""
    protocol.send(births, {"id": name, "refused": call, "errno": number})
