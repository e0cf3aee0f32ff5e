"""What groups tell by themselves: out of memory, no more processes, empty, frozen, pressure.

One descriptor for the event loop, an epoll instance. In it: inotify for v2's *.events and for v1's
pids.events, an eventfd for each v1 memory group, and pressure files with a trigger.

Facts:
* A kernfs file that notifies is told to inotify as IN_MODIFY; to poll(2) as POLLPRI, and as POLLIN
  all the time.
* v1 tells of memory by an eventfd, registered in cgroup.event_control. It fires before the kernel
  kills, so oom_kill in memory.oom_control is read again when a process has ended: `look`. It fires
  for a limit of a group above, too; failcnt tells whose it was. At removal it fires once more.
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
    """What is known of one group. `fds` are those that close with it."""

    group: Group
    counts: dict[str, dict[str, int]] = attrs.Factory(dict)
    watches: list[int] = attrs.Factory(list)
    fds: list[int] = attrs.Factory(list)
    failures: int = 0


class Watcher:
    """Watches groups by their keys. `fileno` is readable when `read` has something to say."""

    def __init__(self) -> None:
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

    def fileno(self) -> int:
        """One descriptor for the event loop."""
        return self._epoll.fileno()

    def add(self, key: Hashable, group: Group) -> None:
        """Watch all that the group tells without being asked; what is so now is not told."""
        watched = self._keys[key] = _Watched(group)
        try:
            for path in _told(group):
                self._watch(key, watched, path)
            memory = group.directory("memory")
            if memory and memory != group.unified:
                self._eventfd(key, watched, f"{memory}/memory.oom_control", "", "")
                watched.counts[f"{memory}/memory.oom_control"] = _read(f"{memory}/memory.oom_control")
                watched.failures = _number(f"{memory}/memory.failcnt")
        except OSError as error:
            self.remove(key)
            raise _unwatched(group, error) from None
        except BaseException:
            self.remove(key)
            raise

    def _watch(self, key: Hashable, watched: _Watched, path: str) -> None:
        watch = inotify.add_watch(self._inotify, path, inotify.IN_MODIFY)
        self._watches[watch] = (key, path)
        watched.watches.append(watch)
        watched.counts[path] = _read(path)

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

    def alert(self, key: Hashable, alert: Alert) -> None:
        """Tell of pressure of a group that is watched."""
        watched = self._keys[key]
        path = f"{watched.group.unified}/{alert.resource}.pressure"
        memory = watched.group.directory("memory")
        try:
            if watched.group.unified and os.path.exists(path):
                self._trigger(key, watched, path, alert)
            elif alert.resource == "memory" and memory:
                level = "critical" if alert.which == "full" else "medium"
                self._eventfd(key, watched, f"{memory}/memory.pressure_level", level, alert.text)
            else:
                remedy = "start the kernel with psi=1, and mount cgroup2"
                raise HostLacks(
                    f"alert {alert.text}: there is no {alert.resource}.pressure", remedy=remedy
                )
        except OSError as error:
            remedy = "give a window of 2s, 4s, 6s, 8s or 10s: others are for CAP_SYS_RESOURCE"
            raise HostLacks(f"alert {alert.text}: {error.strerror}", remedy=remedy) from None

    def _trigger(self, key: Hashable, watched: _Watched, path: str, alert: Alert) -> None:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        watched.fds.append(fd)
        os.write(fd, f"{alert.which} {alert.stall_us} {alert.window_us}\0".encode())
        self._alerts[fd] = (key, alert.text)
        self._epoll.register(fd, select.EPOLLPRI)

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
        for fd, mask in self._epoll.poll(0):
            if fd == self._inotify:
                for watch in inotify.decode(_drained(fd)):
                    if watch in self._watches:
                        found += self._changed(*self._watches[watch])
            elif fd in self._alerts:
                found += self._alerted(fd, mask)
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

    def _alerted(self, fd: int, mask: int) -> list[Event]:
        if mask & select.EPOLLERR:  # its group has gone
            self._epoll.unregister(fd)
            return []
        key, text = self._alerts[fd]
        return [Event(key, text, 1, 1)]

    def _fired(self, fd: int) -> list[Event]:
        key, kind = self._eventfds[fd]
        times = os.eventfd_read(fd)
        if kind:
            return [Event(key, kind, times, times)]
        watched = self._keys[key]
        try:
            failures = _number(f"{watched.group.directory('memory')}/memory.failcnt")
        except OSError:  # the last one: the group was removed
            return []
        grown, watched.failures = failures - watched.failures, failures
        own = [Event(key, "oom", times, times)] if grown > 0 else []
        return own + self.look(key)

    def close(self) -> None:
        """Forget all."""
        for key in list(self._keys):
            self.remove(key)
        os.close(self._inotify)
        self._epoll.close()


def _told(group: Group) -> Iterator[str]:
    """The files of a group that inotify tells of."""
    for directory in group.directories.values():
        for file in _KINDS:
            path = f"{directory}/{file}"
            if file != "memory.oom_control" and os.path.exists(path):
                yield path


def _read(path: str) -> dict[str, int]:
    return flat(files.read(path))


def _number(path: str) -> int:
    return int(files.read(path))


def _drained(fd: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, 1 << 16)
    return b""


def _unwatched(group: Group, error: OSError) -> SupError:
    remedy = "sysctl -w fs.inotify.max_user_watches=1048576, or see whether its group is there"
    return LimitReached(f"{group.name} cannot be watched: {error.strerror}", remedy=remedy)
