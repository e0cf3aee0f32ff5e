"""The trio side of the shim's protocol: ask for clones, hear of births and deaths.

One task reads the control socket; whoever awaits a container has a `Process` that the reader fills in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Any

import trio

from supervisor.errors import ShimLost
from supervisor.shim import protocol


class Process:
    """A child of the shim, known by its pidfd from birth to reaping."""

    def __init__(self) -> None:
        self.pid = 0
        self.pidfd = -1
        self.status: int | None = None
        self.lost = False
        self.born = trio.Event()
        self.ended = trio.Event()

    def signal(self, signum: int) -> None:
        """Send a signal. Raises ProcessLookupError once it is dead."""
        if self.pidfd < 0:
            raise ProcessLookupError
        signal.pidfd_send_signal(self.pidfd, signum)

    def kill(self) -> None:
        """SIGKILL, if it lives."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Link:
    """The supervisor's end of the control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        control.setblocking(False)
        self._processes: dict[str, Process] = {}
        self._sending = trio.Lock()
        self.lost = trio.Event()

    def expect(self, name: str) -> Process:
        """Be told of the child that a request with this id makes."""
        process = self._processes[name] = Process()
        return process

    def forget(self, name: str) -> None:
        """The request was never sent, or its child never came to be."""
        self._processes.pop(name, None)

    async def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send a request to the shim. Raises ShimLost."""
        async with self._sending:
            await send(self._control, message, fds)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read what the shim tells until it goes; then everything it held counts as killed."""
        task_status.started()
        try:
            while (received := await receive(self._control)) is not None:
                self._dispatch(*received)
        finally:
            self.lost.set()
            for process in self._processes.values():
                process.lost = True
                process.status = 128 + signal.SIGKILL
                process.close()
                process.born.set()
                process.ended.set()

    def _dispatch(self, message: dict[str, Any], fds: list[int]) -> None:
        process = self._processes.get(message["id"])
        if message["event"] == "spawned":
            if process is None:
                for fd in fds:
                    os.close(fd)
                return
            process.pid, process.pidfd = message["pid"], fds[0]
            process.born.set()
        elif process is not None:
            del self._processes[message["id"]]
            process.close()
            process.status = message["status"]
            process.ended.set()


async def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message of a non-blocking message socket, None at its end."""
    while True:
        try:
            return protocol.receive(sock)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
        except ConnectionResetError:
            return None


async def send(sock: socket.socket, message: dict[str, Any], fds: tuple[int, ...]) -> None:
    """Send a message over a non-blocking message socket. Raises ShimLost."""
    while True:
        try:
            protocol.send(sock, message, fds)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ShimLost("the shim is gone", remedy="see the log named by `sup info`") from error
        else:
            return
