"""Run a command in a running container; its exit status is sup's.

With a pattern it runs in all containers that fit, at once, each line of output under the container's
name; the exit status is then the highest."""

from __future__ import annotations

import binascii
from argparse import ArgumentParser, Namespace

from ..client import Client
from ..errors import SpecError
from ..paths import Paths
from . import options, output, terminal
from .foreground import detector, serve

HELP = "run a command in running containers"
TAKES_COMMAND = True


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass stdin on")
    add("-t", "--tty", action="store_true", help="give it a terminal of its own")
    add("-e", "--env", action="append", default=[], metavar="KEY[=VALUE]", help="a variable")
    add("-w", "--workdir", metavar="DIR", help="start in this directory")
    add("-u", "--user", metavar="USER[:GROUP]", help="run as this user")
    add("name", metavar="NAME", help="a container, or a pattern such as 'web-*'")


def run(args: Namespace, paths: Paths) -> int:
    if not args.command:
        raise SpecError("command", "", f"say what to run: sup exec {args.name} CMD")
    parameters: dict[str, object] = {
        "argv": args.command,
        "env": options.environment(args.env, []),
        "workdir": args.workdir,
        "user": args.user,
    }
    if any(character in args.name for character in "*?["):
        return _in_all(args, paths, parameters)
    tty = args.tty and terminal.is_terminal(0) and terminal.is_terminal(1)
    rows, cols = terminal.size(1) if tty else (0, 0)
    parameters.update(name=args.name, tty=tty, stdin=args.interactive, rows=rows, cols=cols)
    with Client(paths) as client:
        reply, first = client.upgrade("sup.Exec", **parameters)
        return serve(
            client, paths, reply, first, stdin=args.interactive, detector=detector(None), forward=True
        )


def _in_all(args: Namespace, paths: Paths, parameters: dict[str, object]) -> int:
    if args.interactive or args.tty:
        raise SpecError("name", args.name, "-i and -t work with one container: name it")
    merged = output.Prefixed([])
    statuses: dict[str, int] = {}
    with Client(paths) as client:
        for reply in client.stream("sup.ExecAll", names=[args.name], **parameters):
            if "names" in reply:
                merged = output.Prefixed(output.texts(reply["names"]))
            if "name" not in reply:
                continue
            name = str(reply["name"])
            if "data" in reply:
                data = binascii.a2b_base64(str(reply["data"]))
                merged.feed(name, data, stream=str(reply["stream"]))
            elif isinstance(status := reply.get("status"), int):
                merged.finish(name)
                statuses[name] = status
                if "error" in reply:
                    output.complain(f"{name}: {output.wire_error(reply)}")
    return output.report_statuses(statuses)
