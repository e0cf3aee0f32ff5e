"""Control groups in the kernel: limits that hold, events, freezing, killing, and nothing left."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import support

from supervisor.cgroup import files
from supervisor.cgroup.events import Alert, Event, Watcher
from supervisor.cgroup.group import Group
from supervisor.cgroup.groups import Groups, base_name
from supervisor.cgroup.limits import Limits
from supervisor.cgroup.stats import Reader
from supervisor.cgroup.update import update
from supervisor.errors import HostLacks, SupError, WrongState
from supervisor.linux import clone, process

requires = pytest.mark.requires
TREE = Path(__file__).parents[2]
HOG = "b = bytearray(60 << 20)\nfor at in range(0, len(b), 4096): b[at] = 1\nprint('alive')"
SPIN = "while True: pass"
SLEEP = "import time; time.sleep(300)"


def on_host(kind: str, tmp: Path) -> str:
    """A /proc in which only v1, or only v2, or all is mounted."""
    proc = tmp / f"proc-{kind}" / "self"
    proc.mkdir(parents=True)
    for name in ("mountinfo", "cgroup"):
        kept = []
        for line in Path(f"/proc/self/{name}").read_text().splitlines():
            v2 = " - cgroup2 " in line or line.startswith("0::")
            if kind == "all" or v2 == (kind == "v2"):
                kept.append(line)
        (proc / name).write_text("\n".join(kept) + "\n")
    (proc.parent / "cgroups").write_text(Path("/proc/cgroups").read_text())
    return str(proc.parent)


def left_of(root: Path) -> list[str]:
    """Directories of this root's supervisor in any hierarchy."""
    name = base_name(str(root))
    return [path for path in support.cgroups() if name in path]


@contextlib.contextmanager
def opened(root: Path, kind: str = "all") -> Iterator[Groups]:
    groups = Groups.open(str(root), str(root / "cgroups"), proc=on_host(kind, root))
    try:
        yield groups
    finally:
        left = groups.close()
    assert left == left_of(root) == []
    assert not (root / "cgroups").exists()


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Groups]:
    support.enforce(["root"])
    with opened(tmp_path) as made:
        if not made.offer.places:
            pytest.skip(made.offer.refusal)
        yield made


def needs(groups: Groups, *controllers: str) -> None:
    for name in controllers:
        if groups.offer.of(name) is None:
            pytest.skip(f"this host has no {name} controller for us")


def run(group: Group, *argv: str, **options: object) -> subprocess.Popen[bytes]:
    """A process in the group before its first instruction, as where clone3 cannot be used."""
    with group.join() as join:

        def enter() -> None:
            for fd in join.tasks:
                os.write(fd, b"0")
            if group.unified:
                files.write(f"{group.unified}/cgroup.procs", "0")

        given: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(argv, preexec_fn=enter, **{**given, **options})  # type: ignore[call-overload, no-any-return]  # noqa: PLW1509


def python(group: Group, program: str) -> subprocess.Popen[bytes]:
    return run(group, sys.executable, "-S", "-c", program)


@contextlib.contextmanager
def running(group: Group, program: str) -> Iterator[subprocess.Popen[bytes]]:
    started = python(group, program)
    try:
        yield started
    finally:
        group.kill()
        started.communicate(timeout=support.TIMEOUT)


def told(watcher: Watcher, wanted: Callable[[Event], bool], seconds: float = 10) -> list[Event]:
    """What a watcher tells until one event is as wanted."""
    found: list[Event] = []
    deadline = time.monotonic() + seconds
    while not any(map(wanted, found)):
        left = deadline - time.monotonic()
        assert left > 0, f"not told; {found}"
        if select.select([watcher.fileno()], [], [], left)[0]:
            found += watcher.read()
    return found


