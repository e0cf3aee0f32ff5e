"""The trio side of the shim's protocol: ask for clones, hear of births and deaths.

One task reads the control socket; whoever awaits a container has a `Process` that the reader fills in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from typing import Any

import trio

from supervisor.errors import ShimLost
from supervisor.shim import protocol

_END_PATIENCE = 5.0


class Process:
    """A child of the shim, known by its pidfd from birth to reaping."""

    def __init__(self) -> None:
        self.pid = 0
        self.pidfd = -1
        self.status: int | None = None
        self.lost = False
        self.refused: dict[str, Any] | None = None
        """Why it never came to be, or cannot be held."""
        self.maker = ""
        """The template that was asked for it, if it was one."""
        self.answered = trio.Event()
        """It was born, or refused."""
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

    def end(self, status: int) -> None:
        """It was reaped, or never was."""
        self.status = status
        self.close()
        self.answered.set()
        self.ended.set()

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

    def expect(self, name: str, maker: str = "") -> Process:
        """Be told of the child that a request with this id makes. Raises ShimLost."""
        if self.lost.is_set():
            raise shim_lost()
        process = self._processes[name] = Process()
        process.maker = maker
        return process

    def forget(self, name: str) -> None:
        """The request was never sent, or nobody waits for its child any more."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.close()

    async def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send a request to the shim. Raises ShimLost."""
        async with self._sending:
            await send(self._control, message, fds)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read what the shim tells until it goes; then everything it held is dead."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                await self._read(nursery)
                nursery.cancel_scope.cancel()
        finally:
            self.lost.set()
            with trio.CancelScope(shield=True):
                await self._end_all()

    async def _read(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                received = await receive(self._control)
            except protocol.Truncated as cut:
                self._renounce(cut)
                # Not by this task: the shim may be waiting for it to read.
                nursery.start_soon(self._kill, cut.id)
                continue
            if received is None:
                return
            self._dispatch(*received)

    def _dispatch(self, message: dict[str, Any], fds: list[int]) -> None:
        name, event = message["id"], message["event"]
        process = self._processes.get(name)
        if event == "spawned":
            if process is None:  # given up before it was born
                process = Process()
                process.pidfd = fds[0]
                process.kill()
                process.close()
            else:
                process.pid, process.pidfd = message["pid"], fds[0]
                process.answered.set()
        elif process is not None:
            del self._processes[name]
            if event == "refused":
                process.refused = {"step": [message["call"]], "errno": message["errno"]}
            process.end(message.get("status", 0))
            self._unmade(name)

    def _unmade(self, maker: str) -> None:
        """Every birth is told before its template's end: what is not born by then never will be."""
        for name, process in list(self._processes.items()):
            if process.maker == maker and not process.answered.is_set():
                del self._processes[name]
                process.refused = {"step": ["clone3", "by the template"], "errno": errno.ESRCH}
                process.end(0)

    def _renounce(self, cut: protocol.Truncated) -> None:
        """A child was born, and its pidfd found no place here: it cannot be held."""
        process = self._processes.get(cut.id)
        if process is not None:
            process.refused = {"step": ["recvmsg", "pidfd"], "errno": cut.errno}
            process.answered.set()

    async def _kill(self, name: str) -> None:
        with contextlib.suppress(ShimLost):
            await self.send({"op": "kill", "id": name})

    async def _end_all(self) -> None:
        """The kernel kills what a dead shim held (PR_SET_PDEATHSIG); see to it, and await it."""
        held = [process for process in self._processes.values() if process.pidfd >= 0]
        for process in held:
            process.kill()
        with trio.move_on_after(_END_PATIENCE):
            for process in held:
                await trio.lowlevel.wait_readable(process.pidfd)
        for process in self._processes.values():
            process.lost = True
            process.end(128 + signal.SIGKILL)
        self._processes.clear()


def shim_lost() -> ShimLost:
    return ShimLost("the shim is gone", remedy="see the log named by `sup info`")


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
            raise shim_lost() from error
        else:
            return
