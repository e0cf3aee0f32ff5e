"""plan.compile without a kernel: which steps, in which order, with which arguments."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from supervisor import idmap
from supervisor.host import HostFacts
from supervisor.idmap import IdMap
from supervisor.linux import clone
from supervisor.linux.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MS_NODEV,
)
from supervisor.plan import Plan, compile, values
from supervisor.roots import Var
from supervisor.shim.steps import CALLS
from supervisor.spec import NAMESPACES, ContainerSpec

EVERY = IdMap(((0, 0, 4294967295),))
ROOT = HostFacts(
    uid=0,
    gid=0,
    userland=(("usr", ""), ("bin", "usr/bin")),
    capabilities=(1 << 41) - 1,
    stage="/run/sup/stage",
    skeleton="/run/sup/skeleton",
    trees=(),
    hostname="the-host",
    layers="",
    uids=EVERY,
    gids=EVERY,
)
USER = attrs.evolve(ROOT, uid=1000, gid=100, uids=IdMap(((0, 1000, 1),)), gids=IdMap(((0, 100, 1),)))
RANGES = attrs.evolve(
    USER,
    uids=IdMap(((0, 1000, 1), (1, 100000, 65536))),
    gids=IdMap(((0, 100, 1), (1, 100000, 65536))),
)
HOSTS = {"root": ROOT, "user": USER, "ranges": RANGES}


def plan(host: HostFacts = ROOT, **fields: object) -> Plan:
    return compile(ContainerSpec.from_mapping(fields), host)


def steps(made: Plan) -> list[tuple[Any, ...]]:
    return [*made.shared, *made.own, *made.workload]


def calls(found: Any, name: str) -> list[tuple[Any, ...]]:
    return [step for step in found if step[0] == name]


def mounted(made: Plan, target: str) -> tuple[Any, ...]:
    """The one step that mounts a file system of the kernel's at `target`."""
    [step] = [s for s in made.own if s[0].startswith("mount") and s[2] == target]
    return step


# All plans


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> HostFacts:
    return HOSTS[request.param]


@pytest.mark.parametrize("rootfs", ["host", "/tree", "/tree:rw"])
@pytest.mark.parametrize("share", [[], ["pid"], ["net", "ipc"], ["uts", "cgroup"]])
@pytest.mark.parametrize("unshare", [[], ["user"], ["time", "user"]])
def test_every_step_is_one_that_the_shim_knows(
    host: HostFacts, rootfs: str, share: list[str], unshare: list[str]
) -> None:
    made = plan(host, rootfs=rootfs, share=share, unshare=unshare, volumes=["/a:/b"], tmpfs=["/c"])
    assert {step[0] for step in steps(made)} <= CALLS
    for step in steps(made):
        assert all(isinstance(part, (str, int, Var)) for part in step)
    for shared in made.shared:
        assert not any(isinstance(part, Var) for part in shared), "a template has no values"
    names = {part.name for step in made.own for part in step if isinstance(part, Var)}
    given = values(ContainerSpec.from_mapping({"rootfs": rootfs}), host, "web-1", 1, "0123")
    assert names <= given.keys()


def test_a_plan_is_a_value(host: HostFacts) -> None:
    assert plan(host, rootfs="/tree") == plan(host, rootfs="/tree")
    assert plan(host, rootfs="/tree") != plan(host, rootfs="/other")


# Namespaces


@pytest.mark.parametrize("name", sorted(NAMESPACES))
def test_a_shared_namespace_is_not_made(name: str) -> None:
    for tty in (True, False):
        made = plan(share=[name], tty=tty)
        assert not made.flags & clone.NAMESPACES[name]
        assert plan(tty=tty).flags & clone.NAMESPACES[name]


def test_time_and_user_are_made_when_asked_for() -> None:
    assert plan().template_flags == 0
    assert plan(unshare="user").template_flags == clone.CLONE_NEWUSER
    assert plan(USER).template_flags == clone.CLONE_NEWUSER
    assert plan(unshare="time").flags == plan().flags | clone.CLONE_NEWTIME


def test_without_a_mount_namespace_nothing_is_mounted() -> None:
    made = plan(share="mnt")
    assert (made.shared, made.ptmx, made.console) == ((), "/dev/ptmx", False)
    assert [step[0] for step in made.own] == ["sethostname", "interface_up"]
    assert not made.template()["flags"]


def test_with_all_shared_there_is_nothing_to_join() -> None:
    assert plan(share=sorted(NAMESPACES)).joining()["join"] == 0
    assert plan(USER, share=sorted(NAMESPACES)).joining()["join"] == clone.CLONE_NEWUSER


def test_a_shared_name_is_not_set() -> None:
    assert not calls(plan(share="uts").own, "sethostname")
    given = values(ContainerSpec(share="uts"), ROOT, "web-1", 1, "")
    assert given["hostname_file"] == "the-host\n"
    assert "the-host" in given["hosts_file"]