def test_a_clone_is_in_all_groups_before_its_first_instruction(groups: Groups) -> None:
    group = groups.create("first")
    read, write = os.pipe()
    with group.join() as join:
        pid, pidfd = clone.clone3(0, max(join.clone_fd, 0))
        if pid == 0:
            try:
                for fd in join.tasks:
                    os.write(fd, b"0")
                os.write(write, Path("/proc/self/cgroup").read_bytes())
            finally:
                os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        seen = pipe.read().decode()
    assert support.eventually(lambda: process.reap(pidfd) is not None, support.TIMEOUT)
    os.close(pidfd)
    assert len(re.findall(r"/sup-[0-9a-f]{12}/c-first$", seen, re.M)) == len(group.directories)
    assert groups.remove(group) or support.eventually(groups.sweep)


def test_a_hog_dies_at_its_limit_and_it_is_told(groups: Groups) -> None:
    needs(groups, "memory")
    group = groups.create("hog", Limits(memory="10m", memory_swap="10m"))
    watcher = Watcher(groups.offer)
    try:
        watcher.add("hog", group)
        hog = python(group, HOG)
        output, _ = hog.communicate(timeout=support.TIMEOUT)
        assert (hog.returncode, output) == (-signal.SIGKILL, b"")
        events = told(watcher, lambda event: event.kind == "oom") + watcher.look("hog")
        assert {event.kind for event in events} >= {"oom", "oom_kill"}
        assert [event.total for event in events if event.kind == "oom_kill"] == [1]
    finally:
        watcher.close()
    peak = Reader(group)
    sample = peak.read()
    peak.close()
    assert sample
    assert sample.peak
    assert 8 << 20 <= sample.peak <= 10 << 20


def test_a_fleet_is_limited_as_a_whole_and_the_level_is_told(groups: Groups) -> None:
    needs(groups, "memory", "pids")
    fleet = groups.create_fleet("all", Limits(memory="10m", memory_swap="10m", pids_limit=9))
    group = groups.create("one", fleet=fleet)
    watcher = Watcher(groups.offer)
    try:
        watcher.add("fleet", fleet)
        watcher.add("one", group)
        hog = python(group, HOG)
        hog.communicate(timeout=support.TIMEOUT)
        assert hog.returncode == -signal.SIGKILL
        events = told(watcher, lambda event: event.kind == "oom") + watcher.look("one")
        assert {event.key for event in events if event.kind == "oom"} == {"fleet"}
        assert ("one", "oom_kill") in {(event.key, event.kind) for event in events}
    finally:
        watcher.close()
    assert groups.remove(group) or support.eventually(groups.sweep)
    assert groups.remove(fleet) or support.eventually(groups.sweep)


def test_a_busy_loop_gets_its_part_of_a_cpu(groups: Groups) -> None:
    needs(groups, "cpu")
    group = groups.create("busy", Limits(cpus=0.3))
    reader = Reader(group)
    with running(group, SPIN):
        time.sleep(0.5)
        first = reader.read()
        time.sleep(2)
        second = reader.read()
    reader.close()
    assert first
    assert second
    assert first.cpu_ns is not None
    assert second.cpu_ns is not None
    used = (second.cpu_ns - first.cpu_ns) / (second.time_ns - first.time_ns)
    assert 0.1 < used < 0.4, used  # at least: the host is shared
    assert second.throttled
    assert second.throttled_ns


def test_no_more_processes_than_the_limit(groups: Groups) -> None:
    needs(groups, "pids")
    group = groups.create("bomb", Limits(pids_limit=20))
    watcher = Watcher(groups.offer)
    watcher.add("bomb", group)

    def look() -> set[str]:
        if group.directory("pids") == group.unified:
            return {event.kind for event in watcher.read()}
        return {event.kind for event in watcher.look("bomb")}

    program = "import os, time\nwhile True:\n try: os.fork()\n except BlockingIOError: time.sleep(0.05)"
    try:
        with running(group, program):
            assert support.eventually(lambda: "pids_max" in look(), support.TIMEOUT)
            reader = Reader(group)
            sample = reader.read()
            reader.close()
            assert sample
            assert sample.pids == 20
            group.kill()
            assert support.eventually(lambda: not group.populated(), support.TIMEOUT)
    finally:
        watcher.close()


