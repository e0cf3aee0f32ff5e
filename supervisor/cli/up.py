"""Launch N replicas, BASE-1 to BASE-N, all at once; without -n one container called BASE.

The default command is a login shell on the console. Succeeds if all run; one that fails does not fail
the others. With --follow, succeeds if all that was followed ended with status 0."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from ..client import Client
from ..errors import SpecError, SupError
from ..paths import Paths
from ..start import ensure
from ..text import duration, escape, table
from . import options, output

HELP = "launch a fleet of containers"
TAKES_COMMAND = True
PHASES = ("queue", "clone", "mounts", "console", "exec")
FLEET_FILE_MAX = 1 << 20
Summary = dict[str, object]


def configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", "--replicas", type=int, metavar="N", help="how many")
    add("--name", metavar="BASE", help="the fleet's name; default sup")
    add("-f", "--file", metavar="FILE", help="launch what a fleet file describes")
    add("--scale", action="store_true", help="bring an existing fleet to N replicas")
    add("--follow", action="store_true", help="stay and merge the output; Ctrl-C stops the containers")
    add("--json", action="store_true", help="one JSON object a line")
    options.add(parser)


def run(args: Namespace, paths: Paths) -> int:
    parameters = _file(args) if args.file is not None else _fleet(args)
    ensure(paths)
    with Client(paths) as client:
        containers = _launch(client.stream("sup.Up", **parameters), args)
    status = _report(containers, args)
    if args.follow:
        from .follow import follow

        alive = [str(each["name"]) for each in containers if each["error"] is None]
        status = follow(paths, alive) or status
    return status


def _fleet(args: Namespace) -> dict[str, object]:
    if args.scale and args.replicas is None:
        raise SpecError("scale", "", "say to how many: -n N")
    if args.replicas is not None and args.replicas < (0 if args.scale else 1):
        raise SpecError("replicas", args.replicas, "give a number from 1 on")
    return {
        "spec": options.spec(args, tty=not args.no_tty, stdin=not args.no_tty),
        "name": "sup" if args.name is None else _name(args.name),
        "replicas": args.replicas,
        "scale": args.scale,
    }


def _name(name: str) -> str:
    if not name:
        raise SpecError("name", name, "give one, or leave the option out")
    return name


def _file(args: Namespace) -> dict[str, object]:
    given = [
        name for name, value in vars(args).items() if value and value != args.parser.get_default(name)
    ]
    wrong = set(given) - {"file", "follow", "json", "parser"}
    if wrong:
        shown = ", ".join(sorted(wrong))
        raise SpecError("file", args.file, f"the file says it all: leave out {shown}")
    text = options.read_file(args.file, FLEET_FILE_MAX)
    base = os.getcwd() if args.file == "-" else os.path.dirname(os.path.abspath(args.file))
    return {"file": text, "base_dir": base}


def _launch(replies: Iterator[Summary], args: Namespace) -> list[Summary]:
    """Show progress on a terminal; returns the containers as they are at the end."""
    counter = _Progress() if sys.stderr.isatty() and not args.json else None
    containers: list[Summary] = []
    try:
        for reply in replies:
            change = reply.get("container")
            if isinstance(change, dict):
                if counter is not None:
                    counter.count(change, args.replicas)
            else:
                containers = output.tables(reply.get("containers"))
    finally:
        if counter is not None:
            counter.clear()
    return containers


class _Progress:
    """A line on the terminal that counts."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def count(self, container: Summary, wanted: int | None) -> None:
        self._states[str(container["name"])] = str(container["state"])
        states = list(self._states.values())
        running = states.count("running")
        total = max(wanted or 0, len(states))
        failed = states.count("exited")
        line = f"{running} of {total} running" + (f", {failed} ended" if failed else "")
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _report(containers: list[Summary], args: Namespace) -> int:
    failed = [each for each in containers if each["error"] is not None]
    if args.json:
        for each in containers:
            output.print_json(each)
        output.print_json({"summary": _summary(containers)})
    elif sys.stdout.isatty():
        rows = [_row(each) for each in containers]
        sys.stdout.write(table(rows, ("NAME", "STATE", "PID", "TIME", "COMMAND")))
        print(_sum_up(containers))
    else:
        for each in containers:
            print(_line(each))
    sys.stdout.flush()
    for each in [] if sys.stdout.isatty() and not args.json else _distinct(failed):
        output.complain(f"{each['name']}: {_error(each)}")
    if failed and len(containers) > 1:
        output.complain(f"{len(failed)} of {len(containers)} containers failed")
    codes = {_error(each).exit_code for each in failed}
    return (codes.pop() if len(codes) == 1 else 125) if failed else 0


def _distinct(failed: list[Summary]) -> list[Summary]:
    """One of each kind of failure: a thousand replicas may fail alike."""
    return list({str(_error(each)): each for each in reversed(failed)}.values())[::-1]


def _error(container: Summary) -> SupError:
    error = container["error"]
    return output.wire_error(error if isinstance(error, dict) else {})


def _time(container: Summary) -> float:
    """From the request to the workload's execve, in seconds."""
    phases = container["phases"]
    return sum(phases.values()) if isinstance(phases, dict) else 0.0


def _row(each: Summary) -> tuple[str, ...]:
    failed = each["error"] is not None
    state = "failed" if failed else str(each["state"])
    took = "-" if failed else duration(_time(each))
    words = str(_error(each)) if failed else output.command_line(output.texts(each["command"]))
    return str(each["name"]), state, str(each["pid"] or "-"), took, words


def _line(each: Summary) -> str:
    if each["error"] is not None:
        return f"{each['name']} failed: {escape(str(_error(each)))}"
    return f"{each['name']} {each['state']} {each['pid']} {duration(_time(each))}"


def _summary(containers: list[Summary]) -> dict[str, object]:
    """Percentiles of each phase and of the whole, in seconds, over the containers that came up."""
    ran = [each["phases"] for each in containers if each["error"] is None]
    phases = [each for each in ran if isinstance(each, dict) and each]
    figures: dict[str, object] = {"containers": len(containers), "running": len(ran)}
    if phases:
        columns = {name: [each.get(name, 0.0) for each in phases] for name in PHASES}
        columns["total"] = [sum(each.values()) for each in phases]
        figures["phases"] = {
            name: {"p50": percentile(values, 50), "p99": percentile(values, 99)}
            for name, values in columns.items()
        }
    return figures


def percentile(values: list[float], percent: int) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _sum_up(containers: list[Summary]) -> str:
    figures = _summary(containers)
    phases = figures.get("phases")
    said = f"{figures['running']} of {figures['containers']} started"
    if not isinstance(phases, dict):
        return said
    parts = [f"{name} {duration(each['p50'])}/{duration(each['p99'])}" for name, each in phases.items()]
    return f"{said}; p50/p99 of " + ", ".join(parts)
