"""Stop containers and start them again, each as it was asked for."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths
from . import output

HELP = "stop containers and start them again"


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="containers, or patterns")


def run(args: Namespace, paths: Paths) -> int:
    with Client(paths) as client:
        return output.report_each(client.call("sup.Restart", names=args.names))
