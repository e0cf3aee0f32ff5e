"""What groups tell by themselves: out of memory, no more processes, empty, frozen, pressure.

One descriptor for the event loop, an epoll instance: in it inotify for v2's *.events, and an
eventfd for each v1 memory group. A trigger of pressure has one of its own.

Facts:
* A kernfs file that notifies is told to inotify as IN_MODIFY; to poll(2) as POLLPRI, and as POLLIN
  all the time. v1's pids.events does not notify: `look` reads it.
* v1 tells of memory by an eventfd, registered in cgroup.event_control. It fires before the kernel
  kills, so oom_kill in memory.oom_control is read again when a process has ended: `look`. A limit
  that is hit fires for its group first and then for all below (failcnt stays 0 on Linux 6.18): it was
  our own unless a group above has fired as well. At removal it fires once more.
* Polling a PSI trigger takes its event away. In an epoll instance that is itself polled, the outer
  one is told and the inner has nothing any more: being readable is the event.
* A PSI trigger without CAP_SYS_RESOURCE needs a window of whole 2 s. It goes with its descriptor.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections.abc import Hashable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from supervisor.cgroup import files
from supervisor.cgroup.group import Group
from supervisor.cgroup.offer import Offer
from supervisor.errors import HostLacks, LimitReached, SpecError, SupError
from supervisor.linux import inotify

_KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "memory.events": {"low": "low", "high": "high", "oom_kill": "oom_kill"},
    "memory.events.local": {"oom": "oom"},
    "memory.oom_control": {"oom_kill": "oom_kill"},
    "pids.events": {"max": "pids_max"},
    "cgroup.events": {"populated": "populated", "frozen": "frozen"},
}
"""What is told of each file: `oom` is the group's own limit, `oom_kill` a process killed by any."""
_STATES = frozenset({"populated", "frozen"})
_ALERT = re.compile(
    r"(cpu|memory|io)\.(some|full)>([0-9]{1,2}(?:\.[0-9]{1,2})?)%/([0-9]{1,2}(?:\.[0-9])?)s", re.ASCII
)


class Event(NamedTuple):
    """`total` is the new count, or the new state (0 or 1) of populated and frozen; `kind` is one of
    oom, oom_kill, high, low, pids_max, populated, frozen, or an alert as it was written."""

    key: Hashable
    kind: str
    total: int
    added: int


def flat(text: str) -> dict[str, int]:
    """A file of `key value` lines."""
    words = text.split()
    return {key: int(value) for key, value in zip(words[::2], words[1::2], strict=True)}


def changes(
    file: str, before: Mapping[str, int], after: Mapping[str, int]
) -> Iterator[tuple[str, int, int]]:
    """(kind, total, added) of what is new in a file."""
    for key, kind in _KINDS[file].items():
        old, new = before.get(key, 0), after.get(key, 0)
        if new > old or (new != old and kind in _STATES):
            yield kind, new, new - old


@attrs.frozen
class Alert:
    """`memory.some>10%/2s`: tell when some (or all) tasks waited 10 % of any 2 s."""

    text: str
    resource: str
    which: str
    stall_us: int
    window_us: int

    @staticmethod
    def parse(given: str) -> Alert:
        """From its notation; raises SpecError."""
        match = _ALERT.fullmatch(given)
        window = round(float(match[4]) * 1e6) if match else 0
        stall = round(float(match[3]) / 100 * window) if match else 0
        if not match or not 500_000 <= window <= 10_000_000 or stall < 1:
            remedy = "write it as memory.some>10%/2s: cpu, memory or io, some or full, 0.5 s to 10 s"
            raise SpecError("alert", given, remedy)
        return Alert(given, match[1], match[2], stall, window)