def test_the_name_carries_the_number() -> None:
    spec = ContainerSpec(hostname="node{n}")
    assert values(spec, ROOT, "web-3", 3, "")["hostname"] == "node3"
    assert values(ContainerSpec(), ROOT, "web-3", 3, "")["hostname"] == "web-3"
    assert values(spec, ROOT, "web", 0, "")["hostname"] == "node"


# What a user namespace cannot mount


@pytest.mark.parametrize("rootfs", ["host", "/tree"])
def test_root_mounts_proc_and_sys_afresh(rootfs: str) -> None:
    for share in ([], ["pid"], ["net"], ["pid", "net", "ipc"]):
        made = plan(rootfs=rootfs, share=share)
        for target in ("/proc", "/sys", "/dev/mqueue"):
            assert mounted(made, target)


@pytest.mark.parametrize("rootfs", ["host", "/tree"])
@pytest.mark.parametrize(("share", "target"), [("pid", "/proc"), ("net", "/sys"), ("ipc", "/dev/shm")])
def test_a_user_gets_the_hosts_where_a_namespace_is_shared(
    rootfs: str, share: str, target: str
) -> None:
    assert mounted(plan(USER, rootfs=rootfs), target)
    made = plan(USER, rootfs=rootfs, share=share)
    assert [step for step in calls(made.own, "move_below") if step[2] == target]
    assert not [step for step in made.own if step[0].startswith("mount") and step[2] == target]


def test_the_hosts_sys_is_read_only() -> None:
    [opened] = [step for step in calls(plan(USER, share="net").shared, "open_tree") if "/sys" in step]
    assert opened[3:] == (MOUNT_ATTR_RDONLY, 0, 1)


def test_the_group_of_terminals(host: HostFacts) -> None:
    assert ("gid=5" in mounted(plan(host), "/dev/pts")[5]) == (host is not USER)


def test_users_bind_device_nodes() -> None:
    assert len(calls(plan().shared, "mknod")) == 6
    for made in (plan(USER), plan(unshare="user")):
        assert not calls(made.shared, "mknod")
        nodes = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
        assert {step[1] for step in calls(made.shared, "mount")} >= nodes


# Ids


def test_one_id_is_mapped_by_the_container_itself() -> None:
    made = plan(USER)
    assert made.shared[0] == ("idmap", 1000, 100)
    assert not made.awaits_ids
    assert calls(made.workload, "setuser") == [("setuser", "", 0)]


def test_ranges_are_awaited_once_in_what_is_shared() -> None:
    for made in (plan(RANGES), plan(unshare="user"), plan(RANGES, share="mnt")):
        assert made.awaits_ids
        assert made.shared[0] == ("await_idmap",)
        assert not calls(made.own, "await_idmap")
        assert calls(made.workload, "setuser") == [("setuser", "", 1)]


def test_root_needs_none() -> None:
    assert not plan().awaits_ids
    assert not calls(plan().shared, "idmap")


def test_ranges_of_subuid() -> None:
    text = "other:1:5\nme:100000:65536\n 1000:200000:10 \nme:x:1\nme:5\n#me:1:1\nme:7:0\n"
    found = idmap.ranges(text, "me", 1000)
    assert found == [(100000, 65536), (200000, 10)]
    mapped = idmap.following(IdMap(((0, 1000, 1),)), found)
    assert mapped.extents == ((0, 1000, 1), (1, 100000, 65536), (65537, 200000, 10))
    assert mapped.text() == "0 1000 1\n1 100000 65536\n65537 200000 10\n"
    assert [mapped.maps(inside) for inside in (0, 65546, 65547)] == [True, True, False]
    assert not mapped.single
    assert IdMap(((0, 1000, 1),)).single


def test_roots_own_ids_are_kept() -> None:
    assert idmap.identity("         0          0 4294967295\n").extents == ((0, 0, 4294967295),)
    nested = idmap.identity("0 100000 65536\n70000 300000 5\n")
    assert nested.extents == ((0, 0, 65536), (70000, 70000, 5))


# The host's userland


def test_what_replicas_share_is_sealed_last() -> None:
    assert [step[1] for step in plan().shared[-3:]] == ["/", "/etc", "/dev"]
    assert {step[0] for step in plan().shared[-3:]} == {"mount_setattr"}
    assert plan(rootfs="/tree").shared[-1] == ("mount_setattr", "/dev", MOUNT_ATTR_RDONLY, 1)


def test_mount_points_are_made_before_the_seal() -> None:
    made = plan(volumes=["/a:/data/x", "/b:/tmp/y", "/c:/dev/z"], tmpfs=["/srv/t", "/data/x/u"])
    targets = [step[1] for step in calls(made.shared, "make_target")]
    assert sorted(targets) == ["/data/x", "/dev/z", "/srv/t"]


