"""A dialogue with a fleet: wait for each shell's prompt, type a question, collect all the answers.

    python examples/dialogue.py                   # asks five containers for their name and user
    python examples/dialogue.py 20 'uname -r'     # asks twenty for their kernel

Shows: launching a fleet, a console as a trio stream, and expect(1) in a dozen lines.
"""

from __future__ import annotations

import sys

import trio

from supervisor import Container, ContainerSpec, open_supervisor

PROMPT = "what now? "


async def expect(stream: trio.abc.ReceiveStream, text: str) -> str:
    """Read until `text` comes; returns what came before it."""
    seen = ""
    with trio.fail_after(30):
        while text not in seen:
            data = await stream.receive_some()
            if not data:
                raise EOFError(f"the console ended after {seen!r}, where {text!r} was expected")
            seen += data.decode(errors="replace")
    return seen.partition(text)[0]


async def ask(container: Container, question: str) -> str:
    """Type a question at the shell's prompt; returns its answer."""
    async with container.attach() as console:
        await expect(console, PROMPT)
        await console.send_all(f"{question}\r".encode())
        return await expect(console, PROMPT)


async def main(count: int, question: str) -> None:
    # Without echo, what is read is what the shell says, not what was typed.
    spec = ContainerSpec(command=("sh", "-c", "stty -echo; exec sh"), env={"PS1": PROMPT})
    answers: dict[str, str] = {}

    async def collect(container: Container) -> None:
        answers[container.name] = await ask(container, question)

    async with open_supervisor() as sup:
        containers = await sup.launch(spec, count, name="node")
        async with trio.open_nursery() as nursery:
            for container in containers:
                nursery.start_soon(collect, container)
        for container in containers:
            print(f"{container.name}: {' '.join(answers[container.name].split())}")


if __name__ == "__main__":
    words = sys.argv[1:]
    trio.run(main, int(words[0]) if words else 5, words[1] if len(words) > 1 else "hostname; id -un")
