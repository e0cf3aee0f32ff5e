"""The command line as a user meets it: `up -n 10` cold and warm, `ps`, each a process of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.report import Figure

_FLEET = ("up", "-n", "10", "--", "sleep", "1000")


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds from fork to exit of the whole command."""
    cold = [_cold() for _ in range(2 if quick else 5)]
    warm, ps, python = [], [], []
    with root() as place:
        sup(place, *_FLEET)
        sup(place, "down")
        for _ in range(3 if quick else 20):
            warm.append(_timed(*_argv(place, *_FLEET)))
            python.append(_timed(sys.executable, "-c", "pass"))
            ps.append(_timed(*_argv(place, "ps")))
            sup(place, "down")
    base = f"python -c pass {sorted(python)[len(python) // 2]:.0f} ms"
    return [
        Figure("sup up -n 10, warm", "ms", warm, goal=80, beside=base),
        Figure("sup up -n 10, cold", "ms", cold, goal=400, beside=base),
        Figure("sup ps", "ms", ps, goal=35, beside=base),
    ]


def _cold() -> float:
    with root() as place:
        return _timed(*_argv(place, *_FLEET))


@contextlib.contextmanager
def root() -> Iterator[str]:
    """A --root of its own; what was started below it is shut down."""
    place = tempfile.mkdtemp(prefix="sup-bench-")
    try:
        yield place
    finally:
        sup(place, "shutdown")
        shutil.rmtree(place, ignore_errors=True)


def sup(place: str, *words: str) -> str:
    """Run a command to its end; returns its output."""
    done = subprocess.run(
        _argv(place, *words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def _argv(place: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "supervisor", "--root", place, *words]


def _timed(*argv: str) -> float:
    began = time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1000
