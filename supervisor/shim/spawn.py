"""The workload by posix_spawn(3): PID 1 makes it without copying itself.

A fork of the interpreter costs some 2 ms of CPU in page tables, copied pages and their tearing down
at the execve; a vfork costs none of that, but leaves only what posix_spawn(3) offers between clone
and execve. So PID 1 first runs the workload's steps on itself, and does so only where init may keep
what they do:

* an execve by uid 0 sets permitted := bounding set (capabilities(7)): PID 1 need not lower its own.
  As it keeps more than the workload has, the workload cannot ptrace it (ptrace(2)).
* a session leader without a terminal gets the one that it opens (tty_ioctl(4), TIOCSCTTY).
* PDEATHSIG cannot be set, but where PID 1 ends the kernel ends its pid namespace.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from supervisor.linux import caps, process
from supervisor.shim import init, steps
from supervisor.shim.command import Command, first_refusal

Request = dict[str, Any]
Actions = list[tuple[Any, ...]]

_RESET = (int(signal.SIGPIPE), int(signal.SIGINT), int(signal.SIGXFSZ))  # what Python changed
_SHARED = frozenset({"umask", "cap_bound", "capset", "no_new_privs", "chdir"})
_ALL = (1 << 64) - 1
_MACHINE = os.uname().machine


def possible(request: Request) -> bool:
    """Whether init may live with all that the workload does to itself."""
    return request["pid_namespace"] and all(
        step[0] in _SHARED or step[:2] == ["setuser", ""] for step in request["workload"]
    )


def prepare(state: steps.State, request: Request, *, template: bool = False) -> None:
    """Run the workload's steps in PID 1, or in the template that it is cloned from: that one cannot
    go to a directory which the replica has of its own. Raises StepError."""
    for index, step in enumerate(request["workload"], len(request["own"])):
        if step[0] == "capset":
            caps.set_sets(_MACHINE, _ALL)  # inheritable must be empty
        elif not (template and _is_left(step)):
            steps.run(state, [step], index)


def finish(request: Request) -> None:
    """Run in PID 1 what the template left. Raises StepError."""
    for index, step in enumerate(request["workload"], len(request["own"])):
        if _is_left(step):
            steps.run(steps.State({}), [step], index)


def _is_left(step: steps.Step) -> bool:
    return bool(step[0] == "chdir" and step[1] != "/")


def place(stdio: list[int], terminal: bytes) -> Actions:
    """What the child does with its descriptors: a terminal is opened anew, to make it its own."""
    if not terminal:
        return [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)]
    again = [(os.POSIX_SPAWN_DUP2, 0, target) for target in (1, 2)]
    return [(os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0), *again]


def terminal_path(slave: int, ptmx: str) -> bytes | None:
    """The slave's path beside `ptmx`, None where something else is to be found there."""
    ours = os.fstat(slave)
    path = os.path.join(os.path.dirname(os.fsencode(ptmx)), b"%d" % os.minor(ours.st_rdev))
    try:
        there = os.stat(path)
    except OSError:
        return None
    return path if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) else None


def run(command: Command, actions: Actions, first: int = 0) -> None:
    """Make the workload, in a session of its own, and be its init. Raises StepError."""

    def attempt(candidate: str) -> None:
        if not first:
            os.stat(candidate)  # cheaper than a clone that finds nothing
        workload = os.posix_spawn(
            candidate,
            command.argv,
            command.env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET,
        )
        be_init(workload)

    raise first_refusal(command, attempt, first)


def rehearse() -> None:
    """Fail once here, so that no clone has to set up what a first call sets up."""
    with contextlib.suppress(steps.StepError):
        run(Command(["", ""], ["-"], {}, 0), place([], b"/dev/null"), first=1)


def be_init(workload: int) -> None:
    """PID 1 holds nothing any more: no descriptor, no directory; never returns."""
    os.chdir("/")
    process.close_from(0)
    os._exit(init.run(workload))
