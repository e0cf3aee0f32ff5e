"""A launch is cancelled at each of its stages: what runs stays, what is in flight is rolled back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from faulty import Faults, Traces, run_faulty

from supervisor import Container, ContainerSpec, Supervisor
from supervisor import supervisor as supervisor_module
from supervisor.container import State

pytestmark = pytest.mark.requires("containers")

FLEET = 3
OnChange = Callable[[Container], None]

SLEEP = ContainerSpec.from_mapping({"command": ["/bin/sleep", "100"], "ulimits": ["core=0"]})

# Where a launch hangs when it is cancelled: the request is sent (the shim, or the template, is about
# to clone), the clone is seen, mounts are being made, the console is made, the console has been
# received, the workload is about to be executed.
SINGLE = [
    ("clone3", "", 0),
    ("mount", "own", 0),
    ("pivot_root", "own", 0),
    ("sethostname", "own", 0),
    ("open", "", 0),
    ("fork", "", 0),
    ("umask", "workload", 0),
    ("chdir", "workload", 0),
    ("execve", "", 0),
]
REPLICAS = [
    ("clone3", "", 0),  # the template's own
    ("mount", "shared", 0),
    ("pivot_root", "shared", 0),
    ("clone3", "", 1),  # the first replica's
    *[stage for stage in SINGLE[1:] if stage[0] != "pivot_root"],
]
STAGES = [(None, *stage) for stage in SINGLE] + [(FLEET, *stage) for stage in REPLICAS]
LISTENED = pytest.mark.parametrize("listened", [False, True], ids=["", "listened"])


def listener(listened: bool, states: list[State]) -> OnChange | None:
    return (lambda container: states.append(container.state)) if listened else None


async def cancelled_when(
    sup: Supervisor,
    n: int | None,
    on_change: OnChange | None,
    reached: Callable[[], Awaitable[None]],
    release: Callable[[], None],
) -> None:
    """Launch, cancel as soon as `reached` returns, and come to the end of it."""
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            await sup.launch(SLEEP, n, name="box", on_change=on_change)

        nursery.start_soon(start)
        await reached()
        nursery.cancel_scope.cancel()
        release()


async def works(sup: Supervisor, n: int | None, traces: Traces) -> None:
    """The same names can be launched again, and go without a trace."""
    containers = await sup.launch(SLEEP, n, name="box")
    assert [container.error for container in containers] == [None] * (n or 1)
    await sup.down()
    await traces.assert_none()


@LISTENED
@pytest.mark.parametrize(("n", "call", "part", "nth"), STAGES)
def test_cancelled_where_it_hangs(
    sup_root: str, n: int | None, call: str, part: str, nth: int, listened: bool
) -> None:
    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        states: list[State] = []
        faults.hang(call, part=part, nth=nth)
        # What hangs in a clone is killed; the shim and the template have to go on.
        release = faults.clear if call == "clone3" else lambda: None
        with trio.fail_after(20):
            await cancelled_when(sup, n, listener(listened, states), faults.reached, release)
        assert sup.containers == {}
        assert State.RUNNING not in states
        await traces.assert_none()
        faults.clear()
        await works(sup, n, traces)

    run_faulty(sup_root, body)


@LISTENED
@pytest.mark.parametrize("in_flight", [1, 64], ids=["queued", "all in flight"])
def test_what_runs_stays(
    sup_root: str, in_flight: int, listened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_IN_FLIGHT", in_flight)

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        states: list[State] = []
        faults.hang("clone3", nth=3)  # after the template's and two replicas'

        async def two_run() -> None:
            await faults.reached()
            async for _ in sup.events.subscribe(since=0):
                if [c.state for c in sup.containers.values()].count(State.RUNNING) == 2:
                    return

        with trio.fail_after(20):
            await cancelled_when(sup, 5, listener(listened, states), two_run, faults.clear)
        assert len(sup.containers) == 2
        for container in sup.containers.values():
            assert container.state is State.RUNNING
            assert await (await container.exec(["/bin/true"])).wait() == 0
        assert states.count(State.RUNNING) == (2 if listened else 0)
        # What was rolled back can be asked for again.
        await sup.launch(SLEEP, 5, name="box", scale=True)
        assert [c.state for c in sup.containers.values()] == [State.RUNNING] * 5
        await sup.down()
        await traces.assert_none()

    run_faulty(sup_root, body, batch=1)


@pytest.mark.parametrize("n", [None, FLEET])
@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING])
def test_cancelled_by_the_listener(sup_root: str, n: int | None, state: State) -> None:
    """Just before the request is sent, and just after execve was confirmed."""

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        scope = trio.CancelScope()

        def cancel(container: Container) -> None:
            if container.state is state:
                scope.cancel()

        with scope:
            await sup.launch(SLEEP, n, name="box", on_change=cancel)
        for container in sup.containers.values():
            assert container.state is State.RUNNING
            assert await (await container.exec(["/bin/true"])).wait() == 0
        assert bool(sup.containers) is (state is State.RUNNING)
        await sup.down()
        await traces.assert_none()
        await works(sup, n, traces)

    run_faulty(sup_root, body)


def test_cancelled_before_it_begins(sup_root: str) -> None:
    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        for n in (None, FLEET):
            with trio.CancelScope() as scope:
                scope.cancel()
                await sup.launch(SLEEP, n, name="box")
            assert sup.containers == {}
            await traces.assert_none()
        await works(sup, FLEET, traces)

    run_faulty(sup_root, body)


@pytest.mark.parametrize(("n", "call", "part", "nth"), [s for s in STAGES if s[1] != "clone3"])
def test_taken_down_where_it_hangs(
    sup_root: str, n: int | None, call: str, part: str, nth: int
) -> None:
    """`down` and `rm -f` end a container that is not there yet."""

    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        launched: list[Container] = []

        async def start() -> None:
            launched.extend(await sup.launch(SLEEP, n, name="box"))

        faults.hang(call, part=part, nth=nth)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                await faults.reached()
                await sup.down()
                faults.clear()  # a template that hangs holds up the launch, not those who end it
        assert sup.containers == {}
        assert [container.state for container in launched] == [State.EXITED] * (n or 1)
        for container in launched:
            assert container.error is not None
            assert "was stopped" in str(container.error)
        await traces.assert_none()
        await works(sup, n, traces)

    run_faulty(sup_root, body)


@pytest.mark.parametrize(("call", "nth"), [("clone3", 0), ("clone3", 1), ("setns", 0), ("execve", 0)])
def test_an_added_command_is_cancelled(sup_root: str, call: str, nth: int) -> None:
    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        [box] = await sup.launch(SLEEP)
        traces = Traces(traces.root, sup.shim_pid)
        faults.hang(call, nth=nth)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(box.exec, ["/bin/true"])
                await faults.reached()
                nursery.cancel_scope.cancel()
                faults.clear()
        await traces.assert_none()
        assert await (await box.exec(["/bin/true"])).wait() == 0
        await traces.assert_none()

    run_faulty(sup_root, body)
