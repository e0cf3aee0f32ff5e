"""A shim in which a chosen kernel call fails or hangs: the real one, patched from outside.

The test's side is `Faults`: what is to happen is written into a memfd that the shim and all its clones
share, so it can be changed between two launches. Run as a program it is the shim.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

if __name__ != "__main__":  # the shim has the standard library only
    import support
    import trio
    import trio.testing

    from supervisor import ContainerSpec, Supervisor, open_supervisor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SIZE = 4096


class Faults:
    """What goes wrong from now on; one thing at a time.

    `part` is "shared", "own" or "workload" for the step of a plan called `call`, "" for the calls
    that are no steps: clone3, setns, open, move_mount, fork, execve. `nth` counts those of a process
    and of the processes that it was cloned from."""

    def __init__(self, orders: int, reached: int) -> None:
        self._orders = orders
        self._reached = reached
        self._serial = 0

    def _order(self, **order: object) -> None:
        self._serial += 1
        data = json.dumps({"serial": self._serial, **order}).encode()
        os.pwrite(self._orders, data.ljust(_SIZE), 0)

    def fail(self, call: str, number: int, *, part: str = "", nth: int = 0) -> None:
        """Such a call fails with errno `number`."""
        self._order(call=call, part=part, nth=nth, errno=number)

    def hang(self, call: str, *, part: str = "", nth: int = 0) -> None:
        """It goes on only after the next order; `reached` tells that it was called."""
        self._order(call=call, part=part, nth=nth)

    def clear(self) -> None:
        self._order(part="")

    async def reached(self) -> None:
        """Wait until somebody hangs, and all that was caused before has been taken in."""
        await trio.lowlevel.wait_readable(self._reached)
        os.read(self._reached, _SIZE)
        await trio.testing.wait_all_tasks_blocked(0.02)


@contextmanager
def faulty_shim(batch: int = 0) -> Iterator[tuple[Faults, socket.socket, subprocess.Popen[bytes]]]:
    """A patched shim: its faults, the socket for `open_supervisor(shim_fd=...)`, its process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders = os.memfd_create("faults", os.MFD_CLOEXEC)
    reached, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.ftruncate(orders, _SIZE)
    fds = (theirs.fileno(), orders, tell)
    argv = [sys.executable, "-I", "-S", os.path.abspath(__file__), *map(str, (*fds, batch))]
    faults = Faults(orders, reached)
    faults.clear()
    shim = subprocess.Popen(argv, pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True)
    theirs.close()
    os.close(tell)
    try:
        yield faults, ours, shim
    finally:
        faults.clear()
        ours.close()
        os.close(orders)
        os.close(reached)
        shim.wait(30)


class Traces:
    """What a launch may leave nowhere: compared with how it was before."""

    def __init__(self, root: str, shim: int) -> None:
        self.root = root
        self._shim = shim
        self._before = self._look()

    def _look(self) -> dict[str, set[str]]:
        return {
            "descriptors": support.descriptors(),
            "the shim's descriptors": support.descriptors(self._shim),
            "the shim's children": {str(pid) for pid in support.children_of(self._shim)},
            "mounts": {m for m in support.mounts() if self.root in m or not support.SHARED},
            "files": {
                os.path.join(at, name)
                for at, directories, files in os.walk(self.root)
                for name in (*directories, *files)
            },
        }

    def _left(self) -> list[str]:
        now = self._look()
        return [
            f"{what}: {sorted(now[what] ^ before)}"
            for what, before in self._before.items()
            if now[what] != before
        ]

    async def assert_none(self, seconds: float = 10) -> None:
        """Nothing is left; the last of it may be on its way out."""
        deadline = trio.current_time() + seconds
        while (left := self._left()) and trio.current_time() < deadline:
            await trio.sleep(0.005)
        assert not left, "left behind:\n" + "\n".join(left)


Body = Callable[["Supervisor", Faults, Traces], Awaitable[None]]


