"""What tests of containers share: run a script inside one, and a small tree to be its root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import trio

from supervisor import ContainerSpec, Supervisor, open_supervisor

Body = Callable[[Supervisor], Awaitable[None]]
PROGRAMS = (
    "sh cat ls id touch mkdir rm chown chmod stat tty readlink sleep hostname ln env ps mount"
).split()


def run(root: str, body: Body, seconds: float = 120) -> None:
    async def main() -> None:
        with trio.fail_after(seconds):
            async with open_supervisor(root) as sup:
                await body(sup)

    trio.run(main)


def shell(script: str, **fields: object) -> ContainerSpec:
    return ContainerSpec.from_mapping({"command": ["sh", "-c", script], "tty": False, **fields})


async def output(sup: Supervisor, spec: ContainerSpec) -> tuple[int, str]:
    """Status and output of one container. Raises the error for which it did not start."""
    [container] = await sup.launch(spec)
    try:
        if container.error is not None:
            raise container.error
        collected = bytearray()
        with container.console.view() as viewer:
            while (chunk := await viewer.receive()) is not None:
                collected += chunk.data
        return await container.wait(), collected.decode(errors="replace")
    finally:
        with trio.CancelScope(shield=True):
            await container.remove(force=True)


def inside(root: str, script: str, **fields: object) -> str:
    """What a script prints in a container; it must succeed."""
    found: list[tuple[int, str]] = []

    async def body(sup: Supervisor) -> None:
        found.append(await output(sup, shell(script, **fields)))

    run(root, body)
    [(status, text)] = found
    assert status == 0, text
    return text


def build_tree(path: Path) -> str:
    """A root of copied programs and the libraries that they need."""
    for name in ("etc", "bin", "tmp", "lib"):
        (path / name).mkdir(parents=True)
    files = {os.path.realpath(found) for name in PROGRAMS if (found := shutil.which(name))}
    needed = {library for file in files for library in _libraries(file)}
    for library in needed:
        (path / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, path / library[1:])
    for name in PROGRAMS:
        if found := shutil.which(name):
            shutil.copy(found, path / "bin" / name)
    (path / "etc/passwd").write_text(
        "root:x:0:0:root:/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
    )
    (path / "etc/group").write_text("root:x:0:\ndaemon:x:1:\nstaff:x:50:daemon\nnogroup:x:65534:\n")
    (path / "etc/mark").write_text("from the tree\n")
    (path / "tmp").chmod(0o1777)
    return str(path)


def _libraries(file: str) -> Iterator[str]:
    listed = subprocess.run(["ldd", file], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        for word in line.split():
            if word.startswith("/"):
                yield word


def picture(path: str) -> dict[str, tuple[object, ...]]:
    """All of a tree: kinds, owners, modes, sizes, times, link targets."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(path):
        for name in (".", *names, *files):
            at = os.path.join(directory, name)
            seen = os.lstat(at)
            target = os.readlink(at) if os.path.islink(at) else ""
            times = (seen.st_mtime_ns, seen.st_ctime_ns)
            found[at] = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size, *times, target)
    return found
