"""Launching through the Python API beside the C floor, in turns: one, a fleet, a large fleet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from statistics import median

from benchmarks.floor import Floor, Unavailable, open_floor
from benchmarks.report import Figure, say
from supervisor import ContainerSpec, Supervisor, open_supervisor
from supervisor.plan import compile

SPEC = ContainerSpec(command=("sleep", "1000"))
_EMPTY: dict[str, list[float]] = {}


async def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds per container. Each round measures floor and sup one after the other."""
    rounds, singles, fleet, large = (2, 3, 10, 30) if quick else (5, 10, 100, 1000)
    times: dict[str, list[float]] = {}
    async with open_supervisor() as sup:
        await _launch(sup, None)  # what is imported and allocated once
        with _floor(sup, times) as floor:
            for _ in range(rounds):
                for _ in range(singles):
                    await _both(sup, floor, None, times)
                await _both(sup, floor, fleet, times)
        for number in range(2 if quick else 3):
            say(f"fleet of {large}: {number + 1}")
            times.setdefault("beside", []).append(await _launch(sup, fleet))
            times.setdefault("large", []).append(await _launch(sup, large))
    return _figures(times, fleet, large)


@contextlib.contextmanager
def _floor(sup: Supervisor, times: dict[str, list[float]]) -> Iterator[Floor | None]:
    with contextlib.ExitStack() as stack:
        try:
            floor = stack.enter_context(open_floor(compile(SPEC, sup.host)))
            floor.launch(1)
        except Unavailable as why:
            say(f"without the C floor: {why}")
            floor = None
        yield floor


async def _both(
    sup: Supervisor, floor: Floor | None, n: int | None, times: dict[str, list[float]]
) -> None:
    kind = "one" if n is None else "fleet"
    if floor is not None:
        times.setdefault(f"floor {kind}", []).append(floor.launch(n or 1) * 1000 / (n or 1))
    times.setdefault(kind, []).append(await _launch(sup, n))


async def _launch(sup: Supervisor, n: int | None) -> float:
    """Milliseconds per container from the call to the last execve; then all of it is ended."""
    began = time.perf_counter()
    containers = await sup.launch(SPEC, n, name="bench")
    took = time.perf_counter() - began
    for container in containers:
        if container.error is not None:
            raise container.error
    await sup.down(containers)
    return took * 1000 / (n or 1)


def _figures(times: dict[str, list[float]], fleet: int, large: int) -> list[Figure]:
    each = f"fleet of {fleet}, each"
    return [
        Figure("one container", "ms", times["one"]),
        _ratio("one container / C floor", times, "one", 1.8),
        Figure(each, "ms", times["fleet"]),
        _ratio(f"{each} / C floor", times, "fleet", 1.5),
        Figure(f"fleet of {large}, each", "ms", times["large"]),
        Figure(
            f"fleet of {large} / fleet of {fleet}",
            "x",
            [median(times["large"]) / median(times["beside"])],
            goal=1.5,
        ),
    ]


def _ratio(name: str, times: dict[str, list[float]], kind: str, goal: float) -> Figure:
    floor = times.get(f"floor {kind}")
    if not floor:
        return Figure(name, "x", goal=goal, note="no floor")
    base = median(floor)
    return Figure(name, "x", [median(times[kind]) / base], goal=goal, beside=f"floor {base:.2f} ms")
