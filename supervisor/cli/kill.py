"""Send a signal to containers; default KILL."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths
from . import arguments, output

HELP = "send a signal to containers"


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="containers, or patterns")
    add("-s", "--signal", metavar="SIGNAL", help="default KILL")


def run(args: Namespace, paths: Paths) -> int:
    signum = arguments.signal_number(args.signal)
    with Client(paths) as client:
        return output.report_each(client.call("sup.Kill", names=args.names, signal=signum))
