"""All about containers, as a JSON array."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths

HELP = "show all about containers, in JSON"


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="containers, or patterns")


def run(args: Namespace, paths: Paths) -> int:
    with Client(paths) as client:
        reply = client.call("sup.Inspect", names=args.names)
    print(json.dumps(reply["containers"], indent=2))
    return 0
