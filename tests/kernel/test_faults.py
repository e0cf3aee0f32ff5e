"""Every kernel call of a launch can fail: it is named, all is rolled back, the next launch works."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest
import support
import trio
from faulty import Faults, Traces, run_faulty
from support import requires

from supervisor import Container, ContainerSpec, Supervisor, launch, open_supervisor
from supervisor.console.hub import Channel
from supervisor.container import State
from supervisor.errors import (
    CannotExecute,
    CommandNotFound,
    HostLacks,
    LaunchTimeout,
    LimitReached,
    ShimLost,
    StepFailed,
    SupError,
)
from supervisor.plan import Steps, compile
from supervisor.shim import steps

pytestmark = pytest.mark.requires("containers")

ERRNOS = (errno.EPERM, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN)
FLEET = 3
"""From here on a fleet has a template."""


KINDS = ("terminal", "pipes", "user namespace", "own tree", "writable tree")


def shell(script: str, **fields: object) -> ContainerSpec:
    return ContainerSpec.from_mapping({"command": ["sh", "-c", script], **fields})


def rich(root: str, **fields: object) -> ContainerSpec:
    """A spec with as many kinds of steps as one can have."""
    os.makedirs(f"{root}/volume", exist_ok=True)
    return shell(
        "exit 3",
        volumes=[f"{root}/volume:/root/in", f"{root}/volume:/data:ro"],
        tmpfs=["/scratch", "/run/x"],
        ulimits=["core=0"],
        sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
        **fields,
    )


def tree(root: str) -> str:
    """A root file system: links into /usr, which has to be mounted."""
    path = f"{root}/tree"
    if not os.path.isdir(path):
        # A tree that is shared writable keeps what is mounted upon: here it is there before.
        for name in ("etc", "usr", "dev", "proc", "sys"):
            os.makedirs(f"{path}/{name}")
        for name in ("hostname", "hosts", "resolv.conf"):
            open(f"{path}/etc/{name}", "x").close()
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            if os.path.islink(f"/{name}"):
                os.symlink(os.readlink(f"/{name}"), f"{path}/{name}")
    return path


def places(part: str, plan: Steps) -> Iterator[tuple[str, str, int]]:
    """Where a plan can fail: part, call, and which of its calls."""
    seen: Counter[str] = Counter()
    for step in plan:
        yield part, step[0], seen[step[0]]
        seen[step[0]] += 1


def assert_names(error: SupError | None, call: str, number: int) -> None:
    """The error is one sentence that names the call and, but for a plain lack, the reason."""
    assert error is not None
    assert call in error.message
    assert "\n" not in str(error)
    if not isinstance(error, HostLacks):
        assert isinstance(error, StepFailed), error
        assert (error.call, error.errno) == (call, number)
        assert os.strerror(number) in error.message


async def fails(sup: Supervisor, spec: ContainerSpec, call: str, number: int, n: int | None) -> None:
    try:
        containers = await sup.launch(spec, n, name="box")
    except SupError as error:  # the template's own
        assert_names(error, call, number)
        assert not sup.containers
        return
    for container in containers:
        assert_names(container.error, call, number)
        assert container.error is not None
        assert (container.state, container.pid) == (State.EXITED, 0)
        assert container.status == container.error.exit_code
        await container.remove()


async def works(sup: Supervisor, spec: ContainerSpec, n: int | None = None) -> None:
    containers = await sup.launch(spec, n, name="box")
    assert [container.error for container in containers] == [None] * (n or 1)
    for container in containers:
        assert await container.wait() == 3
        await container.remove()


def specs(root: str) -> dict[str, ContainerSpec]:
    """One for each of KINDS."""
    usr = {"volumes": ["/usr:/usr:ro"]}
    made = (
        rich(root),
        rich(root, tty=False, share=["pid"]),
        rich(root, unshare=["user"]),
        shell("exit 3", rootfs=tree(root), tmpfs=["/scratch"], ulimits=["core=0"], **usr),
        shell("exit 3", rootfs=f"{tree(root)}:rw", ulimits=["core=0"], **usr),
    )
    return dict(zip(KINDS, made, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [None, FLEET])
def test_every_step_may_fail(sup_root: str, kind: str, n: int | None) -> None:
    spec = specs(sup_root)[kind]

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        plan = compile(spec, sup.host)
        template = n is not None and plan.pivots_shared
        found = [*places("own", plan.own if template else plan.shared + plan.own)]
        found += [*places("shared", plan.shared)] if template else []
        found += [*places("workload", plan.workload)]
        await works(sup, spec, n)
        await traces.assert_none()
        for (part, call, nth), number in zip(found, cycle(ERRNOS), strict=False):
            faults.fail(call, number, part=part, nth=nth)
            await fails(sup, spec, call, number, n)
            await traces.assert_none()
        faults.clear()
        await works(sup, spec, n)
        await traces.assert_none()

    run_faulty(sup_root, body)


@pytest.mark.parametrize("n", [None, FLEET])
def test_every_call_may_fail_for_any_reason(sup_root: str, n: int | None) -> None:
    spec = rich(sup_root)

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        plan = compile(spec, sup.host)
        parts = [("own", plan.own), ("workload", plan.workload), ("shared", plan.shared)]
        found = dict.fromkeys((part, step[0]) for part, those in parts for step in those)
        for part, call in found:
            for number in ERRNOS:
                faults.fail(call, number, part="own" if n is None and part == "shared" else part)
                await fails(sup, spec, call, number, n)
        await traces.assert_none()
        faults.clear()
        await works(sup, spec, n)

    run_faulty(sup_root, body)


def test_no_step_is_left_out(sup_root: str) -> None:
    """The specs of these tests have every step that there is."""

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        plans = [compile(spec, sup.host) for spec in specs(sup_root).values()]
        names = {step[0] for plan in plans for step in plan.shared + plan.own + plan.workload}
        # Which of these it is depends on the user, and whether there are ranges of ids.
        assert names | {"idmap", "await_idmap", "mknod"} == steps.CALLS

    run_faulty(sup_root, body)


CALLS = [
    ("clone3", number, kind)
    for number, kind in (
        (errno.EPERM, HostLacks),
        (errno.ENOMEM, StepFailed),
        (errno.ENOSPC, StepFailed),
        (errno.EAGAIN, StepFailed),
    )
]
CALLS += [("open", number, StepFailed) for number in (errno.ENOSPC, errno.EMFILE, errno.EIO)]
CALLS += [("move_mount", number, StepFailed) for number in (errno.EPERM, errno.ENOSPC)]
CALLS += [("fork", number, StepFailed) for number in (errno.EAGAIN, errno.ENOMEM)]
CALLS += [
    ("execve", number, CannotExecute)
    for number in (errno.E2BIG, errno.ENOEXEC, errno.EACCES, errno.EPERM, errno.ENOMEM)
]
CALLS += [("execve", errno.ENOENT, CommandNotFound)]


@pytest.mark.parametrize("n", [None, FLEET])
def test_every_call_between_the_steps_may_fail(sup_root: str, n: int | None) -> None:
    spec = ContainerSpec.from_mapping(
        {"command": ["/bin/sh", "-c", "exit 3"], "ulimits": ["core=0"]}  # one place to look, and a fork
    )

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        for call, number, kind in CALLS:
            faults.fail(call, number)
            if (call, n) == ("clone3", FLEET):  # the template's
                with pytest.raises(kind) as caught:
                    await sup.launch(spec, n, name="box")
                assert_names(caught.value, call, number)
                assert not sup.containers
                continue
            for container in await sup.launch(spec, n, name="box"):
                assert type(container.error) is kind, (call, number, container.error)
                assert_names(container.error, call, number)
                await container.remove()
            await traces.assert_none()
        faults.clear()
        await works(sup, spec, n)
        await traces.assert_none()

    run_faulty(sup_root, body)


def test_one_replica_that_fails_does_not_fail_the_others(sup_root: str) -> None:
    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        faults.fail("clone3", errno.EAGAIN, nth=2)  # the template's own is the first
        containers = await sup.launch(shell("sleep 100"), 4, name="box")
        assert [container.state for container in containers].count(State.RUNNING) == 3
        [failed] = [container for container in containers if container.error is not None]
        assert_names(failed.error, "clone3", errno.EAGAIN)
        assert failed.error is not None
        assert "pid_max" in failed.error.remedy
        await sup.down()
        await traces.assert_none()

    run_faulty(sup_root, body)


@pytest.mark.parametrize(
    ("call", "nth"), [("setns", 0), ("clone3", 0), ("clone3", 1), ("open", 0), ("execve", 0)]
)
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_an_added_command_may_fail(sup_root: str, call: str, nth: int, number: int) -> None:
    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        [box] = await sup.launch(shell("sleep 100"))
        traces = Traces(sup_root, sup.shim_pid)
        faults.fail(call, number, nth=nth)
        with pytest.raises(StepFailed) as caught:
            await box.exec(["/bin/true"], tty=True)
        assert_names(caught.value, call, number)
        await traces.assert_none()
        faults.clear()
        added = await box.exec(["sh", "-c", "exit 9"])
        assert await added.wait() == 9
        await traces.assert_none()

    run_faulty(sup_root, body)


# What the supervisor itself may lack


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """So many more may be opened, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(one.split()[0]) for one in support.descriptors()}
    free = [number for number in range(max(used) + count + 2) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


LACKING = [
    {"tty": True},
    {"tty": False, "stdin": True},
    {"tty": False, "env": {f"K{n}": "x" * 1000 for n in range(100)}},  # too large for one message
]


async def launched(sup: Supervisor, spec: ContainerSpec, n: int | None) -> list[SupError | None]:
    """What became of a launch: an error for each container, or of all."""
    try:
        containers = await sup.launch(spec, n, name="box")
    except SupError as error:
        return [error]
    for container in containers:
        assert container.error is not None or await container.wait() == 3
    outcome = [container.error for container in containers]
    await sup.down()
    return outcome


def assert_clear(errors: list[SupError]) -> None:
    for error in errors:
        assert isinstance(error, LimitReached | StepFailed)
        assert "Too many open files" in error.message
        assert "open files" in error.remedy


@pytest.mark.parametrize("fields", LACKING, ids=["terminal", "pipes", "memfd"])
@pytest.mark.parametrize("n", [None, FLEET])
def test_descriptors_run_out_anywhere(sup_root: str, n: int | None, fields: dict[str, object]) -> None:
    spec = shell("exit 3", **fields)

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        errors: list[SupError | None] = []
        for count in range(32):
            with descriptors_left(count):
                errors += await launched(sup, spec, n)
            await traces.assert_none()
        assert errors[0] is not None
        assert errors[-1] is None
        assert_clear([error for error in errors if error is not None])
        await works(sup, spec, n)

    run_faulty(sup_root, body)


def test_descriptors_run_out_for_an_added_command(sup_root: str) -> None:
    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        [box] = await sup.launch(shell("sleep 100"))
        traces = Traces(sup_root, sup.shim_pid)

        async def status(count: int) -> int | SupError:
            with descriptors_left(count):
                try:
                    added = await box.exec(["sh", "-c", "exit 9"], tty=count % 2 == 0)
                except SupError as error:
                    return error
                return await added.wait()

        outcomes = []
        for count in range(16):
            outcomes.append(await status(count))
            await traces.assert_none()
        assert outcomes[-1] == 9
        assert_clear([outcome for outcome in outcomes if isinstance(outcome, SupError)])
        assert outcomes.count(9) < len(outcomes)

    run_faulty(sup_root, body)


def test_no_descriptor_may_be_in_flight(sup_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.shim import protocol

    real = protocol.send

    def full(*arguments: object) -> None:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        monkeypatch.setattr(protocol, "send", full)
        [box] = await sup.launch(shell("exit 3"), name="box")
        assert isinstance(box.error, LimitReached)
        await box.remove()
        with pytest.raises(LimitReached, match="template"):
            await sup.launch(shell("exit 3"), FLEET, name="box")
        monkeypatch.setattr(protocol, "send", real)
        await traces.assert_none()
        await works(sup, shell("exit 3"), FLEET)

    run_faulty(sup_root, body)


@pytest.mark.parametrize("fields", [{"tty": True}, {"tty": False, "stdin": True}])
def test_the_console_cannot_be_watched(
    sup_root: str, fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """epoll_ctl(2) says ENOSPC at fs.epoll.max_user_watches, whichever of the streams it is."""

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        real = sup.hub.add

        def add(channel: Channel, events: int) -> None:
            if not outcomes.pop(0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(channel, events)

        for good in (0,) if fields["tty"] else (0, 1, 2):
            outcomes = [True] * good + [False]
            monkeypatch.setattr(sup.hub, "add", add)
            [box] = await sup.launch(shell("sleep 100", **fields), name="box")
            monkeypatch.setattr(sup.hub, "add", real)
            assert isinstance(box.error, LimitReached)
            assert box.state is State.EXITED
            await box.remove()
            await traces.assert_none()
        await works(sup, shell("exit 3", **fields))

    run_faulty(sup_root, body)


# The handshake's deadline


@pytest.mark.parametrize(
    ("call", "part", "n"),
    [
        ("mount", "own", None),
        ("open", "", None),
        ("chdir", "workload", None),
        ("execve", "", None),
        ("clone3", "", None),
        ("mount", "shared", FLEET),
        ("mount", "own", FLEET),
        ("umask", "workload", FLEET),
        ("execve", "", FLEET),
    ],
)
def test_a_launch_that_hangs_is_given_up(
    sup_root: str, call: str, part: str, n: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "DEADLINE", 0.5)
    monkeypatch.setattr(launch, "PATIENCE", 1.0)

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        faults.hang(call, part=part)
        if n is not None and part in ("shared", "workload"):  # it is the template that hangs
            with pytest.raises(LaunchTimeout, match=r"within 0\.5 s"):
                await sup.launch(shell("exit 3"), n, name="box")
        else:
            containers = await sup.launch(shell("exit 3"), n, name="box")
            for container in containers:
                assert isinstance(container.error, LaunchTimeout), container.error
                assert container.state is State.EXITED
                await container.remove()
        if call == "clone3":  # the shim itself hung: what it makes later is not wanted any more
            faults.clear()
        await traces.assert_none()
        faults.clear()
        monkeypatch.setattr(launch, "DEADLINE", 30.0)
        await works(sup, shell("exit 3"), n)

    run_faulty(sup_root, body)


# The shim dies


def offspring(pid: int) -> set[int]:
    """Everything below a process."""
    found = set(support.children_of(pid))
    return found.union(*(offspring(child) for child in found))


async def assert_gone(pids: set[int]) -> None:
    with trio.move_on_after(20):
        while not all(support.gone(pid) for pid in pids):
            # Orphans fall to this process: a pid namespace ends when all of it has been reaped.
            support.children(reap=True)
            await trio.sleep(0.01)
    assert [support.command_line(pid) for pid in pids if not support.gone(pid)] == []


@pytest.mark.parametrize("n", [None, FLEET])
@pytest.mark.parametrize(
    ("call", "part"), [("clone3", ""), ("mount", "own"), ("open", ""), ("umask", "workload")]
)
def test_the_shim_dies_in_the_middle_of_a_launch(
    sup_root: str, call: str, part: str, n: int | None
) -> None:
    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        outcome: list[SupError | None] = []

        async def start() -> None:
            try:
                containers = await sup.launch(shell("sleep 100"), n, name="box")
            except SupError as error:
                outcome.append(error)
                return
            for container in containers:
                await container.wait()  # the last moments before execve look like a success
                outcome.append(container.error)

        faults.hang(call, part=part)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await faults.reached()
            below = offspring(sup.shim_pid)
            os.kill(sup.shim_pid, signal.SIGKILL)
        assert outcome
        assert {type(error) for error in outcome} == {ShimLost}
        assert "the shim is gone" in str(outcome[0])
        await assert_gone(below)
        [late] = await sup.launch(shell("true"))
        assert isinstance(late.error, ShimLost)

    run_faulty(sup_root, body)


@pytest.mark.parametrize("init", [True, False])
def test_the_shim_dies_while_containers_run(sup_root: str, init: bool) -> None:
    async def body() -> None:
        with trio.fail_after(60):
            async with open_supervisor(sup_root) as sup:
                spec = shell("trap '' TERM HUP; sleep 100 & sleep 100", init=init)
                containers = await sup.launch(spec, FLEET)
                assert [container.error for container in containers] == [None] * FLEET
                added = await containers[0].exec(["sleep", "100"])
                below = offspring(sup.shim_pid)
                os.kill(sup.shim_pid, signal.SIGKILL)
                assert [await container.wait() for container in containers] == [137] * FLEET
                assert await added.wait() == 137
                await assert_gone(below)
                for container in containers:
                    assert isinstance(container.error, ShimLost)
                    assert container.state is State.EXITED
                await sup.wait_shutdown()  # whoever serves it ends
                await sup.down()

    trio.run(body)


# Exits, births and deaths in numbers


@pytest.mark.parametrize("tty", [True, False])
def test_an_exit_is_complete(sup_root: str, tty: bool) -> None:
    """The output is there to its last byte when the exit is told."""
    end = b"\r\n" if tty else b"\n"
    expected = b"".join(b"%d" % number + end for number in range(1, 1001))
    logs: list[bytes] = []

    async def read(container: Container) -> None:
        assert await container.wait() == 3
        logs.append(Path(container.log_directory, "console.log").read_bytes())

    async def body() -> None:
        with trio.fail_after(120):
            async with open_supervisor(sup_root) as sup:
                containers = await sup.launch(shell("seq 1000; exit 3", tty=tty), 200)
                assert [c.error for c in containers if c.error is not None] == []
                async with trio.open_nursery() as nursery:
                    for container in containers:
                        nursery.start_soon(read, container)

    trio.run(body)
    assert len(logs) == 200
    assert [log for log in logs if log != expected] == []


ORPHANS = int(os.environ.get("SUP_TEST_ORPHANS", "5000"))
_STORM = f"""
import os, sys, time
for n in range({ORPHANS}):
    if os.fork() == 0:
        if os.fork():
            os._exit(0)
        os._exit(0)
    os.wait()
def zombies():
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found += open("/proc/" + name + "/stat").read().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                pass
    return found
def alive():
    return len([name for name in os.listdir("/proc") if name.isdigit()])
deadline = time.monotonic() + 5
while (zombies() or alive() > 2) and time.monotonic() < deadline:
    time.sleep(0.01)
print(alive(), zombies())
"""


@requires("/usr/bin/python3")
def test_a_storm_of_orphans_leaves_no_zombie(sup_root: str) -> None:
    async def body() -> None:
        with trio.fail_after(120):
            async with open_supervisor(sup_root) as sup:
                spec = ContainerSpec(command=("/usr/bin/python3", "-I", "-S", "-c", _STORM), tty=False)
                [box] = await sup.launch(spec)
                with box.console.view() as viewer:
                    chunk = await viewer.receive()
                assert chunk is not None
                assert chunk.data == b"2 0\n"  # init and the storm itself
                assert await box.wait() == 0
                assert support.children_of(sup.shim_pid) == set()

    trio.run(body)
