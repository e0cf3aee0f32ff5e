"""Wait until containers end, and print their exit statuses: of several, each with its name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths
from ..text import escape
from . import output

HELP = "wait until containers end, and print their exit statuses"


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="containers, or patterns")


def run(args: Namespace, paths: Paths) -> int:
    with Client(paths) as client:
        found = output.tables(client.call("sup.Inspect", names=args.names).get("containers"))
        for reply in client.stream("sup.Wait", names=args.names):
            if "name" not in reply:
                continue
            status = reply["status"]
            line = f"{escape(str(reply['name']))} {status}" if len(found) > 1 else f"{status}"
            print(line, flush=True)
    return 0
