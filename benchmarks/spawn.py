"""All that is measured, beside its goals: `python -m benchmarks.spawn [--quick] [--json] [NAME]`."""

from __future__ import annotations

import argparse
import json
import os
import sys

import trio

from benchmarks import command, consoles, fleets, idle
from benchmarks.report import Figure, machine, say, table

SUBJECTS = {
    "fleets": lambda quick: trio.run(lambda: fleets.measure(quick=quick)),
    "command": lambda quick: command.measure(quick=quick),
    "consoles": lambda quick: trio.run(lambda: consoles.measure(quick=quick)),
    "idle": lambda quick: idle.measure(quick=quick),
}


def main() -> int:
    """Measure what was asked for, print it. Goals that are missed are no failure of the run."""
    args = _arguments()
    # Without .pyc files every start would compile all modules again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    about = machine()
    figures: list[Figure] = []
    for name in args.subjects or SUBJECTS:
        say(f"{name} ...")
        figures += SUBJECTS[name](args.quick)
    if args.json:
        results = [figure.to_json() for figure in figures]
        json.dump({"machine": about, "quick": args.quick, "figures": results}, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(f"{key}: {value}" for key, value in about.items()), end="\n\n")
        print(table(figures))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spawn", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that it runs")
    parser.add_argument("--json", action="store_true", help="machine and all samples as JSON")
    parser.add_argument("subjects", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    args = parser.parse_args()
    unknown = sorted(set(args.subjects) - set(SUBJECTS))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(SUBJECTS)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
