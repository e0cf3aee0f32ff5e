"""A shim in which a chosen kernel call fails, hangs or waits: the real one, patched from outside.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SIZE = 4096


class Faults:
    """What goes wrong from now on; one thing at a time.

    `part` is "shared", "own" or "workload" for the step of a plan called `call`, "" for the calls
    that are no steps: clone3, open, move_mount, fork, execve, sendmsg."""

    def __init__(self, orders: int, reached: int) -> None:
        self._orders = orders
        self._reached = reached

    def _order(self, **order: object) -> None:
        data = json.dumps(order).encode()
        os.pwrite(self._orders, data.ljust(_SIZE), 0)

    def fail(self, call: str, number: int, *, part: str = "", nth: int = 0) -> None:
        """The `nth` such call of a process fails with errno `number`."""
        self._order(call=call, part=part, nth=nth, errno=number)

    def hang(self, call: str, *, part: str = "", nth: int = 0) -> None:
        """It never returns; `wait_reached` tells that it was called."""
        self._order(call=call, part=part, nth=nth, hang=1)

    def clear(self) -> None:
        self._order()

    def wait_reached(self, seconds: float = 30) -> None:
        """Wait, blocking, until somebody hangs."""
        deadline = time.monotonic() + seconds
        while not self.reached():
            assert time.monotonic() < deadline, "nobody came to the place where it should hang"
            time.sleep(0.002)

    def reached(self) -> bool:
        try:
            return bool(os.read(self._reached, 1))
        except BlockingIOError:
            return False


@contextmanager
def faulty_shim() -> Iterator[tuple[Faults, socket.socket, subprocess.Popen[bytes]]]:
    """A patched shim: its faults, the socket for `open_supervisor(shim_fd=...)`, its process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders = os.memfd_create("faults", 0)
    reached, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.ftruncate(orders, _SIZE)
    fds = (theirs.fileno(), orders, tell)
    argv = [sys.executable, "-I", "-S", os.path.abspath(__file__), *map(str, fds)]
    shim = subprocess.Popen(argv, pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True)
    theirs.close()
    os.close(tell)
    faults = Faults(orders, reached)
    faults.clear()
    try:
        yield faults, ours, shim
    finally:
        ours.close()
        os.close(orders)
        os.close(reached)
        shim.wait(30)


# In the shim


class Patch:
    """Counts the calls of one process, and carries out the order when its turn has come."""

    def __init__(self, orders: int, tell: int) -> None:
        self.orders = orders
        self.tell = tell
        self.part = ""
        self.counts: dict[str, int] = {}

    def begin(self, part: str) -> None:
        self.part = part
        self.counts.clear()

    def meet(self, call: str, part: str) -> None:
        """`call` is about to be made. Raises OSError if it is to fail."""
        order = json.loads(os.pread(self.orders, _SIZE, 0))
        if order.get("call") != call or order["part"] != part:
            return
        count = self.counts[call] = self.counts.get(call, 0) + 1
        if count != order["nth"] + 1:
            return
        if order.get("hang"):
            os.write(self.tell, b"!")
            while True:
                time.sleep(60)
        raise OSError(order["errno"], os.strerror(order["errno"]))

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
            # A template has no values; the workload is what comes after other steps.
            self.begin("workload" if first else "own" if state.values else "shared")
            run(state, plan, first)

        steps.run = patched_run
        for name, real in list(steps._CALLS.items()):
            steps._CALLS[name] = self.step(name, real)

    def step(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def patched(*arguments: Any) -> None:
            self.meet(name, self.part)
            real(*arguments)

        return patched


def main() -> None:
    control, orders, tell = map(int, sys.argv[1:])
    os.set_inheritable(orders, False)
    os.set_inheritable(tell, False)
    os.environ["SUP_CONTROL_FD"] = str(control)
    sys.path.insert(0, ROOT)
    from supervisor.linux import clone, pty
    from supervisor.shim import child, server, steps

    patch = Patch(orders, tell)
    patch.wrap_steps(steps)
    patch.wrap(clone, "clone3", "clone3")
    patch.wrap(pty, "open_pair", "open")
    patch.wrap(child, "_bind_console", "move_mount")
    patch.wrap(os, "fork", "fork")
    patch.wrap(os, "execve", "execve")
    server.main()


if __name__ == "__main__":
    main()
