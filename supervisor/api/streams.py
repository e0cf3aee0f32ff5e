"""The methods with many replies that carry output: logs, and a command in many containers."""

from __future__ import annotations

import binascii
import heapq
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ..console import LogRecord
from ..errors import NotFound, SupError, WrongState
from .connection import Call

if TYPE_CHECKING:
    from ..container import Container

_PIECE = 64 << 10
_EXECS = 64
"""Commands that run at a time: enough to keep the host busy."""


async def logs(call: Call) -> dict[str, object]:
    """The recorded output of containers in the order of time; with `follow`, what is to come too."""
    call.require_more()
    p = call.parameters
    follow, lines, start = p.flag("follow"), p.whole("tail"), p.seconds("since")
    names = p.texts("names")
    p.done()
    if not names:
        raise NotFound("no container was named", remedy="give names, prefixes or patterns")
    past = [
        _Past(call, container, follow=follow, lines=lines, start=start)
        for container in call.sup.select(names, all=True)
    ]
    if not follow:
        await _merge(past)
        return {}
    async with trio.open_nursery() as nursery:
        for one in past:
            nursery.start_soon(one.follow)
    return {}


class _Past:
    """One container's log, on its way to the client."""

    def __init__(
        self,
        call: Call,
        container: Container,
        *,
        follow: bool,
        lines: int | None,
        start: float | None,
    ) -> None:
        self._call = call
        self._name = container.name
        self.log = container.logs(follow=follow, tail=lines, since=start)

    async def send(self, record: LogRecord) -> None:
        name, time_ns = self._name, record.time_ns
        if record.kind == "lost":
            await self._call.reply(name=name, time_ns=time_ns, stream="lost", lost=record.value)
            return
        for at in range(0, len(record.data), _PIECE):
            data = _text(record.data[at : at + _PIECE])
            await self._call.reply(name=name, time_ns=time_ns, stream=record.kind, data=data)

    async def follow(self) -> None:
        """Send what there is, then whatever comes until the console ends."""
        async with self.log:
            async for record in self.log:
                await self.send(record)


async def _merge(past: list[_Past]) -> None:
    """Send the records of all in the order of time."""
    heap: list[tuple[int, int, LogRecord]] = []
    readers = [one.log.records() for one in past]
    for index, reader in enumerate(readers):
        _push(heap, index, reader)
    while heap:
        _, index, record = heapq.heappop(heap)
        await past[index].send(record)
        _push(heap, index, readers[index])


def _push(heap: list[tuple[int, int, LogRecord]], index: int, reader: Iterator[LogRecord]) -> None:
    record = next(reader, None)
    if record is not None:
        heapq.heappush(heap, (record.time_ns, index, record))


async def execute_all(call: Call) -> dict[str, object]:
    """A command in every container of `names`: its output, then its status."""
    call.require_more()
    p = call.parameters
    argv, env = p.texts("argv"), p.texts("env")
    workdir, user = p.text("workdir"), p.text("user")
    names = p.texts("names")
    p.done()
    containers = call.sup.select(names, all=False)
    if not containers:
        raise WrongState("no container that fits is running", remedy="see `sup ps -a`")
    await call.reply(names=[container.name for container in containers])
    slots = trio.Semaphore(_EXECS)

    async def one(container: Container) -> None:
        async with slots:
            try:
                await _execute(call, container, argv, env, workdir, user)
            except SupError as error:
                await call.reply(name=container.name, status=error.exit_code, **error.to_wire())

    async with trio.open_nursery() as nursery:
        for container in containers:
            nursery.start_soon(one, container)
    return {}


async def _execute(
    call: Call, container: Container, argv: list[str], env: list[str], workdir: str, user: str
) -> None:
    running = await container.exec(argv, tty=False, stdin=False, env=env, workdir=workdir, user=user)
    try:
        with running.console.view(replay=True, lossless=True, read_only=True) as viewer:
            while (chunk := await viewer.receive()) is not None:
                await call.reply(name=container.name, stream=chunk.kind, data=_text(chunk.data))
        status = await running.wait()
    except BaseException:
        with suppress(SupError, OSError):
            running.kill(signal.SIGHUP)
        raise
    await call.reply(name=container.name, status=status)


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
