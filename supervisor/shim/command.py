"""Which program a workload is, and how the attempts to execute it end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from supervisor.shim import steps

Request = dict[str, Any]

_MOST = 250  # what a byte can count


class Command(NamedTuple):
    """What to execute: the paths to try, with which argv and environment; its place in the plan."""

    candidates: list[str]
    argv: list[str]
    env: dict[str, str]
    place: int

    def absent(self) -> int:
        """How many candidates in front are certainly not there, whatever the working directory."""
        for number, candidate in enumerate(self.candidates[:_MOST]):
            if not candidate.startswith("/"):
                return number
            try:
                os.stat(candidate)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError):  # execve will say
                pass
            return number
        return 0


def find(state: steps.State, request: Request) -> Command:
    """The command of a request, for the user that its steps have chosen."""
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
    return Command(candidates, argv, env, len(request["own"]) + len(request["workload"]))


def first_refusal(command: Command, attempt: Callable[[str], None], first: int = 0) -> steps.StepError:
    """Attempt each candidate from `first` on; as execvp(3) does, EACCES is remembered over ENOENT."""
    refused = None
    for candidate in command.candidates[first:]:
        try:
            attempt(candidate)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refused = error
                if error.errno != errno.EACCES:
                    break
        except ValueError as error:  # an empty name, or NUL within
            refused = OSError(errno.EINVAL, str(error))
    if refused is None:
        refused = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    name = command.argv[0].removeprefix("-")
    return steps.StepError(command.place, ["execve", name], refused)
