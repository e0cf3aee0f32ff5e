"""What happens on a full disk. A program, for a mount namespace of its own: `full_disk.py ROOT`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from supervisor import start
from supervisor.client import Client
from supervisor.console import LogRecord, read_log
from supervisor.errors import SupError
from supervisor.linux import libc
from supervisor.paths import Paths

TICK = {"command": ["sh", "-c", "while :; do seq 1000; sleep 0.05; done"], "tty": False}


def fill(root: str) -> str:
    """Leave no room; the file that took it."""
    path = os.path.join(root, "filler")
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return path


def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refuses_to_start(paths: Paths) -> None:
    """With no room for its files the server does not start, and one sentence says why."""
    filler = fill(os.path.dirname(paths.run))
    said = ""
    try:
        start.ensure(paths)
    except SupError as error:
        said = str(error)
    assert "No space left on device" in said, said or "it started"
    assert "--root" in said, said
    assert "\n" not in said
    os.unlink(filler)


def records(log: str, kind: str) -> list[LogRecord]:
    return [record for record in read_log(log) if record.kind == kind]


def fills_up(paths: Paths, rootfs: str) -> None:
    """Containers run on, logs have a gap and go on after it, launches work or say why not."""
    with Client(paths) as client:
        client.call("sup.Up", spec=TICK, name="box")
        log = str(client.call("sup.Inspect", names=["box"])["containers"][0]["log"])
        until(lambda: bool(records(log, "out")))
        filler = fill(os.path.dirname(paths.run))
        time.sleep(0.5)
        [plain] = client.call("sup.Up", spec={"command": ["sleep", "100"]}, name="plain")["containers"]
        assert plain["state"] == "running", plain
        spec = {"command": ["sleep", "100"], "rootfs": rootfs, "volumes": ["/usr:/usr:ro"]}
        [layered] = client.call("sup.Up", spec=spec, name="layered")["containers"]
        assert layered["state"] == "running" or "No space left" in str(layered["error"]), layered
        [alive] = client.call("sup.List", filters=["name=box"])["containers"]
        assert alive["state"] == "running"
        end = read_end(log)
        os.unlink(filler)
        until(lambda: read_end(log) > end)
        [gap, *_] = records(log, "lost")
        assert gap.value > 0
        fill(os.path.dirname(paths.run))
        assert len(client.call("sup.Down", timeout=0)["names"]) == 3
        client.call("sup.Shutdown")
    until(lambda: not os.path.exists(paths.socket))


def read_end(log: str) -> int:
    return max((record.offset + len(record.data) for record in read_log(log)), default=0)


def main() -> None:
    root = sys.argv[1]
    libc.mount(b"tmpfs", os.fsencode(root), b"tmpfs", 0, b"size=16m")
    rootfs = os.path.join(root, "tree")
    for name in ("usr", "etc"):
        os.makedirs(os.path.join(rootfs, name))
    for name in ("bin", "lib", "lib64"):
        os.symlink(f"usr/{name}", os.path.join(rootfs, name))
    paths = Paths.find(root)
    refuses_to_start(paths)
    start.ensure(paths)
    fills_up(paths, rootfs)
    assert "Traceback" not in Path(paths.log).read_text()


main()
