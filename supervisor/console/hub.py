"""One epoll for all consoles, parked in the event loop as one fd.

A task for every console costs 7 to 19 µs an event, a shared epoll about 3. It is edge-triggered:
a terminal whose slaves are all closed reports a hang-up for ever, and may be opened again at any
time; with edges it costs nothing until somebody writes to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

_IN = select.EPOLLIN | select.EPOLLET
_OUT = select.EPOLLOUT | select.EPOLLET
_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
BUDGET = 256 * 1024
_SLICE = 256 * 1024  # what is moved before other tasks get their turn, about 2 ms
_SLICE_COST = 8 * 1024  # what a read counts for at least
_TTY_BACKLOG = 1024 * 1024  # more than the kernel ever buffers for a terminal


class ConsoleHub:
    """Reads every console. `run` is to be started once; consoles may come before it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._channels: dict[int, Channel] = {}
        self._busy: dict[Channel, None] = {}
        self.buffer = memoryview(bytearray(BUDGET))
        self.wakeups = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Move output until cancelled."""
        task_status.started()
        while True:
            if self._busy:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.wakeups += 1
            self._collect()
            await self._round()

    def close(self) -> None:
        """Forget all consoles; their fds stay theirs."""
        self._channels.clear()
        self._busy.clear()
        self._epoll.close()

    def add(self, channel: Channel, events: int) -> None:
        self._epoll.register(channel.fd, events)
        self._channels[channel.fd] = channel

    def rearm(self, channel: Channel, events: int) -> None:
        """Ask for `events`; what is ready already is reported once more."""
        if not self._epoll.closed:
            self._epoll.modify(channel.fd, events)

    def remove(self, channel: Channel) -> None:
        self._busy.pop(channel, None)
        if self._channels.pop(channel.fd, None) is not None:
            self._epoll.unregister(channel.fd)

    def _collect(self) -> None:
        for fd, events in self._epoll.poll(0):
            channel = self._channels.get(fd)
            if channel is None:
                continue
            if events & _READABLE and channel.sink is not None:
                self._busy[channel] = None
            if events & _WRITABLE:
                channel.wake_writers()

    async def _round(self) -> None:
        spent = 0
        for channel in list(self._busy):
            if channel not in self._busy:
                continue  # closed while another task ran
            moved, more = channel.drain(BUDGET)
            if not more:
                self._busy.pop(channel, None)
            spent += max(moved, _SLICE_COST)
            if spent >= _SLICE:
                spent = 0
                await trio.lowlevel.checkpoint()


@attrs.frozen
class Sink:
    """Where a channel's output goes. `put`'s argument is valid only during the call."""

    put: Callable[[memoryview], None]
    room: Callable[[], int]
    ended: Callable[[Channel], None]


class Channel:
    """One non-blocking fd of a console: a terminal's master or an end of a pipe. It owns the fd."""

    def __init__(self, hub: ConsoleHub, fd: int, *, tty: bool, sink: Sink | None = None) -> None:
        self.fd = fd
        self.tty = tty
        self.sink = sink
        self._hub = hub
        self._events = _IN if sink is not None else 0
        self._writers = trio.lowlevel.ParkingLot()
        os.set_blocking(fd, False)
        hub.add(self, self._events or select.EPOLLET)

    def drain(self, budget: int) -> tuple[int, bool]:
        """Pass on what is there: how much that was, and whether there may be more."""
        sink = self.sink
        if self.fd < 0 or sink is None:
            return 0, False
        budget = min(budget, sink.room(), BUDGET)
        moved, more, ended = self._read(budget) if budget > 0 else (0, False, False)
        if moved:
            sink.put(self._hub.buffer[:moved])
        if ended and self.fd >= 0:
            self.close()
            sink.ended(self)
        return moved, more and self.fd >= 0

    def _read(self, budget: int) -> tuple[int, bool, bool]:
        """Fill the hub's buffer: the length, whether there may be more, whether this is the end."""
        fd, buffer, readv, moved = self.fd, self._hub.buffer, os.readv, 0
        try:
            while moved < budget:
                count = readv(fd, (buffer[moved:budget],))
                if not count:
                    return moved, False, not self.tty
                moved += count
        except BlockingIOError:
            return moved, False, False
        except OSError as error:
            # A terminal says EIO while nobody has it open; somebody may open it again.
            return moved, False, not (self.tty and error.errno == errno.EIO)
        return moved, True, False

    def drain_rest(self, piece: int) -> None:
        """Read to the end, but no more than the kernel can have kept: writers may live on."""
        more = self.fd >= 0
        left = _TTY_BACKLOG if self.tty or not more else _pipe_capacity(self.fd)
        while more and left > 0:
            moved, more = self.drain(min(piece, left))
            left -= moved

    def resume(self) -> None:
        """Look again, after `room` was refused."""
        if self.fd >= 0:
            self._hub.rearm(self, self._events)

    def try_write(self, data: memoryview) -> int:
        """How much was taken; 0 when there is no room now."""
        if self.fd < 0:
            raise BrokenPipeError(errno.EPIPE, "the console's input is closed")
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise BrokenPipeError(errno.EPIPE, "nothing has the console's input open") from error

    def is_writable(self) -> bool:
        """Whether a write would not block, be it only because it would fail."""
        if self.fd < 0:
            return True
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(0))

    async def park_writer(self) -> None:
        """Sleep until it may be worth trying to write again."""
        if not self._events & select.EPOLLOUT:
            self._events |= _OUT
            self._hub.rearm(self, self._events)
        await self._writers.park()

    def wake_writers(self) -> None:
        if self._writers:
            self._writers.unpark_all()
        elif self._events & select.EPOLLOUT:
            self._events = _IN if self.sink is not None else select.EPOLLET
            self._hub.rearm(self, self._events)

    def close(self) -> None:
        """Give the fd up; idempotent."""
        if self.fd < 0:
            return
        with suppress(OSError, ValueError):
            self._hub.remove(self)
        fd, self.fd = self.fd, -1
        os.close(fd)
        self._writers.unpark_all()


def _pipe_capacity(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:
        return 16 * _TTY_BACKLOG
