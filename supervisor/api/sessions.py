"""The methods that end in a session of frames: run, attach and exec."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from ..errors import SupError, WrongState
from ..spec import ContainerSpec
from .attach import Options, Session
from .connection import Call, Connection, Upgrade

if TYPE_CHECKING:
    from ..console import Console, Viewer
    from ..container import Container
    from ..execution import Exec


async def run(call: Call) -> dict[str, object] | Upgrade:
    """Launch one container; upgraded, with its console, of which no byte is missed."""
    p = call.parameters
    spec = ContainerSpec.from_mapping(p.table("spec"))
    name, remove = p.text("name") or None, p.flag("remove")
    options = Options.read(p, replay=True, lossless=True)
    p.done()
    opened = ExitStack()
    viewers: list[Viewer] = []

    def watch(container: Container) -> None:
        if call.upgrade and not viewers:
            viewers.append(opened.enter_context(_sized_view(options, container.console, spec.tty)))

    try:
        launched = await call.sup.launch(spec, None, name=name, on_change=watch, remove=remove)
        container = launched[0]
        if container.error is not None:
            await _forget(call, container)
            raise container.error
        watch(container)
    except BaseException:
        opened.close()
        raise
    if not call.upgrade:
        return {"container": container.summary()}
    session = _container_session(container, options, viewers[0])
    return _upgrade({"container": container.summary()}, container.console, session, opened)


async def _forget(call: Call, container: Container) -> None:
    """What never ran in the foreground leaves nothing to look at afterwards."""
    if call.sup.containers.get(container.name) is container:
        with suppress(SupError):
            await container.remove(force=True)


def _sized_view(options: Options, console: Console, tty: bool) -> Viewer:
    """A viewer from before the first byte; the console learns its size when it is connected."""
    viewer = options.view(console)
    if tty and options.rows and options.cols and not options.read_only:
        viewer.resize(options.rows, options.cols)
    return viewer


async def attach(call: Call) -> Upgrade:
    """The console of a running container."""
    call.require_upgrade()
    name = call.parameters.text("name")
    options = Options.read(call.parameters, replay=True)
    call.parameters.done()
    container = _one(call, name)
    opened = ExitStack()
    viewer = opened.enter_context(options.view(container.console))
    session = _container_session(container, options, viewer)
    return _upgrade({"container": container.summary()}, container.console, session, opened)


def _one(call: Call, name: str) -> Container:
    """The one running container that is meant by `name`."""
    container = call.sup.select([name], all=True)[0]
    if container.state.value.lower() == "exited":
        raise WrongState(f"{container.name} has ended", remedy="see `sup logs`, or `sup restart` it")
    return container


def _container_session(
    container: Container, options: Options, viewer: Viewer
) -> Callable[[Connection], Session]:
    def make(connection: Connection) -> Session:
        return Session(connection, container.console, viewer, options, container.wait, container.kill)

    return make


async def execute(call: Call) -> Upgrade:
    """A command in a running container, with a console of its own."""
    call.require_upgrade()
    p = call.parameters
    name, argv = p.text("name"), p.texts("argv")
    tty, env = p.flag("tty"), p.texts("env")
    workdir, user = p.text("workdir"), p.text("user")
    options = Options.read(p, replay=True, lossless=not tty)
    p.done()
    container = _one(call, name)
    running = await container.exec(
        argv,
        tty=tty,
        stdin=options.stdin,
        env=env,
        workdir=workdir,
        user=user,
        size=(options.rows, options.cols) if options.rows and options.cols else None,
    )
    opened = ExitStack()
    viewer = opened.enter_context(_sized_view(options, running.console, tty))

    def make(connection: Connection) -> Session:
        return Session(connection, running.console, viewer, options, running.wait, running.kill)

    reply: dict[str, object] = {"container": container.summary(), "tty": tty}
    return _upgrade(reply, running.console, make, opened, running)


def _upgrade(
    reply: dict[str, object],
    console: Console,
    make: Callable[[Connection], Session],
    opened: ExitStack,
    running: Exec | None = None,
) -> Upgrade:
    """The session, which owns what `opened` holds; a command hangs up with its client."""

    async def serve(connection: Connection) -> None:
        with opened:
            session = make(connection)
            saw_end = False
            try:
                await connection.send({"parameters": {"tty": console.tty, **reply}})
                session.set_size()
                saw_end = await session.run()
            finally:
                if running is not None and not saw_end and not session.detached:
                    with suppress(SupError, OSError):
                        running.kill(signal.SIGHUP)

    return Upgrade(serve)
