"""All groups of one supervisor: a directory of its own in each hierarchy, below our own group.

Facts:
* A v2 group passes controllers on only while no process is in it itself (cgroups(7), "no internal
  processes"; the root may). Where ours are the only ones they move to `.self` below, and back at the
  end. Others' are not touched: then there are no limits, and the reason is told.
* Who is started by one of ours is in `.self` from the beginning: its own group is two above.
* The name has the root directory's inode, not its path alone: another mount namespace may have another
  directory of that path, and its groups are not ours. `record` tells which were made by whoever died.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable

import attrs

from supervisor.cgroup import files, layout, translate
from supervisor.cgroup.group import Group, inherit, needed
from supervisor.cgroup.layout import UNIFIED, Hierarchy, Layout
from supervisor.cgroup.limits import Limits
from supervisor.cgroup.notation import numbers
from supervisor.cgroup.offer import Offer, Place, Write
from supervisor.errors import SupError

WANTED = ("cpu", "memory", "pids", "io", "cpuset")
"""Controllers that v2 is asked to pass on."""
V1 = frozenset({"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"})
SELF = ".self"
_PATIENCE = 2.0
_CONTAINER, _FLEET = "c-", "f-"
"""Before names: a container may be called memory.max, and a file is of that name."""

Warn = Callable[[SupError], None]


def base_name(root: str) -> str:
    """What the directory of a supervisor is called in each hierarchy."""
    found = os.stat(root)
    text = f"{os.path.realpath(root)}\0{found.st_dev}\0{found.st_ino}"
    return "sup-" + hashlib.sha256(os.fsencode(text)).hexdigest()[:12]


@attrs.define
class Groups:
    """`offer` is what can be held, `graves` what could not be removed yet: `sweep` tries again."""

    offer: Offer
    record: str
    graves: list[Group] = attrs.Factory(list)
    _undo: list[tuple[str, str]] = attrs.Factory(list)

    @staticmethod
    def open(root: str, record: str, *, ours: Iterable[int] = (), proc: str = "/proc") -> Groups:
        """The groups of the supervisor of `root`, who alone may have it: what a dead one left is killed
        and removed. `ours` are the processes that may be moved; `record` is a file to remember by."""
        found = layout.read(proc)
        groups = Groups(Offer(refusal=found.refusal, remedy=found.remedy), record)
        name = base_name(root)
        found = attrs.evolve(found, hierarchies=tuple(_outside(one, name) for one in found.hierarchies))
        directories = [f"{one.own}/{name}" for one in found.usable if _wanted(one)]
        clear(_recorded(record, name).union(directories))
        try:
            _remember(record, directories)
            groups._make(found, name, frozenset(ours))
        except BaseException:
            groups.close()
            raise
        return groups

    def _make(self, found: Layout, name: str, ours: frozenset[int]) -> None:
        places: list[Place] = []
        absent = dict(found.absent)
        for one in found.hierarchies:
            if one.refusal:
                absent.update(dict.fromkeys(one.controllers, one.refusal))
            elif _wanted(one):
                place = Place(one.version, one.controllers, f"{one.own}/{name}")
                self.offer = attrs.evolve(self.offer, places=(*places, place))
                _make_once(place.directory)
                places.append(self._filled(one, place, ours, absent))
        cpus, mems = _allowed(places, "cpus"), _allowed(places, "mems")
        self.offer = attrs.evolve(self.offer, places=tuple(places), absent=absent, cpus=cpus, mems=mems)

    def _filled(
        self, one: Hierarchy, place: Place, ours: frozenset[int], absent: dict[str, str]
    ) -> Place:
        """The place with what its groups have."""
        if "cpuset" in one.controllers and one.version == 1:
            inherit(place.directory, one.own)
        if one.version == 2:
            self._pass_on(one, place, ours, absent)
            passed = tuple(files.read(f"{place.directory}/cgroup.subtree_control").split())
            place = attrs.evolve(place, controllers=passed)
        return attrs.evolve(place, files=frozenset(os.listdir(place.directory)))

    def _pass_on(
        self, one: Hierarchy, place: Place, ours: frozenset[int], absent: dict[str, str]
    ) -> None:
        control = f"{one.own}/cgroup.subtree_control"
        wanted = [name for name in WANTED if name in one.controllers]
        new = [name for name in wanted if name not in files.read(control).split()]
        inhabited = os.path.exists(f"{one.own}/cgroup.type")  # a root has no such file
        if new and inhabited and (reason := self._empty(one.own, place.directory, ours)):
            absent.update(dict.fromkeys(new, reason))
            wanted = [name for name in wanted if name not in new]
        for name in wanted:
            try:
                if name in new:
                    files.write(control, f"+{name}")
                    self._undo.append((control, f"-{name}"))
                files.write(f"{place.directory}/cgroup.subtree_control", f"+{name}")
            except OSError as error:
                absent[name] = f"{one.own} does not pass {name} on: {error.strerror}"

    def _empty(self, own: str, base: str, ours: frozenset[int]) -> str:
        """Move our processes out of our own group; why that cannot be."""
        there = set(map(int, files.read(f"{own}/cgroup.procs").split()))
        if others := there - ours:
            pid = min(others)
            return f"other processes (such as {pid}) are in {own}, which then passes no controller on"
        _make_once(f"{base}/{SELF}")
        for pid in there:
            with contextlib.suppress(ProcessLookupError):
                files.write(f"{base}/{SELF}/cgroup.procs", str(pid))
                self._undo.append((f"{own}/cgroup.procs", str(pid)))
        return ""

    # Making groups

    def create(
        self,
        name: str,
        limits: Limits | None = None,
        *,
        fleet: Group | None = None,
        warn: Warn | None = None,
    ) -> Group:
        """A container's group, with its limits, below its fleet's if that has one. What cannot be held
        is an error, or given to `warn`; with an error nothing is left."""
        limits = translate.with_defaults(limits or Limits(), self.offer)
        return self._create(Group(name, self.offer, limits=limits), _CONTAINER, fleet, warn)

    def create_fleet(self, name: str, limits: Limits, *, warn: Warn | None = None) -> Group:
        """A group for groups: its limits are for all together, and no process is in itself."""
        return self._create(Group(name, self.offer, limits=limits), _FLEET, None, warn)

    def _create(self, group: Group, prefix: str, fleet: Group | None, warn: Warn | None) -> Group:
        done = translate.translate(group.limits, self.offer)
        tell(done.problems, warn)
        with contextlib.ExitStack() as undo:
            undo.callback(self.remove, group)
            for place in needed(self.offer, done.writes, every=prefix == _FLEET):
                above = fleet.directories[place.name] if fleet else place.directory
                add(group, place, f"{above}/{prefix}{group.name}")
                if prefix == _FLEET and place.version == 2:
                    pass_all_on(place.controllers, group.unified)
            group.writes = attempt(group, done.writes, warn)
            undo.pop_all()
        return group

    # Removing them

    def remove(self, group: Group) -> bool:
        """Remove a group; what is still busy becomes one of the `graves`."""
        gone = group.remove()
        if not gone and group not in self.graves:
            self.graves.append(group)
        return gone

    def sweep(self) -> bool:
        """Try the graves again; whether all have gone. After the last exit it takes milliseconds."""
        self.graves = [group for group in self.graves if group.populated() or not group.remove()]
        return not self.graves

    def close(self) -> list[str]:
        """Kill and remove everything, and go back to where we came from; what could not be removed.
        Takes as long as what is left needs to die, two seconds at most."""
        directories = [place.directory for place in self.offer.places]
        for one in directories:
            bury(_groups_in(one))
        for path, value in reversed(self._undo):
            with contextlib.suppress(OSError):
                files.write(path, value)
        self._undo.clear()
        left = clear(directories)
        if not left:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.record)
        self.offer = Offer(refusal="sup has given up its groups", remedy="start it again")
        return left


def add(group: Group, place: Place, directory: str) -> None:
    """Make the group's directory in one hierarchy."""
    files.make(directory)
    group.directories[place.name] = directory
    if place.version == 1 and "cpuset" in place.controllers:
        inherit(directory, os.path.dirname(directory))


