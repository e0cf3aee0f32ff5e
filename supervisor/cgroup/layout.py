"""Which cgroup hierarchies there are, what each controls, and where in each we are. cgroups(7).

Facts:
* v1: a controller is of one hierarchy only, that of /proc/self/cgroup's line with its name; a mount
  of it may show a part of the hierarchy, whose root is field 4 of mountinfo.
* v2 has one hierarchy, line 0::. Controllers that no v1 hierarchy holds are its, and a group has
  those that its parent passes on: cgroup.controllers.
* In a cgroup namespace a path outside of it begins with /.. and cannot be reached.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final, Protocol, TypeVar

import attrs

UNIFIED: Final = "unified"
"""How the v2 hierarchy is called where v1's are called by their controllers."""
_SYSTEMD = "systemd-run --scope -p Delegate=yes sup … gives it a group of its own"
_SYSTEMD_USER = "systemd-run --user --scope -p Delegate=yes sup … gives it one, on a host with systemd"


@attrs.frozen
class Hierarchy:
    """`own` is the directory of our own group, and `refusal` why no groups can be made in it."""

    version: int
    controllers: tuple[str, ...]
    mount: str
    own: str
    refusal: str = ""

    @property
    def name(self) -> str:
        """`unified`, or the controllers of v1: `cpu,cpuacct`."""
        return UNIFIED if self.version == 2 else ",".join(self.controllers)


@attrs.frozen
class Layout:
    """All hierarchies with a controller, and v2's; `absent` says of controllers why there are none."""

    hierarchies: tuple[Hierarchy, ...]
    absent: Mapping[str, str] = attrs.Factory(dict)

    @property
    def kind(self) -> str:
        """`v2`, `v1`, `hybrid` or `none`."""
        v1 = any(one.version == 1 for one in self.hierarchies)
        if self.unified is None:
            return "v1" if v1 else "none"
        return "hybrid" if v1 else "v2"

    @property
    def unified(self) -> Hierarchy | None:
        return next((one for one in self.hierarchies if one.version == 2), None)

    @property
    def usable(self) -> tuple[Hierarchy, ...]:
        """Where groups can be made."""
        return tuple(one for one in self.hierarchies if not one.refusal)

    def of(self, controller: str) -> Hierarchy | None:
        """The hierarchy of a controller: `io` is v1's `blkio`, too."""
        return find(self.hierarchies, controller)

    @property
    def refusal(self) -> str:
        """Why no groups are to be had at all; empty where they are."""
        if self.usable:
            return ""
        reasons = dict.fromkeys(one.refusal for one in self.hierarchies)
        return "; ".join(list(reasons)[:2]) or "no cgroup hierarchy is mounted"

    @property
    def remedy(self) -> str:
        """What helps against `refusal`."""
        if not self.hierarchies:
            return "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        return _SYSTEMD if os.geteuid() == 0 else _SYSTEMD_USER


class _Controls(Protocol):
    @property
    def controllers(self) -> tuple[str, ...]: ...


_Some = TypeVar("_Some", bound=_Controls)


def find(places: Iterable[_Some], controller: str) -> _Some | None:
    """The one that has a controller: `io` is v1's `blkio`, too."""
    names = {controller, "blkio"} if controller == "io" else {controller}
    return next((one for one in places if names & set(one.controllers)), None)


@attrs.frozen
class _Mount:
    root: str
    point: str
    fstype: str
    options: frozenset[str]


def parse(mountinfo: str, cgroups: str, known: str = "") -> Layout:
    """The layout from /proc/self/mountinfo, /proc/self/cgroup and /proc/cgroups, whose texts these are.

    What v2's group of ours controls is a file of it: `read` adds it."""
    mounts = [mount for line in mountinfo.splitlines() if (mount := _mount(line))]
    found = []
    for line in cgroups.splitlines():
        number, names, path = line.split(":", 2)
        controllers = tuple(name for name in names.split(",") if name and "=" not in name)
        version = 2 if number == "0" and not names else 1
        if version == 1 and not controllers:  # systemd's own: it controls nothing
            continue
        mount = _nearest(mounts, controllers, path)
        if mount:
            found.append(_hierarchy(version, controllers, mount, path))
    return Layout(tuple(found), _absent(known, mounts))


def _mount(line: str) -> _Mount | None:
    """One line of proc_pid_mountinfo(5), if it is of a cgroup file system."""
    before, _, after = line.partition(" - ")
    fstype, _, options = after.split(" ", 2)
    if fstype not in ("cgroup", "cgroup2"):
        return None
    fields = before.split(" ")
    every = frozenset(fields[5].split(",") + options.split(","))
    return _Mount(_plain(fields[3]), _plain(fields[4]), fstype, every)


def _plain(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _nearest(mounts: Iterable[_Mount], controllers: tuple[str, ...], path: str) -> _Mount | None:
    """The mount of a hierarchy that shows most, a writable one first."""
    fitting = [
        one
        for one in mounts
        if (set(controllers) <= one.options if controllers else one.fstype == "cgroup2")
    ]
    order = sorted(
        fitting, key=lambda one: (not _below(path, one.root), "ro" in one.options, len(one.root))
    )
    return order[0] if order else None


def _below(path: str, root: str) -> bool:
    return root == "/" or path == root or path.startswith(root + "/")


def _hierarchy(version: int, controllers: tuple[str, ...], mount: _Mount, path: str) -> Hierarchy:
    shown = _below(path, mount.root) and "/.." not in path
    inner = path[len(mount.root.rstrip("/")) :] if shown else ""
    refusal = "" if shown else f"our group {path} is not below the mount of {mount.point}"
    if shown and "ro" in mount.options:
        refusal = f"{mount.point} is mounted read-only"
    return Hierarchy(version, controllers, mount.point, (mount.point + inner).rstrip("/"), refusal)


def _absent(known: str, mounts: Iterable[_Mount]) -> dict[str, str]:
    """Of controllers in /proc/cgroups: which are switched off, or have no place."""
    mounted = frozenset[str]().union(*(one.options for one in mounts if one.fstype == "cgroup"))
    found = {}
    for line in known.splitlines():
        if line.startswith("#") or line.count("\t") != 3:
            continue
        name, number, _, enabled = line.split("\t")
        if enabled == "0":
            found[name] = f"the kernel was started without it (cgroup_disable={name})"
        elif number != "0" and name not in mounted:
            found[name] = f"it is taken by the v1 hierarchy {number}, which is not mounted here"
    return found


def read(proc: str = "/proc") -> Layout:
    """The layout of this host, for this process."""
    layout = parse(
        _text(f"{proc}/self/mountinfo"), _text(f"{proc}/self/cgroup"), _text(f"{proc}/cgroups")
    )
    return attrs.evolve(layout, hierarchies=tuple(map(_looked_at, layout.hierarchies)))


def _looked_at(one: Hierarchy) -> Hierarchy:
    controllers, refusal = one.controllers, one.refusal
    if one.version == 2:
        controllers = tuple(_text(f"{one.own}/cgroup.controllers").split())
    return attrs.evolve(one, controllers=controllers, refusal=refusal or _refused(one))


def _refused(one: Hierarchy) -> str:
    """Why this process may not make groups below its own. Delegation hands out the files, too."""
    files = ("", "/cgroup.procs", "/cgroup.subtree_control") if one.version == 2 else ("",)
    for file in files:
        path = one.own + file
        if not os.path.exists(path):
            return f"{path} is not there"
        if not os.access(path, os.W_OK):
            return f"uid {os.geteuid()} may not write to {path}"
    return ""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
