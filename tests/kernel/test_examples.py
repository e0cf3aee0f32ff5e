"""The examples do what they say, run as a user would run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from support import TIMEOUT

import supervisor
from supervisor import State, Supervisor, load_fleet, open_supervisor

pytestmark = pytest.mark.requires("containers")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str, *args: str, data: str = "", status: int = 0) -> str:
    """What an example prints; it has to end with `status`, without a complaint."""
    library = os.path.dirname(os.path.dirname(os.path.abspath(supervisor.__file__)))
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *args],
        input=data,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": library},
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stdout
    return done.stdout


def test_there_is_a_test_of_each() -> None:
    tested = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        assert f'"{path.name}"' in tested or path.name == "__pycache__"


def test_dialogue() -> None:
    lines = example("dialogue.py", "3", "hostname; echo $((6 * 7))").splitlines()
    assert lines == ["node-1: node-1 42", "node-2: node-2 42", "node-3: node-3 42"]


def test_dialogue_as_it_is_first_tried() -> None:
    assert [line.split()[1] for line in example("dialogue.py").splitlines()] == [
        "node-1",
        "node-2",
        "node-3",
        "node-4",
        "node-5",
    ]


def test_jobs() -> None:
    printed = example("jobs.py", "-j", "2", "seq 3", "echo oops >&2; exit 7", "exit 0", status=1)
    outputs, _, table = printed.partition("\nSTATUS  SECONDS  COMMAND\n")
    assert outputs == "== seq 3\n1\n2\n3\n== echo oops >&2; exit 7\noops\n== exit 0\n"
    rows = [line.split(maxsplit=2) for line in table.splitlines()]
    assert [(status, command) for status, _, command in rows] == [
        ("0", "seq 3"),
        ("7", "echo oops >&2; exit 7"),
        ("0", "exit 0"),
    ]


def test_jobs_from_stdin_lose_no_output() -> None:
    printed = example("jobs.py", data="seq 100000\n\nseq 200000\n")
    numbers = [int(line) for line in printed.splitlines() if line.isdigit()]
    assert numbers == [*range(1, 100_001), *range(1, 200_001)]


def test_jobs_are_limited_in_number_and_time(tmp_path: Path) -> None:
    # Two at a time: four jobs of 0.4 s take two rounds.
    printed = example("jobs.py", "-j", "2", *["date +%s.%N; sleep 0.4; date +%s.%N"] * 4)
    times = [float(line) for line in printed.splitlines() if re.fullmatch(r"[0-9.]+", line)]
    events = sorted((time, 1 - index % 2 * 2) for index, time in enumerate(times))
    running = [sum(change for _, change in events[: n + 1]) for n in range(len(events))]
    assert (max(running), len(events)) == (2, 8)
    printed = example("jobs.py", "--timeout", "0.3", "exec sleep 1000", status=1)
    assert printed.splitlines()[-1].split()[0] == "143"


def cast(path: Path) -> tuple[dict[str, object], list[tuple[float, str, str]]]:
    header, *events = [json.loads(line) for line in path.read_text().splitlines()]
    return header, [(seconds, kind, text) for seconds, kind, text in events]


def test_record(tmp_path: Path) -> None:
    script = r"stty size; printf '\303'; sleep 0.3; printf '\251\n'; exit 4"
    example("record.py", str(tmp_path / "x"), "--", "sh", "-c", script, status=4)
    header, events = cast(tmp_path / "x")
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    assert "".join(text for _, kind, text in events if kind == "o") == "24 80\r\né\r\n"
    times = [seconds for seconds, _, _ in events]
    assert times == sorted(times)
    assert 0.25 <= times[-1] <= TIMEOUT


def test_record_from_a_log(tmp_path: Path, sup_root: str) -> None:
    async def main() -> None:
        with trio.fail_after(TIMEOUT):
            async with open_supervisor(sup_root) as sup:
                spec = supervisor.ContainerSpec(command=("sh", "-c", "read x; read y; echo got $x $y"))
                [container] = await sup.launch(spec, size=(30, 100))
                async with container.attach() as console:
                    await console.send_all(b"it\r")
                    await console.receive_some()
                    console.resize(40, 120)
                    await console.send_all(b"too\r")
                await container.wait()
                arguments = (str(tmp_path / "x"), "--log", container.log_directory)
                await trio.to_thread.run_sync(example, "record.py", *arguments)

    trio.run(main)
    header, events = cast(tmp_path / "x")
    assert (header["width"], header["height"]) == (100, 30)
    assert "".join(text for _, kind, text in events if kind == "o") == "it\r\ntoo\r\ngot it too\r\n"
    assert [text for _, kind, text in events if kind == "r"] == ["120x40"]


def test_fleet_file(sup_root: str) -> None:
    entries = load_fleet(str(EXAMPLES / "fleet.toml"))
    assert sorted(entry.name for entry in entries) == ["clock", "desk", "worker"]

    async def body(sup: Supervisor) -> None:
        containers = await sup.launch_file(entries)
        names = [container.name for container in containers]
        assert names.index("clock") < names.index("worker-1")
        assert sorted(names) == ["clock", "desk", "worker-1", "worker-2", "worker-3"]
        assert all(container.state is State.RUNNING for container in containers)
        printed = b""
        async with sup.containers["worker-2"].logs(follow=True) as log:
            async for record in log:
                printed += record.data
                if b"record.py" in printed:
                    break
        assert printed.startswith(b"hello from worker2\r\n")
        assert b"fleet.toml" in printed
        [clock] = sup.select(["clock"])
        shown = await clock.exec(["sh", "-c", "until test -s /data/now; do sleep 0.1; done"])
        assert await shown.wait() == 0
        async with sup.containers["desk"].attach() as desk:
            await desk.send_all(b"exit 3\r")
            assert await sup.containers["desk"].wait() == 3

    async def main() -> None:
        with trio.fail_after(TIMEOUT):
            async with open_supervisor(sup_root) as sup:
                await body(sup)

    trio.run(main)
