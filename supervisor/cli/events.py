"""Print what happens to containers, as it happens."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths
from ..text import escape
from . import output, when

HELP = "print what happens, as it happens"
_HEAD = ("seq", "time", "type", "name", "id")
Event = dict[str, object]


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--since", metavar="TIME", help="begin earlier: 5m (ago), or a time")
    add("--no-follow", action="store_true", help="print what has happened, and end")
    add("--json", action="store_true", help="one JSON object a line")


def run(args: Namespace, paths: Paths) -> int:
    since = when.parse(args.since) if args.since is not None else None
    begin = 0 if since is not None or args.no_follow else None
    with Client(paths) as client:
        for event in client.stream("sup.Events", since=begin, follow=not args.no_follow):
            moment = event.get("time")
            if not isinstance(moment, float) or moment < (since or 0.0):
                continue
            if args.json:
                output.print_json(event)
            else:
                print(_line(event, moment), flush=True)
    return 0


def _line(event: Event, moment: float) -> str:
    rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in _HEAD)
    words = f"{when.stamp(int(moment * 1e9))[:-7]}Z {event['type']} {event.get('name', '')} {rest}"
    return escape(words.rstrip())