@requires("root")
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_frozen_processes_stand_still_and_can_be_killed(kind: str, tmp_path: Path) -> None:
    ticks = "import time\nwhile True: print(1, flush=True); time.sleep(0.01)"
    with opened(tmp_path, kind) as groups:
        if not groups.offer.places:
            pytest.skip(groups.offer.refusal)
        group = groups.create("ice")
        with running(group, ticks) as started:
            assert started.stdout
            os.read(started.stdout.fileno(), 1)
            group.freeze()
            assert support.eventually(group.frozen)
            drain(started)
            time.sleep(0.2)
            assert drain(started) == b""
            group.thaw()
            assert support.eventually(lambda: drain(started) != b"")
            group.freeze()
            assert support.eventually(group.frozen)
            group.kill()
            assert started.wait(support.TIMEOUT) == -signal.SIGKILL
        assert support.eventually(lambda: not group.populated())
        assert groups.remove(group) or support.eventually(groups.sweep)


def drain(started: subprocess.Popen[bytes]) -> bytes:
    assert started.stdout
    os.set_blocking(started.stdout.fileno(), False)
    return started.stdout.read() or b""


@requires("root")
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_kill_finds_whatever_was_forked(kind: str, tmp_path: Path) -> None:
    program = (
        "import os, time\nfor _ in range(4):\n os.fork(); os.setsid() if os.fork() == 0 else 0\n"
        "time.sleep(300)"
    )
    with opened(tmp_path, kind) as groups:
        if not groups.offer.places:
            pytest.skip(groups.offer.refusal)
        group = groups.create("tree", Limits())
        with running(group, program):
            assert support.eventually(lambda: len(group.pids()) > 100, support.TIMEOUT)
            pids = group.pids()

            def killed() -> bool:
                group.kill()
                return not group.populated()

            assert support.eventually(killed, support.TIMEOUT)
            assert all(support.gone(pid) for pid in pids)


def test_states_are_told(groups: Groups) -> None:
    group = groups.create("state")
    if not group.unified:
        pytest.skip("no v2 hierarchy")
    watcher = Watcher(groups.offer)
    watcher.add("state", group)
    try:
        with running(group, SLEEP):
            told(watcher, lambda event: event[1:3] == ("populated", 1))
            group.freeze()
            told(watcher, lambda event: event[1:3] == ("frozen", 1))
        told(watcher, lambda event: event[1:3] == ("populated", 0))
    finally:
        watcher.close()


def test_pressure_is_told(groups: Groups) -> None:
    needs(groups, "cpu")
    group = groups.create("press", Limits(cpus=0.1))
    if not os.path.exists(f"{group.unified}/cpu.pressure"):
        pytest.skip("no PSI")
    watcher = Watcher(groups.offer)
    watcher.add("press", group)
    fd = watcher.alert("press", Alert.parse("cpu.some>10%/2s"))
    try:
        with running(group, SPIN):
            assert select.select([fd], [], [], support.TIMEOUT)[0]
            assert watcher.alerted(fd) == [Event("press", "cpu.some>10%/2s", 1, 1)]
            assert select.select([fd], [], [], 0)[0] == []
    finally:
        watcher.close()


def test_what_is_busy_is_removed_later(groups: Groups) -> None:
    group = groups.create("busy")
    with running(group, SLEEP):
        assert not groups.remove(group)
        assert groups.graves == [group]
        assert not groups.sweep()
    assert support.eventually(groups.sweep)
    assert groups.graves == []


def test_groups_that_a_container_made_go_with_it(groups: Groups) -> None:
    group = groups.create("nest")
    for directory in group.directories.values():
        os.makedirs(f"{directory}/inner/most")
    assert groups.remove(group) or support.eventually(groups.sweep)


def test_the_name_of_a_file_may_name_a_container(groups: Groups) -> None:
    names = ["memory.max", "cgroup.procs", "tasks", "pids.max"]
    made = [groups.create(name) for name in names]
    with pytest.raises(WrongState, match="it is there already"):
        groups.create("tasks")
    assert all(os.path.isdir(path) for group in made for path in group.directories.values())