def pass_all_on(controllers: Iterable[str], directory: str) -> None:
    """Have the groups below a v2 group have its controllers."""
    path = f"{directory}/cgroup.subtree_control"
    for one in controllers:
        try:
            files.write(path, f"+{one}")
        except OSError as error:
            raise files.refused(path, Write(UNIFIED, "", f"+{one}", one), error) from None


def attempt(group: Group, writes: tuple[Write, ...], warn: Warn | None) -> tuple[Write, ...]:
    """The writes that were taken; the others are errors, or given to `warn`."""
    if warn is None:
        group.apply(writes)
        return writes
    taken = []
    for one in writes:
        try:
            group.apply((one,))
            taken.append(one)
        except SupError as error:
            warn(error)
    return tuple(taken)


def tell(problems: Iterable[SupError], warn: Warn | None) -> None:
    """Raise the first problem, or warn of each."""
    for problem in problems:
        if warn is None:
            raise problem
        warn(problem)


def clear(directories: Iterable[str]) -> list[str]:
    """Remove directories of supervisors of our name, killing what is in containers' groups. What is in
    `.self` may be ourselves and is not killed: then the directory stays, and is returned."""
    left = []
    for directory in directories:
        bury(_groups_in(directory))
        for path in (f"{directory}/{SELF}", directory):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        left += [directory] if os.path.isdir(directory) else []
    return left


