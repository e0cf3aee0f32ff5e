"""Namespaces of containers: left out, added, and the ids of a user namespace."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import stat
import time
from pathlib import Path

import attrs
import pytest
import support
import trio
from inside import inside, output, run, shell

from supervisor import Supervisor, idmap
from supervisor.container import Container, State
from supervisor.errors import HostLacks
from supervisor.idmap import IdMap

pytestmark = pytest.mark.requires("containers")

ROOT = os.geteuid() == 0
NAMES = ("mnt", "uts", "ipc", "net", "pid", "cgroup")
LINKS = "for n in mnt uts ipc net pid cgroup time user; do readlink /proc/self/ns/$n; done"
SHARED = [*itertools.combinations(NAMES, 1), ("pid", "net"), ("mnt", "pid"), NAMES[1:], NAMES]


def links() -> dict[str, str]:
    names = (*NAMES, "time", "user")
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in names}


def found(text: str) -> dict[str, str]:
    return {line.partition(":")[0]: line for line in text.split()}


# Shared with the host


@pytest.mark.parametrize("tty", [True, False])
@pytest.mark.parametrize("share", SHARED, ids="+".join)
def test_what_is_shared_is_the_hosts(sup_root: str, share: tuple[str, ...], tty: bool) -> None:
    text = inside(sup_root, LINKS, share=list(share), tty=tty)
    inner, outer = found(text), links()
    shared = {name for name in NAMES if inner[name] == outer[name]}
    assert shared == set(share)
    assert (inner["user"] == outer["user"]) == ROOT
    assert inner["time"] == outer["time"]


@pytest.mark.parametrize("share", SHARED, ids="+".join)
def test_commands_are_added_there(sup_root: str, share: tuple[str, ...]) -> None:
    async def body(sup: Supervisor) -> None:
        [container] = await sup.launch(shell("sleep 100", share=list(share)), name="box")
        assert container.error is None
        added = await container.exec(["sh", "-c", f"{LINKS}; exit 7"])
        text = b""
        with added.console.view() as viewer:
            while (chunk := await viewer.receive()) is not None:
                text += chunk.data
        assert await added.wait() == 7
        for name, link in found(text.decode()).items():
            assert link == os.readlink(f"/proc/{container.pid}/ns/{name}")

    run(sup_root, body)


@pytest.mark.parametrize("share", SHARED, ids="+".join)
def test_a_console_works(sup_root: str, share: tuple[str, ...]) -> None:
    script = "tty; sleep 50 & kill %1; stty size < /dev/tty; echo done"
    text = inside(sup_root, script, share=list(share), tty=True)
    assert "done" in text
    tty = text.split()[0]
    assert tty.startswith("/dev/pts/") if "mnt" in share else tty == "/dev/pts/0"


@pytest.mark.parametrize("n", [None, 3])
def test_all_shared_and_none(sup_root: str, n: int | None) -> None:
    async def body(sup: Supervisor) -> None:
        for share in ([], list(NAMES), ["pid"], ["mnt"]):
            containers = await sup.launch(shell("exit 5", share=share), n, name="web")
            assert [container.error for container in containers] == [None] * (n or 1)
            assert [await container.wait() for container in containers] == [5] * (n or 1)
            await sup.down()

    run(sup_root, body)


def test_the_hosts_name_is_left_alone(sup_root: str) -> None:
    before = os.uname().nodename
    script = "hostname; cat /etc/hostname; grep -c localhost /etc/hosts"
    assert inside(sup_root, script, share=["uts"]).split()[:2] == [before, before]
    assert os.uname().nodename == before


def test_the_hosts_network(sup_root: str) -> None:
    script = "cat /proc/net/dev; ls /sys/class/net; cat /etc/resolv.conf; mkdir /sys/x; exit 0"
    text = inside(sup_root, script, share=["net"])
    for name in os.listdir("/sys/class/net"):
        assert text.count(name) >= 2
    if os.path.exists("/etc/resolv.conf"):
        assert Path("/etc/resolv.conf").read_text() in text
    mounts = inside(sup_root, "cat /proc/self/mountinfo", share=["net"]).splitlines()
    flags = [set(line.split()[5].split(",")) for line in mounts if line.split()[4].startswith("/sys")]
    assert flags
    assert all("ro" in each for each in flags)


def test_the_hosts_shared_memory(sup_root: str) -> None:
    with open(f"/dev/shm/sup-test-{os.getpid()}", "w", encoding="ascii") as file:
        try:
            name = os.path.basename(file.name)
            assert inside(sup_root, f"ls /dev/shm/{name}", share=["ipc"]).strip() == file.name
            assert inside(sup_root, "ls -A /dev/shm") == ""
        finally:
            os.unlink(file.name)


def test_the_hosts_processes(sup_root: str) -> None:
    script = f"test -d /proc/{os.getpid()}/ns; echo $$; cat /proc/self/stat"
    text = inside(sup_root, script, share=["pid"])
    assert int(text.split()[0]) > 1


@pytest.mark.parametrize("share", [["pid"], ["pid", "mnt"]], ids="+".join)
def test_a_directory_and_shared_processes(sup_root: str, share: list[str], tmp_path: Path) -> None:
    if "mnt" in share:
        with pytest.raises(Exception, match="do not share mnt"):
            shell("true", rootfs=str(tmp_path), share=share)
        return
    for name in ("bin", "lib", "lib64"):
        os.symlink(f"usr/{name}", tmp_path / name)
    volumes = ["/usr:/usr:ro"]
    script = f"test -d /proc/{os.getpid()}/ns; cat /proc/self/comm"
    assert inside(sup_root, script, rootfs=str(tmp_path), share=share, volumes=volumes) == "cat\n"


# Orphans without a pid namespace


def daemons(mark: str) -> list[int]:
    """Processes that sleep for `mark` seconds, dead ones left out."""
    return [
        pid
        for pid in support.processes()
        if support.command_line(pid) == f"sleep {mark}" and not support.gone(pid)
    ]


ORPHANS = "(sleep {0} &); (setsid sh -c 'trap \"\" TERM HUP; (sleep {0} &); sleep {0}' &); sleep 0.4"


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("end", ["exit", "kill", "stop"])
@pytest.mark.parametrize("n", [None, 3])
def test_orphans_end_with_their_container(sup_root: str, init: bool, end: str, n: int | None) -> None:
    mark = f"{1000 + os.getpid() % 9000}.{time.monotonic_ns() % 100000}"
    script = ORPHANS.format(mark) + ("" if end == "exit" else "; sleep 100")

    async def body(sup: Supervisor) -> None:
        spec = shell(script + "; exit 4", share=["pid"], init=init)
        bystander = shell(ORPHANS.format(mark + "1") + "; sleep 100", share=["pid"], init=init)
        [other] = await sup.launch(bystander, name="other")
        containers = await sup.launch(spec, n, name="web")
        assert [container.error for container in containers] == [None] * (n or 1)
        with trio.fail_after(20):
            while end != "exit" and len(daemons(mark)) < 3 * (n or 1):
                await trio.sleep(0.02)
            while len(daemons(mark + "1")) < 3:
                await trio.sleep(0.02)
        for container in containers:
            await _end(container, end)
            assert container.state is State.EXITED
        assert daemons(mark) == []
        assert len(daemons(mark + "1")) == 3, "another container's orphans are not touched"
        await other.remove(force=True)
        assert daemons(mark + "1") == []

    run(sup_root, body)


async def _end(container: Container, end: str) -> None:
    if end == "exit":
        assert await container.wait() == 4
    elif end == "kill":
        container.kill(signal.SIGKILL)
        assert await container.wait() == 137
    else:
        await container.stop(timeout=0.2)


def test_what_exec_leaves_ends_with_it(sup_root: str) -> None:
    mark = f"{1000 + os.getpid() % 9000}.{time.monotonic_ns() % 100000}"

    async def body(sup: Supervisor) -> None:
        [container] = await sup.launch(shell("sleep 100", share=["pid"]), name="box")
        added = await container.exec(["sh", "-c", ORPHANS.format(mark)])
        assert await added.wait() == 0
        assert daemons(mark) == []
        assert container.state is State.RUNNING

    run(sup_root, body)


def test_the_end_of_the_supervisor_is_the_end_of_orphans(sup_root: str) -> None:
    mark = f"{1000 + os.getpid() % 9000}.{time.monotonic_ns() % 100000}"

    async def body(sup: Supervisor) -> None:
        await sup.launch(shell(ORPHANS.format(mark) + "; sleep 100", share=["pid"]), 3, name="web")
        with trio.fail_after(20):
            while len(daemons(mark)) < 9:
                await trio.sleep(0.02)

    run(sup_root, body)
    assert daemons(mark) == []


# Without an init


@pytest.mark.parametrize("tty", [True, False])
def test_without_init_the_workload_is_the_first(sup_root: str, tty: bool) -> None:
    script = "echo $$; (sleep 0 &); sleep 0.2; ps -eo pid,stat | grep -c Z; exit 42"

    async def body(sup: Supervisor) -> None:
        status, text = await output(sup, shell(script, init=False, tty=tty))
        assert status == 42
        assert text.split()[0] == "1"

    run(sup_root, body)


def test_without_init_zombies_are_the_workloads_matter(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        [container] = await sup.launch(shell("(sleep 0.1 &); exec sleep 100", init=False), name="box")
        with trio.fail_after(20):
            while "Z" not in states_of_children(container.pid):
                await trio.sleep(0.02)
        await trio.sleep(0.2)
        assert "Z" in states_of_children(container.pid)

    run(sup_root, body)


def states_of_children(parent: int) -> set[str]:
    """What ps shows as STAT."""
    found = set()
    for pid in support.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, its_parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            if int(its_parent) == parent:
                found.add(state)
    return found


def test_without_init_the_status_of_a_signal(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        [container] = await sup.launch(shell("sleep 100", init=False), name="box")
        await container.stop(timeout=0.2)  # SIGTERM has no effect on PID 1 by default
        assert container.status == 137
        [other] = await sup.launch(
            shell("trap 'exit 3' TERM; echo; while :; do sleep 0.1; done", init=False)
        )
        with other.console.view() as viewer:
            assert await viewer.receive() is not None
        await other.stop(timeout=20)
        assert other.status == 3

    run(sup_root, body)


# Added: time, user


@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize("unshare", [["time"], ["user"], ["time", "user"]], ids="+".join)
def test_what_is_asked_for_is_its_own(sup_root: str, unshare: list[str], n: int | None) -> None:
    async def body(sup: Supervisor) -> None:
        containers = await sup.launch(shell(f"{LINKS}; sleep 100", unshare=unshare), n, name="web")
        for container in containers:
            assert container.error is None
            added = await container.exec(["sh", "-c", LINKS])
            text = b""
            with added.console.view() as viewer:
                while (chunk := await viewer.receive()) is not None:
                    text += chunk.data
            inner, outer = found(text.decode()), links()
            for name in unshare:
                assert inner[name] != outer[name]
                assert inner[name] == os.readlink(f"/proc/{container.pid}/ns/{name}")

    run(sup_root, body)


def test_root_in_a_user_namespace_has_no_power_outside(sup_root: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = (
        "id -u; cat /proc/self/uid_map; hostname; tty; test -c /dev/null; chmod 0 /dev/null;"
        " stat -c %a /dev/null; grep -c . /proc/self/mountinfo > /dev/null"
    )
    text = inside(sup_root, script, unshare=["user"], tty=True)
    assert text.split()[0] == "0"
    assert "/dev/pts/0" in text
    assert stat.S_IMODE(os.stat("/dev/null").st_mode) == 0o666


# Ids


CHOWN = (
    "touch /tmp/f /dev/shm/g; chown 1:1 /tmp/f /dev/shm/g; chown 65534:5 /tmp/f;"
    " stat -c %u:%g /tmp/f /dev/shm/g"
)


def with_ranges() -> list[object]:
    return [] if ROOT else [pytest.mark.requires("newuidmap")]


ranges = pytest.mark.parametrize("unshare", [pytest.param(["user"], marks=with_ranges())])


@ranges
@pytest.mark.parametrize("rootfs", ["host", "tree"])
@pytest.mark.parametrize("n", [None, 2, 4])
def test_a_range_of_ids(
    sup_root: str, unshare: list[str], n: int | None, rootfs: str, tmp_path: Path
) -> None:
    fields: dict[str, object] = {"unshare": unshare}
    if rootfs == "tree":
        for name in ("bin", "sbin", "lib", "lib64"):
            os.symlink(f"usr/{name}", tmp_path / name)
        for name in ("tmp", "etc"):
            (tmp_path / name).mkdir()
        fields |= {"rootfs": str(tmp_path), "volumes": ["/usr:/usr:ro"]}

    async def body(sup: Supervisor) -> None:
        containers = await sup.launch(shell(f"id -u; id -g; {CHOWN}", **fields), n, name="web")
        assert [container.error for container in containers] == [None] * (n or 1)
        for container in containers:
            text = b""
            with container.console.view() as viewer:
                while (chunk := await viewer.receive()) is not None:
                    text += chunk.data
            assert (await container.wait(), text.split()) == (0, [b"0", b"0", b"65534:5", b"1:1"])

    run(sup_root, body)


@ranges
@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("1", "1 1 1"),
        ("1:50", "1 50 50"),
        ("nobody", "65534 65534 65534"),
        ("daemon", "1 1 1"),
        ("12345:54321", "12345 54321 54321"),
    ],
)
def test_users_of_a_range(sup_root: str, unshare: list[str], user: str, expected: str) -> None:
    script = "echo $(id -u) $(id -g) $(id -G); cat /proc/self/setgroups; tty; : < /dev/tty"
    text = inside(sup_root, script, user=user, unshare=unshare, tty=True).replace("\r", "")
    assert text == f"{expected}\nallow\n/dev/pts/0\n"


@ranges
def test_terminals_belong_to_their_group(sup_root: str, unshare: list[str]) -> None:
    text = inside(sup_root, "stat -c '%a %g' /dev/pts/0", unshare=unshare, tty=True)
    assert text.split() == ["620", "5"]


@ranges
def test_stopping_and_signals_reach_other_users(sup_root: str, unshare: list[str]) -> None:
    async def body(sup: Supervisor) -> None:
        for init in (True, False):
            fields = {"user": "1", "init": init, "unshare": unshare}
            script = "trap 'exit 3' TERM; echo; while :; do sleep 0.1; done"
            [container] = await sup.launch(shell(script, **fields))
            with container.console.view() as viewer:
                assert await viewer.receive() is not None
            added = await container.exec(["id", "-u"], user="2")
            assert await added.wait() == 0
            await container.stop(timeout=20)
            assert container.status == 3

    run(sup_root, body)


@ranges
def test_one_pair_of_maps_serves_a_fleet(
    sup_root: str, unshare: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answer = idmap.answer

    async def count(report: object, pid: int, uids: IdMap, gids: IdMap) -> None:
        asked.append(pid)
        await answer(report, pid, uids, gids)  # type: ignore[arg-type]

    monkeypatch.setattr(idmap, "answer", count)

    async def body(sup: Supervisor) -> None:
        for n, share in ((2, []), (5, []), (3, ["mnt"])):
            asked.clear()
            containers = await sup.launch(shell("exit 3", unshare=unshare, share=share), n, name="web")
            assert [await container.wait() for container in containers] == [3] * n
            assert len(asked) == 1
            await sup.down()

    run(sup_root, body)


@ranges
def test_files_of_other_ids_are_removed(sup_root: str, unshare: list[str], tmp_path: Path) -> None:
    """From a layer on the host's disk: what belongs to the range is nobody's that the user could be."""
    for name in ("bin", "lib", "lib64"):
        os.symlink(f"usr/{name}", tmp_path / name)

    async def body(sup: Supervisor) -> None:
        sup.host = attrs.evolve(sup.host, layers=sup.paths.layers)
        script = "mkdir -m 700 /mine; touch /mine/file; chown -R 7:7 /mine"
        fields = {"rootfs": str(tmp_path), "volumes": ["/usr:/usr:ro"], "unshare": unshare}
        [container] = await sup.launch(shell(script, **fields))
        assert await container.wait() == 0
        assert len(os.listdir(sup.paths.layers)) == 1
        await container.remove()
        assert os.listdir(sup.paths.layers) == []

    run(sup_root, body)


SINGLE = IdMap(((0, os.geteuid(), 1),))


def test_with_one_id_there_is_one_user(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        sup.host = attrs.evolve(sup.host, uids=SINGLE, gids=SINGLE)
        status, text = await output(
            sup, shell("id -u; id -g; cat /proc/self/setgroups", unshare=["user"])
        )
        assert (status, text) == (0, "0\n0\ndeny\n")
        for user in ("1000", "nobody", "0:5"):
            for n in (None, 3):
                containers = await sup.launch(shell("true", user=user, unshare=["user"]), n, name="web")
                for container in containers:
                    assert isinstance(container.error, HostLacks)
                    assert f"has no user {user}" in str(container.error)
                    assert "/etc/subuid" in str(container.error)
                await sup.down()

    run(sup_root, body)


# Helpers that fail


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A newuidmap in front of the host's, run for root too."""
    directory = tmp_path / "path"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr(idmap, "_writes_itself", lambda: False)
    return directory / "newuidmap"


