"""Upper layers on the host's disk, for ordinary users whose kernel's tmpfs cannot hold one.

Files in them may belong to ids of the user's ranges. What the user cannot remove, the root of a
user namespace with these ids can.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time

import trio

from supervisor.errors import SupError
from supervisor.host import HostFacts
from supervisor.launch import launch
from supervisor.link import Link
from supervisor.plan import compile
from supervisor.spec import NAMESPACES, ContainerSpec


async def renew(link: Link, host: HostFacts, name: str) -> None:
    """An empty layer. Raises SupError, OSError."""
    await remove(link, host, name)
    path = os.path.join(host.layers, name)
    os.mkdir(path)
    os.chmod(path, 0o755)


async def remove(link: Link, host: HostFacts, name: str) -> None:
    """A layer with all that is in it, if there is one. Raises SupError."""
    path = os.path.join(host.layers, name)
    if not host.layers or not os.path.lexists(path):
        return
    await trio.to_thread.run_sync(remove_tree, path)
    if os.path.lexists(path) and host.has_ranges and not host.root:
        await _remove_as_root(link, host, path)
    if os.path.lexists(path):
        raise SupError(f"{path!a} cannot be removed", remedy="remove it by hand")


async def clear(link: Link, host: HostFacts) -> None:
    """Every layer: what a supervisor that was killed has left."""
    for name in os.listdir(host.layers) if host.layers else []:
        with contextlib.suppress(SupError):
            await remove(link, host, name)


async def _remove_as_root(link: Link, host: HostFacts, path: str) -> None:
    spec = ContainerSpec(command=("rm", "-rf", "--", path), share=NAMESPACES, tty=False, init=False)
    message = {"op": "spawn", "values": {}, **compile(spec, host).request()}
    name, now = secrets.token_hex(6), time.monotonic()
    launched = await launch(
        link, name, message, link.send, tty=False, stdin=False, queued=now, ids=host.ids
    )
    os.close(launched.stdio.stdout)
    os.close(launched.stdio.stderr)
    await launched.process.ended.wait()


def remove_tree(path: str) -> None:
    """As much of it as this user can; overlayfs leaves directories that nobody may read."""
    for directory, names, _ in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                if not os.path.islink(inner := os.path.join(directory, name)):
                    os.chmod(inner, 0o700)
    shutil.rmtree(path, ignore_errors=True)
