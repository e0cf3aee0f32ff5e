"""The methods of the API by name: what a call's parameters mean to the Supervisor."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from .. import __version__
from ..errors import NotFound, SpecError, SupError, WrongState
from ..fleetfile import parse
from ..spec import ContainerSpec
from . import protocol, sessions, streams
from .connection import Call, Connection, Upgrade

if TYPE_CHECKING:
    from ..container import Container

Reply = dict[str, object]
Method = Callable[[Call], Awaitable[Reply | Upgrade]]
_SEND_PATIENCE = 10.0


async def info(call: Call) -> Reply:
    """Pids, versions, paths and counts of this supervisor."""
    call.parameters.done()
    about = {"protocol": protocol.PROTOCOL, "version": __version__, "supervisor_pid": os.getpid()}
    return {**about, **call.sup.info()}


async def shutdown(call: Call) -> Upgrade:
    """End every container, so that whoever looks at one sees its end, then the supervisor."""
    call.parameters.done()
    await _each(call, list(call.sup.containers.values()), lambda container: container.stop())

    async def reply_and_end(connection: Connection) -> None:
        try:
            await connection.send({"parameters": {}})
        finally:
            call.sup.shutdown()

    return Upgrade(reply_and_end)


async def up(call: Call) -> Reply:
    """Launch a fleet, or what a fleet file lists."""
    p = call.parameters
    if p.given("file"):
        return await _up_file(call)
    spec = ContainerSpec.from_mapping(p.table("spec"))
    name, scale = p.text("name") or None, p.flag("scale")
    replicas = p.whole("replicas", 0, 100_000)
    p.done()
    containers = await _reporting(
        call,
        lambda on_change: call.sup.launch(spec, replicas, name=name, scale=scale, on_change=on_change),
    )
    return {"containers": [container.summary() for container in containers]}


async def _up_file(call: Call) -> Reply:
    text, base_dir = call.parameters.text("file"), call.parameters.text("base_dir")
    call.parameters.done()
    entries = parse(text, base_dir)
    containers = await _reporting(
        call, lambda on_change: call.sup.launch_file(entries, on_change=on_change)
    )
    return {"containers": [container.summary() for container in containers]}


OnChange = Callable[["Container"], None]
Launch = Callable[[OnChange], Awaitable["list[Container]"]]


async def _reporting(call: Call, launch: Launch) -> list[Container]:
    """Launch, with a reply for every change if the client wants many."""
    if not call.more:
        return await launch(lambda container: None)
    # As long as what a launch can produce; a client that does not read must not hold it up.
    send, receive = trio.open_memory_channel[Reply](math.inf)

    def changed(container: Container) -> None:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            send.send_nowait(container.summary())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_forward, call, receive)
        with send:
            containers = await launch(changed)
    return containers


async def _forward(call: Call, receive: trio.MemoryReceiveChannel[Reply]) -> None:
    async for summary in receive:
        await call.reply(container=summary)


async def list_containers(call: Call) -> Reply:
    """Summaries of the running containers, or of all."""
    everything = call.parameters.flag("all")
    filters = call.parameters.texts("filters")
    call.parameters.done()
    tests = [_filter(text) for text in filters]
    everything = everything or any(text.startswith(("status=", "exited=")) for text in filters)
    chosen = [
        container.summary()
        for container in call.sup.containers.values()
        if (everything or not _ended(container)) and all(test(container) for test in tests)
    ]
    return {"containers": chosen}


def _filter(text: str) -> Callable[[Container], bool]:
    """A test from `KEY=VALUE`: name (part of it), id (start), fleet, status, label, exited."""
    key, _, value = text.partition("=")
    label, _, wanted = value.partition("=")
    tests: dict[str, Callable[[Container], bool]] = {
        "name": lambda container: value in container.name,
        "id": lambda container: container.id.startswith(value),
        "fleet": lambda container: container.fleet == value,
        "status": lambda container: container.state.value.lower() == value.lower(),
        "exited": lambda container: _ended(container) and str(container.status) == value,
        "label": lambda container: any(
            name == label and ("=" not in value or given == wanted)
            for name, given in container.spec.labels
        ),
    }
    if key not in tests or not value:
        raise SpecError("filter", text, f"write KEY=VALUE with a key of {', '.join(sorted(tests))}")
    return tests[key]


def _ended(container: Container) -> bool:
    return container.state.value.lower() == "exited"


async def inspect(call: Call) -> Reply:
    """Everything that is known about the containers."""
    return {"containers": [container.inspect() for container in _selected(call)]}


def _selected(call: Call, *, all: bool = True) -> list[Container]:
    """The containers of `names`; the other parameters were read before."""
    names = call.parameters.texts("names")
    call.parameters.done()
    if not names:
        raise NotFound("no container was named", remedy="give names, prefixes or patterns")
    chosen = call.sup.select(names, all=all)
    if not chosen:
        raise WrongState("no container that fits is running", remedy="see `sup ps -a`")
    return chosen


async def stop(call: Call) -> Reply:
    timeout, signum = call.parameters.seconds("timeout"), call.parameters.whole("signal", 1, 64)
    containers = [container for container in _selected(call) if not _ended(container)]
    return await _each(
        call, containers, lambda container: container.stop(timeout=timeout, signal=signum)
    )


async def kill(call: Call) -> Reply:
    signum = call.parameters.whole("signal", 1, 64) or 9
    names = list(call.parameters.texts("names"))
    call.parameters.done()
    containers = call.sup.select(names, all=True)
    if len(containers) > len(names):  # a pattern means those that run
        containers = [container for container in containers if not _ended(container)]

    async def send_signal(container: Container) -> None:
        container.kill(signum)

    return await _each(call, containers, send_signal)


async def restart(call: Call) -> Reply:
    return await _each(call, _selected(call), lambda container: container.restart())


async def remove(call: Call) -> Reply:
    force = call.parameters.flag("force")
    return await _each(call, _selected(call), lambda container: container.remove(force=force))


async def down(call: Call) -> Reply:
    """Stop and remove fleets or containers; without names, all."""
    names = call.parameters.texts("names")
    timeout = call.parameters.seconds("timeout")
    call.parameters.done()

    async def take_down(container: Container) -> None:
        if not _ended(container):
            await container.stop(timeout=timeout)
        await container.remove(force=True)

    return await _each(call, _fleets(call, names), take_down)


def _fleets(call: Call, names: Sequence[str]) -> list[Container]:
    """The containers of the fleets or containers called `names`; all for none."""
    everything = list(call.sup.containers.values())
    if not names:
        return everything
    chosen: dict[str, Container] = {}
    for name in names:
        fleet = [container for container in everything if container.fleet == name]
        for container in fleet or call.sup.select([name], all=True):
            chosen[container.id] = container
    return list(chosen.values())


async def _each(
    call: Call, containers: Sequence[Container], act: Callable[[Container], Awaitable[Any]]
) -> Reply:
    """Act on all at once; who failed, and why, is part of the reply."""
    done: list[str] = []
    errors: list[Reply] = []

    async def one(container: Container) -> None:
        try:
            await act(container)
        except SupError as error:
            errors.append({"name": container.name, **error.to_wire()})
        else:
            done.append(container.name)

    async with trio.open_nursery() as nursery:
        for container in containers:
            nursery.start_soon(one, container)
    position = {container.name: at for at, container in enumerate(containers)}
    return {"names": sorted(done, key=lambda name: position[name]), "errors": errors}


async def send(call: Call) -> Reply:
    """Type into consoles."""
    data = call.parameters.data("data")

    async def type_in(container: Container) -> None:
        try:
            with trio.fail_after(_SEND_PATIENCE):
                await container.console.write(data)
        except trio.TooSlowError:
            raise SupError(
                f"{container.name} did not read its input for {_SEND_PATIENCE:.0f} s",
                remedy="see what it does: `sup attach`",
            ) from None
        except OSError:
            raise SupError(
                f"{container.name} has no open input", remedy="start it with -i, or on a console"
            ) from None

    return await _each(call, _selected(call, all=False), type_in)


async def wait(call: Call) -> Reply:
    """One reply for each container that ends, with its status."""
    call.require_more()
    containers = _selected(call)

    async def one(container: Container) -> None:
        await call.reply(name=container.name, status=await container.wait())

    async with trio.open_nursery() as nursery:
        for container in containers:
            nursery.start_soon(one, container)
    return {}


async def events(call: Call) -> Reply:
    """What happened, in order, from `since` on; with `follow`, what happens."""
    call.require_more()
    since, follow = call.parameters.whole("since"), call.parameters.flag("follow", True)
    call.parameters.done()
    async for event in call.sup.events.subscribe(since=since, follow=follow):
        await call.reply(**event)
    return {}


METHODS: dict[str, Method] = {
    "sup.Info": info,
    "sup.Shutdown": shutdown,
    "sup.Up": up,
    "sup.Run": sessions.run,
    "sup.Attach": sessions.attach,
    "sup.Exec": sessions.execute,
    "sup.ExecAll": streams.execute_all,
    "sup.List": list_containers,
    "sup.Inspect": inspect,
    "sup.Logs": streams.logs,
    "sup.Wait": wait,
    "sup.Stop": stop,
    "sup.Kill": kill,
    "sup.Restart": restart,
    "sup.Remove": remove,
    "sup.Down": down,
    "sup.Events": events,
    "sup.Send": send,
}