RANGES = IdMap(((0, os.geteuid(), 1), (1, 100000, 65536)))


@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'newuidmap: not today' >&2; exit 1", "newuidmap failed: not today"),
        ("exit 3", "newuidmap failed: status 3"),
        ("exec sleep 1000", "newuidmap did not end within"),
        ("kill -9 $$", "newuidmap failed: status -9"),
        ("", "newuidmap cannot be run: Exec format error"),
    ],
)
def test_a_helper_that_fails(
    sup_root: str,
    helper: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    message: str,
    n: int | None,
) -> None:
    helper.write_text(f"#!/bin/sh\n{script}\n" if script else "no program")
    helper.chmod(0o755)
    if not script:  # else the next of that name is tried
        monkeypatch.setenv("PATH", str(helper.parent))
    monkeypatch.setattr(idmap, "DEADLINE", 1.0)

    async def body(sup: Supervisor) -> None:
        sup.host = attrs.evolve(sup.host, uids=RANGES, gids=RANGES)
        spec = shell("true", unshare=["user"])
        with trio.fail_after(20):
            if n:  # it is the template that fails
                with pytest.raises(HostLacks, match=re.escape(message)):
                    await sup.launch(spec, n, name="web")
                assert not sup.containers
                return
            [container] = await sup.launch(spec, name="web")
        assert isinstance(container.error, HostLacks)
        assert message in str(container.error)
        assert container.state is State.EXITED

    run(sup_root, body)


def test_a_launch_cancelled_while_a_helper_hangs(sup_root: str, helper: Path) -> None:
    helper.write_text("#!/bin/sh\nexec sleep 1000\n")
    helper.chmod(0o755)

    async def body(sup: Supervisor) -> None:
        sup.host = attrs.evolve(sup.host, uids=RANGES, gids=RANGES)
        for n in (None, 3):
            with trio.fail_after(20), trio.move_on_after(0.3):
                await sup.launch(shell("true", unshare=["user"]), n, name="web")

    run(sup_root, body)
