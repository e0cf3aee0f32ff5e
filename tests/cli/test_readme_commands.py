"""The README's commands, typed one after another into a shell at a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pexpect
import pytest
from support import TIMEOUT, Sup

TREE = Path(__file__).resolve().parents[2]
PROMPT = "typed> "
STATUSES = {"sup run --rm -- sh -c 'exit 42'": 42}


def commands() -> list[str]:
    """`sup up -n 10` of the first block, then every line of the second."""
    readme = (TREE / "README.md").read_text()
    [first] = re.findall(r"&& \S*/(sup up .*)$", readme, re.M)
    [block] = re.findall(r"```console\n(.*?)```", readme, re.S)
    lines = [line.partition(" # ")[0].removeprefix("$ ").strip() for line in block.splitlines()]
    return [first, *lines]


@pytest.fixture
def shell(sup: Sup, tmp_path: Path) -> Iterator[pexpect.spawn]:
    command = tmp_path / "sup"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m supervisor "$@"\n')
    command.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SUP_ROOT": sup.root,
        "PS1": PROMPT,
        "NO_COLOR": "1",
    }
    terminal = pexpect.spawn(
        "sh", timeout=TIMEOUT, cwd=TREE, env=env, dimensions=(40, 120), encoding="utf-8"
    )
    with closing(terminal) as child:
        child.delaybeforesend = None
        child.expect_exact(PROMPT)
        yield child


def typed(shell: pexpect.spawn, line: str) -> str:
    """What a line prints, once it has ended with the status that it should."""
    shell.send(f"{line}; echo status=$?\r")
    if line.startswith("sup attach"):
        shell.expect(r"root@\S+:/#")
        shell.send("\x1d\x1d\x1d")
    shell.expect(r"status=(\d+)\r\n")
    assert int(shell.match[1]) == STATUSES.get(line, 0), shell.before
    output = str(shell.before)
    shell.expect_exact(PROMPT)
    return output.partition("\n")[2]


def test_the_readme_does_what_it_says(shell: pexpect.spawn) -> None:
    outputs = {line: typed(shell, line) for line in commands()}
    assert all(f"sup-{number} " in outputs["sup ps"] for number in range(1, 11))
    hosts = next(text for line, text in outputs.items() if line.startswith("sup exec"))
    assert len(re.findall(r"^sup-\d+ +\| sup-\d+\r$", hosts, re.M)) == 10
    assert outputs["echo hi | sup run -i --rm -- cat | wc -c"].strip() == "3"
    logs = next(text for line, text in outputs.items() if line.startswith("sup logs"))
    assert "uname -a" in logs
    assert len(outputs["sup down"].split()) == 13
    assert outputs["sup shutdown"] == ""
