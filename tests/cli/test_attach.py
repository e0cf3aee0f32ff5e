"""A person at a terminal: attach, work, resize, look on, detach."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pexpect
import pytest
from support import Sup, eventually, requires

DETACH = "\x1d\x1d\x1d"
READY = re.compile(rb"READY\d")


@contextmanager
def terminal(sup: Sup, *args: str, size: tuple[int, int] = (40, 100)) -> Iterator[pexpect.spawn]:
    """The command in a terminal of its own, closed afterwards."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "supervisor", "--root", sup.root, *args],
        dimensions=size,
        timeout=15,
        cwd=sup.root,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    child.delaybeforesend = None
    with closing(child):
        yield child


@contextmanager
def attached(
    sup: Sup, name: str, *options: str, size: tuple[int, int] = (40, 100)
) -> Iterator[pexpect.spawn]:
    """A viewer of a container whose shell has answered."""
    with terminal(sup, "attach", *options, name, size=size) as child:
        answers(child, "echo hello", "hello")
        yield child


def answers(child: pexpect.spawn, command: str, expected: str) -> None:
    """Types a command; its output has to be `expected`, between marks that echo does not show."""
    mark = uuid.uuid4().hex[:6]
    child.send(f"echo '<''{mark}'; {command}; echo '{mark}''>'\r")
    child.expect(rf"<{mark}\r\n(.*?){mark}>".encode())
    got = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", child.match.group(1)).decode().strip()
    assert got == expected, child.before


def status_of(child: pexpect.spawn) -> int | None:
    """What the command ended with."""
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus if child.signalstatus is None else -int(child.signalstatus)


@pytest.fixture
def shell(sup: Sup) -> Sup:
    """One container named `c` with a shell on its console."""
    sup.ok("up", "--name", "c", "-e", "PS1=$ ", "--", "sh")
    return sup


def test_the_console_is_the_containers_own_terminal(shell: Sup) -> None:
    with attached(shell, "c") as child:
        answers(child, "tty", "/dev/pts/0")
        answers(child, "test -t 0 && test -t 1 && test -t 2 && echo all", "all")


def test_the_size_follows_the_window(shell: Sup) -> None:
    with attached(shell, "c", size=(31, 97)) as child:
        answers(child, "stty size", "31 97")
        child.setwinsize(50, 120)
        time.sleep(0.3)
        answers(child, "stty size", "50 120")


def test_ctrl_c_reaches_the_job_in_front(shell: Sup) -> None:
    with attached(shell, "c") as child:
        child.send("echo READY$((1)); sleep 1000\r")
        child.expect(READY)
        time.sleep(0.2)
        child.send("\x03")
        child.send("echo status=$?\r")
        child.expect_exact(b"status=130")


def test_ctrl_z_stops_a_job(shell: Sup) -> None:
    with attached(shell, "c") as child:
        child.send("echo READY$((1)); sleep 1000\r")
        child.expect(READY)
        time.sleep(0.2)
        child.send("\x1a")
        child.expect(b"Stopped")
        answers(child, "kill %1; wait; echo yes | tail -1", "yes")


def test_detaching_leaves_it_running(shell: Sup) -> None:
    with attached(shell, "c") as child:
        child.send(DETACH)
        assert status_of(child) == 0
    assert shell.names() == ["c"]
    with attached(shell, "c") as child:
        answers(child, "echo $((40+2))", "42")


def test_detach_keys_of_ones_own(shell: Sup) -> None:
    with attached(shell, "c", "--detach-keys", "ctrl-p,ctrl-q") as child:
        child.send("\x10\x11")
        assert status_of(child) == 0
    assert shell.names() == ["c"]


def test_wrong_detach_keys_are_refused(shell: Sup) -> None:
    done = shell("attach", "--detach-keys", "ctrl-nonsense", "c")
    assert done.returncode in (2, 125)
    assert b"ctrl-nonsense" in done.stderr


