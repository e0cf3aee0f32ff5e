"""Print what containers have printed; several are merged in the order of time, under their names."""

from __future__ import annotations

import binascii
import sys
from argparse import ArgumentParser, Namespace

from ..client import Client
from ..errors import SpecError
from ..paths import Paths
from . import output, when

HELP = "print what containers have printed"


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="containers, or patterns")
    add("-f", "--follow", action="store_true", help="go on as they print more")
    add("--tail", metavar="N", help="only the last N lines; or all")
    add("--since", metavar="TIME", help="only what is newer: 5m (ago), or a time")
    add("-t", "--timestamps", action="store_true", help="the time before each line")
    add("--raw", action="store_true", help="the bytes as they were, for a terminal")


def run(args: Namespace, paths: Paths) -> int:
    parameters: dict[str, object] = {
        "names": args.names,
        "follow": args.follow,
        "tail": _lines(args.tail),
        "since": when.parse(args.since) if args.since is not None else None,
    }
    with Client(paths) as client:
        names = _names(client, args.names)
        printer = _printer(args, names)
        for record in client.stream("sup.Logs", **parameters):
            if "data" in record:
                printer.take(record)
            elif "lost" in record:
                output.complain(f"{record['name']}: {record['lost']} bytes of output were lost")
        printer.finish()
    return 0


def _lines(text: str | None) -> int | None:
    if text is None or text == "all":
        return None
    if text.isascii() and text.isdigit() and len(text) <= 12:
        return int(text)
    raise SpecError("tail", text, "give a number of lines, or all")


def _names(client: Client, wanted: list[str]) -> list[str]:
    found = output.tables(client.call("sup.Inspect", names=wanted).get("containers"))
    return [str(each["name"]) for each in found]


class _Plain:
    """One container's bytes; without `raw` a line ends with \\n alone."""

    def __init__(self, raw: bool) -> None:
        self._raw = raw
        self._held = {1: b"", 2: b""}

    def take(self, record: dict[str, object]) -> None:
        fd = 2 if record["stream"] == "err" else 1
        data = self._held[fd] + binascii.a2b_base64(str(record["data"]))
        self._held[fd] = b""
        if not self._raw:
            if data.endswith(b"\r"):  # its \n may be on the way
                data, self._held[fd] = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n")
        output.write_all(fd, data)

    def finish(self) -> None:
        for fd, data in self._held.items():
            output.write_all(fd, data)


class _Lines:
    """Lines of several containers, or with their times."""

    def __init__(self, names: list[str], stamps: bool) -> None:
        self._merged = output.Prefixed(names, alone=len(names) == 1)
        self._stamps = stamps
        self._last = ""

    def take(self, record: dict[str, object]) -> None:
        if self._stamps and isinstance(moment := record["time_ns"], int):
            self._last = when.stamp(moment)
        data = binascii.a2b_base64(str(record["data"]))
        self._merged.feed(str(record["name"]), data, self._last, str(record["stream"]))

    def finish(self) -> None:
        self._merged.finish_all(self._last)


def _printer(args: Namespace, names: list[str]) -> _Plain | _Lines:
    sys.stdout.flush()
    if len(names) > 1 or args.timestamps:
        if args.raw:
            raise SpecError("raw", "", "it is for one container, without --timestamps")
        return _Lines(names, args.timestamps)
    return _Plain(args.raw)
