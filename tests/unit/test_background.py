"""Tasks that a cancelled caller does not take along."""

from __future__ import annotations

import pytest
import trio

from supervisor.background import Background


def test_they_go_on_while_the_caller_closes_and_end_with_stop() -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            while True:
                await trio.lowlevel.checkpoint()
                said.append("working")
        finally:
            said.append("stopped")

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                background = Background(nursery)
                background.start_soon(work)
                scope.cancel()
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        before = len(said)
                        await trio.sleep(0.01)
                        assert said[before:] == ["working"] * (len(said) - before) != []
                    background.stop()
                    background.start_soon(work)  # too late: it is never begun

    trio.run(main)
    assert said[-1] == "stopped"
    assert said.count("stopped") == 1


def test_a_task_that_fails_takes_the_caller_along() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            Background(nursery).start_soon(fail)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        trio.run(main)
    assert [str(error) for error in caught.value.exceptions] == ["broken"]