def test_keys_that_are_not_the_sequence_pass(shell: Sup) -> None:
    with attached(shell, "c") as child:
        child.send("stty -echo; echo READY$((1)); cat -v\r")
        child.expect(READY)
        child.send("\x1d\x1dx\r")
        child.expect_exact(b"^]^]x")
        child.send("\x1d\r")
        child.expect_exact(b"^]")
        child.send("\x04")


def test_a_lone_detach_key_is_passed_on_in_time(shell: Sup) -> None:
    with attached(shell, "c") as child:
        child.send("stty -echo -icanon; echo READY$((1)); cat -v\r")
        child.expect(READY)
        child.send("\x1d")
        child.expect_exact(b"^]", timeout=5)
        child.send("\x03")


def test_the_status_of_the_container_is_attachs(shell: Sup) -> None:
    with attached(shell, "c") as child:
        child.send("exit 7\r")
        assert status_of(child) == 7


def test_two_viewers_see_the_same(shell: Sup) -> None:
    with attached(shell, "c") as one, attached(shell, "c") as two:
        one.send("echo from''one$((1))\r")
        two.expect_exact(b"fromone1")
        two.send("echo from''two$((2))\r")
        one.expect_exact(b"fromtwo2")


def test_a_reader_only_looks_on(shell: Sup) -> None:
    with attached(shell, "c") as writer, terminal(shell, "attach", "--read-only", "c") as reader:
        writer.send("echo see''this\r")
        reader.expect_exact(b"seethis")
        reader.send("echo not''this\r")
        time.sleep(0.5)
        answers(writer, "echo end", "end")
        assert b"notthis" not in writer.before
        reader.send(DETACH)
        assert status_of(reader) == 0
    assert "notthis" not in shell.ok("logs", "c")


def test_the_newest_writer_owns_the_size(shell: Sup) -> None:
    with attached(shell, "c", size=(30, 90)) as old:
        with attached(shell, "c", size=(20, 60)) as new:
            answers(old, "stty size", "20 60")
            with terminal(shell, "attach", "--read-only", "c", size=(10, 33)):
                time.sleep(0.5)
                answers(old, "stty size", "20 60")
            new.send(DETACH)
            status_of(new)
        assert eventually(lambda: _size_is(old, "30 90"), 5)


def _size_is(child: pexpect.spawn, size: str) -> bool:
    try:
        answers(child, "stty size", size)
    except AssertionError:
        return False
    return True


def test_the_past_is_shown_unless_not_wanted(shell: Sup) -> None:
    with attached(shell, "c") as child:
        answers(child, "echo pa''st", "past")
        child.send(DETACH)
        status_of(child)
    with terminal(shell, "attach", "c") as child:
        child.expect_exact(b"past")
    with terminal(shell, "attach", "--no-replay", "c") as child:
        answers(child, "echo now", "now")
        assert b"past" not in child.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(shell: Sup, number: int) -> None:
    with terminal(shell, "attach", "c") as child:
        before = _modes(child)
        answers(child, "echo here", "here")
        assert not _modes(child)[3] & termios.ICANON
        child.kill(number)
        assert eventually(lambda: bool(_modes(child)[3] & termios.ICANON), 5)
        assert _modes(child)[:4] == _cooked(before)
        status_of(child)
    assert shell.names() == ["c"]


def test_a_lost_server_gives_the_terminal_back(shell: Sup) -> None:
    with attached(shell, "c") as child:
        shell("shutdown")
        assert eventually(lambda: not child.isalive() or bool(_modes(child)[3] & termios.ICANON), 10)
        assert status_of(child) not in (None,)
        assert b"Traceback" not in child.before


def _modes(child: pexpect.spawn) -> list[object]:
    return list(termios.tcgetattr(child.child_fd))


def _cooked(before: list[object]) -> list[object]:
    modes = list(before)
    modes[3] = int(str(modes[3])) | termios.ICANON | termios.ECHO | termios.ISIG
    return modes[:4]


