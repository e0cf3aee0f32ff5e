"""Every kernel call of a launch can fail: it is named, all is rolled back, the next one works."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from itertools import cycle

import pytest
from faulty import Faults, Traces, run_faulty

from supervisor import ContainerSpec, Supervisor
from supervisor.container import State
from supervisor.errors import (
    HostLacks,
    StepFailed,
    SupError,
)
from supervisor.plan import Steps, compile

pytestmark = pytest.mark.requires("containers")

ERRNOS = (errno.EPERM, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN)
FLEET = 3
"""From here on a fleet has a template."""


KINDS = ("terminal", "pipes", "user namespace", "own tree", "writable tree")


def shell(script: str, **fields: object) -> ContainerSpec:
    return ContainerSpec.from_mapping({"command": ["sh", "-c", script], **fields})


def rich(root: str, **fields: object) -> ContainerSpec:
    """A spec with as many kinds of steps as one can have."""
    os.makedirs(f"{root}/volume", exist_ok=True)
    return shell(
        "exit 3",
        volumes=[f"{root}/volume:/root/in", f"{root}/volume:/data:ro"],
        tmpfs=["/scratch", "/run/x"],
        ulimits=["core=0"],
        sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
        **fields,
    )


def tree(root: str) -> str:
    """A root file system: links into /usr, which has to be mounted."""
    path = f"{root}/tree"
    if not os.path.isdir(path):
        os.makedirs(f"{path}/etc")
        os.mkdir(f"{path}/usr")
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            if os.path.islink(f"/{name}"):
                os.symlink(os.readlink(f"/{name}"), f"{path}/{name}")
    return path


def places(part: str, plan: Steps) -> Iterator[tuple[str, str, int]]:
    """Where a plan can fail: part, call, and which of its calls."""
    seen: Counter[str] = Counter()
    for step in plan:
        yield part, step[0], seen[step[0]]
        seen[step[0]] += 1


def assert_names(error: SupError | None, call: str, number: int) -> None:
    """The error is one sentence that names the call and, but for a plain lack, the reason."""
    assert error is not None
    assert call in error.message
    assert "\n" not in str(error)
    if not isinstance(error, HostLacks):
        assert isinstance(error, StepFailed), error
        assert (error.call, error.errno) == (call, number)
        assert os.strerror(number) in error.message


async def fails(sup: Supervisor, spec: ContainerSpec, call: str, number: int, n: int | None) -> None:
    try:
        containers = await sup.launch(spec, n, name="box")
    except SupError as error:  # the template's own
        assert_names(error, call, number)
        assert not sup.containers
        return
    for container in containers:
        assert_names(container.error, call, number)
        assert container.error is not None
        assert (container.state, container.pid) == (State.EXITED, 0)
        assert container.status == container.error.exit_code
        await container.remove()


async def works(sup: Supervisor, spec: ContainerSpec, n: int | None = None) -> None:
    containers = await sup.launch(spec, n, name="box")
    assert [container.error for container in containers] == [None] * (n or 1)
    for container in containers:
        assert await container.wait() == 3
        await container.remove()


def specs(root: str) -> dict[str, ContainerSpec]:
    """One for each of KINDS."""
    usr = {"volumes": ["/usr:/usr:ro"]}
    made = (
        rich(root),
        rich(root, tty=False, share=["pid"]),
        rich(root, unshare=["user"]),
        shell("exit 3", rootfs=tree(root), tmpfs=["/scratch"], ulimits=["core=0"], **usr),
        shell("exit 3", rootfs=f"{tree(root)}:rw", ulimits=["core=0"], **usr),
    )
    return dict(zip(KINDS, made, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [None, FLEET])
def test_every_step_may_fail(sup_root: str, kind: str, n: int | None) -> None:
    async def body(sup: Supervisor, faults: Faults, traces: Traces) -> None:
        spec = specs(sup_root)[kind]
        plan = compile(spec, sup.host)
        template = n is not None and plan.pivots_shared
        found = [*places("own", plan.own if template else plan.shared + plan.own)]
        found += [*places("shared", plan.shared)] if template else []
        found += [*places("workload", plan.workload)]
        await works(sup, spec, n)
        traces = Traces(sup_root, sup.shim_pid)
        for (part, call, nth), number in zip(found, cycle(ERRNOS), strict=False):
            faults.fail(call, number, part=part, nth=nth)
            await fails(sup, spec, call, number, n)
            await traces.assert_none()
        faults.clear()
        await works(sup, spec, n)
        await traces.assert_none()

    run_faulty(sup_root, body)
