"""From the command line to parameters: options, commands behind `--`, times, output, completions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import requires

from supervisor import cli
from supervisor.cli import completion, options, output, up, when
from supervisor.errors import NotFound, SpecError, SupError
from supervisor.spec import ContainerSpec


def parsed(command: str, *words: str) -> object:
    return cli._parse_with_command(cli.parser_of(command), list(words))


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("--", "sh", "-c", "x"), ["sh", "-c", "x"]),
        (("sh", "-c", "x"), ["sh", "-c", "x"]),
        (("--rm", "grep", "--", "-x"), ["grep", "--", "-x"]),
        (("--", "grep", "--", "-x"), ["grep", "--", "-x"]),
        (("--",), []),
        ((), []),
        (("--rm", "--", "--rm"), ["--rm"]),
    ],
)
def test_the_command_keeps_its_options(words: tuple[str, ...], command: list[str]) -> None:
    assert parsed("run", *words).command == command  # type: ignore[attr-defined]


def test_exec_knows_the_name_from_the_command() -> None:
    args = parsed("exec", "-e", "A=b", "web-1", "sh", "-c", "-e")
    assert (args.name, args.command, args.env) == ("web-1", ["sh", "-c", "-e"], ["A=b"])  # type: ignore[attr-defined]
    args = parsed("exec", "web-1", "--", "ls", "-l")
    assert (args.name, args.command) == ("web-1", ["ls", "-l"])  # type: ignore[attr-defined]


GIVEN = {
    "hostname": ("--hostname=h{n}", "h{n}"),
    "env": ("--env=A=b", (("A", "b"),)),
    "workdir": ("--workdir=/w", "/w"),
    "user": ("--user=1:2", "1:2"),
    "stop_timeout": ("--stop-timeout=1m", 60.0),
    "stop_signal": ("--stop-signal=INT", 2),
    "timeout": ("--timeout=1m30s", 90.0),
    "log_max": ("--log-max=1k", 1024),
    "share": ("--share=net,uts", frozenset({"net", "uts"})),
    "unshare": ("--unshare=time", frozenset({"time"})),
    "labels": ("--label=a=b", (("a", "b"),)),
    "init": ("--no-init", False),
    "sysctls": ("--sysctl=kernel.sem=1 2 3 4", (("kernel.sem", "1 2 3 4"),)),
}


@pytest.mark.parametrize("field", GIVEN)
def test_every_option_is_a_field(field: str) -> None:
    option, expected = GIVEN[field]
    args = parsed("run", option, "--", "true")
    spec = ContainerSpec.from_mapping(options.spec(args, tty=False, stdin=False))  # type: ignore[arg-type]
    assert getattr(spec, field) == expected


def test_every_field_has_an_option() -> None:
    args = parsed(
        *(
            "run",
            "--rootfs=/r",
            "-v/a:/b:ro",
            "--tmpfs=/t",
            "--ulimit=nofile=5",
            *(option for option, _ in GIVEN.values()),
        )
    )
    fields = options.spec(args, tty=True, stdin=True)  # type: ignore[arg-type]
    fields["command"] = ["x"]
    assert fields.keys() == ContainerSpec().to_mapping().keys()


def test_relative_paths_are_the_callers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    args = parsed("run", "-v", "data:/d", "--rootfs", "tree:rw")
    fields = options.spec(args, tty=True, stdin=True)  # type: ignore[arg-type]
    assert fields["volumes"] == [f"{tmp_path}/data:/d"]
    assert fields["rootfs"] == f"{tmp_path}/tree:rw"


def test_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    file = tmp_path / "env"
    file.write_bytes(b"# comment\n\nA=1\r\n  B=x y=z\nHERE\nC=\xff\n")
    found = options.environment(["A=2", "NOT_HERE"], [str(file)])
    assert found == ["A=1", "B=x y=z", "HERE=yes", "C=\udcff", "A=2"]
    with pytest.raises(SpecError, match="=x"):
        options.environment(["=x"], [])
    with pytest.raises(NotFound, match="nowhere"):
        options.environment([], [str(tmp_path / "nowhere")])
    with pytest.raises(SupError, match="larger"):
        options.read_file(str(file), 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", 700.0),
        ("0", 0.0),
        ("1700000000.5", 1700000000.5),
        ("1970-01-01T00:01:00+00:00", 60.0),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1d", 0.0),
    ],
)
def test_moments(text: str, expected: float) -> None:
    assert when.parse(text, now=1000.0) == expected


@pytest.mark.parametrize("text", ["", "soon", "-5m", "2026-13-01", "9" * 40])
def test_no_moments(text: str) -> None:
    with pytest.raises(SpecError, match="since"):
        when.parse(text)


def test_stamps_are_utc_with_nanoseconds() -> None:
    assert when.stamp(1_000_000_001) == "1970-01-01T00:00:01.000000001Z"


def test_percentiles_are_values_that_occurred() -> None:
    assert [up.percentile([3.0, 1.0, 2.0], percent) for percent in (0, 50, 99, 100)] == [1, 2, 3, 3]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    pieces: list[bytes] = []
    monkeypatch.setattr(output, "write_all", lambda fd, data: pieces.append(data))
    monkeypatch.setenv("NO_COLOR", "1")
    return pieces


def test_lines_of_several_are_kept_whole(written: list[bytes]) -> None:
    merged = output.Prefixed(["a", "bb"])
    merged.feed("a", b"one\r\ntw")
    merged.feed("bb", b"x\n")
    merged.feed("a", b"o\nrest")
    merged.finish_all()
    assert b"".join(written) == b"a  | one\nbb | x\na  | two\na  | rest\n"


def test_stdout_and_stderr_do_not_mix_within_a_line(written: list[bytes]) -> None:
    merged = output.Prefixed(["a"])
    merged.feed("a", b"out", stream="out")
    merged.feed("a", b"err\n", stream="err")
    merged.feed("a", b"!\n", stream="out")
    assert b"".join(written) == b"a | err\na | out!\n"


def test_long_commands_are_cut_and_escaped() -> None:
    assert output.command_line([]) == "(login shell)"
    assert output.command_line(["echo", "\x1b[31m"]) == "echo \\x1b[31m"
    assert len(output.command_line(["x" * 100])) == 40


@requires("bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sup sh", {"shutdown"}),
        ("sup re", {"restart"}),
        ("sup --root /x attach --re", {"--read-only"}),
        ("sup completion f", {"fish"}),
        ("sup run --share ui", set()),
        ("sup run --share ut", {"uts"}),
        ("sup stop -s US", {"USR1", "USR2"}),
        ("sup attach w", {"web-1", "web-2"}),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, expected: set[str]) -> None:
    fake = tmp_path / "sup"
    fake.write_text("#!/bin/sh\nprintf 'web-1\\nweb-2\\ndb\\n'\n")
    fake.chmod(0o755)
    words = line.split(" ")
    script = completion.script("bash") + (
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _sup\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_completions_are_well_formed(tmp_path: Path, shell: str, check: str) -> None:
    file = tmp_path / "completion"
    file.write_text(completion.script(shell))
    for command in cli.COMMANDS:
        assert command in file.read_text()
    if shutil.which(shell):
        done = subprocess.run([shell, check, str(file)], capture_output=True, timeout=20, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