@requires("root")
def test_what_a_dead_supervisor_left_is_killed_and_removed(tmp_path: Path) -> None:
    root, record = str(tmp_path), str(tmp_path / "cgroups")
    dead = Groups.open(root, record)
    if not dead.offer.places:
        pytest.skip(dead.offer.refusal)
    fleet = dead.create_fleet("fleet", Limits())
    started = python(dead.create("left", fleet=fleet), SLEEP)
    with opened(tmp_path) as groups:
        assert started.wait(support.TIMEOUT) == -signal.SIGKILL
        started.communicate()
        found = {os.path.basename(path) for path in left_of(tmp_path)}
        assert found == {os.path.basename(groups.offer.places[0].directory)}


def test_a_group_that_vanishes_is_one_clear_sentence(groups: Groups) -> None:
    needs(groups, "memory")
    group, other = groups.create("gone"), groups.create("stays")
    reader, healthy = Reader(group), Reader(other)
    assert reader.read()
    for directory in group.directories.values():
        os.rmdir(directory)
    assert reader.read() is None
    assert reader.read() is None
    assert healthy.read()
    healthy.close()
    with pytest.raises(WrongState, match=r"memory cannot be set: the group of .* has gone: restart"):
        update(group, attrs.evolve(group.limits, memory="20m"))
    with pytest.raises(WrongState, match="the group of gone cannot be joined: No such file"):
        group.join()
    with pytest.raises(WrongState, match="gone cannot be paused"):
        group.freeze()
    with pytest.raises(SupError, match="gone cannot be watched"):
        watch_once(group)
    assert not group.populated()
    group.kill()
    assert groups.remove(group)


def watch_once(group: Group) -> None:
    watcher = Watcher(group.offer)
    try:
        watcher.add("x", group)
    finally:
        watcher.close()


def test_an_update_is_held_and_read_back(groups: Groups) -> None:
    needs(groups, "memory", "cpu", "pids")
    group = groups.create("live", Limits(memory="20m"))
    for memory in ("40m", "10m", "unlimited", "16m"):
        update(group, attrs.evolve(group.limits, memory=memory, cpus=0.5, pids_limit=7))
        assert all(files.holds(one.value, held) for one, held in group.held().items())
    assert group.limits.memory == 16 << 20
    assert "7" in group.held().values()


def test_an_update_is_all_or_none(groups: Groups) -> None:
    needs(groups, "memory", "cpu", "pids")
    if groups.offer.of("memory") == groups.offer.unified:
        pytest.skip("v2 takes a limit below what is used, and kills")
    group = groups.create("live", Limits(memory="64m", cpus=0.5))
    with running(group, "b = bytearray(30 << 20)\nprint(1, flush=True)\n" + SLEEP) as started:
        assert started.stdout
        started.stdout.readline()
        before, limits = group.held(), group.limits
        with pytest.raises(HostLacks, match=r"memory cannot be held: .*busy: give more than is in use"):
            update(group, attrs.evolve(limits, memory="8m", cpus=0.2, pids_limit=5))
        assert (group.held(), group.limits) == (before, limits)


def test_a_live_container_gets_a_cpuset(groups: Groups) -> None:
    needs(groups, "cpuset")
    group = groups.create("pin")
    cpu = str(min(groups.offer.cpus))
    with running(group, SLEEP) as started:
        update(group, attrs.evolve(group.limits, cpuset_cpus=cpu))
        status = Path(f"/proc/{started.pid}/status").read_text()
    assert re.search(rf"^Cpus_allowed_list:\t{cpu}$", status, re.M)


