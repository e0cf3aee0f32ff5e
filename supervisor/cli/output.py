"""What commands print: rows, JSON lines, complaints, output under its container's name."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from ..errors import SupError
from ..text import escape

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


def print_json(value: object) -> None:
    """One object on one line. ASCII, so that nothing in it acts on a terminal."""
    print(json.dumps(value, separators=(",", ":")), flush=True)


def complain(message: str) -> None:
    """A line on stderr, escaped."""
    sys.stdout.flush()
    print(f"sup: {escape(message)}", file=sys.stderr)


def report_each(reply: Mapping[str, object], *, quiet: bool = False) -> int:
    """Names that a command was done to, and why it failed on others; the exit status."""
    if not quiet:
        for name in texts(reply.get("names")):
            print(escape(name))
    errors = reply.get("errors")
    status = 0
    for entry in errors if isinstance(errors, list) else ():
        error = wire_error(entry)
        complain(f"{entry.get('name')}: {error}")
        status = error.exit_code
    return status


def report_statuses(statuses: Mapping[str, int]) -> int:
    """Say which of several ended badly; the highest exit status."""
    failed = {name: status for name, status in statuses.items() if status}
    if failed:
        shown = ", ".join(f"{name} {status}" for name, status in list(failed.items())[:8])
        more = ", ..." if len(failed) > 8 else ""
        complain(f"{len(failed)} of {len(statuses)} ended with another status than 0: {shown}{more}")
    return max(failed.values(), default=0)


def wire_error(entry: Mapping[str, object]) -> SupError:
    """The error in `{"error": NAME, "parameters": {...}}`."""
    parameters = entry.get("parameters")
    return SupError.from_wire(
        str(entry.get("error")), parameters if isinstance(parameters, dict) else {}
    )


def texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def tables(value: object) -> list[dict[str, object]]:
    """The objects in a list that came over the wire."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def command_line(words: Sequence[str], most: int = 40) -> str:
    """A command as `ps` shows it."""
    shown = escape(" ".join(words)) if words else "(login shell)"
    return shown if len(shown) <= most else shown[: most - 1] + "…"


class Prefixed:
    """Merges the output of several containers by lines, each under its name.

    `feed` takes bytes as they come; a line is written when it is whole."""

    def __init__(self, names: Iterable[str], *, alone: bool = False) -> None:
        self._pending: dict[tuple[str, str], bytearray] = {}
        self._names: list[str] = []
        self._width = max((len(name) for name in names), default=0)
        self._alone = alone
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def feed(self, name: str, data: bytes, stamp: str = "", stream: str = "out") -> None:
        pending = self._pending.setdefault((name, stream), bytearray())
        pending += data
        *lines, rest = pending.split(b"\n")
        self._write(name, lines, stamp)
        self._pending[name, stream] = rest

    def finish(self, name: str, stamp: str = "") -> None:
        """The container's output has ended: so has its last line."""
        for key in [key for key in self._pending if key[0] == name]:
            if rest := self._pending.pop(key):
                self._write(name, [rest], stamp)

    def finish_all(self, stamp: str = "") -> None:
        for name in {name for name, _ in self._pending}:
            self.finish(name, stamp)

    def _write(self, name: str, lines: Sequence[bytes | bytearray], stamp: str) -> None:
        head = self._head(name, stamp)
        out = b"".join(head + line.removesuffix(b"\r") + b"\n" for line in lines)
        write_all(1, out)

    def _head(self, name: str, stamp: str) -> bytes:
        time = f"{stamp} " if stamp else ""
        if self._alone:
            return time.encode()
        if name not in self._names:
            self._names.append(name)
            self._width = max(self._width, len(name))
        shown = f"{escape(name):<{self._width}} |"
        if self._colour:
            colour = _COLOURS[self._names.index(name) % len(_COLOURS)]
            shown = f"\x1b[{colour}m{shown}\x1b[0m"
        return f"{shown} {time}".encode()


def write_all(fd: int, data: bytes) -> None:
    """Write bytes past Python's buffers. Raises BrokenPipeError."""
    (sys.stdout if fd == 1 else sys.stderr).flush()
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
