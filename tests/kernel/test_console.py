"""Consoles of real containers: streams, viewers, sizes, hang-ups, logs; no byte is lost unsaid."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
import tty
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from supervisor import Container, ContainerSpec, State, Supervisor, open_supervisor, read_log
from supervisor.console import Console, ConsoleHub, ConsoleLog, ConsoleStream
from supervisor.errors import CommandNotFound

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

    async def end(self, opening: str, terminal: bool) -> ConsoleStream:
        if terminal:
            # When the far end closes, the shell ends, and with it the terminal.
            relay = "stty raw -echo; echo ready; exec 3<&0; cat <&3 >&5 4<&- & exec 5>&-; cat <&4"
        else:
            # Nobody but the first `cat` holds the output open, nor but the second the input.
            relay = (
                "echo ready; exec 2>&- 3<&0 0<&-; cat <&4 3<&- 5>&- & cat <&3 >&5 4<&- &"
                " exec 3<&- 4<&- 5>&- >&-; wait"
            )
        script = f"{opening}; {relay}"
        command = await self.container.exec(["sh", "-c", script], tty=terminal, stdin=True)
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


def test_end_of_file_is_typed_on_a_terminal_and_closes_a_pipe(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        for terminal in (True, False):
            container = await start(sup, "wc -c", tty=terminal, stdin=True)
            async with container.attach() as console:
                await console.send_all(b"hi\n")
                await console.send_eof()
                with pytest.raises(trio.ClosedResourceError):
                    await console.send_all(b"more")
                printed = await rest(console)
            assert await container.wait() == 0
            assert printed.split()[-1] == b"3"

    run(sup_root, body)


def test_a_console_that_has_ended(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        container = await start(sup, "echo done")
        await container.wait()
        async with container.attach() as console:
            assert await rest(console) == b"done\r\n"
            with pytest.raises(trio.BrokenResourceError):
                await console.send_all(b"x")
        [absent] = await sup.launch(ContainerSpec(command=("no-such-command",)))
        with pytest.raises(CommandNotFound):
            absent.attach()

    run(sup_root, body)


# -- sizes and viewers -----------------------------------------------------------------------------


def test_the_size_is_there_before_the_program_is(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        made = await sup.launch(ContainerSpec(command=("stty", "size")), 10, size=(33, 99))
        for container in made:
            assert await rest(container.attach()) == b"33 99\r\n"
        container = await start(sup, "exec sleep 1000")
        for _ in range(10):
            added = await container.exec(["stty", "size"], tty=True, size=(34, 98))
            assert await rest(added.attach()) == b"34 98\r\n"

    run(sup_root, body)


def test_the_newest_viewer_that_may_write_owns_the_size(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        container = await start(sup, SIZES)
        async with container.attach() as first:
            await until(first, b"ready\r\n")
            first.resize(30, 100)
            await until(first, b"30 100\r\n")
            async with container.attach(replay=False) as second:
                second.resize(40, 120)
                await until(first, b"40 120\r\n")
                first.resize(31, 101)  # is remembered, and has no effect now
                async with container.attach(replay=False, read_only=True) as third:
                    third.resize(50, 50)
                    second.resize(41, 121)
                    assert await until(first, b"41 121\r\n") == b"41 121\r\n"
            assert await until(first, b"31 101\r\n") == b"31 101\r\n"

    run(sup_root, body)


def test_redraw_signals_though_the_size_is_the_same(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        container = await start(sup, SIZES)
        async with container.attach() as console:
            await until(console, b"ready\r\n")
            console.resize(30, 100)
            await until(console, b"30 100\r\n")
            with trio.move_on_after(0.3) as quiet:
                console.resize(30, 100)  # of this the kernel tells nobody
                await console.receive_some()
            assert quiet.cancelled_caught
            await console.redraw()
            await until(console, b"30 100\r\n")

    run(sup_root, body)


def test_a_redraw_keeps_the_size_that_another_viewer_sets_meanwhile(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        container = await start(sup, SIZES)
        async with container.attach() as first, container.attach() as second:
            await until(first, b"ready\r\n")
            first.resize(30, 100)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.redraw)
                await trio.testing.wait_all_tasks_blocked()
                second.resize(40, 120)
            now = await container.exec(["sh", "-c", "stty size </dev/pts/0"])
            assert await rest(now.attach()) == b"40 120\n"

    run(sup_root, body)


def test_viewers_see_the_same_and_only_some_may_type(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        container = await start(sup, "stty -echo; echo ready; read x; echo got $x")
        async with container.attach() as one, container.attach(read_only=True) as other:
            assert container.inspect()["viewers"] == 2
            for stream in (one, other):
                await until(stream, b"ready\r\n")
            with pytest.raises(trio.ClosedResourceError):
                await other.send_all(b"no\r")
            with pytest.raises(trio.ClosedResourceError):
                await other.send_eof()
            await one.send_all(b"yes\r")
            assert [await rest(stream) for stream in (one, other)] == [b"got yes\r\n"] * 2
        assert container.inspect()["viewers"] == 0

    run(sup_root, body)


def test_a_viewer_that_falls_behind_is_told_and_slows_nobody(sup_root: str) -> None:
    total = 4 << 20

    async def body(sup: Supervisor) -> None:
        container = await start(sup, f"read x; head -c {total} /dev/zero", tty=False, stdin=True)
        with container.console.view() as slow, container.console.view() as quick:
            await container.console.write(b"go\n")
            seen = lost = 0
            while (chunk := await quick.receive()) is not None:
                seen, lost = seen + len(chunk.data), lost + chunk.lost
            assert (seen, lost) == (total, 0)
            assert await container.wait() == 0  # while the slow one has read nothing
            chunks = []
            while (chunk := await slow.receive()) is not None:
                chunks.append(chunk)
        ring = container.console.ring.size
        assert [chunk.lost for chunk in chunks] == [total - ring] + [0] * (len(chunks) - 1)
        assert sum(len(chunk.data) for chunk in chunks) == ring

    run(sup_root, body)


def test_a_lossless_viewer_holds_the_container_back(sup_root: str) -> None:
    total = 4 << 20

    async def body(sup: Supervisor) -> None:
        container = await start(sup, f"read x; head -c {total} /dev/zero", tty=False, stdin=True)
        async with container.attach() as console:
            await console.send_all(b"go\n")
            await eventually(lambda: container.console.bytes_out > 0)
            await trio.sleep(0.5)
            assert container.state is State.RUNNING
            assert container.console.bytes_out <= container.console.ring.size
            assert len(await rest(console)) == total

    run(sup_root, body)


def test_who_comes_late_sees_the_end_of_what_was_printed(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        # The terminal is asked where its cursor is: it must not answer again at every replay.
        container = await start(sup, r"seq 100000; printf 'a\033[6nb\n'; exec sleep 1000")
        await eventually(lambda: container.console.bytes_out == 688_895 + 8)
        async with container.attach() as console:
            replayed = await until(console, b"ab\r\n")
        lines = replayed.split()[:-1]
        assert lines == [b"%d" % n for n in range(100_001 - len(lines), 100_001)]
        assert 200_000 < len(replayed) <= container.console.ring.size

    run(sup_root, body)


# -- input -----------------------------------------------------------------------------------------


def test_a_container_that_does_not_read_blocks_nobody_else(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        deaf = await start(sup, "stty -echo; echo ready; exec sleep 1000")
        keen = await start(sup, "stty -echo; echo ready; while read x; do echo got $x; done")
        async with deaf.attach() as to_deaf, keen.attach() as to_keen, trio.open_nursery() as nursery:
            for stream in (to_deaf, to_keen):
                await until(stream, b"ready\r\n")
            nursery.start_soon(to_deaf.send_all, b"x\n" * 500_000)
            await eventually(lambda: deaf.console.bytes_in > 0)
            for number in range(20):
                await to_keen.send_all(b"%d\r" % number)
                await until(to_keen, b"got %d\r\n" % number)
            assert 0 < deaf.console.bytes_in < 1_000_000
            nursery.cancel_scope.cancel()
        # The one that was cancelled is in nobody's way: the next one waits for room, and its end.
        async with deaf.attach() as console, trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken, console)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert deaf.state is State.RUNNING
            deaf.kill()

    run(sup_root, body)


async def expect_broken(console: ConsoleStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await console.send_all(b"x\n" * 50_000)


def test_what_is_typed_in_bulk_arrives_whole(sup_root: str) -> None:
    data = os.urandom(1 << 20)

    async def body(sup: Supervisor) -> None:
        container = await start(sup, f"stty raw -echo; echo ready; head -c {len(data)} | sha256sum")
        async with container.attach() as console:
            await until(console, b"ready\n")
            await console.send_all(data)
            assert (await rest(console)).split()[0].decode() == hashlib.sha256(data).hexdigest()
        assert container.console.bytes_in == len(data)

    run(sup_root, body)


# -- output ----------------------------------------------------------------------------------------


def test_a_terminal_that_nobody_has_open_may_be_opened_again(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        away = "exec 0<&- 1>&- 2>&-; sleep 1; exec 0</dev/pts/0 1>/dev/pts/0 2>&1"
        container = await start(sup, f"echo before; {away}; echo back; read x; echo got $x")
        async with container.attach() as console:
            await until(console, b"before\r\n")
            wakeups, started = sup.hub.wakeups, trio.current_time()
            await until(console, b"back\r\n")
            assert trio.current_time() - started > 0.5
            assert sup.hub.wakeups - wakeups < 20  # a hang-up is reported for ever: no spinning
            await console.send_all(b"it\r")
            assert await rest(console) == b"it\r\ngot it\r\n"
        assert await container.wait() == 0

    run(sup_root, body)


def test_the_last_byte_comes_before_the_exit(sup_root: str) -> None:
    printed = b"".join(b"%d\r\n" % number for number in range(1, 5001)) + b"last"

    async def body(sup: Supervisor) -> None:
        spec = ContainerSpec(command=("sh", "-c", "seq 5000; printf last; exit 3"))
        events = sup.events.subscribe()
        containers = await sup.launch(spec, 20)
        ended = 0
        async for event in events:
            if event["type"] == "exited":
                log = sup.containers[event["name"]].log_directory
                assert b"".join(record.data for record in read_log(log)) == printed
                ended += 1
            if ended == len(containers):
                break
        for container in containers:
            assert await container.wait() == 3
            assert await rest(container.attach()) == printed

    run(sup_root, body)


def test_pipes_keep_output_and_errors_apart(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        script = "for i in 1 2 3; do echo out $i; sleep 0.2; echo err $i >&2; sleep 0.2; done"
        container = await start(sup, script, tty=False)
        kinds = []
        with container.console.view() as viewer:
            while (chunk := await viewer.receive()) is not None:
                kinds.append((chunk.kind, chunk.data))
        expected = [(kind, f"{kind} {i}\n".encode()) for i in (1, 2, 3) for kind in ("out", "err")]
        assert kinds == expected
        assert [(r.kind, r.data) async for r in container.logs()] == expected

    run(sup_root, body)


def test_consoles_do_not_mix(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        script = "name=$(hostname); for i in $(seq 2000); do echo $name $i; done"
        containers = await sup.launch(ContainerSpec(command=("sh", "-c", script)), 8, name="mix")
        for container in containers:
            await container.wait()
            log = b"".join([record.data async for record in container.logs()])
            own = container.name.encode()
            assert log == b"".join(b"%s %d\r\n" % (own, n) for n in range(1, 2001))

    run(sup_root, body)


# -- the log ---------------------------------------------------------------------------------------


def test_every_byte_is_logged_with_nobody_there(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        script = "stty raw; head -c 5000000 /dev/urandom >/tmp/x; cat /tmp/x; sha256sum </tmp/x"
        container = await start(sup, script)
        await container.wait()
        raw = Path(container.log_directory, "console.log").read_bytes()
        assert raw[5_000_000:].split()[0].decode() == hashlib.sha256(raw[:5_000_000]).hexdigest()
        assert container.console.bytes_logged == len(raw)

    run(sup_root, body)


def test_the_log_knows_times_and_sizes(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        began = time.time_ns()
        spec = ContainerSpec(command=("sh", "-c", "echo one; read x; echo two"))
        [container] = await sup.launch(spec, size=(30, 100))
        async with container.attach() as console:
            await until(console, b"one\r\n")
            middle = time.time()
            console.resize(40, 120)
            await console.send_all(b"\r")
            await rest(console)
        await container.wait()
        records = [record async for record in container.logs()]
        texts = [record for record in records if record.data]
        times = [began, *(record.time_ns for record in texts), time.time_ns()]
        assert times == sorted(times)
        sizes = [(r.offset, divmod(r.value, 1 << 16)) for r in records if r.kind == "resize"]
        assert sizes == [(0, (30, 100)), (5, (40, 120))]
        late = b"".join([record.data async for record in container.logs(since=middle)])
        assert late == b"\r\ntwo\r\n"
        last = b"".join([record.data async for record in container.logs(tail=1)])
        assert last == b"two\r\n"

    run(sup_root, body)


def test_logs_follow_to_the_end(sup_root: str) -> None:
    expected = b"".join(b"%d\r\n" % number for number in range(1, 20_001))

    async def body(sup: Supervisor) -> None:
        container = await start(sup, "seq 10000; sleep 0.3; seq 10001 20000; exit 4")
        seen: list[bytes] = []

        async def follow() -> None:
            async with container.logs(follow=True) as log:
                seen.append(b"".join([record.data async for record in log]))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(follow)
        assert seen == [expected] * 3
        assert await container.wait() == 4

    run(sup_root, body)


def test_rotation_keeps_two_generations_of_a_terminal(tmp_path: Path) -> None:
    directory, text = str(tmp_path / "c"), b"".join(b"%07d\r\n" % n for n in range(30_000))

    async def main() -> None:
        hub = ConsoleHub()
        console = Console(hub, ConsoleLog(directory, rotate_at=50_000))
        master, slave = os.openpty()
        tty.setraw(slave)
        console.connect_tty(master)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(slave) as program:
                nursery.start_soon(hub.run)
                await program.send_all(text)
                await eventually(lambda: console.bytes_out == len(text))
                nursery.cancel_scope.cancel()
        console.finish()
        hub.close()

    trio.run(main)
    records = list(read_log(directory))
    kept = b"".join(record.data for record in records)
    assert kept == text[records[0].offset :]
    assert 50_000 <= len(kept) < 50_000 + 50_000 + 256 * 1024
    names = [f"console.{name}" for name in ("log", "log.1", "timing", "timing.1")]
    assert set(os.listdir(directory)) <= set(names)
    assert {"console.log.1", "console.timing.1"} <= set(os.listdir(directory))


# -- the whole -------------------------------------------------------------------------------------


def test_a_cancelled_program_ends_its_containers_at_once(sup_root: str) -> None:
    ended: list[Container] = []
    cancelled = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with open_supervisor(sup_root) as sup:
                ended.append(await start(sup, "trap '' TERM HUP; while :; do sleep 1; done"))
                added = await ended[0].exec(["sleep", "1000"], tty=True)
                cancelled.append(trio.current_time())
                scope.cancel()
                await added.wait()
        assert scope.cancelled_caught
        assert trio.current_time() - cancelled[0] < 5

    trio.run(main)
    assert [container.status for container in ended] == [137]


def test_an_error_comes_out_as_itself(sup_root: str) -> None:
    async def main() -> None:
        async with open_supervisor(sup_root):
            raise KeyError("mine") from ValueError("why")

    with pytest.raises(KeyError) as caught:
        trio.run(main)
    assert isinstance(caught.value.__cause__, ValueError)
