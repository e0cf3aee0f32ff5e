"""Parsers of figures and events, on recorded texts; and v2's hierarchy as plain files."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cgroup import events, stats
from supervisor.cgroup.events import Alert
from supervisor.cgroup.group import Group
from supervisor.cgroup.groups import Groups
from supervisor.cgroup.layout import Hierarchy
from supervisor.cgroup.offer import Offer, Place
from supervisor.errors import SpecError

PSI = (
    b"some avg10=1.50 avg60=0.00 avg300=0.00 total=620845\n"
    b"full avg10=0.25 avg60=0.00 avg300=0.00 total=7\n"
)
V2 = {
    "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\n"
    "nr_periods 9\nnr_throttled 4\nthrottled_usec 6\n",
    "memory.current": "4096\n",
    "memory.stat": "anon 1\nfile 2\nkernel 3\nkernel_stack 9\n",
    "memory.swap.current": "0\n",
    "memory.peak": "8192\n",
    "pids.current": "2\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n"
    "254:0 rbytes=10 wbytes=20 rios=30 wios=40\n",
    "memory.pressure": PSI.decode(),
}


def test_a_sample_of_v2(tmp_path: Path) -> None:
    for name, text in V2.items():
        (tmp_path / name).write_text(text)
    offer = Offer((Place(2, ("memory",), str(tmp_path)),))
    reader = stats.Reader(Group("x", offer, {"unified": str(tmp_path)}))
    assert reader.fds == len(V2)
    sample = reader.read()
    assert sample
    assert sample[1:] == (
        5000, 3000, 2000, 9, 4, 6000, 4096, 1, 2, 3, 0, 8192, 2, 11, 22, 33, 44,
        None, stats.Pressure(1.5, 620845, 0.25, 7), None,
    )  # fmt: skip
    (tmp_path / "memory.current").write_text("77\n")
    changed = reader.read()
    assert changed
    assert (changed.memory, changed.cpu_ns) == (77, 5000)
    assert changed.time_ns > sample.time_ns
    reader.close()
    assert reader.read() is None


def test_io_of_v1() -> None:
    text = (
        b"254:0 Read 5\n254:0 Write 7\n254:0 Total 12\n8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 15\n"
    )
    assert stats.io_v1(text) == (6, 9)
    assert stats.io_v1(b"Total 0\n") == (0, 0)


def test_pressure_of_an_older_kernel_has_no_full() -> None:
    assert stats.pressure(PSI.splitlines(keepends=True)[0]) == ((1.5, 620845, 0.0, 0),)


def test_keys_that_an_older_kernel_lacks_are_left_out() -> None:
    fields, parse = stats.keyed(b"anon 1\nfile 2\n", {"kernel": ("kernel", 1), "file": ("file", 2)})
    assert (fields, parse(b"anon 5\nfile 7\n")) == (("file",), (14,))


def test_what_is_new_in_a_file() -> None:
    before, after = events.flat("low 0\nhigh 1\nmax 0\noom 0\noom_kill 0\n"), events.flat(
        "low 0\nhigh 4\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n"
    )  # fmt: skip
    assert list(events.changes("memory.events", before, after)) == [("high", 4, 3), ("oom_kill", 1, 1)]
    assert list(events.changes("memory.events.local", before, after)) == [("oom", 1, 1)]
    emptied = events.changes("cgroup.events", {"populated": 1, "frozen": 0}, {"populated": 0})
    assert list(emptied) == [("populated", 0, -1)]


def test_alerts() -> None:
    alert = Alert.parse("memory.some>10%/2s")
    assert (alert.resource, alert.which, alert.stall_us, alert.window_us) == (
        "memory", "some", 200_000, 2_000_000,
    )  # fmt: skip
    for wrong in ("memory", "disk.some>10%/2s", "io.full>0%/2s", "io.full>10%/0.1s", "io.full>10%/99s"):
        with pytest.raises(SpecError, match="alert"):
            Alert.parse(wrong)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Our own v2 group and the directory below it, as plain files."""
    for directory in (tmp_path, tmp_path / "sup-x"):
        directory.mkdir(exist_ok=True)
        for name in ("cgroup.subtree_control", "cgroup.procs", "cgroup.type"):
            (directory / name).touch()
    (tmp_path / "sup-x" / ".self").mkdir()
    (tmp_path / "sup-x" / ".self" / "cgroup.procs").touch()
    return tmp_path


def pass_on(own: Path, ours: set[int]) -> tuple[Groups, dict[str, str]]:
    groups, absent = Groups(Offer(), ""), dict[str, str]()
    hierarchy = Hierarchy(2, ("memory", "hugetlb"), str(own), str(own))
    groups._pass_on(hierarchy, Place(2, (), str(own / "sup-x")), frozenset(ours), absent)
    return groups, absent


def test_v2_controllers_are_passed_on_when_we_have_moved_and_given_back(own: Path) -> None:
    (own / "cgroup.procs").write_text("71\n")
    groups, absent = pass_on(own, {71, 72})
    assert absent == {}
    assert (own / "cgroup.subtree_control").read_text() == "+memory"
    assert (own / "sup-x" / "cgroup.subtree_control").read_text() == "+memory"
    assert (own / "sup-x" / ".self" / "cgroup.procs").read_text() == "71"
    groups.close()
    assert (own / "cgroup.subtree_control").read_text() == "-memory"


def test_v2_with_others_in_our_group_is_left_as_it_is(own: Path) -> None:
    (own / "cgroup.procs").write_text("71\n99\n")
    _, absent = pass_on(own, {71})
    assert absent == {
        "memory": f"other processes (such as 99) are in {own}, which then passes no controller on"
    }
    assert (own / "cgroup.subtree_control").read_text() == ""
    assert (own / "sup-x" / ".self" / "cgroup.procs").read_text() == ""
