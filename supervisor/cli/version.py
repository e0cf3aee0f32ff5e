"""Print the versions of sup and of the running server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from .. import __version__
from ..client import Client
from ..errors import NoServer
from ..paths import Paths
from ..text import escape

HELP = "print the versions of sup and of the running server"


def configure(parser: ArgumentParser) -> None:
    pass


def run(args: Namespace, paths: Paths) -> int:
    print(f"sup {__version__}")
    try:
        with Client(paths) as client:
            about = client.call("sup.Info")
    except NoServer:
        return 0
    print(escape(f"server {about.get('version')} (protocol {about.get('protocol')})"))
    return 0
