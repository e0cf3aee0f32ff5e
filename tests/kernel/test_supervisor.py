"""The trio API against the kernel: launch, console, exec, exit, and nothing left."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
import trio

from supervisor import ContainerSpec, Supervisor, open_supervisor
from supervisor.container import State
from supervisor.errors import CommandNotFound, NameTaken, StepFailed

pytestmark = pytest.mark.requires("containers")

Body = Callable[[Supervisor], Awaitable[None]]


def run(root: str, body: Body) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with open_supervisor(root) as sup:
                await body(sup)

    trio.run(main)


def shell(script: str, **fields: object) -> ContainerSpec:
    return ContainerSpec.from_mapping({"command": ["sh", "-c", script], **fields})


async def output(sup: Supervisor, spec: ContainerSpec) -> tuple[int, bytes]:
    [container] = await sup.launch(spec)
    if container.error is not None:
        raise container.error
    collected = bytearray()
    with container.console.view() as viewer:
        while (chunk := await viewer.receive()) is not None:
            collected += chunk.data
    status = await container.wait()
    await container.remove()
    return status, bytes(collected)


def test_exit_status_and_output_are_complete(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        status, text = await output(sup, shell("seq 1000; exit 42", tty=False))
        assert status == 42
        assert text == b"".join(b"%d\n" % n for n in range(1, 1001))

    run(sup_root, body)


def test_console_is_the_first_terminal_of_its_own_devpts(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        status, text = await output(sup, shell("tty; hostname; test -e /dev/console"))
        assert status == 0
        assert text.startswith(b"/dev/pts/0\r\nrun-")

    run(sup_root, body)


def test_namespaces_are_its_own(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        names = ("mnt", "uts", "ipc", "net", "pid", "cgroup")
        _, text = await output(sup, shell("readlink /proc/self/ns/*", tty=False))
        inside = dict(line.split(":", 1) for line in text.decode().split())
        for name in names:
            assert f"{name}:{inside[name]}" != os.readlink(f"/proc/self/ns/{name}")

    run(sup_root, body)


def test_host_mounts_are_out_of_sight(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        _, text = await output(sup, shell("cat /proc/self/mountinfo", tty=False))
        points = {line.split()[4] for line in text.decode().splitlines()}
        assert {"/", "/proc", "/sys", "/dev", "/dev/pts", "/tmp"} <= points
        assert not any(sup_root in point or "old" in point for point in points)

    run(sup_root, body)


def test_a_fleet_from_a_template(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        containers = await sup.launch(shell("hostname; exit 3"), 5, name="web")
        assert [container.error for container in containers] == [None] * 5
        assert [await container.wait() for container in containers] == [3] * 5
        with pytest.raises(NameTaken):
            await sup.launch(shell("true"), 2, name="web")
        await sup.launch(shell("sleep 100"), 2, name="web", scale=True)
        assert sorted(sup.containers) == ["web-1", "web-2"]

    run(sup_root, body)


def test_exec_joins_the_namespaces(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        [container] = await sup.launch(shell("sleep 100"), name="box")
        script = "echo $$; hostname; readlink /proc/self/ns/uts | wc -l; exit 9"
        added = await container.exec(["sh", "-c", script])
        collected = b""
        with added.console.view() as viewer:
            while (chunk := await viewer.receive()) is not None:
                collected += chunk.data
        pid, hostname, distinct = collected.split()
        assert (hostname, distinct) == (b"box", b"1")
        assert int(pid) < 100
        assert await added.wait() == 9

    run(sup_root, body)


def test_a_command_that_is_not_there(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        [container] = await sup.launch(ContainerSpec(command=("no-such-command",)))
        assert isinstance(container.error, CommandNotFound)
        assert container.status == 127

    run(sup_root, body)


@pytest.mark.parametrize(
    ("field", "value", "call"),
    [
        ("user", "no-such-user", "setuser"),
        ("workdir", "/no/such/directory", "chdir"),
        ("volumes", "/no/such/source:/mnt/x", "open_tree"),
    ],
)
def test_a_failed_step_is_named(sup_root: str, field: str, value: str, call: str) -> None:
    async def body(sup: Supervisor) -> None:
        [container] = await sup.launch(shell("true", **{field: value}))
        assert isinstance(container.error, StepFailed), container.error
        assert container.error.call == call
        assert container.state is State.EXITED

    run(sup_root, body)


def test_volumes_and_tmpfs(sup_root: str, tmp_path: object) -> None:
    source = f"{sup_root}/volume"
    os.mkdir(source)
    with open(f"{source}/file", "w", encoding="ascii") as file:
        file.write("from the host\n")

    async def body(sup: Supervisor) -> None:
        script = "cat /root/in/file /data/file; touch /data/x && exit 1; echo > /scratch/y"
        volumes = [f"{source}:/root/in", f"{source}:/data:ro"]
        spec = shell(script, tty=False, volumes=volumes, tmpfs=["/scratch"])
        status, text = await output(sup, spec)
        assert text.count(b"from the host\n") == 2
        assert status == 0

    run(sup_root, body)


def test_stop_kills_what_ignores_the_signal(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        script = "trap '' TERM HUP; echo ready; while :; do sleep 1; done"
        [container] = await sup.launch(shell(script))
        with container.console.view() as viewer:
            assert await viewer.receive() is not None
        await container.stop(timeout=0.2)
        assert container.status == 137

    run(sup_root, body)


def test_orphans_are_reaped(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        script = "for i in $(seq 500); do (sh -c : &) ; done; sleep 1; ps -eo stat | grep -c Z"
        _, text = await output(sup, shell(script, tty=False))
        assert text.strip() == b"0"

    run(sup_root, body)


def test_a_cancelled_launch_leaves_nothing(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        for delay in (0, 0.001, 0.002, 0.004, 0.008, 0.016):
            with trio.move_on_after(delay):
                await sup.launch(shell("sleep 100"), name=f"c{int(delay * 1000)}")
        for container in list(sup.containers.values()):
            assert container.state in (State.RUNNING, State.EXITED)
            if container.state is State.EXITED:
                assert container.pid == 0

    run(sup_root, body)
