"""The server's processes, versions, paths and counts."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from ..client import Client
from ..paths import Paths
from ..start import ensure
from ..text import escape

HELP = "show the server's processes, versions, paths and counts"


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: Namespace, paths: Paths) -> int:
    ensure(paths)
    with Client(paths) as client:
        about = client.call("sup.Info")
    if args.json:
        print(json.dumps(about))
        return 0
    for key, value in about.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{count} {state}" for state, count in value.items()) or "none"
        print(f"{key.replace('_', ' '):<15} {escape(str(shown))}")
    return 0
