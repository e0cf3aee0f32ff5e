"""The figures of a group: kept descriptors, one pread each, and parsers that do no more than is needed.

Facts:
* A pread at 0 of a kept descriptor costs 1 to 7 µs, opening and closing ten times that.
* The lines of a file stay where they are while the kernel runs: their places are found once.
* Most groups are idle: what reads as before is not parsed again.
* A file of a group that goes says ENODEV: the container has ended, which is no error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import attrs

from supervisor.cgroup.group import Group
from supervisor.cgroup.layout import UNIFIED

_SIZE = 8192

Parse = Callable[[bytes], tuple[Any, ...]]
Known = tuple[tuple[str, ...], Parse]
"""Fields of Sample, and what makes their values of a file's text."""


class Pressure(NamedTuple):
    """A *.pressure file: % of the last 10 s, and µs in all, in which some or all tasks waited."""

    some: float
    some_us: int
    full: float
    full_us: int


class Sample(NamedTuple):
    """One container at one moment; None is what this host does not tell. A tuple, since it is made
    a thousand times a second: a frozen class costs five times as much."""

    time_ns: int
    cpu_ns: int | None
    user_ns: int | None
    system_ns: int | None
    periods: int | None
    throttled: int | None
    throttled_ns: int | None
    memory: int | None
    anon: int | None
    file: int | None
    kernel: int | None
    swap: int | None
    peak: int | None
    pids: int | None
    read_bytes: int | None
    written_bytes: int | None
    reads: int | None
    writes: int | None
    cpu_pressure: Pressure | None
    memory_pressure: Pressure | None
    io_pressure: Pressure | None


def single(raw: bytes) -> tuple[int]:
    """A file of one number."""
    return (int(raw),)


def keyed(first: bytes, keys: Mapping[str, tuple[str, int]]) -> Known:
    """`key value` lines: what of `keys` (field: key, factor) is in a first reading, and its parser."""
    tokens = first.split()
    places = {key.decode(): 2 * at + 1 for at, key in enumerate(tokens[::2])}
    there = [(field, places[key], scale) for field, (key, scale) in keys.items() if key in places]
    wanted = [(at, scale) for _, at, scale in there]
    top = max((at for at, _ in wanted), default=0) + 1

    def parse(raw: bytes) -> tuple[int, ...]:
        tokens = raw.split(None, top)
        return tuple([int(tokens[at]) * scale for at, scale in wanted])

    return tuple(field for field, _, _ in there), parse


def pressure(raw: bytes) -> tuple[Pressure]:
    """A *.pressure file; kernels before 5.13 have no `full` for the CPU."""
    some = raw.split()
    if len(some) < 10:
        return (Pressure(float(some[1][6:]), int(some[4][6:]), 0.0, 0),)
    return (Pressure(float(some[1][6:]), int(some[4][6:]), float(some[6][6:]), int(some[9][6:])),)


def io_v2(raw: bytes) -> tuple[int, int, int, int]:
    """io.stat: the sums over all disks. A line may be a device's number alone."""
    total = {b"rbytes": 0, b"wbytes": 0, b"rios": 0, b"wios": 0}
    for word in raw.split():
        key, _, value = word.partition(b"=")
        if key in total:
            total[key] += int(value)
    return total[b"rbytes"], total[b"wbytes"], total[b"rios"], total[b"wios"]


def io_v1(raw: bytes) -> tuple[int, int]:
    """blkio.throttle.*: `MAJ:MIN Read N`, `MAJ:MIN Write N`, …, `Total N`."""
    words = raw.split()
    if len(words) == 2:
        return 0, 0
    found = {b"Read": 0, b"Write": 0}
    for kind, count in zip(words[1::3], words[2::3], strict=False):
        if kind in found:
            found[kind] += int(count)
    return found[b"Read"], found[b"Write"]


@attrs.frozen
class Source:
    """A file, and what a first reading tells that it has."""

    file: str
    know: Callable[[bytes], Known]


def _fixed(file: str, parse: Parse, *fields: str) -> Source:
    return Source(file, lambda first: (fields, parse))


def _keyed(file: str, /, **keys: tuple[str, int]) -> Source:
    return Source(file, lambda first: keyed(first, keys))


