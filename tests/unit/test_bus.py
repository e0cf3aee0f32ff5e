"""The event bus: order, gaps, ends."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing

from supervisor.bus import Bus, Event, EventStream


async def taken(stream: EventStream) -> list[tuple[int, str]]:
    return [(event["seq"], event["type"]) async for event in stream]


def test_events_are_numbered_and_carry_their_fields() -> None:
    async def main() -> list[Event]:
        bus = Bus()
        bus.publish("created", name="a")
        bus.publish("exited", name="a", status=3)
        assert bus.last == 2
        return [event async for event in bus.subscribe(0, follow=False)]

    first, second = trio.run(main)
    assert (first["seq"], first["type"], first["name"]) == (1, "created", "a")
    assert (second["seq"], second["type"], second["status"]) == (2, "exited", 3)
    assert first["time"] <= second["time"]


@pytest.mark.parametrize(
    ("since", "expected"), [(0, [1, 2, 3]), (2, [3]), (3, []), (9, []), (None, [])]
)
def test_since_a_number(since: int | None, expected: list[int]) -> None:
    bus = Bus()
    for _ in range(3):
        bus.publish("x")
    assert [seq for seq, _ in trio.run(taken, bus.subscribe(since, follow=False))] == expected


def test_a_subscription_counts_from_when_it_was_made() -> None:
    async def main() -> list[tuple[int, str]]:
        bus = Bus()
        bus.publish("before")
        stream = bus.subscribe(follow=False)
        bus.publish("after")
        return await taken(stream)

    assert trio.run(main) == [(2, "after")]


def test_a_slow_listener_misses_the_oldest_and_can_tell() -> None:
    bus = Bus(kept=3)
    for number in range(10):
        bus.publish(f"e{number}")
    assert trio.run(taken, bus.subscribe(4, follow=False)) == [(8, "e7"), (9, "e8"), (10, "e9")]


def test_followers_all_hear_and_closing_wakes_who_waits() -> None:
    heard: list[list[int]] = [[], []]

    async def listen(stream: EventStream, numbers: list[int]) -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            while True:
                numbers.append((await stream.receive())["seq"])
        numbers.append(0)

    async def main() -> None:
        bus = Bus()
        streams = [bus.subscribe(), bus.subscribe()]
        async with trio.open_nursery() as nursery:
            for stream, numbers in zip(streams, heard, strict=True):
                nursery.start_soon(listen, stream, numbers)
            for _ in range(3):
                await trio.testing.wait_all_tasks_blocked()
                bus.publish("x")
                bus.publish("y")
            await trio.testing.wait_all_tasks_blocked()
            for stream in streams:
                await stream.aclose()

    trio.run(main)
    assert heard == [[1, 2, 3, 4, 5, 6, 0]] * 2
