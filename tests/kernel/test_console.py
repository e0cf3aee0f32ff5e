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

    def __init__(self, container: Container, *, ttys: tuple[bool, bool]) -> None:
        self.container = container
        self.ttys = ttys
        self.numbers = itertools.count()

    async def pair(self) -> tuple[ConsoleStream, ConsoleStream]:
        """Two ends with empty buffers."""
        a, b = (f"/tmp/{next(self.numbers)}" for _ in range(2))
        made = await self.container.exec(["mkfifo", a, b])
        assert await made.wait() == 0
        # Each waits in open(2) for the other, so both open the same pipe first.
        one = await self.end(f"exec 4<{a} 5>{b}", self.ttys[0])
        other = await self.end(f"exec 5>{a} 4<{b}", self.ttys[1])
        for stream in (one, other):
            await until(stream, b"ready\n")
        return one, other

    async def end(self, opening: str, tty: bool) -> ConsoleStream:
        if tty:
            # When the far end closes, the shell ends, and with it the terminal.
            relay = "stty raw -echo; echo ready; exec 3<&0; cat <&3 >&5 4<&- & exec 5>&-; cat <&4"
        else:
            # Nobody but the first `cat` holds the output open, nor but the second the input.
            relay = (
                "echo ready; exec 2>&- 3<&0 0<&-; cat <&4 3<&- 5>&- & cat <&3 >&5 4<&- &"
                " exec 3<&- 4<&- 5>&- >&-; wait"
            )
        script = f"{opening}; {relay}"
        command = await self.container.exec(["sh", "-c", script], tty=tty, stdin=True)
        return ConsoleStream(command.console, close_console=True)

    async def clogged(self) -> tuple[ConsoleStream, ConsoleStream]:
        """Two ends of which neither can take more."""
        ends = await self.pair()
        for stream in ends:
            await clog(stream)
        return ends


async def clog(stream: trio.abc.SendStream) -> None:
    """Write until nothing more has been taken for a while."""
    with trio.move_on_after(0.3) as idle:
        while True:
            await stream.send_all(bytes(4096))
            idle.deadline = trio.current_time() + 0.3


def test_pipes_are_a_half_closeable_stream(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        ends = Ends(await start(sup, "exec sleep 1000"), ttys=(False, False))
        await trio.testing.check_half_closeable_stream(ends.pair, ends.clogged)

    run(sup_root, body, 300)


def test_a_terminal_is_a_stream_out_of_the_container(sup_root: str) -> None:
    # Not so into it, and so neither check_two_way_stream nor check_half_closeable_stream applies:
    # to close a terminal is to hang up, and what was typed and not yet read is gone then; in raw
    # mode there is no end-of-file character to type either.
    async def body(sup: Supervisor) -> None:
        ends = Ends(await start(sup, "exec sleep 1000"), ttys=(False, True))
        await trio.testing.check_one_way_stream(ends.pair, ends.clogged)

    run(sup_root, body, 300)


def test_a_terminal_carries_both_ways_at_once(sup_root: str) -> None:
    data = os.urandom(1 << 18)

    async def send(stream: ConsoleStream, data: bytes) -> None:
        for at in range(0, len(data), 5000):
            await stream.send_all(data[at : at + 5000])

    async def receive(stream: ConsoleStream, expected: bytes) -> None:
        seen = b""
        while len(seen) < len(expected):
            seen += await stream.receive_some(3000)
        assert seen == expected

    async def body(sup: Supervisor) -> None:
        ends = Ends(await start(sup, "exec sleep 1000"), ttys=(True, True))
        one, other = await ends.pair()
        async with one, other, trio.open_nursery() as nursery:
            nursery.start_soon(send, one, data)
            nursery.start_soon(send, other, data[::-1])
            nursery.start_soon(receive, other, data)
            nursery.start_soon(receive, one, data[::-1])

    run(sup_root, body)
