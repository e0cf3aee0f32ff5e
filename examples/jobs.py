"""A job runner: every command in a container of its own, at most so many at a time.

    python examples/jobs.py -j 4 'make -C /srv test' 'sleep 3' 'exit 7'
    printf '%s\\n' 'seq 3' 'nonsense' | python examples/jobs.py

Commands are shell lines, from the arguments or one a line from stdin. Prints what each printed and a
table at the end; exits with 1 if one of them failed. A job that takes longer than `--timeout` is ended.

Shows: pipes instead of a terminal, exit statuses, complete output from the log.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import trio

from supervisor import ContainerSpec, Supervisor, open_supervisor


@dataclass(frozen=True)
class Result:
    command: str
    status: int
    seconds: float
    output: str


async def run(sup: Supervisor, command: str, timeout: float | None) -> Result:
    """One command in a new container."""
    started = trio.current_time()
    spec = ContainerSpec(command=("sh", "-c", command), tty=False, timeout=timeout)
    [container] = await sup.launch(spec)
    try:
        status = await container.wait()
        output = b"".join([record.data async for record in container.logs()])
        if container.error is not None:  # it could not even be started
            output = f"{container.error}\n".encode()
    finally:
        with trio.CancelScope(shield=True):
            await container.remove(force=True)
    seconds = trio.current_time() - started
    return Result(command, status, seconds, output.decode(errors="replace"))


async def run_all(commands: list[str], at_a_time: int, timeout: float | None) -> list[Result]:
    """All commands, at most `at_a_time` of them together; results in the order of the commands."""
    results: dict[int, Result] = {}
    slots = trio.Semaphore(at_a_time)

    async def job(number: int, command: str) -> None:
        async with slots:
            results[number] = await run(sup, command, timeout)

    async with open_supervisor() as sup, trio.open_nursery() as nursery:
        for number, command in enumerate(commands):
            nursery.start_soon(job, number, command)
    return [results[number] for number in range(len(commands))]


def report(results: list[Result]) -> None:
    for result in results:
        print(f"== {result.command}", result.output, sep="\n", end="")
    print("\nSTATUS  SECONDS  COMMAND")
    for result in results:
        print(f"{result.status:6}  {result.seconds:7.2f}  {result.command}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run shell lines in containers of their own.")
    parser.add_argument("-j", "--jobs", type=int, default=8, help="how many at a time (default: 8)")
    parser.add_argument("--timeout", type=float, help="seconds that one may take")
    parser.add_argument("commands", nargs="*", help="shell lines; without any, those on stdin")
    options = parser.parse_args()
    commands = options.commands or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    results = trio.run(run_all, commands, options.jobs, options.timeout)
    report(results)
    return 1 if any(result.status for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
