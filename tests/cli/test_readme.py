"""What the documents promise exists: commands, options, files, and a man page without faults."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from support import TIMEOUT, requires

TREE = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
COMMANDS = (
    *("up", "run", "attach", "send", "logs", "exec", "ps", "inspect", "wait", "stop", "kill"),
    *("restart", "rm", "down", "events", "info", "doctor", "version", "shutdown", "completion"),
)


@functools.cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", *command, "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def code_lines(document: str) -> list[str]:
    """The shell lines of a document's code blocks, without prompts, comments and output."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", (TREE / document).read_text(), re.S)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.partition(" # ")[0].removeprefix("$ ").strip() for line in joined.splitlines()]


def sup_commands() -> list[list[str]]:
    """Every use of `sup` in the documents, as words from the command's name on."""
    found = []
    for document in DOCUMENTS:
        for line in code_lines(document):
            for part in re.split(r"&&|\|\||\||;", line):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == "sup" and len(words) > 1:
                    found.append(words[1:])
    return found


def test_the_readme_has_its_two_commands() -> None:
    lines = code_lines("README.md")
    assert any("sup up -n 10" in line for line in lines)
    assert ".ci/test" in lines
    assert ".ci/test" in (TREE / ".ci/run").read_text().split()


def test_commands_of_the_documents_exist() -> None:
    used = sup_commands()
    assert used
    for words in used:
        options = words[: words.index("--")] if "--" in words else words
        command = next(word for word in options if not word.startswith("-"))
        manual = help_of(command)
        for option in options:
            if option.startswith("--"):
                assert option.partition("=")[0] in manual, f"sup {' '.join(words)}"


def test_files_that_the_documents_name_exist() -> None:
    for document in DOCUMENTS:
        for name in re.findall(r"\]\(([^)#:]+)\)", (TREE / document).read_text()):
            assert (TREE / name).exists(), f"{document}: {name}"


def test_programs_that_the_documents_call_exist() -> None:
    called = set()
    for document in DOCUMENTS:
        for word in " ".join(code_lines(document)).split():
            if word.startswith((".ci/", "tests/")):
                called.add(word)
            elif word.startswith("benchmarks."):
                called.add(word.replace(".", "/") + ".py")
    assert {".ci/test", "benchmarks/spawn.py"} <= called
    assert [name for name in sorted(called) if not (TREE / name).exists()] == []


def test_code_that_is_quoted_is_in_the_tree() -> None:
    """A Python block of CONTRIBUTING.md names a file; its lines stand there, in that order."""
    blocks = re.findall(r"```python\n(.*?)```", (TREE / "CONTRIBUTING.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        first, *quoted = textwrap.dedent(block).splitlines()
        source = (TREE / first.removeprefix("# ")).read_text().splitlines()
        position = 0
        for line in quoted:
            if line != "...":
                assert line in source[position:], f"{first}: {line}"
                position = source.index(line, position) + 1


def test_the_house_is_drawn_as_it_is_checked() -> None:
    """The rooms of CONTRIBUTING.md are the layers that lint-imports enforces, in their order."""
    drawn = re.search(r"^supervisor/\n(.*?)^```", (TREE / "CONTRIBUTING.md").read_text(), re.S | re.M)
    assert drawn is not None
    rows = [re.split("  +", line.strip())[0].split() for line in drawn[1].splitlines()]
    contracts = tomllib.loads((TREE / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    [rooms] = [contract for contract in contracts if contract["id"] == "rooms"]
    assert rows == [layer.replace("|", " ").split() for layer in rooms["layers"]]


@requires("containers")
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", (TREE / "README.md").read_text(), re.S)
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"sup-{number} 3" for number in range(1, 11)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    assert re.search(rf"^\s+{command}\b", help_of(), re.M), f"{command} is not in sup --help"
    assert "usage" in help_of(command).lower()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_its_options_are_in_the_man_page(command: str) -> None:
    page = (TREE / "supervisor/share/sup.1").read_text().replace("\\-", "-")
    assert re.search(rf"^\.(SS|TP|B|BR|BI) .*\b{command}\b|^\.B sup {command}", page, re.M)
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", help_of(command))):
        assert option in page, f"sup {command} {option} is not in supervisor/share/sup.1"


@requires("man")
def test_the_man_page_has_no_faults() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", "-E", "UTF-8", "-Tutf8", str(TREE / "supervisor/share/sup.1")],
        capture_output=True,
        timeout=60,
        check=False,
        env={"MANWIDTH": "100", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) > 100


@requires("vagrant")
def test_the_vagrantfile_is_valid(tmp_path: Path) -> None:
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=TREE,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "VAGRANT_HOME": str(tmp_path),
            "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"),
        },
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
