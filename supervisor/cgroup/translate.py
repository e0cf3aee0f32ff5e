"""From what was asked to files and their values, on this host's hierarchies: a pure function.

Facts:
* v1 refuses memory above memory and swap together: memory is written first where there was no limit.
* A v1 cpuset takes no process before it has mems and cpus.
* A weight of v2 is a share of v1 times 100 / 1024, as in the kernel (sched_weight_from_cgroup): the
  default of one is the default of the other. Maps of one whole range onto the other, as runc had
  for long, make a container of v2's default weigh 2.5 times its v1 neighbours.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, Final

import attrs

from supervisor import text
from supervisor.cgroup.limits import PIDS_DEFAULT, Limits
from supervisor.cgroup.notation import UNLIMITED, Rates, numbers
from supervisor.cgroup.offer import Offer, Place, Write
from supervisor.errors import HostLacks, SpecError, SupError

PERIOD: Final = 100_000
"""Microseconds in which `cpus` x PERIOD may be used: the kernel's default."""
Numbers = Callable[[str], tuple[int, int]]
_BFQ_MAX: Final = 1000


@attrs.frozen
class Translation:
    """The writes in their order, and what the host cannot hold."""

    writes: tuple[Write, ...]
    problems: tuple[SupError, ...] = ()


def writes(limits: Limits, offer: Offer) -> tuple[Write, ...]:
    """The writes in their order; raises the first of what the host cannot hold."""
    done = translate(limits, offer)
    if done.problems:
        raise done.problems[0]
    return done.writes


def translate(limits: Limits, offer: Offer) -> Translation:
    """The writes of the fields that can be held, and an error for each that cannot."""
    found: list[Write] = []
    problems: list[SupError] = []
    asked = limits.asked
    for field, make in _FIELDS.items():
        if field in asked:
            try:
                found += make(_Asked(field, asked[field], offer), limits)
            except SupError as error:
                problems.append(error)
    return Translation(tuple(found), tuple(problems))


def with_defaults(limits: Limits, offer: Offer) -> Limits:
    """A container's limits, with those that sup gives unasked where they can be held."""
    pids = offer.of("pids")
    if limits.pids_limit is None and pids and "pids.max" in pids.files:
        return attrs.evolve(limits, pids_limit=PIDS_DEFAULT)
    return limits


@attrs.frozen
class _Asked:
    """One field that was given, and how its refusal reads."""

    field: str
    value: Any
    offer: Offer

    def lacks(self, reason: str, remedy: str) -> HostLacks:
        shown = text.escape(_shown(self.field, self.value))[:80]
        return HostLacks(f"{self.field} {shown} cannot be held: {reason}", remedy=remedy)

    def place(self, controller: str) -> Place:
        """Where the controller is; raises if nowhere."""
        found = self.offer.of(controller)
        if found:
            return found
        if self.offer.refusal:
            raise self.lacks(self.offer.refusal, self.offer.remedy or _LEAVE)
        reason = self.offer.absent.get(
            controller, f"there is no controller {controller} below our group"
        )
        raise self.lacks(reason, _LEAVE)

    def write(self, controller: str, file: str, value: object, remedy: str = "") -> Write:
        """The write into a file that the host must have."""
        place = self.place(controller)
        if file not in place.files:
            raise self.lacks(f"the groups of {place.name} have no {file} here", remedy or _LEAVE)
        return Write(place.name, file, str(value), self.field)


_LEAVE = "leave it out, or use --cgroup-optional"


