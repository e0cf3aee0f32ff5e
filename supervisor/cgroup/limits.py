"""What a user asks of a group: `Limits`, checked once, when it is made.

What depends on the host (how many CPUs it has, which files) is checked by `translate`.
"""

from __future__ import annotations

from typing import Final

import attrs

from supervisor.cgroup import notation
from supervisor.cgroup.notation import UNLIMITED, Rates
from supervisor.errors import SpecError

PIDS_DEFAULT: Final = 2048
"""Of a container that was given no `pids_limit`, wherever the host can hold it."""
_PIDS_MAX: Final = 4_194_304  # PID_MAX_LIMIT; proc_sys_kernel(5)
_WEIGHT_MAX: Final = 10_000
_PAGE: Final = 4096


def _memory(value: object) -> int | None:
    return notation.memory("memory", value)


def _memory_swap(value: object) -> int | None:
    return notation.memory("memory_swap", value)


def _memory_reservation(value: object) -> int | None:
    return notation.memory("memory_reservation", value, _PAGE)


def _cpu_weight(value: object) -> int | None:
    return notation.whole("cpu_weight", value, _WEIGHT_MAX)


def _io_weight(value: object) -> int | None:
    return notation.whole("io_weight", value, _WEIGHT_MAX)


def _pids_limit(value: object) -> int | None:
    if notation.is_unlimited(value):
        return UNLIMITED
    return notation.whole("pids_limit", value, _PIDS_MAX)


def _cpuset_cpus(value: object) -> str | None:
    return notation.listed("cpuset_cpus", value)


def _cpuset_mems(value: object) -> str | None:
    return notation.listed("cpuset_mems", value)


def _device_read_bps(value: object) -> Rates:
    return notation.rates("device_read_bps", value)


def _device_write_bps(value: object) -> Rates:
    return notation.rates("device_write_bps", value)


def _device_read_iops(value: object) -> Rates:
    return notation.rates("device_read_iops", value)


def _device_write_iops(value: object) -> Rates:
    return notation.rates("device_write_iops", value)


def _oom_group(value: object) -> bool:
    return notation.flag("oom_group", value)


@attrs.frozen(kw_only=True)
class Limits:
    """None and () are what was not asked for; -1 is without a limit, as in docker.

    `memory_swap` is memory and swap together. `cpu_weight` and `io_weight` are v2's, 1 to 10000.
    `devices` of None leaves devices alone; otherwise nothing but these rules is allowed.
    `attrs.evolve(limits, memory="20m")` is how one is changed: all is checked again."""

    memory: int | None = attrs.field(default=None, converter=_memory)
    memory_swap: int | None = attrs.field(default=None, converter=_memory_swap)
    memory_reservation: int | None = attrs.field(default=None, converter=_memory_reservation)
    cpus: float | None = attrs.field(default=None, converter=notation.cpus)
    cpu_weight: int | None = attrs.field(default=None, converter=_cpu_weight)
    cpuset_cpus: str | None = attrs.field(default=None, converter=_cpuset_cpus)
    cpuset_mems: str | None = attrs.field(default=None, converter=_cpuset_mems)
    pids_limit: int | None = attrs.field(default=None, converter=_pids_limit)
    io_weight: int | None = attrs.field(default=None, converter=_io_weight)
    device_read_bps: Rates = attrs.field(default=(), converter=_device_read_bps)
    device_write_bps: Rates = attrs.field(default=(), converter=_device_write_bps)
    device_read_iops: Rates = attrs.field(default=(), converter=_device_read_iops)
    device_write_iops: Rates = attrs.field(default=(), converter=_device_write_iops)
    devices: tuple[str, ...] | None = attrs.field(default=None, converter=notation.devices)
    oom_group: bool = attrs.field(default=False, converter=_oom_group)
    cgroup: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=notation.raw)

    def __attrs_post_init__(self) -> None:
        memory, swap, reserved = self.memory, self.memory_swap, self.memory_reservation
        top = UNLIMITED if memory is None else memory
        if swap is not None and swap != UNLIMITED:
            if top == UNLIMITED:
                raise SpecError("memory_swap", swap, "give memory as well: it counts memory and swap")
            if swap < top:
                raise SpecError("memory_swap", swap, "give at least as much as memory: it counts both")
        if reserved is not None and UNLIMITED < top < reserved:
            raise SpecError("memory_reservation", reserved, "give no more than memory")

    @property
    def asked(self) -> dict[str, object]:
        """The fields that were given, with their values."""
        every = {one.name: getattr(self, one.name) for one in attrs.fields(Limits)}
        return {name: value for name, value in every.items() if value != _NOTHING[name]}


_NOTHING = {one.name: one.default for one in attrs.fields(Limits)}