_V2 = (
    _keyed(
        "cpu.stat",
        cpu_ns=("usage_usec", 1000),
        user_ns=("user_usec", 1000),
        system_ns=("system_usec", 1000),
        periods=("nr_periods", 1),
        throttled=("nr_throttled", 1),
        throttled_ns=("throttled_usec", 1000),
    ),
    _fixed("memory.current", single, "memory"),
    _keyed("memory.stat", anon=("anon", 1), file=("file", 1), kernel=("kernel", 1)),
    _fixed("memory.swap.current", single, "swap"),
    _fixed("memory.peak", single, "peak"),
    _fixed("pids.current", single, "pids"),
    _fixed("io.stat", io_v2, "read_bytes", "written_bytes", "reads", "writes"),
    _fixed("cpu.pressure", pressure, "cpu_pressure"),
    _fixed("memory.pressure", pressure, "memory_pressure"),
    _fixed("io.pressure", pressure, "io_pressure"),
)
_V1 = (
    _keyed(
        "cpu.stat",
        periods=("nr_periods", 1),
        throttled=("nr_throttled", 1),
        throttled_ns=("throttled_time", 1),
    ),
    _fixed("cpuacct.usage", single, "cpu_ns"),
    _fixed("cpuacct.usage_user", single, "user_ns"),
    _fixed("cpuacct.usage_sys", single, "system_ns"),
    _fixed("memory.usage_in_bytes", single, "memory"),
    _keyed("memory.stat", anon=("total_rss", 1), file=("total_cache", 1), swap=("total_swap", 1)),
    _fixed("memory.kmem.usage_in_bytes", single, "kernel"),
    _fixed("memory.max_usage_in_bytes", single, "peak"),
    _fixed("pids.current", single, "pids"),
    _fixed("blkio.throttle.io_service_bytes_recursive", io_v1, "read_bytes", "written_bytes"),
    _fixed("blkio.throttle.io_serviced_recursive", io_v1, "reads", "writes"),
)


class _Part:
    """An open file, what it read as last, and what that was parsed into."""

    __slots__ = ("fd", "fields", "parse", "raw", "values")

    def __init__(self, fd: int, source: Source) -> None:
        self.fd = fd
        self.raw = os.pread(fd, _SIZE, 0)
        self.fields, self.parse = source.know(self.raw)
        self.values = self.parse(self.raw)


class Reader:
    """The figures of one container. `fds` is what it keeps open."""

    def __init__(self, group: Group) -> None:
        self._parts: list[_Part] = []
        found: list[str] = ["time_ns", ""]  # the second is None: of what no file tells
        try:
            for path, source in _sources(group):
                if part := _open(path, source):
                    self._parts.append(part)
                    found += part.fields
        except BaseException:
            self.close()
            raise
        places = [found.index(name) if name in found else 1 for name in Sample._fields]
        self._arrange = itemgetter(*places)
        self._gone = bool(group.directories) and not self._parts

    @property
    def fds(self) -> int:
        return len(self._parts)

    def read(self) -> Sample | None:
        """A sample, or None once the group has gone."""
        if self._gone:
            return None
        values: list[Any] = [time.monotonic_ns(), None]
        pread = os.pread
        try:
            for part in self._parts:
                raw = pread(part.fd, _SIZE, 0)
                if raw != part.raw:
                    part.values = part.parse(raw)
                    part.raw = raw
                values += part.values
        except OSError:
            self.close()
            self._gone = True
            return None
        return Sample._make(self._arrange(values))

    def close(self) -> None:
        """Close the descriptors; a further read says None."""
        for part in self._parts:
            os.close(part.fd)
        self._parts.clear()
        self._gone = True


def _sources(group: Group) -> Iterator[tuple[str, Source]]:
    """Every file that may be there. What is found twice counts once: v2 comes first."""
    for source in _V2 if group.unified else ():
        yield f"{group.unified}/{source.file}", source
    for name, directory in group.directories.items():
        for source in _V1 if name != UNIFIED else ():
            if source.file.partition(".")[0] in name.split(","):
                yield f"{directory}/{source.file}", source


def _open(path: str, source: Source) -> _Part | None:
    """None where there is no such file, or it cannot be read: PSI may be switched off."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _Part(fd, source)
    except OSError:
        os.close(fd)
        return None
