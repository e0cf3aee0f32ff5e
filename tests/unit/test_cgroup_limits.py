"""Limits in docker's notation, and the files that they become on v1 and v2."""

from __future__ import annotations

import attrs
import pytest

from supervisor.cgroup import translate
from supervisor.cgroup.files import holds
from supervisor.cgroup.limits import PIDS_DEFAULT, UNLIMITED, Limits
from supervisor.cgroup.offer import Offer, Place
from supervisor.errors import HostLacks, SpecError, SupError

CPUS = frozenset(range(4))
V2 = Offer(
    (
        Place(
            2,
            ("cpu", "memory", "pids", "io", "cpuset"),
            "/u",
            frozenset(
                "memory.max memory.swap.max memory.low memory.oom.group memory.high cpu.max cpu.weight "
                "pids.max io.weight io.max cpuset.cpus cpuset.mems cgroup.max.depth".split()
            ),
        ),
    ),
    cpus=CPUS,
    mems=frozenset({0}),
)
V1_FILES = {
    "memory": "memory.limit_in_bytes memory.memsw.limit_in_bytes memory.soft_limit_in_bytes",
    "cpu": "cpu.shares cpu.cfs_quota_us cpu.cfs_period_us",
    "pids": "pids.max",
    "blkio": "blkio.bfq.weight blkio.throttle.read_bps_device blkio.throttle.write_iops_device",
    "cpuset": "cpuset.cpus cpuset.mems",
    "devices": "devices.allow devices.deny",
}
V1 = Offer(
    tuple(Place(1, (name,), f"/{name}", frozenset(files.split())) for name, files in V1_FILES.items()),
    cpus=CPUS,
    mems=frozenset({0}),
)


