"""Connect this terminal to a container's console.

The screen is restored, and the window's size followed. Ctrl-] three times within a second detaches.
The exit status is the container's, or 0 after detaching."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths
from . import terminal
from .foreground import detector, serve

HELP = "connect this terminal to a container's console"


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="the container")
    add("--read-only", action="store_true", help="only look on")
    add("--no-replay", action="store_true", help="do not show what was printed before")
    add("--detach-keys", metavar="KEYS", help="keys that leave, such as ctrl-p,ctrl-q")


def run(args: Namespace, paths: Paths) -> int:
    keys = detector(args.detach_keys)
    rows, cols = terminal.size(1)
    with Client(paths) as client:
        reply, first = client.upgrade(
            "sup.Attach",
            name=args.name,
            read_only=args.read_only,
            replay=not args.no_replay,
            stdin=not args.read_only,
            redraw=not args.read_only,
            rows=rows,
            cols=cols,
        )
        # A viewer that only looks on has keys to leave by, too.
        return serve(client, paths, reply, first, stdin=True, detector=keys, read_only=args.read_only)
