"""A console recorder: writes asciicast v2, which `asciinema play` and web players understand.

    python examples/record.py demo.cast -- sh -c 'ls --color /; sleep 1; date'
    python examples/record.py old.cast --log DIRECTORY

The first launches a container and records its console until it ends; its exit status is the
recorder's. The second makes a recording of a log that is there already: `sup inspect NAME` names
the directory.

Shows: following a console's log live, reading one from disk, records with times and sizes.
"""

from __future__ import annotations

import argparse
import codecs
import json
import sys
from typing import TextIO

import trio

from supervisor import ContainerSpec, LogRecord, open_supervisor, read_log

ROWS, COLUMNS = 24, 80


class Cast:
    """An asciicast v2 file: a header, then one [seconds, kind, text] a line."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.started: int | None = None
        # A character may be cut between two records.
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def add(self, record: LogRecord) -> None:
        """Write what a record of a console's log says."""
        rows, columns = divmod(record.value, 1 << 16) if record.kind == "resize" else (ROWS, COLUMNS)
        if self.started is None:
            self.started = record.time_ns
            header = {"version": 2, "width": columns, "height": rows}
            header["timestamp"] = record.time_ns // 1_000_000_000
            self.write(header)
        elif record.kind == "resize":
            self.event(record, "r", f"{columns}x{rows}")
        if record.kind == "lost":
            self.event(record, "m", f"{record.value} bytes lost")
        if text := self.decode(record.data):
            self.event(record, "o", text)

    def event(self, record: LogRecord, kind: str, text: str) -> None:
        seconds = max(0, record.time_ns - (self.started or 0)) / 1e9
        self.write([round(seconds, 6), kind, text])

    def write(self, value: object) -> None:
        print(json.dumps(value), file=self.file, flush=True)


async def record(cast: Cast, command: list[str]) -> int:
    """Run a command in a container, and record its console until it ends."""
    async with open_supervisor() as sup:
        [container] = await sup.launch(ContainerSpec(command=command), size=(ROWS, COLUMNS))
        async with container.logs(follow=True) as log:
            async for entry in log:
                cast.add(entry)
        if container.error is not None:
            print(f"record.py: {container.error}", file=sys.stderr)
        return await container.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="Record a console as asciicast v2.")
    parser.add_argument("file", help="the recording to write")
    parser.add_argument("--log", metavar="DIRECTORY", help="a container's log, instead of a command")
    parser.add_argument("command", nargs="*", help="what to run; without it, a login shell")
    options = parser.parse_args()
    with open(options.file, "w", encoding="utf-8") as file:
        cast = Cast(file)
        if options.log is None:
            return trio.run(record, cast, options.command)
        for entry in read_log(options.log):
            cast.add(entry)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
