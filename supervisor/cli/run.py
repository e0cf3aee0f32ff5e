"""Run one container in the foreground; its exit status is sup's.

On a terminal it is a console; with stdin or stdout not a terminal it works in pipes, with stdout and
stderr apart, and prints nothing of its own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..client import Client
from ..errors import SpecError
from ..paths import Paths
from ..start import ensure
from ..text import escape
from . import options, terminal
from .foreground import detector, serve

HELP = "run one container in the foreground"
TAKES_COMMAND = True


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--rm", action="store_true", help="remove the container when it has ended")
    add("-i", "--interactive", action="store_true", help="pass stdin on")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-d", "--detach", action="store_true", help="leave it in the background and print its name")
    add("--name", metavar="NAME", help="its name; default: a new one")
    add(
        "--detach-keys",
        metavar="KEYS",
        help="keys that leave; default three times ctrl-]",
    )
    options.add(parser)


def run(args: Namespace, paths: Paths) -> int:
    if args.name == "":
        raise SpecError("name", "", "give one, or leave the option out")
    if args.tty and args.no_tty:
        raise SpecError("tty", "--tty and --no-tty", "choose one")
    return _background(args, paths) if args.detach else _foreground(args, paths)


def _background(args: Namespace, paths: Paths) -> int:
    # A shell without a terminal or input would end at once.
    tty = (args.tty or not args.command) and not args.no_tty
    spec = options.spec(args, tty=tty, stdin=args.interactive or tty)
    ensure(paths)
    with Client(paths) as client:
        reply = client.call("sup.Run", spec=spec, name=args.name, remove=args.rm)
    container = reply["container"]
    print(escape(str(container["name"] if isinstance(container, dict) else container)))
    return 0


def _foreground(args: Namespace, paths: Paths) -> int:
    both = terminal.is_terminal(0) and terminal.is_terminal(1)
    tty = both and not args.no_tty and (args.tty or not args.interactive)
    stdin = args.interactive or tty
    keys = detector(args.detach_keys)
    spec = options.spec(args, tty=tty, stdin=stdin)
    rows, cols = terminal.size(1) if tty else (0, 0)
    ensure(paths)
    with Client(paths) as client:
        reply, first = client.upgrade(
            "sup.Run", spec=spec, name=args.name, remove=args.rm, stdin=stdin, rows=rows, cols=cols
        )
        return serve(client, paths, reply, first, stdin=stdin, detector=keys, forward=True)
