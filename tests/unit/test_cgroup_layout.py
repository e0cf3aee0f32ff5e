"""Layouts of recorded hosts: pure v2, v1, hybrid, delegated by systemd, rootless, in a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cgroup import layout
from supervisor.cgroup.layout import Layout, parse

V2 = "31 23 0:27 / /sys/fs/cgroup rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
35 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
V1_GROUPS = "4:memory:/jobs/7\n3:blkio:/\n2:cpu,cpuacct:/\n1:name=systemd:/x\n"
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
KNOWN = """\
#subsys_name	hierarchy	num_cgroups	enabled
memory	4	22	1
hugetlb	0	1	0
pids	8	1	1
"""


def owns(found: Layout) -> dict[str, str]:
    return {one.name: one.own for one in found.hierarchies}


def test_pure_v2() -> None:
    found = parse(V2, "0::/user.slice/user-0.slice/session-3.scope\n")
    assert found.kind == "v2"
    assert owns(found) == {"unified": "/sys/fs/cgroup/user.slice/user-0.slice/session-3.scope"}


def test_v1_with_controllers_together_and_no_named_hierarchy() -> None:
    found = parse(V1, V1_GROUPS)
    assert found.kind == "v1"
    assert owns(found) == {
        "memory": "/sys/fs/cgroup/memory/jobs/7",
        "blkio": "/sys/fs/cgroup/blkio",
        "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
    }
    assert found.of("io") == found.of("blkio") != found.of("cpu") == found.of("cpuacct")
    assert found.of("pids") is None


def test_hybrid() -> None:
    found = parse(HYBRID, V1_GROUPS + "0::/\n", KNOWN)
    assert found.kind == "hybrid"
    assert found.unified
    assert found.unified.own == "/sys/fs/cgroup/unified"
    assert found.absent == {
        "hugetlb": "the kernel was started without it (cgroup_disable=hugetlb)",
        "pids": "it is taken by the v1 hierarchy 8, which is not mounted here",
    }


def test_nothing_mounted() -> None:
    found = parse("", "0::/\n")
    assert (found.kind, found.refusal) == ("none", "no cgroup hierarchy is mounted")
    assert found.remedy == "mount -t cgroup2 cgroup2 /sys/fs/cgroup"


@pytest.mark.parametrize(
    ("root", "path", "own", "refusal"),
    [
        ("/docker/abc", "/docker/abc/in", "/sys/fs/cgroup/in", ""),
        ("/docker/abc", "/docker/abc", "/sys/fs/cgroup", ""),
        ("/docker/abc", "/docker/abcd", "/sys/fs/cgroup", "our group /docker/abcd is not below"),
        ("/", "/../other", "/sys/fs/cgroup", "our group /../other is not below the mount of"),
    ],
)
def test_a_part_of_a_hierarchy(root: str, path: str, own: str, refusal: str) -> None:
    [one] = parse(V2.replace(" / /sys", f" {root} /sys"), f"0::{path}\n").hierarchies
    assert one.own == own
    assert one.refusal.startswith(refusal)
    assert bool(one.refusal) == bool(refusal)


def test_a_writable_mount_is_preferred_and_a_read_only_one_refused() -> None:
    read_only = V2.replace("rw,nosuid", "ro,nosuid")
    [one] = parse(read_only, "0::/\n").hierarchies
    assert one.refusal == "/sys/fs/cgroup is mounted read-only"
    [one] = parse(read_only + V2.replace("/sys/fs/cgroup", "/mnt/with\\040space"), "0::/\n").hierarchies
    assert (one.own, one.refusal) == ("/mnt/with space", "")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A pure v2 host: a scope that systemd has delegated to us, in it what we may write to."""
    proc, own = tmp_path / "proc" / "self", tmp_path / "cg" / "my.scope"
    proc.mkdir(parents=True)
    own.mkdir(parents=True)
    (proc / "mountinfo").write_text(V2.replace("/sys/fs/cgroup", str(tmp_path / "cg")))
    (proc / "cgroup").write_text("0::/my.scope\n")
    (own / "cgroup.controllers").write_text("cpu memory pids\n")
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (own / name).touch()
    return tmp_path


def test_delegated_by_systemd(tree: Path) -> None:
    found = layout.read(str(tree / "proc"))
    assert found.refusal == ""
    assert [one.controllers for one in found.usable] == [("cpu", "memory", "pids")]
    assert found.of("memory")
    assert found.of("io") is None


@pytest.mark.parametrize("lacking", ["", "/cgroup.procs", "/cgroup.subtree_control"])
def test_rootless_without_delegation(tree: Path, lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tree / "cg" / "my.scope"
    monkeypatch.setattr("os.access", lambda path, mode: path != f"{own}{lacking}")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    found = layout.read(str(tree / "proc"))
    assert found.usable == ()
    assert found.refusal == f"uid 1000 may not write to {own}{lacking}"
    assert found.remedy.startswith("systemd-run --user --scope -p Delegate=yes sup")


def test_a_group_that_has_gone(tree: Path) -> None:
    (tree / "proc" / "self" / "cgroup").write_text("0::/gone\n")
    found = layout.read(str(tree / "proc"))
    assert found.refusal == f"{tree}/cg/gone is not there"
