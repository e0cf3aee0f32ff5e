"""Bytes from a container to its log, with nobody attached: by its terminal, and by its pipes."""

from __future__ import annotations

import time

from benchmarks.report import Figure
from supervisor import ContainerSpec, Supervisor, open_supervisor


async def measure(*, quick: bool) -> list[Figure]:
    """MB (10^6 bytes) per second, from the launch to the published exit; every byte is in the log."""
    megabytes = 16 if quick else 512
    rates: dict[bool, list[float]] = {True: [], False: []}
    async with open_supervisor() as sup:
        for _ in range(1 if quick else 3):
            for tty in (True, False):
                rates[tty].append(await _rate(sup, megabytes << 20, tty=tty))
    return [
        Figure("console to log, terminal", "MB/s", rates[True], goal=80, least=True),
        Figure("console to log, pipes", "MB/s", rates[False], goal=80, least=True),
    ]


async def _rate(sup: Supervisor, size: int, *, tty: bool) -> float:
    # Raw, as a line discipline that turns newlines into two bytes would only blur the count.
    script = f"{'stty raw; ' if tty else ''}exec head -c {size} /dev/zero"
    spec = ContainerSpec(command=("sh", "-c", script), tty=tty)
    began = time.perf_counter()
    [container] = await sup.launch(spec)
    if container.error is not None:
        raise container.error
    await container.wait()
    took = time.perf_counter() - began
    logged = container.console.bytes_logged
    if logged != size:
        raise RuntimeError(f"{logged} bytes of {size} are in the log")
    await container.remove()
    return size / took / 1e6
