"""Preflight against a /proc of the test's own."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from supervisor import limits
from supervisor.limits import Need


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pty 100 - 20 - 10, tasks 1000 - 400, files 1000 - 5, net namespaces 40."""
    texts = {
        "sys/kernel/pty/max": "100\n",
        "sys/kernel/pty/reserve": "20\n",
        "sys/kernel/pty/nr": "10\n",
        "sys/kernel/pid_max": "1000\n",
        "loadavg": "0.03 0.01 0.00 1/400 6814\n",
        "sys/user/max_net_namespaces": "40\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "self" / "fd").mkdir(parents=True)
    for number in range(5):
        (tmp_path / "self" / "fd" / str(number)).touch()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10, 1000))
    return tmp_path


def _check(proc: Path, n: int, *, tty: bool = True, namespaces: tuple[str, ...] = ()) -> list[Need]:
    return limits.check(n, tty=tty, namespaces=namespaces, proc=str(proc))


def test_terminals_are_hit_exactly_where_they_end(proc: Path) -> None:
    assert _check(proc, 70) == []
    assert _check(proc, 71) == [Need("kernel.pty.max", 71, 70, "sysctl -w kernel.pty.max=101")]
    assert _check(proc, 71, tty=False) == []


def test_tasks_count_three_for_a_container(proc: Path) -> None:
    (proc / "sys/kernel/pid_max").write_text("700")
    assert _check(proc, 100, tty=False) == []
    (need,) = _check(proc, 101, tty=False)
    assert need == Need("kernel.pid_max", 303, 300, "sysctl -w kernel.pid_max=703")


def test_files_count_six_for_a_container_and_a_reserve(proc: Path) -> None:
    assert _check(proc, 155, tty=False) == []  # 155 * 6 + 64 = 994 of 995
    (need,) = _check(proc, 156, tty=False)
    assert (need.name, need.needed, need.free) == ("RLIMIT_NOFILE", 1000, 995)
    assert "1005" in need.remedy


def test_an_unlimited_number_of_files_is_none(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10, resource.RLIM_INFINITY))
    assert _check(proc, 200, tty=False) == []


def test_namespaces_in_use_are_counted_once_each(proc: Path) -> None:
    for pid, inode in ((1, 10), (2, 11), (3, 11)):
        (proc / str(pid) / "ns").mkdir(parents=True)
        (proc / str(pid) / "ns" / "net").symlink_to(f"net:[{inode}]")
    (proc / "4").mkdir()  # ended while it was looked at
    assert _check(proc, 38, namespaces=("net",)) == []
    (need,) = _check(proc, 39, namespaces=("net",))
    assert need == Need("user.max_net_namespaces", 39, 38, "sysctl -w user.max_net_namespaces=41")
    assert _check(proc, 39, namespaces=("pid",)) == []  # no such limit


def test_processes_are_not_walked_for_a_few_containers(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_used", lambda name, proc: 1 / 0)
    assert _check(proc, 10, namespaces=("net",)) == []
    with pytest.raises(ZeroDivisionError):
        _check(proc, 11, namespaces=("net",))


def test_what_cannot_be_read_is_no_limit(tmp_path: Path) -> None:
    assert _check(tmp_path, 10**9, namespaces=("net", "user")) == []


def test_this_host_takes_one_and_not_a_thousand_million() -> None:
    assert limits.check(1, tty=True, namespaces=["net"]) == []
    names = {need.name for need in limits.check(10**9, tty=True, namespaces=["net"])}
    assert {"kernel.pty.max", "kernel.pid_max", "user.max_net_namespaces"} <= names