def test_etc_is_overlaid_only_for_new_mount_points() -> None:
    for quiet in ([], ["/a:/etc/hosts"], ["/a:/etc/hostname"], ["/a:/srv/etc/x"]):
        assert not [s for s in plan(volumes=quiet).shared if "overlay" in s]
    [step] = [s for s in plan(volumes=["/a:/etc/x.conf"]).shared if "overlay" in s]
    assert step[:3] == ("mount_below", "overlay", "/etc")
    assert "userxattr" not in step[-1]
    [step] = [s for s in plan(USER, tmpfs=["/etc/x.d"]).shared if "overlay" in s]
    assert step[-1].endswith(",userxattr")


# A directory


def test_the_directory_is_no_part_of_an_option_string() -> None:
    made = plan(rootfs={"path": "/a:b,c\\d"})
    assert [step for step in steps(made) if "/a:b,c\\d" in step] == [
        ("open_tree", "tree", "/a:b,c\\d", MOUNT_ATTR_RDONLY, 0, 0)
    ]
    [overlay] = [step for step in made.own if "overlay" in step]
    data = "lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work"
    assert overlay == ("mount", "overlay", "/root", "overlay", MS_NODEV, data)


def test_the_directory_is_shared_by_a_template(host: HostFacts) -> None:
    for rootfs in ("/tree", "/tree:rw"):
        made = plan(host, rootfs=rootfs)
        assert made.pivots_shared
        assert [step[1] for step in calls(made.own, "pivot_root")] == ["/root"]
        assert "/tree" not in [part for step in made.own for part in step]


def test_in_the_open_nothing_is_overlaid() -> None:
    made = plan(rootfs="/tree:rw")
    assert not [step for step in steps(made) if "overlay" in step]
    assert ("open_tree", "tree", "/tree", MOUNT_ATTR_NODEV, 0, 1) in made.shared


def test_targets_are_resolved_below_the_root() -> None:
    """Between its mounting and the pivot no path of the root is walked by mount(2)."""
    made = plan(rootfs="/tree", volumes=["/a:/b"], tmpfs=["/c"])
    opened = made.own.index(("open_root", "/root"))
    pivoted = made.own.index(("pivot_root", "/root"))
    between = {step[0] for step in made.own[opened + 1 : pivoted]}
    assert between == {"move_below", "mount_below", "write", "open_tree", "move_mount"}
    assert {step[1] for step in made.own[opened:pivoted] if step[0] == "write"} == {
        "/layer/hosts",
        "/layer/hostname",
    }


def test_layers_on_disk_are_for_users_whose_tmpfs_cannot_hold_them() -> None:
    disk = {"layers": "/state/layers"}
    assert ("mount", Var("layer"), "/layer", "", 4096, "") in plan(
        attrs.evolve(USER, **disk), rootfs="/tree"
    ).own
    for made in (
        plan(attrs.evolve(ROOT, **disk), rootfs="/tree"),
        plan(attrs.evolve(USER, **disk), rootfs="/tree:rw"),
        plan(USER, rootfs="/tree"),
    ):
        assert not [step for step in steps(made) if Var("layer") in step or "/state/layers" in step]
    spec = ContainerSpec(rootfs="/tree")
    assert values(spec, USER, "web", 0, "0a1b")["layer"] == "/layers/0a1b"


# Volumes


@pytest.mark.parametrize("rootfs", ["host", "/tree"])
def test_the_outer_comes_before_the_inner(rootfs: str) -> None:
    volumes = ["/a:/data/in/deep", "/b:/srv"]
    made = plan(rootfs=rootfs, volumes=volumes, tmpfs=["/srv/x", "/data/in", "/data"])
    targets = ("/data", "/srv", "/srv/x", "/data/in", "/data/in/deep")
    order = [step[2] for step in made.own if len(step) > 2 and step[2] in targets]
    assert order == list(targets)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", (0, 0)),
        ("ro", (MOUNT_ATTR_RDONLY, 0)),
        ("nosuid,nodev,noexec", (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, 0)),
        ("nosymfollow,ro", (MOUNT_ATTR_NOSYMFOLLOW | MOUNT_ATTR_RDONLY, 0)),
        ("nodiratime", (MOUNT_ATTR_NODIRATIME, 0)),
        ("noatime", (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME)),
        ("relatime", (0, MOUNT_ATTR__ATIME)),
    ],
)
def test_options_of_volumes(options: str, expected: tuple[int, int]) -> None:
    made = plan(volumes=[f"/a:/b:{options}" if options else "/a:/b"])
    assert ("open_tree", "tree", "/a", *expected, 1) in made.shared
