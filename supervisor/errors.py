"""Every error that sup raises: what failed, on what, and what to do about it.

Standard library only: the thin client shares it with the supervisor. Exit codes follow docker's:
125 sup itself failed, 126 the command cannot be executed, 127 it was not found.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


class SupError(Exception):
    """The root of the tree. `message` is one sentence; `remedy`, where there is one, another."""

    exit_code = 125

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message

    def to_wire(self) -> dict[str, object]:
        """The error as the API carries it."""
        parameters = {"message": self.message, "remedy": self.remedy, "exit_code": self.exit_code}
        return {"error": f"sup.{type(self).__name__}", "parameters": parameters}

    @staticmethod
    def from_wire(name: str, parameters: Mapping[str, object]) -> SupError:
        """The reverse of `to_wire`; an unknown name becomes a plain SupError."""
        error = SupError.__new__(_TREE.get(name.removeprefix("sup."), SupError))
        message = str(parameters.get("message") or name)
        SupError.__init__(error, message, remedy=str(parameters.get("remedy") or ""))
        code = parameters.get("exit_code")
        if isinstance(code, int):
            error.exit_code = code
        return error


class SpecError(SupError):
    """A field of what the user asked for is wrong. `field` may be prefixed by its table."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        try:
            shown = ascii(value)
        except (ValueError, RecursionError):  # an int of thousands of digits, or nested too deeply
            shown = type(value).__name__
        if len(shown) > 80:
            shown = f"{shown[:76]}...{shown[-1]}"
        super().__init__(f"{field} {shown} is not accepted", remedy=remedy)
        self.field = field
        self.value = value


class NotFound(SupError):
    """No container, fleet or file by that name."""


class Ambiguous(SupError):
    """A prefix fits several containers."""


class NameTaken(SupError):
    """The name is in use."""


class WrongState(SupError):
    """The container is not in a state in which that can be done."""


class LimitReached(SupError):
    """The host has too little of something for what was asked."""


class HostLacks(SupError):
    """The host has not the feature that was asked for."""


class LaunchTimeout(SupError):
    """A container did not come up before its deadline."""


class ShimLost(SupError):
    """The shim is gone, and the containers with it."""


class VersionMismatch(SupError):
    """Client and supervisor speak different versions of the protocol."""


class NoServer(SupError):
    """No supervisor answers under this root."""


class ProtocolError(SupError):
    """The peer sent something that is not of the protocol."""


class StepFailed(SupError):
    """A kernel step of a plan failed: names the call, its arguments and the errno."""

    def __init__(self, call: str, arguments: str, number: int, remedy: str = "") -> None:
        reason = os.strerror(number)
        super().__init__(f"{call}({arguments}): {reason}", remedy=remedy)
        self.call = call
        self.errno = number


class CannotExecute(StepFailed):
    """execve found the command and was refused."""

    exit_code = 126


class CommandNotFound(StepFailed):
    """execve found no such command."""

    exit_code = 127


def _subclasses(cls: type[SupError]) -> dict[str, type[SupError]]:
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found.update(_subclasses(child))
    return found


_TREE = _subclasses(SupError)
