"""Figures beside their goals: as a table, and as JSON with the machine that they were taken on."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import attrs
import trio

_COLUMNS = ("measure", "figure", "compared with", "goal", "")


@attrs.frozen
class Figure:
    """One result: the median of `samples`; `goal` is a bound from above, or from below if `least`.

    `beside` is what it was compared with, in words; `note` why there are no samples."""

    name: str
    unit: str
    samples: Sequence[float] = ()
    goal: float | None = None
    least: bool = False
    beside: str = ""
    note: str = ""

    @property
    def value(self) -> float | None:
        return median(self.samples) if self.samples else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none, or nothing was measured."""
        if self.value is None or self.goal is None:
            return None
        return self.value >= self.goal if self.least else self.value <= self.goal

    def row(self) -> tuple[str, ...]:
        shown = self.note or f"{_number(self.value)} {self.unit}".rstrip()
        goal = ""
        if self.goal is not None:
            goal = f"{'≥' if self.least else '≤'} {_number(self.goal)} {self.unit}".rstrip()
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return (self.name, shown, self.beside, goal, verdict)

    def to_json(self) -> dict[str, Any]:
        return {**attrs.asdict(self), "value": self.value, "met": self.met}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def table(figures: Sequence[Figure]) -> str:
    """The figures as text, in columns."""
    rows = [_COLUMNS, *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "machine": os.uname().machine,
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "load": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "trio": trio.__version__,
        "uid": os.geteuid(),
    }


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"


def say(text: str) -> None:
    """Progress, which is no part of the output."""
    print(text, file=sys.stderr, flush=True)