def pairs(offer: Offer, **fields: object) -> list[tuple[str, str]]:
    made = translate.writes(Limits(**fields), offer)  # type: ignore[arg-type]
    return [(one.file, one.value) for one in made]


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("memory", "4k", "give at least 6MiB"),
        ("memory", "0", "give at least 6MiB"),
        ("memory", 0, "give at least 6MiB"),
        ("memory", -5, "give 0 to"),
        ("memory", "-5m", "a size is a number of bytes"),
        ("memory", "9" * 18 + "e", "give 0 to"),
        ("memory", True, "give a number of bytes"),
        ("memory_swap", "20m", "give memory as well"),
        ("cpus", "0", "at least 0.01"),
        ("cpus", "nan", "at least 0.01"),
        ("cpus", "1e999999", "at least 0.01"),
        ("cpus", "many", "at least 0.01"),
        ("cpus", -2, "at least 0.01"),
        ("cpu_weight", 0, "from 1 to 10000"),
        ("cpu_weight", "10001", "from 1 to 10000"),
        ("cpuset_cpus", "", "such as 0-3,5"),
        ("cpuset_cpus", "3-1", "the other way round"),
        ("cpuset_mems", "0,,1", "such as 0-3,5"),
        ("pids_limit", 0, "from 1 to"),
        ("pids_limit", "9" * 19, "from 1 to"),
        ("io_weight", "heavy", "from 1 to"),
        ("device_read_bps", "vda:1m", "/dev/NAME:RATE"),
        ("device_read_bps", "/dev/vda:0", "at least 1 a second"),
        ("device_write_iops", "/dev/vda:1m", "at least 1 a second"),
        ("devices", "1:3 rwm", "TYPE MAJOR:MINOR ACCESS"),
        ("oom_group", "yes", "true or false"),
        ("cgroup", "memory.high", "FILE=VALUE"),
        ("cgroup", "../memory.high=1", "FILE=VALUE"),
        ("cgroup", "memory.high=1\n2", "FILE=VALUE"),
        ("cgroup", "cgroup.procs=1", "sup's to write"),
    ],
)
def test_what_is_refused_names_field_value_and_remedy(field: str, value: object, remedy: str) -> None:
    with pytest.raises(SpecError) as caught:
        Limits(**{field: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{field} ")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "fields",
    [
        {"memory": "20m", "memory_swap": "10m"},
        {"memory": "20m", "memory_reservation": "30m"},
        {"memory": -1, "memory_swap": "30m"},
    ],
)
def test_fields_that_contradict_each_other(fields: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        Limits(**fields)  # type: ignore[arg-type]


def test_every_notation_comes_to_the_same_and_changes_are_checked_again() -> None:
    assert Limits(memory="64m", cpus="1.5", pids_limit="-1") == Limits(
        memory=64 << 20, cpus=1.5, pids_limit=UNLIMITED
    )
    full = Limits(
        memory="64m",
        cpus=-1,
        cpuset_cpus="0-1",
        device_read_bps={"/dev/vda": "1mb"},
        devices=["c 1:3 rwm"],
        oom_group="true",
        cgroup={"memory.high": "8m"},
    )
    assert attrs.evolve(full, memory=full.memory) == full
    assert full.device_read_bps == (("/dev/vda", 1 << 20),)
    with pytest.raises(SpecError):
        attrs.evolve(full, memory="1k")
    assert Limits().asked == {}
    assert Limits(devices=[], memory=-1).asked == {"devices": (), "memory": -1}


def test_files_of_v2() -> None:
    assert pairs(
        V2, memory="10m", cpus=0.3, cpu_weight=50, pids_limit=-1, cpuset_cpus="0-1", cpuset_mems="0"
    ) == [
        ("cpuset.mems", "0"),
        ("cpuset.cpus", "0-1"),
        ("memory.max", "10485760"),
        ("memory.swap.max", "10485760"),
        ("cpu.max", "30000 100000"),
        ("cpu.weight", "50"),
        ("pids.max", "max"),
    ]
    assert pairs(V2, memory="10m", memory_swap="10m", memory_reservation="8m", oom_group=True) == [
        ("memory.max", "10485760"),
        ("memory.swap.max", "0"),
        ("memory.low", "8388608"),
        ("memory.oom.group", "1"),
    ]
    assert pairs(V2, memory=-1, cpus=-1, io_weight=300) == [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("cpu.max", "max 100000"),
        ("io.weight", "default 300"),
    ]
    assert pairs(V2, cgroup=["memory.high=8m", "cgroup.max.depth=1"]) == [
        ("memory.high", "8m"),
        ("cgroup.max.depth", "1"),
    ]


def test_files_of_v1_memory_before_memory_and_swap_and_mems_before_cpus() -> None:
    assert pairs(
        V1, memory="10m", cpus=0.3, cpu_weight=200, cpuset_cpus="1", cpuset_mems="0", io_weight=300
    ) == [
        ("cpuset.mems", "0"),
        ("cpuset.cpus", "1"),
        ("memory.limit_in_bytes", "10485760"),
        ("memory.memsw.limit_in_bytes", "20971520"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "30000"),
        ("cpu.shares", "2048"),
        ("blkio.bfq.weight", "300"),
    ]
    assert pairs(V1, devices=["c 1:3 rwm"]) == [("devices.deny", "a"), ("devices.allow", "c 1:3 rwm")]
    assert pairs(V1, memory=-1, cpus=-1)[::2] == [
        ("memory.limit_in_bytes", "-1"),
        ("cpu.cfs_period_us", "100000"),
    ]


@pytest.mark.parametrize(
    ("offer", "fields", "message"),
    [
        (V2, {"cpus": 5}, "cpus 5 cannot be held: this host has 4 CPUs: give at most 4"),
        (V2, {"cpuset_cpus": "2-4"}, "the CPUs that we may use are 0,1,2,3"),
        (V2, {"cpuset_mems": "1"}, "the memory nodes that we may use are 0"),
        (V2, {"devices": ["a *:* r"]}, "there is no controller devices below our group"),
        (V1, {"oom_group": True}, "the groups of memory have no memory.oom.group here: leave it"),
        (V1, {"io_weight": 2000}, "blkio.bfq.weight ends at 1000: give at most 1000"),
        (V1, {"cgroup": "memory.high=8m"}, "memory.high=8m cannot be held: the groups of memory"),
        (V1, {"device_read_bps": "/dev/nonsense:1m"}, "No such file"),
        (V1, {"device_read_bps": "/dev/null:1m"}, "it is no block device"),
        (Offer(absent={"pids": "it is off"}), {"pids_limit": 9}, "9 cannot be held: it is off"),
        (Offer(refusal="not ours", remedy="ask"), {"memory": "10m"},
         "memory 10MiB cannot be held: not ours: ask"),
    ],
)  # fmt: skip
def test_what_a_host_cannot_hold(offer: Offer, fields: dict[str, object], message: str) -> None:
    done = translate.translate(Limits(**fields), offer)  # type: ignore[arg-type]
    assert done.writes == ()
    [problem] = done.problems
    assert isinstance(problem, (HostLacks, SpecError))
    assert message in str(problem)
    with pytest.raises(SupError):
        translate.writes(Limits(**fields), offer)  # type: ignore[arg-type]


def test_the_others_are_written_where_one_cannot_be_held() -> None:
    done = translate.translate(Limits(memory="10m", memory_swap=-1, cpus=99, pids_limit=3), V1)
    assert [one.field for one in done.writes] == ["memory", "memory_swap", "pids_limit"]
    assert len(done.problems) == 1


def test_defaults_are_given_only_where_they_can_be_held() -> None:
    assert translate.with_defaults(Limits(), V1).pids_limit == PIDS_DEFAULT
    assert translate.with_defaults(Limits(pids_limit=-1), V1).pids_limit == UNLIMITED
    assert translate.with_defaults(Limits(), Offer()).pids_limit is None


def test_weights_and_shares_agree_at_the_default_and_at_the_ends() -> None:
    assert [translate.shares(weight) for weight in (1, 100, 10_000)] == [10, 1024, 102_400]
    assert [translate.weight(share) for share in (2, 1024, 262_144)] == [1, 100, 10_000]
    assert all(translate.weight(translate.shares(one)) == one for one in (1, 7, 99, 100, 101, 9999))


@pytest.mark.parametrize(
    ("asked", "held", "same"),
    [
        ("10485760", "10485760\n", True),
        ("10485761", "10485760\n", True),
        ("10490000", "10485760\n", False),
        ("10485760", "20971520\n", False),
        ("-1", "9223372036854771712\n", True),
        ("-1", "4096\n", False),
        ("max", "max\n", True),
        ("max", "5\n", False),
        ("0,1", "0-1\n", True),
        ("0-2", "0-1\n", False),
        ("default 100", "default 100\n254:0 50\n", True),
        ("254:0 rbps=5", "8:0 rbps=9 wbps=max\n254:0 rbps=5 wbps=max riops=max wiops=max\n", True),
        ("254:0 rbps=5", "254:0 rbps=6 wbps=max riops=max wiops=max\n", False),
        ("254:0 rbps=max", "", True),
        ("254:0 0", "254:0 7\n", False),
        ("30000 100000", "20000 100000\n", False),
    ],
)
def test_what_is_read_back(asked: str, held: str, same: bool) -> None:
    assert holds(asked, held) is same
