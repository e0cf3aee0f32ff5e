"""Consoles of real containers: streams, viewers, sizes, hang-ups, logs; no byte is lost unsaid."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from supervisor import Container, ContainerSpec, Supervisor, open_supervisor
from supervisor.console import ConsoleStream

pytestmark = pytest.mark.requires("containers")

Body = Callable[[Supervisor], Awaitable[None]]
# Prints the terminal's size whenever it is told of a change.
SIZES = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"


def run(root: str, body: Body, seconds: float = 60) -> None:
    async def main() -> None:
        with trio.fail_after(seconds):
            async with open_supervisor(root) as sup:
                await body(sup)

    trio.run(main)


async def start(sup: Supervisor, script: str, **fields: object) -> Container:
    """A container that runs a shell script; fields are those of the spec."""
    spec = ContainerSpec.from_mapping({"command": ["sh", "-c", script], **fields})
    [container] = await sup.launch(spec)
    assert container.error is None
    return container


async def until(stream: trio.abc.ReceiveStream, text: bytes) -> bytes:
    """What comes up to and including `text`, which has to come last."""
    seen = b""
    while not seen.endswith(text):
        data = await stream.receive_some()
        assert data, f"ended after {seen!r}"
        seen += data
    return seen


async def rest(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([data async for data in stream])


async def eventually(check: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not check():
            await trio.sleep(0.01)


# -- as trio streams -------------------------------------------------------------------------------


class Ends:
    """Pairs of connected streams through a container: each end is a command in it, and what is
    written to one comes out of the other, by way of two pipes of the container's own."""

    def __init__(self, container: Container, *, tty: bool) -> None:
        self.container = container
        self.tty = tty
        self.numbers = itertools.count()

    async def pair(self) -> tuple[ConsoleStream, ConsoleStream]:
        """Two ends with empty buffers."""
        a, b = (f"/tmp/{next(self.numbers)}" for _ in range(2))
        made = await self.container.exec(["mkfifo", a, b])
        assert await made.wait() == 0
        return await self.end(a, b), await self.end(b, a)

    async def end(self, source: str, target: str) -> ConsoleStream:
        if self.tty:
            # When the far end closes, the shell ends, and with it the terminal.
            relay = f"stty raw -echo; echo ready; cat <&0 >{target} & cat {source}"
        else:
            # Nobody but the first `cat` holds the output open, nor but the second the input.
            relay = f"echo ready; exec 2>&-; cat {source} <&- & cat <&0 >{target} & exec <&- >&-; wait"
        command = await self.container.exec(["sh", "-c", relay], tty=self.tty, stdin=True)
        stream = ConsoleStream(command.console, close_console=True)
        await until(stream, b"ready\n" if not self.tty else b"ready\r\n")
        return stream

    async def clogged(self) -> tuple[ConsoleStream, ConsoleStream]:
        """Two ends of which the first can take no more, nor the second."""
        one, other = await self.pair()
        for stream in (one, other):
            with trio.move_on_after(0.3) as idle:
                while True:
                    await stream.send_all(bytes(4096))
                    idle.deadline = trio.current_time() + 0.3
        return one, other


@contextlib.asynccontextmanager
async def ends(sup: Supervisor, *, tty: bool) -> AsyncIterator[Ends]:
    yield Ends(await start(sup, "exec sleep 1000"), tty=tty)


def test_pipes_are_a_half_closeable_stream(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        async with ends(sup, tty=False) as made:
            await trio.testing.check_half_closeable_stream(made.pair, made.clogged)

    run(sup_root, body, 60)


def test_a_terminal_is_a_two_way_stream(sup_root: str) -> None:
    # A terminal has no half close: in raw mode there is no end-of-file character to type, so
    # check_half_closeable_stream cannot apply. Its end is that of the process it belongs to.
    async def body(sup: Supervisor) -> None:
        async with ends(sup, tty=True) as made:
            await trio.testing.check_two_way_stream(made.pair, made.clogged)

    run(sup_root, body, 60)
