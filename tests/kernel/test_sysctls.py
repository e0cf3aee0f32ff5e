"""Sysctls in the kernel: the worked example of CONTRIBUTING.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from supervisor import Container, ContainerSpec, open_supervisor
from supervisor.errors import StepFailed

pytestmark = pytest.mark.requires("containers")
KEY = "net.core.somaxconn"
FILE = Path("/proc/sys") / KEY.replace(".", "/")


def launch(root: str, value: str) -> tuple[Container, bytes]:
    """A container that shows the sysctl, and what it printed."""

    async def main() -> tuple[Container, bytes]:
        with trio.fail_after(60):
            async with open_supervisor(root) as sup:
                spec = ContainerSpec(command=("cat", str(FILE)), tty=False, sysctls={KEY: value})
                [container] = await sup.launch(spec)
                await container.wait()
                return container, b"".join([record.data async for record in container.logs()])

    return trio.run(main)


def test_it_is_set_inside_and_not_outside(sup_root: str) -> None:
    before = FILE.read_text()
    container, printed = launch(sup_root, "77")
    assert (container.status, printed) == (0, b"77\n")
    assert FILE.read_text() == before != "77\n"


def test_a_value_that_the_kernel_refuses_is_named(sup_root: str) -> None:
    container, printed = launch(sup_root, "many")
    assert isinstance(container.error, StepFailed)
    assert str(container.error).startswith(f"sysctl({KEY}, many): Invalid argument")
    assert (container.status, printed) == (125, b"")
