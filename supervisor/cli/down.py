"""Stop and remove fleets or containers; without a name, all of this root."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..errors import NoServer
from ..paths import Paths
from . import arguments, output

HELP = "stop and remove fleets; without a name, all of this root"


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="*", metavar="BASE", help="fleets, containers or patterns")
    add("--timeout", metavar="DURATION", help="how long to wait; default the container's own")


def run(args: Namespace, paths: Paths) -> int:
    timeout = arguments.seconds("timeout", args.timeout)
    try:
        with Client(paths) as client:
            reply = client.call("sup.Down", names=args.names, timeout=timeout)
    except NoServer:
        if args.names:
            raise
        return 0  # nothing runs: that is what was asked for
    return output.report_each(reply)
