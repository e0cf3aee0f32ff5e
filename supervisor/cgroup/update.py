"""New limits for a live group: all of them, or none."""

from __future__ import annotations

import contextlib
import os

from supervisor.cgroup import files, translate
from supervisor.cgroup.group import Group, needed
from supervisor.cgroup.groups import add
from supervisor.cgroup.limits import Limits
from supervisor.cgroup.offer import Offer, Write
from supervisor.errors import SupError

_V1_MEMORY, _V1_SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"


def update(group: Group, limits: Limits) -> None:
    """Write what differs from the group's limits; on an error what was there before is back.

    `limits` are the whole: attrs.evolve(group.limits, memory="20m")."""
    every = translate.writes(limits, group.offer)
    new = tuple(one for one in every if one not in group.writes)
    _enlist(group, new)
    before: list[tuple[Write, str]] = []
    try:
        for one in _ordered(group, new):
            before.append((one, _old(group, one)))
            group.apply((one,))
    except SupError:
        for one, old in reversed(before):
            _restore(group, one, old)
        raise
    group.limits, group.writes = limits, every


def _enlist(group: Group, new: tuple[Write, ...]) -> None:
    """Groups in hierarchies that the container was not in yet, with all its processes."""
    for place in needed(group.offer, new):
        if place.name not in group.directories:
            there = next(iter(group.directories.values()), "")
            inner = os.path.relpath(there, _base(group.offer, there))
            add(group, place, f"{place.directory}/{inner}")
            _move(group, f"{place.directory}/{inner}/cgroup.procs")


def _base(offer: Offer, directory: str) -> str:
    return next(one.directory for one in offer.places if directory.startswith(one.directory + "/"))


def _move(group: Group, procs: str) -> None:
    """Move all, and again what they have forked meanwhile, until a pass finds nobody new."""
    moved: set[int] = set()
    while new := group.pids() - moved:
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                files.write(procs, str(pid))
        moved |= new


def _ordered(group: Group, new: tuple[Write, ...]) -> list[Write]:
    """v1: memory may never be above memory and swap, so what grows goes last to first."""
    first = [one for one in new if one.file in (_V1_MEMORY, _V1_SWAP)]
    if len(first) == 2 and _grows(group, first[0]):
        first.reverse()
    return first + [one for one in new if one not in first]


def _grows(group: Group, memory: Write) -> bool:
    return memory.value == "-1" or int(memory.value) > int(_old(group, memory) or 0)


def _old(group: Group, one: Write) -> str:
    directory = group.directories[one.place]
    file = "devices.list" if one.file.startswith("devices.") else one.file
    try:
        return files.read(f"{directory}/{file}")
    except OSError:  # not readable: there is nothing to go back to
        return ""


def _restore(group: Group, one: Write, old: str) -> None:
    """Back to the text that was read: keyed files take a line at a time."""
    directory = group.directories[one.place]
    lines = [(one.file, line or "\n") for line in old.splitlines() or [""]]
    key, _, rest = one.value.partition(" ")
    if one.file == "devices.allow":  # its deny comes last here, and restores all
        return
    if one.file == "devices.deny":
        lines = [(one.file, "a"), *(("devices.allow", line) for _, line in lines)]
    elif ":" in key:
        gone = f"{key} {rest.partition('=')[0]}=max" if "=" in rest else f"{key} 0"
        lines = [line for line in lines if line[1].startswith(key + " ")] or [(one.file, gone)]
    for file, line in lines:
        with contextlib.suppress(OSError):
            files.write(f"{directory}/{file}", line)
