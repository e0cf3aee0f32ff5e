"""Fixtures of every test: nothing may be left behind, and `sup` runs under a root of its own."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import pytest
import support
from support import requires as requires

_PR_SET_CHILD_SUBREAPER = 36


def pytest_configure(config: pytest.Config) -> None:
    """Orphans of a test come to this process, where the leak check sees them."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        support.enforce(marker.args)


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no process, mount, cgroup, descriptor or terminal is left behind."""
    before = support.Snapshot()
    yield
    if request.node.get_closest_marker("allow_leaks"):
        return
    leaks = before.leaks()
    if leaks:
        gc.collect()
        support.eventually(lambda: not before.leaks(), 3)
        leaks = before.leaks()
    assert not leaks, "left behind:\n" + "\n".join(leaks)


@pytest.fixture
def sup_root() -> Iterator[str]:
    """A short directory for --root: a unix socket's path holds 107 bytes."""
    root = tempfile.mkdtemp(prefix="sup", dir="/tmp")
    yield root
    problems = support.stop_all(root)
    left = [line for line in support.mounts() if root in line]
    run = os.path.join(root, "run")
    left += [name for name in (os.listdir(run) if os.path.isdir(run) else []) if name != "lock"]
    shutil.rmtree(root, ignore_errors=True)
    problems += [f"left under {run}: {what}" for what in left]
    if os.path.exists(root):
        problems.append(f"{root} cannot be removed")
    assert not problems, "\n".join(problems)


@pytest.fixture
def sup(sup_root: str) -> support.Sup:
    """The command line under a root of its own; what it started is shut down afterwards."""
    support.enforce(["containers"])
    return support.Sup(sup_root)
