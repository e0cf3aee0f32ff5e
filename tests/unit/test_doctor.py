"""Findings from texts of the test's own, and one real examination."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor import doctor


@pytest.mark.parametrize(
    ("release", "ok"),
    [("5.12.0", True), ("6.1.0-18-amd64", True), ("5.11.9", False), ("4.20", False), ("x", False)],
)
def test_kernel(release: str, ok: bool) -> None:
    found = doctor.kernel(release)
    assert (found.ok, found.found) == (ok, release)
    assert bool(found.remedy) is not ok


def test_python_and_machine() -> None:
    assert doctor.python((3, 11, 0), "cpython").ok
    assert not doctor.python((3, 10, 9), "cpython").ok
    assert not doctor.python((3, 12, 0), "pypy").ok
    assert doctor.machine("aarch64").ok
    assert not doctor.machine("riscv64").ok


@pytest.mark.parametrize(
    ("code", "ok"), [(errno.EINVAL, True), (errno.ENOSYS, False), (errno.EPERM, False)]
)
def test_a_system_call_is_there_unless_it_says_otherwise(
    code: int, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = SimpleNamespace(syscall=lambda *arguments: -1)
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda *a, **k: libc)
    monkeypatch.setattr(doctor.ctypes, "get_errno", lambda: code)
    assert doctor.system_call("clone3").ok is ok


def test_attempts_name_what_failed_and_why() -> None:
    tried = {"user": "", "mnt": "", "net": "Operation not permitted", "overlayfs": "No such device"}
    namespaces, overlay = doctor.attempts(tried, root=False)
    assert not namespaces.ok
    assert namespaces.found == "net: Operation not permitted"
    assert "max_user_namespaces" in namespaces.remedy
    assert (overlay.ok, overlay.found) == (False, "No such device")
    assert all(f.ok for f in doctor.attempts(dict.fromkeys(tried, ""), root=True))


def test_a_user_namespace_that_is_refused_refuses_the_overlay_too() -> None:
    namespaces, overlay = doctor.attempts({"user": "Operation not permitted"}, root=False)
    assert not namespaces.ok
    assert (overlay.ok, overlay.found) == (False, "could not be tried")


def test_terminals(tmp_path: Path) -> None:
    directory = tmp_path / "sys/kernel/pty"
    directory.mkdir(parents=True)
    for name, text in (("max", "4096"), ("reserve", "1024"), ("nr", "2800")):
        (directory / name).write_text(f"{text}\n")
    found = doctor.terminals(str(tmp_path))
    assert found.ok
    assert found.found.startswith("272 free of 4096")
    (directory / "nr").write_text("3000\n")
    found = doctor.terminals(str(tmp_path))
    assert not found.ok
    assert "at most 72" in found.costs
    assert doctor.terminals("/nonexistent").found == "unknown"


def test_open_files() -> None:
    assert doctor.open_files(4096).ok
    assert doctor.open_files(resource.RLIM_INFINITY).ok
    few = doctor.open_files(1024)
    assert (few.ok, few.costs) == (False, "about 160 containers at most")


V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
V1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "layout"), [(V2, "v2"), (V1, "v1"), (V1 + V2, "hybrid"), ("proc /proc proc", "none")]
)
def test_cgroup_layout(mounts: str, layout: str) -> None:
    (found,) = doctor.cgroups(mounts, "", root=True)
    assert (found.found, found.ok) == (layout, layout != "none")


def test_a_user_needs_a_group_of_their_own(tmp_path: Path) -> None:
    mounts = f"none {tmp_path} cgroup2 rw 0 0\n"
    own = "4:cpu:/x\n0::/mine\n"
    assert not doctor.cgroups(mounts, own, root=False)[1].ok
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cgroup.procs").touch()
    assert doctor.cgroups(mounts, own, root=False)[1].ok


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("ada:100000:65536\n", True),
        ("1000:100000:65536\n", True),
        ("ada:100000:32768\nada:200000:32768\n", True),
        ("ada:100000:1000\n", False),
        ("bob:100000:65536\n", False),
        ("ada:100000\nada:x:y\n", False),
        ("", False),
    ],
)
def test_id_range(text: str, ok: bool) -> None:
    assert doctor.id_range("subuid", text, "ada", 1000).ok is ok


def test_id_mappers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "newuidmap").touch(mode=0o755)
    assert doctor.id_mappers().found == "no newgidmap"
    (tmp_path / "newgidmap").touch(mode=0o755)
    assert doctor.id_mappers().ok


def test_a_trial_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert "nonexistent" in doctor._attempt()["trial"]


def test_examine_looks_at_everything_and_leaves_no_mount() -> None:
    before = Path("/proc/self/mounts").read_text()
    findings = {finding.name: finding for finding in doctor.examine()}
    assert {"kernel", "clone3", "openat2", "mount_setattr", "namespaces", "overlayfs"} <= set(findings)
    assert findings["kernel"].found == os.uname().release
    assert all(bool(f.costs and f.remedy) is not f.ok for f in findings.values())
    assert Path("/proc/self/mounts").read_text() == before


def test_it_imports_nothing_of_its_siblings() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print('supervisor' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, doctor.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
