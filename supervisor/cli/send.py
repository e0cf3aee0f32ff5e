"""Type into consoles: the last word is the text, unless --key or --stdin says what to type."""

from __future__ import annotations

import binascii
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from itertools import chain

from ..client import Client
from ..errors import SpecError
from ..paths import Paths
from . import keys, output

HELP = "type into consoles"


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("words", nargs="+", metavar="NAME ... [TEXT]", help="containers, or patterns; then the text")
    add("--enter", action="store_true", help="press Enter after the text")
    add("--key", action="append", default=[], metavar="KEY", help="press a key: C-c, Enter, Up, F5")
    add("--stdin", action="store_true", help="type what is read from stdin")


def run(args: Namespace, paths: Paths) -> int:
    names, text = args.words, b""
    if not args.key and not args.stdin:
        if len(names) < 2 and not args.enter:
            raise SpecError("text", "", "say what to type: sup send NAME TEXT")
        if len(names) > 1:
            *names, last = names
            text = os.fsencode(last)
    text += b"".join(keys.encode(name) for name in args.key)
    enter = b"\r" if args.enter else b""
    pieces: Iterable[bytes] = chain(_stdin(), [enter]) if args.stdin else [text + enter]
    status = 0
    with Client(paths) as client:
        for piece in filter(None, pieces):
            data = binascii.b2a_base64(piece, newline=False).decode()
            reply = client.call("sup.Send", names=names, data=data)
            status = output.report_each(reply, quiet=True)
            if status:
                break
    return status


def _stdin() -> Iterator[bytes]:
    while data := os.read(0, 64 << 10):
        yield data
