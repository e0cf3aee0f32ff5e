"""The floor: `floor.c` compiled into a directory that goes away, fed with a plan that sup compiled."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from supervisor.plan import Plan

_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "floor.c")
_VALUES = {
    "hostname": "floor",
    "hostname_file": "floor\n",
    "hosts_file": "127.0.0.1\tlocalhost floor\n::1\tlocalhost ip6-localhost\n",
}
_ESCAPED = {ord(character): f"%{ord(character):02x}" for character in "%\t\n"}


class Unavailable(Exception):
    """There is no floor on this host; says why."""


class Floor:
    """A running floor program: `launch(n)` starts n containers, ends them, returns the seconds."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def launch(self, n: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{n}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise Unavailable("it failed: " + self._complaint())
        return int(answer) / 1e9

    def _complaint(self) -> str:
        _, errors = self._process.communicate(timeout=30)
        return errors.strip() or f"status {self._process.returncode}"


@contextlib.contextmanager
def open_floor(plan: Plan) -> Iterator[Floor]:
    """The floor of one plan. Raises Unavailable where it cannot be built."""
    if plan.awaits_ids:
        raise Unavailable("it does not map ranges of ids, which sup does for an ordinary user")
    compiler = shutil.which("gcc")
    if compiler is None:
        raise Unavailable("there is no gcc")
    with tempfile.TemporaryDirectory(prefix="sup-floor-") as directory:
        program, steps = os.path.join(directory, "floor"), os.path.join(directory, "plan")
        build = [compiler, "-O2", "-static", "-o", program, _SOURCE]
        built = subprocess.run(build, capture_output=True, text=True, check=False)
        if built.returncode:
            raise Unavailable(f"gcc failed: {built.stderr.strip()[:500]}")
        with open(steps, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(encode(plan))
        process = subprocess.Popen(
            [program, steps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            yield Floor(process)
            assert process.stdin is not None
            process.stdin.close()


def encode(plan: Plan) -> str:
    """The plan as floor.c reads it."""
    request = plan.request()
    env = [f"{name}={value}" for name, value in request["env"]]
    lines = [
        ["flags", request["flags"]],
        ["ptmx", request["ptmx"]],
        ["argv", *request["argv"]],
        ["env", *env],
        ["own"],
        *request["own"],
        ["workload"],
        *request["workload"],
        ["end"],
    ]
    return "".join("\t".join(map(_field, line)) + "\n" for line in lines)


def _field(part: Any) -> str:
    text = _VALUES[part["$"]] if isinstance(part, dict) else str(part)
    return text.translate(_ESCAPED)