def test_a_stopped_viewer_does_not_hold_the_container_up(shell: Sup) -> None:
    with attached(shell, "c") as viewer:
        viewer.kill(signal.SIGSTOP)
        try:
            shell.ok("send", "c", "--enter", "seq 1 400000 | md5sum >/tmp/s; seq 1 400000; echo EN''D")
            assert eventually(lambda: "END" in shell.ok("logs", "--tail", "5", "c"), 30)
        finally:
            viewer.kill(signal.SIGCONT)
        viewer.expect(rb"lost [\d,]+ (bytes|[KM]i?B)")
        viewer.expect_exact(b"END")


def test_run_with_a_terminal(sup: Sup) -> None:
    with terminal(sup, "run", "--rm", "-i", "-t", "--", "sh", size=(25, 70)) as child:
        answers(child, "tty", "/dev/pts/0")
        answers(child, "stty size", "25 70")
        child.send("exit 3\r")
        assert status_of(child) == 3
    assert sup.names("-a") == []


def test_exec_with_a_terminal(shell: Sup) -> None:
    with terminal(shell, "exec", "-i", "-t", "c", "sh", size=(26, 71)) as child:
        answers(child, "tty", "/dev/pts/1")
        answers(child, "stty size", "26 71")
        child.send("exit 4\r")
        assert status_of(child) == 4
    assert shell.names() == ["c"]


def test_send_types_text_and_keys(shell: Sup) -> None:
    shell.ok("send", "c", "--enter", "sleep 1000; echo be''fore")
    time.sleep(0.3)
    shell.ok("send", "--key", "C-c", "c")
    shell.ok("send", "c", "--enter", "echo af''ter")
    assert eventually(lambda: "after" in shell.ok("logs", "c"), 10)
    assert "before" not in shell.ok("logs", "c")
    shell.ok("send", "--stdin", "c", data=b"echo by''stdin\n")
    assert eventually(lambda: "bystdin" in shell.ok("logs", "c"), 10)


@requires("tmux")
def test_in_tmux_the_pane_is_the_screen(shell: Sup) -> None:
    with _Tmux(shell) as tmux:
        tmux.type("echo one; stty size")
        assert eventually(lambda: "30 90" in tmux.screen(), 10), tmux.screen()
        tmux("resize-window", "-x", "72", "-y", "22")
        time.sleep(0.5)
        tmux.type("stty size; tty")
        assert eventually(lambda: "22 72" in tmux.screen(), 10), tmux.screen()
        assert eventually(lambda: "/dev/pts/0" in tmux.screen(), 10), tmux.screen()


@requires("tmux", "vi")
def test_in_tmux_an_editor_draws(shell: Sup) -> None:
    with _Tmux(shell) as tmux:
        tmux.type("TERM=screen vi /tmp/new")
        assert eventually(lambda: tmux.screen().count("\n~") > 10, 10), tmux.screen()
        tmux("send-keys", "iwritten in vi", "Escape", ":wq", "Enter")
        time.sleep(0.3)
        tmux.type("clear; cat /tmp/new; echo status=$?")
        assert eventually(lambda: "status=0" in tmux.screen(), 10), tmux.screen()
        assert "written in vi" in tmux.screen()


class _Tmux:
    """A tmux server of the test's own, with one pane in which the container is attached."""

    def __init__(self, sup: Sup) -> None:
        self.socket = str(Path(sup.root, "tmux"))
        self.command = " ".join([*map(str, sup.argv("attach", "c"))])

    def __call__(self, *args: str) -> str:
        argv = ["tmux", "-S", self.socket, "-f", "/dev/null", *args]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout

    def __enter__(self) -> _Tmux:
        self("new-session", "-d", "-x", "90", "-y", "30", self.command)
        self("set-option", "-g", "status", "off")
        self("resize-window", "-x", "90", "-y", "30")
        time.sleep(0.7)
        return self

    def __exit__(self, *_: object) -> None:
        self("kill-server")

    def type(self, line: str) -> None:
        self("send-keys", "-l", line)
        self("send-keys", "Enter")

    def screen(self) -> str:
        return self("capture-pane", "-p")