def bury(directories: Iterable[str], patience: float = _PATIENCE) -> list[str]:
    """Kill what is in groups of ours and remove them; returns what is left."""
    left = [Group("", Offer(), {one: one}) for one in directories if os.path.isdir(one)]
    deadline, pause = time.monotonic() + patience, 0.001
    while True:
        left = [group for group in left if not _killed_and_removed(group)]
        if not left or time.monotonic() > deadline:
            return [path for group in left for path in group.directories.values()]
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _killed_and_removed(group: Group) -> bool:
    for directory in list(group.directories.values()):
        for state in ("freezer.state", "cgroup.kill"):
            with contextlib.suppress(OSError):
                files.write(f"{directory}/{state}", "1" if state == "cgroup.kill" else "THAWED")
    if group.pids():
        group.kill()
    return group.remove()


def _groups_in(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [f"{directory}/{one}" for one in names if one.startswith((_CONTAINER, _FLEET))]


def _outside(one: Hierarchy, name: str) -> Hierarchy:
    return attrs.evolve(one, own=one.own.removesuffix(f"/{name}/{SELF}"))


def _make_once(directory: str) -> None:
    if not os.path.isdir(directory):
        files.make(directory)


def _wanted(one: Hierarchy) -> bool:
    return one.version == 2 or bool(V1 & {*one.controllers})


def _allowed(places: Iterable[Place], kind: str) -> frozenset[int]:
    """CPUs or memory nodes that a group of ours may have."""
    for place in places:
        for file in (f"cpuset.{kind}.effective", f"cpuset.effective_{kind}"):
            if file in place.files:
                return numbers(files.read(f"{place.directory}/{file}"))
    return frozenset(os.sched_getaffinity(0)) if kind == "cpus" else frozenset()


def _recorded(record: str, name: str) -> set[str]:
    """Directories that somebody of our name has made."""
    try:
        lines = files.read(record).split("\0")
    except OSError:
        return set()
    return {line for line in lines if os.path.basename(line) == name}


def _remember(record: str, directories: Iterable[str]) -> None:
    if text := "\0".join(directories):
        with open(record, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