def run_faulty(root: str, body: Body, seconds: float = 120, *, batch: int = 0) -> None:
    """Run `body` with a supervisor whose shim does what the body's `Faults` say. `batch`: how many
    replicas a template makes at a time."""
    with faulty_shim(batch) as (faults, control, shim):

        async def main() -> None:
            with trio.fail_after(seconds):
                async with open_supervisor(root, shim_fd=control.detach()) as sup:
                    sup.shim_pid = shim.pid
                    await _is_up(sup)
                    await body(sup, faults, Traces(root, shim.pid))

        trio.run(main)


async def _is_up(sup: Supervisor) -> None:
    """A shim that has made a container has all the descriptors that it will ever need."""
    [first] = await sup.launch(ContainerSpec(command=("true",)))
    await first.wait()
    await first.remove()


# In the shim


class Patch:
    """Counts the calls of one process, and carries out the order when its turn has come."""

    def __init__(self, orders: int, tell: int) -> None:
        self.orders = orders
        self.tell = tell
        self.part = ""
        self.serial = 0
        self.count = 0

    def order(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(os.pread(self.orders, _SIZE, 0))
        return found

    def meet(self, call: str, part: str) -> None:
        """`call` is about to be made. Raises OSError if it is to fail."""
        order = self.order()
        if order["serial"] != self.serial:
            self.serial, self.count = order["serial"], 0
        if order.get("call") != call or order["part"] != part:
            return
        self.count += 1
        if self.count != order["nth"] + 1:
            return
        if "errno" in order:
            raise OSError(order["errno"], os.strerror(order["errno"]))
        os.write(self.tell, b"!")
        while self.order()["serial"] == self.serial:
            time.sleep(0.002)

    def wrap(self, owner: Any, name: str, call: str) -> None:
        """Let `owner.name`, which stands for `call`, meet its order first."""
        real: Callable[..., Any] = getattr(owner, name)

        def patched(*arguments: Any, **named: Any) -> Any:
            self.meet(call, "")
            return real(*arguments, **named)

        setattr(owner, name, patched)

    def wrap_steps(self, steps: Any) -> None:
        run = steps.run

        def patched_run(state: Any, plan: list[Any], first: int = 0) -> None:
            # A template has no values; the workload's steps come after others.
            self.part = "workload" if first else "own" if state.values else "shared"
            run(state, plan, first)

        steps.run = patched_run
        for name, real in list(steps._CALLS.items()):
            steps._CALLS[name] = self.step(name, real)

    def wrap_build(self, template: Any) -> None:
        """What a template does for a replica counts for each from the same start: behind the steps
        of its PID 1."""
        build = template.build

        def patched(this: Any, replica: Any) -> None:
            before, order = self.count, self.order()
            early = [step[0] for step in replica.request["early"]]
            self.count += early.count(order.get("call")) if order["part"] == "own" else 0
            build(this, replica)
            self.count = before

        template.build = patched

    def step(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def patched(*arguments: Any) -> None:
            self.meet(name, self.part)
            real(*arguments)

        return patched


def main() -> None:
    control, orders, tell, batch = map(int, sys.argv[1:])
    os.set_inheritable(orders, False)
    os.set_inheritable(tell, False)
    os.environ["SUP_CONTROL_FD"] = str(control)
    sys.path.insert(0, ROOT)
    from supervisor.linux import clone, libc, process, pty
    from supervisor.shim import child, server, spawn, steps, template

    gaps = process.gaps
    process.gaps = lambda keep: gaps((*keep, orders, tell))

    patch = Patch(orders, tell)
    patch.wrap_steps(steps)
    patch.wrap_build(template.Template)
    spawn.rehearse = lambda: None  # it is no call of a launch
    template.BATCH = batch or template.BATCH
    patch.wrap(clone, "clone3", "clone3")
    patch.wrap(libc, "setns", "setns")
    patch.wrap(pty, "open_pair", "open")
    patch.wrap(child, "_bind_console", "move_mount")
    patch.wrap(os, "fork", "fork")
    patch.wrap(os, "execve", "execve")
    patch.wrap(os, "posix_spawn", "execve")
    server.main()


if __name__ == "__main__":
    main()
