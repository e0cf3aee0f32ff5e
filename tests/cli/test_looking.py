"""What `ps`, `logs`, `events` and `up` print, and in which form."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import closing

import pexpect
import pytest
from support import Sup, eventually, objects, refused, text

SLEEP = ("--", "sleep", "1000")
STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")


@pytest.fixture
def spoken(sup: Sup) -> Sup:
    """`a` and `b` speak in turns and end."""
    for name, pause in (("a", "0"), ("b", "0.15")):
        script = f"sleep {pause}; for n in 1 2 3; do echo {name}$n; sleep 0.3; done; echo oops >&2"
        sup.ok("up", "--name", name, "--no-tty", "--", "sh", "-c", script)
    sup.ok("wait", "a", "b")
    return sup


def test_logs_of_several_are_merged_in_time(spoken: Sup) -> None:
    lines = spoken.ok("logs", "a", "b").splitlines()
    words = [line.split(" | ")[1] for line in lines]
    assert words[:6] == ["a1", "b1", "a2", "b2", "a3", "b3"]
    assert lines[0].startswith("a | ")
    assert spoken.ok("logs", "[ab]").splitlines() == lines


def test_logs_keep_stderr_apart(spoken: Sup) -> None:
    done = spoken("logs", "a")
    assert (done.stdout, done.stderr) == (b"a1\na2\na3\n", b"oops\n")


def test_logs_from_the_end_and_since(spoken: Sup) -> None:
    assert spoken.ok("logs", "--tail", "2", "a").splitlines() == ["a3"]  # and one on stderr
    assert spoken.ok("logs", "--tail", "0", "a") == ""
    assert spoken.ok("logs", "--since", "1h", "a").splitlines() == ["a1", "a2", "a3"]
    assert spoken.ok("logs", "--since", str(time.time() + 100), "a") == ""
    refused(spoken("logs", "--tail", "some", "a"), "some")
    refused(spoken("logs", "--since", "soon", "a"), "soon")


def test_logs_with_their_times(spoken: Sup) -> None:
    lines = spoken.ok("logs", "-t", "a").splitlines()
    assert all(STAMP.match(line) for line in lines), lines
    assert lines == sorted(lines)
    middle = lines[1].split()[0]
    later = spoken.ok("logs", "--since", middle, "a").splitlines()
    assert later == ["a2", "a3"]


def test_logs_follow_until_the_end(sup: Sup) -> None:
    sup.ok("up", "--name", "c", "--", "sh", "-c", "echo one; sleep 0.5; printf two; exit 3")
    assert sup.ok("logs", "-f", "c") == "one\ntwo"
    assert sup.ok("logs", "--raw", "c") == "one\r\ntwo"


def test_a_log_keeps_no_more_than_it_is_allowed(sup: Sup) -> None:
    sup.ok("up", "--name", "c", "--no-tty", "--log-max", "64k", "--", "seq", "100000")
    sup.ok("wait", "c")
    lines = sup.ok("logs", "c").splitlines()
    assert lines[-1] == "100000"
    assert 31 << 10 <= sum(len(line) + 1 for line in lines) <= 64 << 10


def test_logs_into_a_closed_pipe_are_no_error(sup: Sup) -> None:
    sup.ok("up", "--name", "c", "--", "seq", "200000")
    sup.ok("wait", "c")
    process = sup.popen("logs", "c")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == 128 + signal.SIGPIPE


def test_ps_in_its_forms(sup: Sup) -> None:
    sup.ok("up", "-n", "2", "--name", "web", "--label", "tier=front", *SLEEP)
    sup("run", "-d", "--name", "job", "--", "sh", "-c", "exit 3")
    sup("wait", "job")
    header, *rows = sup.ok("ps", "-a").splitlines()
    assert header.split() == ["NAME", "ID", "STATE", "PID", "AGE", "COMMAND"]
    assert [row.split()[0] for row in rows] == ["web-1", "web-2", "job"]
    assert "exited (3)" in rows[2]
    assert sup.ok("ps", "--format", "{name}\\t{state} {labels}").splitlines() == [
        "web-1\trunning tier=front",
        "web-2\trunning tier=front",
    ]
    refused(sup("ps", "--format", "{nonsense}"), "nonsense", "name")
    refused(sup("ps", "--filter", "colour=red"), "colour=red")
    assert sup.names("--filter", "exited=3") == ["job"]
    assert sup.names("--filter", "fleet=web", "--filter", "name=2") == ["web-2"]
    identity = sup.ok("ps", "-q", "--filter", "name=web-1").strip()
    assert sup.ok("exec", identity[:6], "hostname").strip() == "web-1"


def test_what_containers_call_themselves_does_not_act_on_the_terminal(sup: Sup) -> None:
    sup.ok("up", "--name", "c", "--label", "x=\x1b[31m", "--", "sleep", "1000", "\x1b]0;evil\x07")
    for command in (("ps",), ("ps", "--format", "{command} {labels}"), ("inspect", "c")):
        output = sup.ok(*command)
        assert "\x1b" not in output
        assert "\x07" not in output


def test_events_of_a_life(sup: Sup) -> None:
    sup.ok("run", "--rm", "--name", "c", "--", "true")
    events = objects(sup.ok("events", "--since", "1h", "--no-follow", "--json"))
    assert [event["type"] for event in events] == ["starting", "running", "exited", "removed"]
    assert {event["name"] for event in events} == {"c"}
    lines = sup.ok("events", "--no-follow").splitlines()
    assert re.fullmatch(r"\S+Z exited c status=0", lines[2]), lines


def test_wait_says_which(sup: Sup) -> None:
    for name, status in (("a", 1), ("b", 2)):
        sup.ok("up", "--name", name, "--", "sh", "-c", f"exit {status}")
    assert sorted(sup.ok("wait", "a", "b").splitlines()) == ["a 1", "b 2"]
    assert sup.ok("wait", "a") == "1\n"


def test_up_on_a_terminal_counts_and_draws_a_table(sup: Sup) -> None:
    argv = [str(word) for word in sup.argv("up", "-n", "3", *SLEEP)]
    with closing(pexpect.spawn(argv[0], argv[1:], timeout=20, dimensions=(40, 150))) as child:
        child.expect(pexpect.EOF)
        screen = child.before.decode()
    assert "3 of 3 running" in screen
    table = screen.rpartition("\x1b[K")[2].splitlines()
    assert table[0].split() == ["NAME", "STATE", "PID", "TIME", "COMMAND"]
    assert [row.split()[:2] for row in table[1:4]] == [[f"sup-{n}", "running"] for n in (1, 2, 3)]
    assert re.match(r"3 of 3 started; p50/p99 of queue .*, total ", table[4])


def test_up_in_json_sums_up(sup: Sup) -> None:
    *_, last = objects(sup.ok("up", "-n", "2", "--json", *SLEEP))
    summary = last["summary"]
    assert isinstance(summary, dict)
    assert (summary["containers"], summary["running"]) == (2, 2)
    assert 0 < summary["phases"]["total"]["p50"] <= summary["phases"]["total"]["p99"] < 60


def test_a_second_interrupt_kills(sup: Sup) -> None:
    script = "trap '' TERM HUP; echo here; while :; do sleep 0.1; done"
    client = sup.popen("up", "-n", "2", "--follow", "--stop-timeout", "60", "--", "sh", "-c", script)
    assert client.stdout is not None
    for _ in range(2):  # lines of `up` itself
        client.stdout.readline()
    assert client.stdout.readline().endswith(b"here\n")
    client.send_signal(signal.SIGINT)
    assert eventually(lambda: sup.names("--filter", "status=stopping") == ["sup-1", "sup-2"], 10)
    client.send_signal(signal.SIGINT)
    _, errors = client.communicate(timeout=20)
    assert client.returncode == 128 + signal.SIGKILL, errors
    assert b"sup-1 137, sup-2 137" in errors


def test_a_pipe_that_closes_ends_the_container(sup: Sup) -> None:
    process = sup.popen("run", "--rm", "--", "yes")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    process.stderr.close()
    assert eventually(lambda: sup.names("-a") == [], 5)


def test_signals_go_to_a_container_in_pipes(sup: Sup) -> None:
    script = "trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    process = sup.popen("run", "--rm", "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == (b"got\n", 7)


def test_help_is_an_answer_and_nonsense_is_not(sup: Sup) -> None:
    done = sup("--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sup("help", "run").stdout == sup("run", "--help").stdout
    done = sup("rnu")
    assert (done.returncode, done.stdout) == (2, b""), text(done)
    assert b"did you mean `sup run`?" in done.stderr
    done = sup("--root")
    assert done.returncode == 2, text(done)


def test_the_command_line_loads_neither_trio_nor_attrs(sup: Sup) -> None:
    sup.ok("up", "--name", "c", *SLEEP)
    program = (
        "import sys, json; from supervisor.cli import main;"
        f" code = main(['--root', {sup.root!r}, 'ps', '--json']);"
        " print(json.dumps([code, sorted({m.partition('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=20, check=True, cwd=sup.root
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert not {"trio", "attr", "attrs", "pyroute2", "asyncio", "socket", "subprocess"} & set(modules)
