"""One container's life: CREATED -> STARTING -> RUNNING <-> PAUSED -> STOPPING -> EXITED.

Changes of state are synchronous and go through `Container.change`, each an event on the bus. The end is
complete before it is told: the console is drained first, then the exit is published.
"""

from __future__ import annotations

import contextlib
import enum
import os
import secrets
import time
from collections.abc import Callable, Sequence
from signal import SIGHUP, SIGKILL
from typing import TYPE_CHECKING, Any

import attrs
import trio

from supervisor import layers
from supervisor.console import Console, ConsoleLog, ConsoleStream, LogStream
from supervisor.errors import ShimLost, SupError, WrongState
from supervisor.execution import Exec, connect, execute
from supervisor.launch import Launched, lacking, launch
from supervisor.link import Process
from supervisor.linux import process
from supervisor.plan import Plan, compile, values
from supervisor.roots import layered_on_disk
from supervisor.shared import Shared
from supervisor.spec import ContainerSpec

if TYPE_CHECKING:
    from supervisor.template import Template


class State(enum.Enum):
    """Where a container is in its life."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    EXITED = "exited"


_NEXT = {
    State.CREATED: {State.STARTING, State.EXITED},
    State.STARTING: {State.RUNNING, State.EXITED},
    State.RUNNING: {State.PAUSED, State.STOPPING, State.EXITED},
    State.PAUSED: {State.RUNNING, State.STOPPING, State.EXITED},
    State.STOPPING: {State.EXITED},
    State.EXITED: {State.STARTING},
}


class Container:
    """A container of a supervisor: made by `Supervisor.launch`."""

    def __init__(
        self,
        shared: Shared,
        name: str,
        spec: ContainerSpec,
        *,
        fleet: str,
        index: int,
        changed: Callable[[Container], None],
        forget: Callable[[Container], bool],
    ) -> None:
        self._shared = shared
        self._changed = changed
        self._forget = forget
        self.name = name
        self.id = secrets.token_hex(6)
        self.spec = spec
        self.fleet = fleet
        self.index = index
        self.state = State.CREATED
        self.status: int | None = None
        self.error: SupError | None = None
        self.created = time.time()
        self.started: float | None = None
        self.finished: float | None = None
        self.phases: dict[str, float] = {}
        self.remove_at_exit = False
        self.log_directory = os.path.join(shared.paths.containers, self.id)
        self._log = ConsoleLog(self.log_directory, rotate_at=-(-spec.log_max // 2))
        self.console = Console(shared.hub, self._log)
        self._process: Process | None = None
        self._exited = trio.Event()
        self._launching = trio.CancelScope()
        self._settled = trio.Event()
        self._queued = time.monotonic()

    # -- state -------------------------------------------------------------------------------------

    def change(self, state: State, **fields: object) -> None:
        """Go to `state` and tell. Raises WrongState when that is no way of a container's life."""
        if state not in _NEXT[self.state]:
            raise WrongState(f"{self.name} is {self.state.value}, it cannot become {state.value}")
        self.state = state
        self._shared.events.publish(state.value, name=self.name, id=self.id, **fields)
        self._changed(self)

    @property
    def running(self) -> bool:
        return self.state in (State.RUNNING, State.PAUSED, State.STOPPING)

    @property
    def pid(self) -> int:
        """PID 1 of the container as the host sees it; 0 when there is none."""
        return self._process.pid if self._process is not None and self.running else 0

    def summary(self) -> dict[str, Any]:
        """What `ps` shows."""
        return {
            "name": self.name,
            "id": self.id,
            "fleet": self.fleet,
            "index": self.index,
            "state": self.state.value,
            "status": self.status,
            "pid": self.pid,
            "command": list(self.spec.command),
            "tty": self.spec.tty,
            "labels": dict(self.spec.labels),
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
            "phases": self.phases,
            "error": self.error.to_wire() if self.error is not None else None,
        }

    def inspect(self) -> dict[str, Any]:
        """All there is to know."""
        return {
            **self.summary(),
            "spec": self.spec.to_mapping(),
            "log": self.log_directory,
            "viewers": self.console.viewers,
            "bytes_in": self.console.bytes_in,
            "bytes_out": self.console.bytes_out,
        }

    # -- launch ------------------------------------------------------------------------------------

    async def start(self, plan: Plan, template: Template | None = None) -> None:
        """Launch it; an error is kept in `.error` and the state becomes EXITED."""
        self._settled = trio.Event()
        try:
            with trio.CancelScope() as self._launching:
                self.change(State.STARTING)
                await self._start(plan, template)
            if self._launching.cancelled_caught:
                self._fail(SupError(f"{self.name} was stopped while it was launched"))
        except BaseException:  # Cancelled comes in a group from where there is a nursery
            self._fail(SupError(f"the launch of {self.name} was cancelled"))
            raise
        finally:
            self._settled.set()

    async def _start(self, plan: Plan, template: Template | None) -> None:
        try:
            launched = await self._launch(plan, template)
            await connect(self.console, launched)
        except SupError as error:
            self._fail(error)
        except OSError as error:
            self._fail(lacking(f"{self.name} cannot be started", error))
        else:
            self._run(launched)

    async def _launch(self, plan: Plan, template: Template | None) -> Launched:
        host = self._shared.host
        own = values(self.spec, host, self.name, self.index, self.id)
        if layered_on_disk(self.spec, host):
            await layers.renew(self._shared.link, host, self.id)
        if template is not None:
            message: dict[str, Any] = {"values": own, "size": self.console.size}
            send = template.send
        else:
            size = self.console.size
            message = {"op": "spawn", "values": own, "size": size, **plan.request()}
            send = self._shared.link.send
        return await launch(
            self._shared.link,
            self.id,
            message,
            send,
            tty=self.spec.tty,
            stdin=self.spec.stdin,
            queued=self._queued,
            ids=host.ids,
            maker=template.name if template is not None else "",
        )

    def _run(self, launched: Launched) -> None:
        self._process, self.phases = launched.process, launched.phases
        self.started, self.finished, self.status, self.error = time.time(), None, None, None
        self._shared.background.start_soon(self._watch, launched.process)
        self.change(State.RUNNING, pid=launched.process.pid)
        if self.spec.timeout is not None:
            self._shared.background.start_soon(self._time_out, launched.process, self.spec.timeout)

    def _fail(self, error: SupError) -> None:
        self.error = error
        self._exit(error.exit_code)

    async def _watch(self, process: Process) -> None:
        await process.ended.wait()
        self.console.finish()
        assert process.status is not None
        if process.lost:
            self.error = ShimLost("the shim is gone, and the container with it")
        self._exit(process.status)
        if self.remove_at_exit:
            await self.remove()

    def _exit(self, status: int) -> None:
        self.status, self.finished = status, time.time()
        self.console.finish()
        self._log.close()
        self.change(State.EXITED, status=status)
        self._exited.set()

    async def _time_out(self, process: Process, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await process.ended.wait()
        if not process.ended.is_set() and self.running:
            self._shared.events.publish("timeout", name=self.name, id=self.id)
            await self.stop()

    # -- living with it ----------------------------------------------------------------------------

    async def wait(self) -> int:
        """Wait for the exit, and all output before it; returns the exit status."""
        await self._exited.wait()
        assert self.status is not None
        return self.status

    def kill(self, signum: int = SIGKILL) -> None:
        """Send a signal to the workload (SIGKILL: to all). Raises WrongState if it has ended."""
        if self._process is None or not self.running:
            raise WrongState(f"{self.name} is not running")
        with contextlib.suppress(ProcessLookupError):
            self._process.signal(signum)

    async def stop(self, timeout: float | None = None, signal: int | None = None) -> None:
        """The stop signal, then SIGKILL after `timeout` seconds. Nothing to do if it has ended; a
        launch is given up."""
        if self.state is State.CREATED:
            self._fail(SupError(f"{self.name} was stopped before it was launched"))
        if self.state is State.STARTING:
            self._launching.cancel()
            await self._settled.wait()
        if not self.running:
            return
        if self.state is not State.STOPPING:
            self.change(State.STOPPING)
        self.kill(signal or self._stop_signal())
        with trio.move_on_after(self.spec.stop_timeout if timeout is None else timeout):
            await self._exited.wait()
            return
        if self.running:
            self.kill(SIGKILL)
        await self._exited.wait()

    def _stop_signal(self) -> int:
        """An interactive shell ignores SIGTERM and would be killed in the end: it hangs up instead."""
        wanted = self.spec.effective_stop_signal
        if self.spec.stop_signal or not self.spec.tty or not self.spec.init:
            return wanted
        return SIGHUP if process.ignores(process.first_child(self.pid), wanted) else wanted

    async def restart(self) -> None:
        """Stop it, and start it again under the same name, with the same log and an empty layer."""
        await self.stop()
        self._exited, self._queued = trio.Event(), time.monotonic()
        await self.start(compile(self.spec, self._shared.host))
        if self.error is not None:
            raise self.error

    async def remove(self, force: bool = False) -> None:
        """Forget it, its log and its layer. Raises WrongState while it runs, unless `force`."""
        if self.state is not State.EXITED:
            if not force:
                raise WrongState(f"{self.name} is {self.state.value}", remedy="stop it, or use -f")
            await self.stop(timeout=0)
        if not self._forget(self):
            return
        self._log.close()
        with trio.CancelScope(shield=True):
            if os.path.isdir(self.log_directory):
                try:
                    await trio.to_thread.run_sync(layers.remove_tree, self.log_directory)
                except RuntimeError:  # the host has no room for a thread
                    layers.remove_tree(self.log_directory)
            await layers.remove(self._shared.link, self._shared.host, self.id)
        self._shared.events.publish("removed", name=self.name, id=self.id)

    def attach(
        self, *, replay: bool = True, lossless: bool = True, read_only: bool = False
    ) -> ConsoleStream:
        """Its console as a trio stream, beginning with what is still in memory if `replay`.

        Raises the error for which it could not be started."""
        if self.error is not None:
            raise self.error
        return ConsoleStream(self.console, replay=replay, lossless=lossless, read_only=read_only)

    def logs(
        self, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> LogStream:
        """All it ever printed, with times: the last `tail` lines, or what is newer than `since` (in
        seconds since the epoch); with `follow` on to its end."""
        return LogStream(self.console, self.log_directory, follow=follow, tail=tail, since=since)

    async def exec(
        self,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: Sequence[str] | Sequence[tuple[str, str]] = (),
        workdir: str = "",
        user: str = "",
        size: tuple[int, int] | None = None,
    ) -> Exec:
        """Run one more command in its namespaces. Raises StepFailed and its kinds, WrongState."""
        if self.state is not State.RUNNING or self._process is None:
            raise WrongState(f"{self.name} is not running", remedy="start it first")
        added = ContainerSpec.from_mapping({"env": env})
        spec = attrs.evolve(
            self.spec,
            command=tuple(argv),
            tty=tty,
            stdin=stdin,
            env=(*self.spec.env, *added.env),
            workdir=workdir or self.spec.workdir,
            user=user or self.spec.user,
            init=False,
        )
        return await execute(self._shared, self.name, spec, self._process, size=size)
