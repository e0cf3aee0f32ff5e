"""The public trio API: `open_supervisor()`, `launch`, and everything that decides.

    async with open_supervisor() as sup:
        [web] = await sup.launch(ContainerSpec(command=("sh", "-c", "echo hi")), name="web")
        status = await web.wait()

Embedded in a program of one's own it starts its own shim, and takes it down at the end.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import trio

from supervisor import __version__, layers, limits
from supervisor.background import Background
from supervisor.container import Container, State
from supervisor.errors import LimitReached
from supervisor.fleet import Registry
from supervisor.fleetfile import FleetEntry
from supervisor.host import HostFacts, build_skeleton, check_rootfs, gather
from supervisor.launch import lacking
from supervisor.link import Link
from supervisor.paths import Paths
from supervisor.plan import Plan, compile
from supervisor.shared import Shared
from supervisor.shim import ENVIRONMENT, protocol
from supervisor.spec import ContainerSpec
from supervisor.template import Template, open_template

_IN_FLIGHT = 64
_TEMPLATE_FROM = 3  # below, a template's own fork costs more than it saves

OnChange = Callable[[Container], None]


class Supervisor:
    """All containers of one root. Made by `open_supervisor`."""

    def __init__(self, paths: Paths, link: Link, host: HostFacts, background: Background) -> None:
        self._shared = Shared(paths, link, host, background)
        self.paths = paths
        self.link = link
        self.hub = self._shared.hub
        self.events = self._shared.events
        self._stopping = trio.Event()
        self._registry = Registry()
        self._listeners: list[OnChange] = []
        self.shim_pid = 0

    @property
    def containers(self) -> dict[str, Container]:
        """Every container by its name."""
        return self._registry.containers

    @property
    def host(self) -> HostFacts:
        """What plans are compiled for."""
        return self._shared.host

    @host.setter
    def host(self, host: HostFacts) -> None:
        self._shared.host = host

    def select(self, patterns: Sequence[str], *, all: bool = True) -> list[Container]:
        """Containers by names, prefixes, ids and patterns; without `all` only those that run.

        Raises NotFound, Ambiguous."""
        return [c for c in self._registry.select(patterns) if all or c.running]

    def replicas(self, fleet: str) -> list[Container]:
        """The containers of a fleet, by number; none where there is no such fleet."""
        return self._registry.replicas(fleet)

    def _tell(self, container: Container) -> None:
        """Whoever launched it learns of a change of state."""
        for listener in self._listeners:
            listener(container)

    # -- launching ---------------------------------------------------------------------------------

    async def launch(
        self,
        spec: ContainerSpec,
        n: int | None = None,
        *,
        name: str | None = None,
        scale: bool = False,
        on_change: OnChange | None = None,
        remove: bool = False,
        size: tuple[int, int] | None = None,
    ) -> list[Container]:
        """Launch one container (`n` None) or `n` replicas, all in flight at once.

        `size` is that of their terminals, in rows and columns.
        Raises SupError before the first clone; after it each failure is in its `Container.error`."""
        if spec.rootfs.path:
            check_rootfs(spec.rootfs.path)
        plan = compile(spec, self.host)
        if scale and n is not None:
            await self._make_room(name or "sup", n)

        def make(each: str, fleet: str, index: int) -> Container:
            return Container(
                self._shared,
                each,
                spec,
                fleet=fleet if index else "",
                index=index,
                changed=self._tell,
                forget=self._registry.forget,
            )

        containers = self._registry.reserve(name, n, make, scale=scale)
        try:
            self._check_limits(len(containers), spec)
        except BaseException:
            for container in containers:
                self._registry.forget(container)
            raise
        for container in containers:
            container.remove_at_exit = remove
            if size is not None:
                container.console.resize(*size)
        with self._listening(containers, on_change):
            await self._start(containers, plan)
        return containers

    async def launch_file(
        self, entries: Sequence[FleetEntry], on_change: OnChange | None = None
    ) -> list[Container]:
        """Launch the tables of a fleet file in their order; a failed one stops those after it."""
        self._registry.check_free((entry.name, entry.replicas) for entry in entries)
        launched: list[Container] = []
        for entry in entries:
            made = await self.launch(entry.spec, entry.replicas, name=entry.name, on_change=on_change)
            launched += made
            if any(container.error is not None for container in made):
                break
        return launched

    async def _make_room(self, fleet: str, n: int) -> None:
        """Replicas beyond the n-th are stopped; those that have ended are to be made anew."""
        async with trio.open_nursery() as nursery:
            for container in self.replicas(fleet):
                if container.index > n or container.state is State.EXITED:
                    nursery.start_soon(_end, container)

    def _check_limits(self, n: int, spec: ContainerSpec) -> None:
        namespaces = {"mnt", "uts", "ipc", "net", "pid", "cgroup"} - spec.share | spec.unshare
        if not self.host.root:
            namespaces |= {"user"}
        needs = limits.check(n, tty=spec.tty, namespaces=namespaces)
        if needs:
            shown = "; ".join(f"{x.name}: {x.needed} needed, {x.free} free" for x in needs)
            raise LimitReached(
                f"this host cannot hold {n} more containers ({shown})",
                remedy="; ".join(need.remedy for need in needs),
            )

    @contextlib.contextmanager
    def _listening(self, containers: list[Container], listener: OnChange | None) -> Iterator[None]:
        if listener is None:
            yield
            return
        mine = {container.id for container in containers}

        def relay(container: Container) -> None:
            if container.id in mine:
                listener(container)

        self._listeners.append(relay)
        try:
            yield
        finally:
            self._listeners.remove(relay)

    async def _start(self, containers: list[Container], plan: Plan) -> None:
        waiting = iter(containers)

        async def worker(template: Template | None) -> None:
            for container in waiting:
                if container.state is State.CREATED:  # else it was stopped while it waited
                    await _start_or_remove(container, plan, template)

        try:
            async with (
                self._template(plan, len(containers)) as template,
                trio.open_nursery() as nursery,
            ):
                for _ in range(min(_IN_FLIGHT, len(containers))):
                    nursery.start_soon(worker, template)
        except BaseException:
            with trio.CancelScope(shield=True):
                for container in containers:
                    if container.state is State.CREATED:
                        await container.remove(force=True)
            raise

    @contextlib.asynccontextmanager
    async def _template(self, plan: Plan, n: int) -> AsyncIterator[Template | None]:
        """A template for a fleet, for as long as it is launched; None for a few containers."""
        enough = 2 if plan.awaits_ids else _TEMPLATE_FROM
        if n < enough or not (plan.pivots_shared or plan.awaits_ids):
            yield None
            return
        async with open_template(self.link, plan, self.host.ids) as template:
            yield template

    # -- the whole ---------------------------------------------------------------------------------

    def info(self) -> dict[str, object]:
        """Pids, versions, paths and counts."""
        states = [container.state.value for container in self.containers.values()]
        return {
            "version": __version__,
            "supervisor_pid": os.getpid(),
            "shim_pid": self.shim_pid,
            "python": platform.python_version(),
            "kernel": os.uname().release,
            "trio": trio.__version__,
            "run": self.paths.run,
            "state": self.paths.state,
            "socket": self.paths.socket,
            "log": self.paths.log,
            "containers": {state: states.count(state) for state in sorted(set(states))},
        }

    async def down(self, containers: Sequence[Container] | None = None) -> None:
        """Stop and remove containers; None means all."""
        chosen = list(self.containers.values()) if containers is None else containers
        async with trio.open_nursery() as nursery:
            for container in chosen:
                nursery.start_soon(_end, container)

    def shutdown(self) -> None:
        """Ask whoever serves this supervisor to end."""
        self._stopping.set()

    async def wait_shutdown(self) -> None:
        """Wait until somebody has asked for the end, or the shim has gone."""
        async with trio.open_nursery() as nursery:

            async def watch(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch, self._stopping)
            nursery.start_soon(watch, self.link.lost)


async def _start_or_remove(container: Container, plan: Plan, template: Template | None) -> None:
    try:
        await container.start(plan, template)
    except BaseException:  # Cancelled comes in a group from where there is a nursery
        with trio.CancelScope(shield=True):
            await container.remove(force=True)
        raise


async def _end(container: Container) -> None:
    await container.stop()
    await container.remove(force=True)


def start_shim() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A shim of one's own, on the other end of the socket that is returned."""
    ours, theirs = protocol.pair()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    program = (
        f"import sys; sys.path.insert(0, {root!r}); from supervisor.shim.server import main; main()"
    )
    fd = theirs.fileno()
    env = {**os.environ, **ENVIRONMENT, "SUP_CONTROL_FD": str(fd)}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            env=env,
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    return process, ours


