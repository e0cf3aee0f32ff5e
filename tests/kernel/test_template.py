"""What a template's replicas have of their own, and what they must not share with each other."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
import trio

from supervisor import Container, ContainerSpec, Supervisor, open_supervisor

pytestmark = pytest.mark.requires("containers")

N = 20  # more than are made at once
NAMESPACES = ("mnt", "uts", "ipc", "net", "pid", "cgroup")


def run(root: str, body: Callable[[Supervisor], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(120):
            async with open_supervisor(root) as sup:
                await body(sup)

    trio.run(main)


def shell(script: str, **fields: object) -> ContainerSpec:
    return ContainerSpec.from_mapping({"command": ["sh", "-c", script], **fields})


async def output(container: Container, until: bytes = b"") -> str:
    """What it prints, to its end or to a word."""
    assert container.error is None, container.error
    collected = bytearray()
    with container.console.view() as viewer:
        while not (until and until in collected):
            chunk = await viewer.receive()
            if chunk is None:
                break
            collected += chunk.data
    return collected.decode()


def tree(root: str) -> str:
    """A root file system whose programs are the host's, mounted into it."""
    path = f"{root}/tree"
    for name in ("usr", "etc"):
        os.makedirs(f"{path}/{name}")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{path}/{name}")
    return path


KINDS = ("host", "pipes", "tree", "user namespace", "with an /etc of its own")


def fields(kind: str, root: str) -> dict[str, object]:
    made: dict[str, dict[str, object]] = {
        "host": {},
        "pipes": {"tty": False},
        "tree": {"rootfs": tree(root), "volumes": ["/usr:/usr:ro"]},
        "user namespace": {"unshare": ["user"]},
        "with an /etc of its own": {"volumes": [f"{root}/passwd:/etc/passwd:ro"]},
    }
    return made[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_each_has_namespaces_processes_and_a_name_of_its_own(sup_root: str, kind: str) -> None:
    with open(f"{sup_root}/passwd", "x", encoding="ascii") as file:
        file.write("root:x:0:0:root:/elsewhere:/bin/sh\n")
    links = " ".join(f"/proc/self/ns/{name}" for name in NAMESPACES)
    script = f"hostname; echo /proc/[0-9]* | wc -w; cat /proc/1/comm; echo $HOME; readlink {links}"
    script += "; echo done; exec sleep 100"  # so that no namespace's number is used again

    async def body(sup: Supervisor) -> None:
        containers = await sup.launch(shell(script, **fields(kind, sup_root)), N, name="box")
        seen = [(await output(container, b"done")).split()[:-1] for container in containers]
        assert [words[0] for words in seen] == [container.name for container in containers]
        for _, processes, init, *_ in seen:
            assert int(processes) <= 4  # init, the shell, and what counts
            assert init == "sup-shim"
        home = {"tree": "/", KINDS[-1]: "/elsewhere"}.get(kind, "/root")
        assert {words[3] for words in seen} == {home}
        host = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
        for number, theirs in enumerate(zip(*(words[4:] for words in seen), strict=True)):
            assert len(set(theirs)) == N
            assert host[number] not in theirs

    run(sup_root, body)


def test_init_keeps_what_the_workload_must_not_have(sup_root: str) -> None:
    """The workload has the default capabilities and no more; PID 1, which has, cannot be traced."""
    script = "grep -E 'Cap(Inh|Prm|Bnd|Amb)|NoNewPrivs' /proc/self/status; readlink /proc/1/exe"

    async def body(sup: Supervisor) -> None:
        [single] = await sup.launch(shell(script, tty=False, init=False))
        wanted = (await output(single)).splitlines()
        assert len(wanted) >= 5
        for container in await sup.launch(shell(script, tty=False), 3):
            seen = await output(container)
            assert seen.splitlines()[:5] == wanted[:5]
            assert "python" not in seen

    run(sup_root, body)


def test_the_working_directory_is_each_replicas_own(sup_root: str) -> None:
    async def body(sup: Supervisor) -> None:
        spec = shell("pwd; echo $$ > here; wc -l here", workdir="/tmp/", tty=False)
        for container in await sup.launch(spec, 3):
            assert (await output(container)).split() == ["/tmp", "1", "here"]

    run(sup_root, body)


def test_a_relative_path_is_searched_from_the_working_directory(sup_root: str) -> None:
    os.mkdir(f"{sup_root}/tools")
    with open(f"{sup_root}/tools/hostname", "x", encoding="ascii") as file:
        file.write("#!/bin/sh\necho mine\n")
    os.chmod(f"{sup_root}/tools/hostname", 0o755)

    async def body(sup: Supervisor) -> None:
        spec = ContainerSpec.from_mapping(
            {
                "command": ["hostname"],
                "volumes": [f"{sup_root}/tools:/tmp/tools:ro"],
                "workdir": "/tmp/tools",
                "env": {"PATH": ".:/usr/bin:/bin"},
            }
        )
        for container in await sup.launch(spec, 3):
            assert (await output(container)).split() == ["mine"]

    run(sup_root, body)
