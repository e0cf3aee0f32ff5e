"""Ask containers to stop; kill those that have not after their time."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths
from . import arguments, output

HELP = "ask containers to stop, then kill them"


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="containers, or patterns")
    add("-s", "--signal", metavar="SIGNAL", help="what asks; default the container's own")
    add("--timeout", metavar="DURATION", help="how long to wait; default the container's own")


def run(args: Namespace, paths: Paths) -> int:
    signum, timeout = arguments.signal_number(args.signal), arguments.seconds("timeout", args.timeout)
    with Client(paths) as client:
        reply = client.call("sup.Stop", names=args.names, signal=signum, timeout=timeout)
    return output.report_each(reply)
