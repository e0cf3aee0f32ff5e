"""Remove containers that have ended, with their logs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths
from . import output

HELP = "remove containers that have ended"


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="containers, or patterns")
    add("-f", "--force", action="store_true", help="running ones, too")


def run(args: Namespace, paths: Paths) -> int:
    with Client(paths) as client:
        return output.report_each(client.call("sup.Remove", names=args.names, force=args.force))