def test_devices_are_denied(groups: Groups) -> None:
    needs(groups, "devices")
    group = groups.create("dev", Limits(devices=["c 1:3 rwm", "c 1:9 r"]))
    program = "open('/dev/urandom', 'rb').read(1); open('/dev/null'); open('/dev/full')"
    started = python(
        group, program.replace("open('/dev/full')", "print('ok', flush=True)\nopen('/dev/full')")
    )
    output, _ = started.communicate(timeout=support.TIMEOUT)
    assert (started.returncode, output) == (1, b"ok\n")


def test_what_cannot_be_held_leaves_no_group(groups: Groups) -> None:
    needs(groups, "memory", "cpu")
    before = left_of_all(groups)
    for limits, reason in (
        (Limits(cpus=1000), r"cpus 1000 cannot be held: this host has \d+ CPUs: give at most"),
        (Limits(cpuset_cpus="4000"), "cpuset_cpus 4000 cannot be held: the CPUs that we may use are"),
        (Limits(cgroup="memory.nonsense=1"), "memory.nonsense=1 cannot be held: .* have no memory"),
        (Limits(cgroup="cpu.nonsense=1"), "have no cpu.nonsense here"),
        (Limits(device_read_bps="/dev/null:1m"), "it is no block device"),
    ):
        with pytest.raises(SupError, match=reason):
            groups.create("never", limits)
    assert left_of_all(groups) == before
    warnings: list[SupError] = []
    group = groups.create("warned", Limits(cpus=1000, memory="10m"), warn=warnings.append)
    assert [str(one)[:4] for one in warnings] == ["cpus"]
    assert group.limits.memory
    assert any("10485760" in held for held in group.held().values())


def left_of_all(groups: Groups) -> list[list[str]]:
    return [sorted(next(os.walk(place.directory))[1]) for place in groups.offer.places]


def test_what_the_kernel_refuses_leaves_no_group(groups: Groups) -> None:
    needs(groups, "memory")
    file = "memory.swappiness" if "memory.swappiness" in every_file(groups) else "memory.high"
    before = left_of_all(groups)
    with pytest.raises(HostLacks, match=f"{file} does not take 'soup': Invalid argument"):
        groups.create("never", Limits(cgroup=f"{file}=soup"))
    assert left_of_all(groups) == before


def every_file(groups: Groups) -> frozenset[str]:
    return frozenset().union(*(place.files for place in groups.offer.places))


READ_ONLY = """
import sys
from supervisor.cgroup.groups import Groups
from supervisor.cgroup.limits import Limits
groups = Groups.open(sys.argv[1], sys.argv[1] + "/cgroups")
print(groups.create("free").directories)
try:
    groups.create("held", Limits(memory="10m"))
except Exception as error:
    print(type(error).__name__, error)
print(groups.close())
"""


@requires("root")
def test_read_only_hierarchies_are_one_clear_sentence(tmp_path: Path) -> None:
    script = (
        "awk '$9 ~ /^cgroup/ || $10 ~ /^cgroup/ {print $5}' /proc/self/mountinfo |"
        ' while read m; do mount -o remount,bind,ro $m || exit 1; done; exec "$@"'
    )
    argv = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", READ_ONLY, str(tmp_path)]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=support.TIMEOUT, cwd=TREE, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "{}"
    assert re.fullmatch(
        r"HostLacks memory 10MiB cannot be held: \S+ is mounted read-only; .*systemd-run.*", second
    )
    assert third == "[]"


@requires("user")
def test_an_ordinary_user_is_told_why_there_are_no_limits(tmp_path: Path) -> None:
    groups = Groups.open(str(tmp_path), str(tmp_path / "cgroups"))
    try:
        if groups.offer.places:
            pytest.skip("a group is delegated to us")
        assert groups.create("plain").directories == {}
        uid = os.getuid()
        with pytest.raises(
            HostLacks, match=rf"memory 10MiB cannot be held: uid {uid} may not write to"
        ):
            groups.create("held", Limits(memory="10m"))
        with pytest.raises(HostLacks, match="plain cannot be paused: uid"):
            groups.create("plain").freeze()
        sample = Reader(groups.create("plain")).read()
        assert sample
        assert sample.memory is None
    finally:
        assert groups.close() == []
