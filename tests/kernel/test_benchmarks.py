"""The benchmarks run, and print their table; how fast anything is, is no matter of tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def spawn(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.spawn", "--quick", *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.requires("containers")
def test_a_quick_run_prints_every_measure_beside_its_goal() -> None:
    output = spawn()
    for measure in (
        "one container / C floor",
        "fleet of 10, each / C floor",
        "sup up -n 10, warm",
        "sup up -n 10, cold",
        "sup ps",
        "console to log, terminal",
        "console to log, pipes",
        "idle container, of 10",
        "wake-ups in 1 s with 10 idle",
    ):
        [line] = [line for line in output.splitlines() if line.startswith(measure)]
        assert "≤" in line or "≥" in line


@pytest.mark.requires("containers", "gcc", "root")
def test_the_floor_runs_the_plan_of_this_host() -> None:
    results = json.loads(spawn("--json", "fleets"))
    ratios = [each for each in results["figures"] if "C floor" in each["name"]]
    assert len(ratios) == 2
    assert all(each["value"] > 0 and each["beside"].startswith("floor") for each in ratios)
    assert results["machine"]["kernel"].startswith("Linux")
