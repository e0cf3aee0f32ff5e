"""List containers: those that run, or with --all every one."""

from __future__ import annotations

import re
import sys
import time
from argparse import ArgumentParser, Namespace

from ..client import Client
from ..errors import NoServer, SpecError
from ..paths import Paths
from ..text import duration, escape, table
from . import output

HELP = "list containers"
_FIELD = re.compile(r"\{(\w+)\}")
Summary = dict[str, object]


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-a", "--all", action="store_true", help="those that have ended, too")
    add("-q", "--quiet", action="store_true", help="only their ids")
    add(
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only those that fit: name, id, fleet, status, label, exited",
    )
    add("--format", metavar="FORMAT", help="a line for each, such as '{name} {pid}'")
    add("--json", action="store_true", help="one JSON object a line")


def run(args: Namespace, paths: Paths) -> int:
    for each in _show(args, _listed(args, paths)):
        sys.stdout.write(each)
    return 0


def _listed(args: Namespace, paths: Paths) -> list[Summary]:
    try:
        with Client(paths) as client:
            reply = client.call("sup.List", all=args.all, filters=args.filter)
    except NoServer:
        return []  # nobody serves this root: there are no containers
    return output.tables(reply.get("containers"))


def _show(args: Namespace, containers: list[Summary]) -> list[str]:
    if args.json:
        for each in containers:
            output.print_json(each)
        return []
    if args.quiet:
        return [f"{each['id']}\n" for each in containers]
    if args.format is not None:
        return [_filled(args.format, each) for each in containers]
    now = time.time()
    header = ("NAME", "ID", "STATE", "PID", "AGE", "COMMAND")
    return [table([_row(each, now) for each in containers], header)]


def _row(each: Summary, now: float) -> tuple[str, ...]:
    since = each["finished"] or each["started"] or each["created"]
    age = duration(max(0.0, now - since)) if isinstance(since, float) else "-"
    words = output.command_line(output.texts(each["command"]))
    pid = str(each["pid"] or "-")
    return str(each["name"]), str(each["id"]), state(each), pid, age, words


def state(each: Summary) -> str:
    """`running`, `exited (3)`, `failed (127)`."""
    if each["error"] is not None:
        return f"failed ({each['status']})"
    return f"exited ({each['status']})" if each["state"] == "exited" else str(each["state"])


def _filled(form: str, each: Summary) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in each:
            raise SpecError("format", f"{{{name}}}", f"use {', '.join(sorted(each))}")
        found = each[name]
        if isinstance(found, list):
            return escape(" ".join(map(str, found)))
        if isinstance(found, dict):
            return escape(",".join(f"{key}={item}" for key, item in found.items()))
        return "" if found is None else escape(str(found))

    text = form.replace("\\t", "\t").replace("\\n", "\n")
    return _FIELD.sub(value, text) + "\n"