@contextlib.asynccontextmanager
async def open_supervisor(
    paths: Paths | str | None = None, *, shim_fd: int = -1
) -> AsyncIterator[Supervisor]:
    """A supervisor, with a shim of its own unless `shim_fd` is the socket to one.

    `paths` is a root directory; without it an embedded supervisor has a temporary one. At the end every
    container is killed and nothing is left."""
    with contextlib.ExitStack() as stack:
        if paths is None:
            paths = tempfile.mkdtemp(prefix="sup-")
            stack.callback(shutil.rmtree, paths, ignore_errors=True)
        places = paths if isinstance(paths, Paths) else Paths.find(paths)
        _prepare(places, stack)
        if shim_fd >= 0:
            control, shim_pid = socket.socket(fileno=shim_fd), os.getppid()
        else:
            shim, control = start_shim()
            shim_pid = shim.pid
            stack.callback(shim.wait)
        stack.callback(control.close)
        alone: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                background = Background(nursery)
                sup = Supervisor(places, Link(control), gather(places), background)
                sup.shim_pid = shim_pid
                stack.callback(sup.hub.close)
                background.start_soon(sup.link.run)
                background.start_soon(sup.hub.run)
                await layers.clear(sup.link, sup.host)
                try:
                    yield sup
                finally:
                    with trio.CancelScope(shield=True):
                        await _close(sup)
                    background.stop()
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            alone = group.exceptions[0]
        if alone is not None:  # that there is a nursery is no matter of the caller's
            raise alone


def _prepare(places: Paths, stack: contextlib.ExitStack) -> None:
    """Fresh directories, which go with `stack`. Raises SupError."""
    places.make()
    stack.callback(shutil.rmtree, places.skeleton, ignore_errors=True)
    stack.callback(shutil.rmtree, places.stage, ignore_errors=True)
    shutil.rmtree(places.containers, ignore_errors=True)
    try:
        os.mkdir(places.containers, 0o700)
        build_skeleton(places)
    except OSError as error:
        raise lacking("a supervisor cannot be started here", error) from None


async def _close(sup: Supervisor) -> None:
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            for container in list(sup.containers.values()):
                nursery.start_soon(container.remove, True)
