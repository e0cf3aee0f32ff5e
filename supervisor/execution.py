"""One more command in a container that runs, and a launched process's streams on a console."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from signal import SIGKILL

import trio

from supervisor.console import Console, ConsoleStream
from supervisor.launch import PATIENCE, Launched, lacking, launch
from supervisor.link import Process
from supervisor.plan import compile
from supervisor.shared import Shared
from supervisor.spec import ContainerSpec


class Exec:
    """A command that was added to a running container."""

    def __init__(self, container: str, name: str, process: Process, console: Console) -> None:
        self.container = container
        self.id = name
        self.console = console
        self._process = process
        self._finished = trio.Event()

    async def watch(self) -> None:
        """Wait for its end, as a task in the background."""
        try:
            await self._process.ended.wait()
        finally:
            self.console.finish()
        self._finished.set()

    async def wait(self) -> int:
        """Wait for its end and all its output; returns the exit status."""
        await self._finished.wait()
        assert self._process.status is not None
        return self._process.status

    def attach(self) -> ConsoleStream:
        """Its terminal or pipes as a trio stream. No byte is missed if this is called at once."""
        return ConsoleStream(self.console)

    def kill(self, signum: int = SIGKILL) -> None:
        """Send it a signal; nothing to do if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.signal(signum)


async def execute(
    shared: Shared,
    container: str,
    spec: ContainerSpec,
    inside: Process,
    *,
    size: tuple[int, int] | None,
) -> Exec:
    """Run what `spec` says in the namespaces of `inside`. Raises StepFailed and its kinds."""
    name = secrets.token_hex(6)
    console = Console(shared.hub, None)
    if size is not None:
        console.resize(*size)
    with contextlib.ExitStack() as kept:
        try:
            pidfd = os.dup(inside.pidfd)
            kept.callback(os.close, pidfd)
            launched = await launch(
                shared.link,
                name,
                {**compile(spec, shared.host).joining(), "size": size},
                shared.link.send,
                tty=spec.tty,
                stdin=spec.stdin,
                queued=time.monotonic(),
                ids=shared.host.ids,
                extra=(pidfd,),
            )
            await connect(console, launched)
        except OSError as error:
            raise lacking(f"nothing can be started in {container}", error) from None
    running = Exec(container, name, launched.process, console)
    shared.background.start_soon(running.watch)
    return running


async def connect(console: Console, launched: Launched) -> None:
    """Hand a launched process's streams to its console. Raises OSError: the process is dead then."""
    streams = launched.stdio
    try:
        if streams.master >= 0:
            console.connect_tty(streams.master)
        else:
            stdin = streams.stdin if streams.stdin >= 0 else None
            console.connect_pipes(stdin, streams.stdout, streams.stderr)
    except OSError:
        with trio.CancelScope(shield=True), trio.move_on_after(PATIENCE):
            launched.process.kill()
            await launched.process.ended.wait()
        raise
