"""Bytes from a container to its log, with nobody attached: by its terminal, and by its pipes."""

from __future__ import annotations

import os
import subprocess
import time
import tty
from statistics import median

from benchmarks.report import Figure
from supervisor import ContainerSpec, Supervisor, open_supervisor


async def measure(*, quick: bool) -> list[Figure]:
    """MB (10^6 bytes) per second, from the launch to the published exit; every byte is in the log."""
    size = (16 if quick else 256) << 20
    terminal, pipes, blocking = [], [], []
    async with open_supervisor() as sup:
        for _ in range(1 if quick else 5):
            blocking.append(_blocking(size))
            terminal.append(await _logged(sup, size, tty=True))
            pipes.append(await _logged(sup, size, tty=False))
    base = f"blocking reader, no log: {median(blocking):.0f} MB/s"
    return [
        Figure("console to log, terminal", "MB/s", terminal, goal=80, least=True, beside=base),
        Figure("console to log, pipes", "MB/s", pipes, goal=80, least=True),
    ]


async def _logged(sup: Supervisor, size: int, *, tty: bool) -> float:
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


def _blocking(size: int) -> float:
    """What the kernel's terminals carry to a reader that does nothing else, and keeps nothing."""
    master, slave = os.openpty()
    tty.setraw(slave)
    buffer = memoryview(bytearray(1 << 18))
    began = time.perf_counter()
    with subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=slave):
        left = size
        while left:
            left -= os.readv(master, (buffer,))
    took = time.perf_counter() - began
    os.close(slave)
    os.close(master)
    return size / took / 1e6
