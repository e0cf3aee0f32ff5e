"""What this host has and lacks, what each lack costs, and what to do. Fails if anything lacks."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from ..doctor import Finding, examine
from ..paths import Paths
from ..text import escape
from . import output

HELP = "say what this host has and lacks, and what to do about it"


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: Namespace, paths: Paths) -> int:
    findings = examine()
    for finding in findings:
        if args.json:
            output.print_json(asdict(finding))
        else:
            _show(finding)
    lacks = sum(not finding.ok for finding in findings)
    if lacks and not args.json:
        sys.stdout.flush()
        output.complain(f"{lacks} of {len(findings)} things are not as they should be")
    return 1 if lacks else 0


def _show(finding: Finding) -> None:
    mark = "ok  " if finding.ok else "LACK"
    print(f"{mark} {finding.name:<22} {escape(finding.found)}")
    if not finding.ok:
        print(f"     it costs: {escape(finding.costs)}\n     do: {escape(finding.remedy)}")