def _shown(field: str, value: object) -> str:
    if value == UNLIMITED:
        return "unlimited"
    if field.startswith("memory") and isinstance(value, int):
        return text.size(value)
    if isinstance(value, tuple):
        return ",".join(":".join(map(str, one)) if isinstance(one, tuple) else one for one in value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _memory(asked: _Asked, limits: Limits) -> list[Write]:
    if asked.place("memory").version == 1:
        found = [asked.write("memory", "memory.limit_in_bytes", asked.value)]
        swap = "memory.memsw.limit_in_bytes"
    else:
        found = [asked.write("memory", "memory.max", _or_max(asked.value))]
        swap = "memory.swap.max"
    # As much swap as memory unless something else is asked for: docker's rule.
    if limits.memory_swap is None and swap in asked.place("memory").files:
        double = UNLIMITED if asked.value == UNLIMITED else 2 * asked.value
        found += _swap(asked, asked.value, double)
    return found


def _memory_swap(asked: _Asked, limits: Limits) -> list[Write]:
    memory = UNLIMITED if limits.memory is None else limits.memory
    return _swap(asked, memory, asked.value)


def _swap(asked: _Asked, memory: int, total: int) -> list[Write]:
    remedy = "leave it out, or start the kernel with swapaccount=1"
    if asked.place("memory").version == 1:
        return [asked.write("memory", "memory.memsw.limit_in_bytes", total, remedy)]
    value = "max" if UNLIMITED in (memory, total) else total - memory
    return [asked.write("memory", "memory.swap.max", value, remedy)]


def _memory_reservation(asked: _Asked, limits: Limits) -> list[Write]:
    if asked.place("memory").version == 1:
        return [asked.write("memory", "memory.soft_limit_in_bytes", asked.value)]
    return [asked.write("memory", "memory.low", _or_max(asked.value))]


def _or_max(value: int) -> int | str:
    return "max" if value == UNLIMITED else value


def _cpus(asked: _Asked, limits: Limits) -> list[Write]:
    place, count = asked.place("cpu"), len(asked.offer.cpus)
    if count and asked.value > count:
        raise asked.lacks(f"this host has {count} CPUs", f"give at most {count}")
    quota = UNLIMITED if asked.value == UNLIMITED else round(asked.value * PERIOD)
    if place.version == 1:
        return [
            asked.write("cpu", "cpu.cfs_period_us", PERIOD),
            asked.write("cpu", "cpu.cfs_quota_us", quota),
        ]
    return [asked.write("cpu", "cpu.max", f"{_or_max(quota)} {PERIOD}")]


def _cpu_weight(asked: _Asked, limits: Limits) -> list[Write]:
    if asked.place("cpu").version == 1:
        return [asked.write("cpu", "cpu.shares", shares(asked.value))]
    return [asked.write("cpu", "cpu.weight", asked.value)]


def shares(weight: int) -> int:
    """v1's cpu.shares of a weight of v2."""
    return max(2, (weight * 1024 + 50) // 100)


def weight(share: int) -> int:
    """v2's cpu.weight of v1's cpu.shares."""
    return min(10_000, max(1, (share * 100 + 512) // 1024))


def _cpuset_cpus(asked: _Asked, limits: Limits) -> list[Write]:
    return [_cpuset(asked, asked.offer.cpus, "cpuset.cpus", "CPUs")]


def _cpuset_mems(asked: _Asked, limits: Limits) -> list[Write]:
    return [_cpuset(asked, asked.offer.mems, "cpuset.mems", "memory nodes")]


def _cpuset(asked: _Asked, has: frozenset[int], file: str, what: str) -> Write:
    asked.place("cpuset")
    if has and not numbers(asked.value) <= has:
        there = ",".join(map(str, sorted(has)[:16]))
        raise asked.lacks(f"the {what} that we may use are {there}", "give some of these")
    return asked.write("cpuset", file, asked.value)


def _pids_limit(asked: _Asked, limits: Limits) -> list[Write]:
    return [asked.write("pids", "pids.max", _or_max(asked.value))]


def _io_weight(asked: _Asked, limits: Limits) -> list[Write]:
    """BFQ and v2's io.weight both have 100 as their default, but BFQ ends at 1000."""
    place = asked.place("io")
    if "io.weight" in place.files:
        return [asked.write("io", "io.weight", f"default {asked.value}")]
    file = "io.bfq.weight" if place.version == 2 else "blkio.bfq.weight"
    if file in place.files and asked.value > _BFQ_MAX:
        raise asked.lacks(f"{file} ends at {_BFQ_MAX}", f"give at most {_BFQ_MAX}")
    return [asked.write("io", file, asked.value, "load the I/O scheduler bfq, or leave it out")]


_RATES = {
    "device_read_bps": ("rbps", "blkio.throttle.read_bps_device"),
    "device_write_bps": ("wbps", "blkio.throttle.write_bps_device"),
    "device_read_iops": ("riops", "blkio.throttle.read_iops_device"),
    "device_write_iops": ("wiops", "blkio.throttle.write_iops_device"),
}


def _rates(asked: _Asked, limits: Limits) -> list[Write]:
    key, file = _RATES[asked.field]
    rates: Rates = asked.value
    found = []
    for path, rate in rates:
        major, minor = _device(asked.field, path)
        if asked.place("io").version == 1:
            text = f"{major}:{minor} {max(rate, 0)}"  # zero takes a rule away
            found.append(asked.write("io", file, text))
        else:
            found.append(asked.write("io", "io.max", f"{major}:{minor} {key}={_or_max(rate)}"))
    return found


def _device(field: str, path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise SpecError(field, path, f"{error.strerror}: name a disk of this host") from None
    if not stat.S_ISBLK(found.st_mode):
        raise SpecError(field, path, "it is no block device: name a disk of this host")
    return os.major(found.st_rdev), os.minor(found.st_rdev)


def _devices(asked: _Asked, limits: Limits) -> list[Write]:
    denied = asked.write("devices", "devices.deny", "a")
    return [denied, *(asked.write("devices", "devices.allow", rule) for rule in asked.value)]


def _oom_group(asked: _Asked, limits: Limits) -> list[Write]:
    return [asked.write("memory", "memory.oom.group", 1, "leave it out: v1 kills one process only")]


def _raw(asked: _Asked, limits: Limits) -> list[Write]:
    found = []
    for file, value in asked.value:
        one = attrs.evolve(asked, value=f"{file}={value}")
        prefix, unified = file.partition(".")[0], asked.offer.unified
        if prefix == "cgroup" and unified and file in unified.files:
            found.append(Write(unified.name, file, value, asked.field))
        else:
            found.append(one.write(prefix, file, value))
    return found


_FIELDS: dict[str, Callable[[_Asked, Limits], list[Write]]] = {
    "cpuset_mems": _cpuset_mems,
    "cpuset_cpus": _cpuset_cpus,
    "memory": _memory,
    "memory_swap": _memory_swap,
    "memory_reservation": _memory_reservation,
    "cpus": _cpus,
    "cpu_weight": _cpu_weight,
    "pids_limit": _pids_limit,
    "io_weight": _io_weight,
    **dict.fromkeys(_RATES, _rates),
    "devices": _devices,
    "oom_group": _oom_group,
    "cgroup": _raw,
}
