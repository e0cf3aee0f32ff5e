"""What a container costs that does nothing: the memory of all that it needs, and wake-ups."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

from benchmarks.command import root, sup
from benchmarks.report import Figure

_SLEEP = ("--", "sleep", "1000")


def measure(*, quick: bool) -> list[Figure]:
    """MB for each idle container; how often shim and supervisor wake up while all are idle."""
    n, watched, seconds = (10, 10, 1) if quick else (200, 50, 10)
    with root() as place:
        sup(place, "up", "-n", str(n), *_SLEEP)  # what is allocated only once
        sup(place, "down")
        memory = _memory(place, n)
        wakeups = _wakeups(place, watched, seconds)
    return [
        Figure(f"idle container, of {n}", "MB", [memory], goal=1),
        Figure(f"wake-ups in {seconds} s with {watched} idle", "", [wakeups], goal=0),
    ]


def _servers(place: str) -> list[int]:
    about = json.loads(sup(place, "info", "--json"))
    return [about["shim_pid"], about["supervisor_pid"]]


def _memory(place: str, n: int) -> float:
    servers = _servers(place)
    before = sum(map(_held, servers))
    sup(place, "up", "-n", str(n), *_SLEEP)
    time.sleep(1)
    inits = [json.loads(line)["pid"] for line in sup(place, "ps", "--json").splitlines()]
    after = sum(map(_held, [*servers, *(pid for init in inits for pid in _tree(init))]))
    sup(place, "down")
    return (after - before) * 1024 / n / 1e6


def _held(pid: int) -> int:
    """kB: a process's share of memory, and its page tables."""
    return _number(pid, "smaps_rollup", "Pss") + _number(pid, "status", "VmPTE")


def _number(pid: int, file: str, name: str) -> int:
    with open(f"/proc/{pid}/{file}", encoding="ascii", errors="replace") as lines:
        found = re.search(rf"^{name}:\s+(\d+)", lines.read(), re.MULTILINE)
    return int(found[1]) if found else 0


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        for child in file.read().split():
            yield from _tree(int(child))


def _wakeups(place: str, n: int, seconds: int) -> int:
    sup(place, "up", "-n", str(n), *_SLEEP)
    servers = _servers(place)
    time.sleep(1)
    before = sum(_number(pid, "status", "voluntary_ctxt_switches") for pid in servers)
    time.sleep(seconds)
    return sum(_number(pid, "status", "voluntary_ctxt_switches") for pid in servers) - before
