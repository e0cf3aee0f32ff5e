"""A console's log as a channel: all of it, once, whatever is written and rotated meanwhile."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from supervisor.console import Console, ConsoleHub, ConsoleLog, LogRecord, LogStream


class Printing:
    """A console without a terminal, and its log."""

    def __init__(self, directory: str, rotate_at: int = 0) -> None:
        self.hub = ConsoleHub()
        self.directory = directory
        self.log = ConsoleLog(directory, rotate_at=rotate_at)
        self.console = Console(self.hub, self.log)

    def prints(self, *texts: bytes) -> None:
        for text in texts:
            self.log.append("out", [text])
        self.console.wake()

    def stream(self, **options: object) -> LogStream:
        return LogStream(self.console, self.directory, **options)  # type: ignore[arg-type]

    def end(self) -> None:
        self.console.finish()
        self.hub.close()


@pytest.fixture
def printing(tmp_path_factory: pytest.TempPathFactory) -> Printing:
    return Printing(str(tmp_path_factory.mktemp("log") / "c"))


def brief(records: list[LogRecord]) -> list[tuple[str, bytes | int]]:
    return [(record.kind, record.data or record.value) for record in records]


async def taken(stream: LogStream) -> list[LogRecord]:
    return [record async for record in stream]


def test_without_follow_it_ends_where_the_log_ends(printing: Printing) -> None:
    async def main() -> None:
        assert await taken(printing.stream()) == []
        printing.prints(b"one\n", b"two\n")
        assert brief(await taken(printing.stream())) == [("out", b"one\n"), ("out", b"two\n")]
        assert brief(await taken(printing.stream(tail=1))) == [("out", b"two\n")]
        printing.end()

    trio.run(main)


def test_following_gets_everything_once(printing: Printing) -> None:
    async def main() -> None:
        seen: list[LogRecord] = []
        printing.prints(b"early\n")

        async def follow() -> None:
            seen.extend(await taken(printing.stream(follow=True)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for text in (b"a\n", b"b\n"):
                await trio.testing.wait_all_tasks_blocked()
                printing.prints(text, text)
                printing.log.resize(30, 100)
            await trio.testing.wait_all_tasks_blocked()
            printing.prints(b"last\n")
            printing.end()
        size = ("resize", 30 << 16 | 100)
        a, b = ("out", b"a\n"), ("out", b"b\n")
        assert brief(seen) == [("out", b"early\n"), a, a, size, b, b, size, ("out", b"last\n")]

    trio.run(main)


def test_what_was_rotated_away_is_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    printing = Printing(str(tmp_path_factory.mktemp("log") / "c"), rotate_at=10)

    async def main() -> None:
        stream = printing.stream(follow=True)
        printing.prints(b"0123456789")
        assert (await stream.receive()).data == b"0123456789"
        printing.prints(*(b"%010d" % number for number in range(5)))
        printing.end()
        kinds = brief(await taken(stream))
        kept = [text for kind, text in kinds if kind == "out"]
        assert kinds[0] == ("lost", 10 * (5 - len(kept)))
        assert kept == [b"%010d" % number for number in range(5)][-len(kept) :]
        assert 1 <= len(kept) < 5

    trio.run(main)


def test_since_a_time(printing: Printing) -> None:
    async def main() -> None:
        printing.prints(b"old\n")
        [old] = await taken(printing.stream())
        late = (old.time_ns + 1_000) / 1e9
        while True:
            printing.prints(b"new\n")
            records = await taken(printing.stream(since=late))
            if records:
                break
        assert {record.data for record in records} == {b"new\n"}
        printing.end()

    trio.run(main)


def test_closing_wakes_who_waits(printing: Printing) -> None:
    async def main() -> None:
        stream = printing.stream(follow=True)

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive()
        printing.end()

    trio.run(main)
