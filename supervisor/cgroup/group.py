"""One container's group, in each hierarchy that is used: limit, join, freeze, kill, remove.

Facts:
* v2's cgroup.kill kills what is below as well, frozen or not. v1 has nothing like it: processes are
  frozen, so that none is missed that is being forked, get SIGKILL, and take it when thawed.
* "0" written to v1's `tasks` moves the writing thread without the lock that `cgroup.procs` takes: that
  one waits for a grace period, 7 to 15 ms where nobody else does. The child has one thread.
* clone3 makes a cgroup namespace of the parent's groups, even with CLONE_INTO_CGROUP: the child
  unshares it when it has joined.
* rmdir says EBUSY for a moment after the last exit.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import attrs

from supervisor.cgroup import files
from supervisor.cgroup.limits import Limits
from supervisor.cgroup.offer import Offer, Place, Write
from supervisor.errors import HostLacks, WrongState

BASE = frozenset({"cpu", "memory", "pids", "blkio"})
"""Controllers of v1 that every container has a group of: for its figures, and the default limits."""
INSTEAD = frozenset({"cpuacct", "freezer"})
"""Those that v2 does without a controller: only where it is not mounted."""
_WRITE_ONLY = frozenset({"devices.allow", "devices.deny", "memory.reclaim"})


@attrs.frozen
class Join:
    """Descriptors for whoever starts a process in the group: `clone_fd` for CLONE_INTO_CGROUP or -1,
    and one for each v1 hierarchy, into which the child writes "0" before its first instruction."""

    clone_fd: int
    tasks: tuple[int, ...]

    def close(self) -> None:
        """Close them; the child has its own."""
        for fd in (self.clone_fd, *self.tasks):
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> Join:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@attrs.define
class Group:
    """`directories` is by place. Without any, the host cannot hold groups and none was asked for."""

    name: str
    offer: Offer
    directories: dict[str, str] = attrs.Factory(dict)
    limits: Limits = attrs.Factory(Limits)
    writes: tuple[Write, ...] = ()

    # Where it is, and what it holds

    @property
    def unified(self) -> str:
        """Its directory in v2's hierarchy, or ""."""
        place = self.offer.unified
        return self.directories.get(place.name, "") if place else ""

    def directory(self, controller: str) -> str:
        """Its directory in the hierarchy of a controller, or ""."""
        place = self.offer.of(controller)
        return self.directories.get(place.name, "") if place else ""

    def held(self) -> dict[Write, str]:
        """What the kernel holds of each write; "" of what cannot be read."""
        found = {}
        for one in self.writes:
            found[one] = ""
            if one.file not in _WRITE_ONLY:
                with contextlib.suppress(OSError):
                    found[one] = files.read(self._path(one)).strip()
        return found

    def pids(self) -> set[int]:
        """The processes in it and below, without those that this pid namespace cannot see."""
        found: set[int] = set()
        for directory in self._populated_by():
            for path, _, _ in os.walk(directory):
                with contextlib.suppress(OSError):
                    found.update(map(int, files.read(f"{path}/cgroup.procs").split()))
        return found - {0}

    def populated(self) -> bool:
        """Whether a process is in it or below."""
        if self.unified:
            with contextlib.suppress(OSError):
                return "populated 1" in files.read(f"{self.unified}/cgroup.events")
            return False
        return bool(self.pids())

    def _populated_by(self) -> list[str]:
        chosen = self.unified or self.directory("freezer")
        return [chosen] if chosen else list(self.directories.values())[:1]

    # Limits

    def apply(self, writes: tuple[Write, ...]) -> None:
        """Write the limits and read them back; raises SupError at the first that is not held."""
        for one in writes:
            self._put(one)

    def _put(self, one: Write) -> None:
        path, held = self._path(one), one.value
        try:
            # What a raw field is shown as is not known here.
            if one.file in _WRITE_ONLY or one.field == "cgroup":
                files.write(path, one.value)
            else:
                held = files.write_and_read(path, one.value)
        except OSError as error:
            raise files.refused(path, one, error) from None
        if not files.holds(one.value, held):
            raise HostLacks(
                f"{one.field} cannot be held: {path} took {one.value!r} and holds {held.strip()!r}",
                remedy="give what it holds, or what the groups above it allow",
            )

    def _path(self, one: Write) -> str:
        return f"{self.directories[one.place]}/{one.file}"

    # Joining

    def join(self) -> Join:
        """Open what a process needs to be started in the group."""
        tasks: list[int] = []
        clone_fd = -1
        try:
            for directory in self.directories.values():
                if directory == self.unified:
                    clone_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                else:
                    tasks.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            Join(clone_fd, tuple(tasks)).close()
            message = f"the group of {self.name} cannot be joined: {error.strerror}"
            raise WrongState(message, remedy="restart the container: it gets a new one") from None
        return Join(clone_fd, tuple(tasks))

    # Freezing and killing

    def freeze(self) -> bool:
        """Have every process stand still; whether all do now. Ask `frozen` for the rest."""
        self._state("1", "FROZEN")
        return self.frozen()

    def thaw(self) -> None:
        """Let them go on."""
        self._state("0", "THAWED")

    def frozen(self) -> bool:
        """Whether every process stands still. v1 needs to be told again where one was not ready."""
        try:
            if self.unified:
                return "frozen 1" in files.read(f"{self.unified}/cgroup.events")
            path = f"{self.directory('freezer')}/freezer.state"
            state = files.read(path).strip()
            if state == "FREEZING":
                files.write(path, "FROZEN")
            return state == "FROZEN"
        except OSError:
            return False

    def _state(self, v2: str, v1: str) -> None:
        freezer = self.directory("freezer")
        if not self.unified and not freezer:
            reason = self.offer.refusal or "there is neither a v2 hierarchy nor v1's freezer"
            remedy = self.offer.remedy or "mount the freezer"
            raise HostLacks(f"{self.name} cannot be paused: {reason}", remedy=remedy)
        path = f"{self.unified}/cgroup.freeze" if self.unified else f"{freezer}/freezer.state"
        try:
            files.write(path, v2 if self.unified else v1)
        except OSError as error:
            message = f"{self.name} cannot be paused or go on: {path}: {error.strerror}"
            raise WrongState(message, remedy="look whether its group is still there") from None

    def kill(self) -> None:
        """Send SIGKILL to all. Where the kernel cannot do it at once, a further call finds what was
        forked meanwhile: call until `populated` says no."""
        if self.unified:
            with contextlib.suppress(OSError):
                files.write(f"{self.unified}/cgroup.kill", "1")
                return
        with contextlib.suppress(HostLacks, WrongState):
            self.freeze()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(HostLacks, WrongState):
            self.thaw()

    # Removing

    def remove(self) -> bool:
        """Remove it in every hierarchy, with what was made below it; whether all has gone. It is busy
        while a process lives, and for a moment after: call again."""
        for place, directory in list(self.directories.items()):
            if _removed(directory):
                del self.directories[place]
        return not self.directories


def _removed(directory: str) -> bool:
    if _rmdir(directory):
        return True
    return all(_rmdir(path) for path, _, _ in os.walk(directory, topdown=False))


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except OSError as error:
        return error.errno in files.GONE
    return True


def needed(offer: Offer, writes: tuple[Write, ...], every: bool = False) -> Iterator[Place]:
    """The hierarchies that a container has a group in."""
    asked = {one.place for one in writes}
    always = BASE if offer.unified else BASE | INSTEAD
    for place in offer.places:
        if every or place.version == 2 or place.name in asked or always & {*place.controllers}:
            yield place


def inherit(directory: str, parent: str) -> None:
    """A v1 cpuset is born empty, and takes no process before it has what its parent has."""
    for file in ("cpuset.mems", "cpuset.cpus"):
        files.write(f"{directory}/{file}", files.read(f"{parent}/{file}").strip())