@attrs.define
class _Watched:
    """What is known of one group. `fds` are those that close with it; `fires` is how often v1's
    eventfd has fired, `above` the watched groups above and `own` what fired for the own limit."""

    group: Group
    counts: dict[str, dict[str, int]] = attrs.Factory(dict)
    watches: list[int] = attrs.Factory(list)
    fds: list[int] = attrs.Factory(list)
    fires: int = 0
    above: list[_Watched] = attrs.Factory(list)
    before: int = 0
    own: int = 0

    @property
    def memory(self) -> str:
        """Its directory in v1's memory hierarchy, or ""."""
        directory = self.group.directory("memory")
        return "" if directory == self.group.unified else directory

    def newly_own(self) -> int:
        """How often its own limit was hit since that was asked last."""
        own = self.fires - (sum(one.fires for one in self.above) - self.before)
        new, self.own = max(0, own - self.own), max(own, self.own)
        return new


class Watcher:
    """Watches groups by their keys. `fileno` is readable when `read` has something to say.

    The key None is the directory of all groups: its `oom` is that of a limit above them."""

    def __init__(self, offer: Offer) -> None:
        self._keys: dict[Hashable, _Watched] = {}
        self._watches: dict[int, tuple[Hashable, str]] = {}
        self._eventfds: dict[int, tuple[Hashable, str]] = {}
        self._alerts: dict[int, tuple[Hashable, str]] = {}
        self._epoll = select.epoll()
        try:
            self._inotify = inotify.init()
        except OSError as error:
            self._epoll.close()
            remedy = "sysctl -w fs.inotify.max_user_instances=512"
            raise LimitReached(f"no inotify instance: {error.strerror}", remedy=remedy) from None
        self._epoll.register(self._inotify, select.EPOLLIN)
        try:
            self.add(None, Group("", offer, {one.name: one.directory for one in offer.places}))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """One descriptor for the event loop."""
        return self._epoll.fileno()

    def add(self, key: Hashable, group: Group) -> None:
        """Watch all that the group tells without being asked; what is so now is not told."""
        watched = self._keys[key] = _Watched(group)
        try:
            for path in _files(group):
                watched.counts[path] = _read(path)
                if path.startswith(group.unified or "\0"):
                    self._watch(key, watched, path)
            if watched.memory:
                self._memory(key, watched)
        except OSError as error:
            self.remove(key)
            raise _unwatched(group, error) from None
        except BaseException:
            self.remove(key)
            raise

    def _memory(self, key: Hashable, watched: _Watched) -> None:
        self._eventfd(key, watched, f"{watched.memory}/memory.oom_control", "", "")
        watched.above = [
            one
            for one in self._keys.values()
            if one.memory and watched.memory.startswith(one.memory + "/")
        ]
        watched.before = sum(one.fires for one in watched.above)

    def _watch(self, key: Hashable, watched: _Watched, path: str) -> None:
        watch = inotify.add_watch(self._inotify, path, inotify.IN_MODIFY)
        self._watches[watch] = (key, path)
        watched.watches.append(watch)

    def _eventfd(self, key: Hashable, watched: _Watched, path: str, argument: str, kind: str) -> None:
        """Have v1 tell of a file. The file may be closed once it is registered."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        watched.fds.append(fd)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            control = f"{os.path.dirname(path)}/cgroup.event_control"
            files.write(control, f"{fd} {file} {argument}".rstrip())
        finally:
            os.close(file)
        self._eventfds[fd] = (key, kind)
        self._epoll.register(fd, select.EPOLLIN)

    def alert(self, key: Hashable, alert: Alert) -> int:
        """Tell of pressure of a group that is watched. Returns the descriptor to wait for: whenever it
        is readable, ask `alerted`. Or -1, where `read` tells. Stop waiting before `remove`."""
        watched = self._keys[key]
        path = f"{watched.group.unified}/{alert.resource}.pressure"
        try:
            if watched.group.unified and os.path.exists(path):
                return self._trigger(key, watched, path, alert)
            if alert.resource == "memory" and watched.memory:
                level = "critical" if alert.which == "full" else "medium"
                file = f"{watched.memory}/memory.pressure_level"
                self._eventfd(key, watched, file, level, alert.text)
                return -1
        except OSError as error:
            remedy = "give a window of 2s, 4s, 6s, 8s or 10s: others are for CAP_SYS_RESOURCE"
            raise HostLacks(f"alert {alert.text}: {error.strerror}", remedy=remedy) from None
        remedy = "start the kernel with psi=1, and mount cgroup2"
        raise HostLacks(f"alert {alert.text}: there is no {alert.resource}.pressure", remedy=remedy)

    def _trigger(self, key: Hashable, watched: _Watched, path: str, alert: Alert) -> int:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        watched.fds.append(fd)
        os.write(fd, f"{alert.which} {alert.stall_us} {alert.window_us}".encode())
        epoll = select.epoll()
        # The number must outlive the object, which would close it.
        outer = os.dup(epoll.fileno())
        watched.fds.append(outer)
        epoll.register(fd, select.EPOLLPRI)
        epoll.close()
        self._alerts[outer] = (key, alert.text)
        return outer

    def alerted(self, fd: int) -> list[Event]:
        """The event of a descriptor of `alert` that is readable; nothing once its group has gone."""
        key, text = self._alerts.get(fd, (None, ""))
        there = key in self._keys and os.path.isdir(self._keys[key].group.unified)
        return [Event(key, text, 1, 1)] if there and text else []

    def remove(self, key: Hashable) -> None:
        """Forget a group, before or after it has gone."""
        watched = self._keys.pop(key, None)
        if watched is None:
            return
        for watch in watched.watches:
            self._watches.pop(watch, None)
            with contextlib.suppress(OSError):  # it went with its file
                inotify.remove_watch(self._inotify, watch)
        for fd in watched.fds:
            self._eventfds.pop(fd, None)
            self._alerts.pop(fd, None)
            os.close(fd)

    def read(self) -> list[Event]:
        """What has happened; never waits."""
        found: list[Event] = []
        for fd, _ in self._epoll.poll(0):
            if fd == self._inotify:
                for watch in inotify.decode(_drained(fd)):
                    if watch in self._watches:
                        found += self._changed(*self._watches[watch])
            elif fd in self._eventfds:
                found += self._fired(fd)
        return found

    def look(self, key: Hashable) -> list[Event]:
        """Read all files of a group: v1 tells of an oom before it kills. For the end of a process."""
        watched = self._keys.get(key)
        return (
            [event for path in watched.counts for event in self._changed(key, path)] if watched else []
        )

    def _changed(self, key: Hashable, path: str) -> list[Event]:
        watched = self._keys[key]
        try:
            after = _read(path)
        except OSError:  # it has gone
            return []
        before, watched.counts[path] = watched.counts[path], after
        return [Event(key, *one) for one in changes(os.path.basename(path), before, after)]

    def _fired(self, fd: int) -> list[Event]:
        key, kind = self._eventfds[fd]
        watched, times = self._keys[key], os.eventfd_read(fd)
        if kind:
            return [Event(key, kind, times, times)]
        if not os.path.isdir(watched.memory):  # the last one: the group was removed
            return []
        watched.fires += times
        own = watched.newly_own()
        return [Event(key, "oom", watched.own, own)] * bool(own) + self.look(key)

    def close(self) -> None:
        """Forget all."""
        for key in list(self._keys):
            self.remove(key)
        os.close(self._inotify)
        self._epoll.close()


def _files(group: Group) -> Iterator[str]:
    """The files of a group that tell."""
    for directory in group.directories.values():
        for file in _KINDS:
            path = f"{directory}/{file}"
            if os.path.exists(path):
                yield path


def _read(path: str) -> dict[str, int]:
    return flat(files.read(path))


def _drained(fd: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, 1 << 16)
    return b""


def _unwatched(group: Group, error: OSError) -> SupError:
    remedy = "sysctl -w fs.inotify.max_user_watches=1048576, or see whether its group is there"
    return LimitReached(f"{group.name} cannot be watched: {error.strerror}", remedy=remedy)
