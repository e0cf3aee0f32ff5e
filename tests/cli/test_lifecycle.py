"""The main job at the command line: a fleet comes up, is worked in, and goes down wholly."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
from support import Sup, eventually, gone, objects, refused, text

SLEEP = ("--", "sleep", "1000")


# A fleet.


def test_a_fleet_comes_up_and_goes_down(sup: Sup) -> None:
    lines = sup.ok("up", "-n", "3", *SLEEP).splitlines()
    assert [line for line in lines if "sup-2" in line], lines
    assert len(lines) == 3, "in a pipe it is one line a container"
    assert sup.names() == ["sup-1", "sup-2", "sup-3"]
    assert len(sup.ok("ps", "-q").splitlines()) == 3

    hosts = sup.ok("exec", "sup-*", "hostname").splitlines()
    assert sorted(line.split()[-1] for line in hosts) == ["sup-1", "sup-2", "sup-3"]
    assert len(hosts) == 3

    sup.ok("down")
    assert sup.ok("ps", "-q") == ""
    assert sup.ok("ps", "-a", "-q") == ""


def test_the_default_command_is_a_login_shell_that_waits(sup: Sup) -> None:
    sup.ok("up", "-n", "2")
    assert sup.names() == ["sup-1", "sup-2"]
    sup.ok("send", "sup-1", "--enter", "echo $((6*7))=answer")
    assert eventually(lambda: "42=answer" in sup.ok("logs", "sup-1"), 10)


def test_a_single_container_has_its_name_without_a_number(sup: Sup) -> None:
    sup.ok("up", "--name", "web", *SLEEP)
    assert sup.names() == ["web"]


def test_up_in_json_tells_every_phase(sup: Sup) -> None:
    entries = objects(sup.ok("up", "-n", "2", "--json", *SLEEP))
    containers = [entry for entry in entries if "name" in entry]
    assert {"sup-1", "sup-2"} == {entry["name"] for entry in containers}
    phases = containers[-1]["phases"]
    assert isinstance(phases, dict)
    assert {"queue", "clone", "mounts", "console", "exec"} <= set(phases)
    assert all(seconds >= 0 for seconds in phases.values())


def test_a_further_up_is_refused_unless_it_scales(sup: Sup) -> None:
    sup.ok("up", "-n", "3", *SLEEP)
    refused(sup("up", "-n", "5", *SLEEP), "--scale")
    assert len(sup.names()) == 3
    sup.ok("up", "-n", "5", "--scale", *SLEEP)
    assert sup.names() == [f"sup-{number}" for number in range(1, 6)]
    sup.ok("up", "-n", "2", "--scale", *SLEEP)
    assert sup.names() == ["sup-1", "sup-2"]


def test_scaling_replaces_what_has_ended_and_stops_the_rest_in_order(sup: Sup) -> None:
    script = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done"
    sup.ok("up", "-n", "3", "--", "sh", "-c", script)
    sup.ok("kill", "sup-2")
    sup("wait", "sup-2")
    sup.ok("up", "-n", "2", "--scale", "--", "sh", "-c", script)
    assert sup.names("-a") == sup.names() == ["sup-1", "sup-2"]
    lines = sup.ok("events", "--no-follow").splitlines()
    assert [line for line in lines if line.endswith("exited sup-3 status=0")], lines


def test_a_fleet_file_launches_nothing_where_a_name_is_taken(sup: Sup, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text('[containers.a]\ncommand = "sleep 9"\n[containers.b]\ncommand = "sleep 9"\n')
    sup.ok("up", "--name", "b", *SLEEP)
    refused(sup("up", "-f", str(file)), "b exists already")
    assert sup.names("-a") == ["b"]


def test_two_fleets_are_told_apart(sup: Sup) -> None:
    sup.ok("up", "-n", "2", "--name", "web", *SLEEP)
    sup.ok("up", "-n", "2", "--name", "db", *SLEEP)
    sup.ok("down", "web")
    assert sup.names() == ["db-1", "db-2"]


def test_a_fleet_file(sup: Sup, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "greeting").write_text("good day")
    file = tmp_path / "fleet.toml"
    file.write_text(
        '[containers.db]\ncommand = ["sleep", "1000"]\n'
        '[containers.web]\ncommand = ["sleep", "1000"]\nreplicas = 2\ndepends_on = ["db"]\n'
        'volumes = ["data:/data:ro"]\nenv = { KIND = "web" }\nhostname = "w{n}"\n'
    )
    sup.ok("up", "-f", str(file))
    assert sup.names() == ["db", "web-1", "web-2"]
    done = sup.ok("exec", "web-2", "sh", "-c", "cat /data/greeting; echo; echo $KIND; hostname")
    assert done.split("\n")[:3] == ["good day", "web", "w2"]


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        ("[containers.web]\nreplicsa = 2\n", ("web", "replicsa", "replicas")),
        ('[containers.web]\nreplicas = "many"\n', ("web", "replicas", "many")),
        ('[containers.web]\nvolumes = ["relative"]\n', ("web", "volumes", "relative")),
        ('[containers.web]\ndepends_on = ["nobody"]\n', ("web", "depends_on", "nobody")),
        ('[containers.a]\ndepends_on = ["a"]\n', ("a", "depends_on")),
        ("[containers.web\n", ("line 1",)),
        ("x = " + "[" * 100_000, ()),
    ],
)
def test_a_wrong_fleet_file_says_what_and_where(
    sup: Sup, tmp_path: Path, body: str, mentions: tuple[str, ...]
) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(body)
    refused(sup("up", "-f", str(file)), *mentions)


def test_a_fleet_file_of_a_hundred_megabytes_is_refused(sup: Sup, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    with file.open("wb") as big:
        big.truncate(100 << 20)
    refused(sup("up", "-f", str(file), timeout=20), "fleet.toml")


def test_every_status_and_every_log_is_kept(sup: Sup) -> None:
    sup("up", "-n", "10", "--", "sh", "-c", "seq 1000; exit 3")
    names = [f"sup-{number}" for number in range(1, 11)]
    statuses = sup("wait", *names).stdout.split()
    assert statuses.count(b"3") == 10 or [s[-1:] for s in statuses].count(b"3") == 10
    expected = [str(number) for number in range(1, 1001)]
    for name in names:
        lines = sup.ok("logs", "--raw", name).replace("\r\n", "\n").split()
        assert lines == expected, name


# One container in the foreground.


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_status_of_run_is_the_workloads(sup: Sup, status: int) -> None:
    done = sup("run", "--rm", "--", "sh", "-c", f"exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b""), text(done)


def test_death_by_a_signal_is_128_and_the_signal(sup: Sup) -> None:
    done = sup("run", "--rm", "--", "sh", "-c", "kill -KILL $$")
    assert done.returncode == 128 + signal.SIGKILL, text(done)


def test_a_command_that_does_not_exist_is_127(sup: Sup) -> None:
    refused(sup("run", "--rm", "--", "no-such-command"), "no-such-command", codes=(127,))
    assert sup.names("-a") == []


def test_a_command_that_may_not_be_executed_is_126(sup: Sup) -> None:
    refused(sup("run", "--rm", "--", "/etc/passwd"), "/etc/passwd", codes=(126,))
    assert sup.names("-a") == []


def test_run_works_in_a_pipe_and_says_nothing_of_its_own(sup: Sup) -> None:
    done = sup("run", "-i", "--rm", "--", "cat", data=b"hi\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi\n", b""), text(done)


def test_a_megabyte_goes_through_unchanged(sup: Sup) -> None:
    data = os.urandom(1 << 20)
    done = sup("run", "-i", "--rm", "--", "cat", data=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_without_a_terminal_stdout_and_stderr_stay_apart(sup: Sup) -> None:
    done = sup("run", "--rm", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_without_i_stdin_is_empty(sup: Sup) -> None:
    done = sup("run", "--rm", "--", "cat", data=b"not for you\n")
    assert (done.returncode, done.stdout) == (0, b""), text(done)


def test_arguments_that_are_not_utf8_arrive_exactly(sup: Sup) -> None:
    argument = b"a\xff\xfe\xc3(\x80 \xe2\x82"
    done = sup("run", "--rm", "-e", b"X=\xff", "--", "sh", "-c", 'printf %s "$1$X"', "sh", argument)
    assert done.stdout == argument + b"\xff", text(done)


def test_a_container_in_the_background(sup: Sup) -> None:
    name = sup.ok("run", "-d", "--name", "job", "--", "sh", "-c", "echo done; exit 7").strip()
    assert name
    done = sup("wait", "job")
    assert done.stdout.split()[-1] == b"7", text(done)
    assert "done" in sup.ok("logs", "job")
    assert sup.names("-a") == ["job"]
    sup.ok("rm", "job")
    assert sup.names("-a") == []


def test_rm_leaves_nothing(sup: Sup) -> None:
    sup.ok("run", "--rm", "--", "true")
    assert sup.names("-a") == []
    containers = Path(sup.root, "state", "containers")
    assert not containers.exists() or list(containers.iterdir()) == []


def test_exec_has_the_status_of_its_command(sup: Sup) -> None:
    sup.ok("up", "--name", "c", *SLEEP)
    assert sup("exec", "c", "sh", "-c", "exit 9").returncode == 9
    assert sup("exec", "c", "no-such-command").returncode == 127
    assert sup("exec", "c", "/etc/passwd").returncode == 126
    done = sup("exec", "-i", "-e", "A=b", "-w", "/tmp", "c", "sh", "-c", "cat; pwd; echo $A", data=b"x")
    assert done.stdout == b"x/tmp\nb\n", text(done)


# What is asked for is what it gets.


@pytest.mark.parametrize(
    ("options", "command", "expected"),
    [
        (("--hostname", "there"), "hostname", "there"),
        (("--env", "A=1", "--env", "B=2"), "echo $A$B", "12"),
        (("--workdir", "/usr/bin"), "pwd", "/usr/bin"),
        (("--user", "0"), "id -u", "0"),
        (("--tmpfs", "/mnt:size=1m"), "df -k /mnt | tail -1 | awk '{print $2}'", "1024"),
        (("--ulimit", "nofile=77"), "ulimit -n", "77"),
        (("--sysctl", "net.ipv4.ip_default_ttl=99"), "cat /proc/sys/net/ipv4/ip_default_ttl", "99"),
        ((), "echo $$ | sed 's/[0-9]*/pid/'; cat /proc/1/comm >/dev/null && echo ok", "pid\nok"),
        (("--no-init",), "echo $$", "1"),
        ((), "cat /proc/mounts | grep -c -E ' /(boot|home/.+|media) ' || true", "0"),
        ((), "touch /usr/x 2>/dev/null || echo refused", "refused"),
        ((), "touch /tmp/x && rm /tmp/x && echo ok", "ok"),
        (
            (),
            "for f in null zero full random urandom tty ptmx; do test -c /dev/$f || echo $f; done",
            "",
        ),
        ((), "ls /proc/self/fd | wc -l", "4"),
        ((), "cat /proc/net/dev | grep -c -v -E 'lo:|\\|' || true", "0"),
    ],
)
def test_options(sup: Sup, options: tuple[str, ...], command: str, expected: str) -> None:
    assert sup.ok("run", "--rm", *options, "--", "sh", "-c", command).strip() == expected


def test_replicas_have_numbered_hostnames(sup: Sup) -> None:
    sup.ok("up", "-n", "2", "--hostname", "node{n}.example", *SLEEP)
    hosts = sup.ok("exec", "sup-*", "hostname").split()
    assert {"node1.example", "node2.example"} <= set(hosts)


def test_volumes(sup: Sup, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "in").write_text("from the host")
    volume = f"{tmp_path}:/data"
    script = "cat /data/in; echo x 2>/dev/null >/data/out || echo refused"
    done = sup.ok("run", "--rm", "-v", f"{volume}:ro", "--", "sh", "-c", script)
    assert done == "from the hostrefused\n"
    assert not (tmp_path / "out").exists()
    sup.ok("run", "--rm", "-v", volume, "--", "sh", "-c", "echo back >/data/out")
    assert (tmp_path / "out").read_text() == "back\n"


def test_an_environment_file(sup: Sup, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\nA=one two\n\nB=three\n")
    done = sup.ok("run", "--rm", "--env-file", str(file), "--", "sh", "-c", 'echo "$A $B"')
    assert done == "one two three\n"


def test_a_shared_namespace_is_the_hosts(sup: Sup) -> None:
    done = sup.ok("run", "--rm", "--share", "net,uts", "--", "sh", "-c", "readlink /proc/self/ns/uts")
    assert done.strip() == os.readlink("/proc/self/ns/uts")


def test_a_timeout_ends_the_container(sup: Sup) -> None:
    done = sup("run", "--rm", "--timeout", "1", "--stop-timeout", "1", "--", "sleep", "100", timeout=20)
    assert done.returncode != 0, text(done)


def test_labels_are_filtered_by(sup: Sup) -> None:
    sup.ok("up", "--name", "a", "--label", "tier=front", *SLEEP)
    sup.ok("up", "--name", "b", "--label", "tier=back", *SLEEP)
    assert sup.names("--filter", "label=tier=back") == ["b"]


# Refusals: one sentence, the right code, nothing left.


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", ".hidden", "x" * 4096, "a\nb", "a b", "\x1b[31m", "ä", b"\xff"]
)
def test_a_bad_name_is_refused(sup: Sup, name: str | bytes) -> None:
    refused(sup("up", "--name", name, *SLEEP), codes=(125, 2))
    assert sup.names("-a") == []


@pytest.mark.parametrize(
    ("options", "mention"),
    [
        (("--rootfs", "/no/such/rootfs"), "/no/such/rootfs"),
        (("--rootfs", "/etc/passwd"), "/etc/passwd"),
        (("--user", "nobody-of-this-name"), "nobody-of-this-name"),
        (("--user", "4294967295"), "4294967295"),
        (("--user", "-1"), "-1"),
        (("--workdir", "/no/such/dir"), "/no/such/dir"),
        (("--workdir", "relative"), "relative"),
        (("-v", "/no/such/source:/data"), "/no/such/source"),
        (("-v", "/etc:relative"), "relative"),
        (("--env", "=x"), "=x"),
        (("--ulimit", "nofile=lots"), "lots"),
        (("--ulimit", "nosuch=1"), "nosuch"),
        (("--sysctl", "kernel.core_pattern=x"), "kernel.core_pattern"),
        (("--sysctl", "net/../../x=1"), "net/"),
        (("--share", "nonsense"), "nonsense"),
        (("--unshare", "nonsense"), "nonsense"),
        (("--stop-signal", "NONSENSE"), "NONSENSE"),
        (("--stop-timeout", "soon"), "soon"),
        (("--tmpfs", "relative"), "relative"),
        (("--env-file", "/no/such/file"), "/no/such/file"),
    ],
)
def test_what_cannot_be_had_is_refused(sup: Sup, options: tuple[str, ...], mention: str) -> None:
    first, second = options
    argument = (f"{first}={second}",) if first.startswith("--") else options
    refused(sup("run", "--rm", *argument, "--", "true"), mention)
    assert sup.names("-a") == []


def test_what_has_ended_takes_no_keys_and_no_commands(sup: Sup) -> None:
    sup.ok("run", "-d", "--name", "gone", "--", "true")
    sup("wait", "gone")
    for command in (("send", "gone", "x"), ("exec", "go*", "true")):
        refused(sup(*command), "sup ps -a")
    for command in (("exec", "gone", "true"), ("attach", "gone")):
        refused(sup(*command), "sup logs")


def test_an_unknown_container_is_named(sup: Sup) -> None:
    sup.ok("up", "--name", "here", *SLEEP)
    for command in (
        ("stop",),
        ("kill",),
        ("rm",),
        ("logs",),
        ("wait",),
        ("inspect",),
        ("restart",),
    ):
        done = sup(*command, "elsewhere")
        assert done.returncode not in (0, 2), command
        assert b"elsewhere" in done.stderr, text(done)
        assert b"Traceback" not in done.stderr
    assert sup("exec", "elsewhere", "true").returncode == 125


def test_wrong_usage_is_told(sup: Sup) -> None:
    for wrong in (
        ("frobnicate",),
        ("up", "--frobnicate"),
        ("up", "-n", "many"),
        ("up", "-n", "-1"),
    ):
        done = sup(*wrong)
        assert done.returncode in (2, 125), text(done)
        assert done.stderr
        assert b"Traceback" not in done.stderr


def test_a_replica_count_that_the_host_cannot_bear(sup: Sup) -> None:
    done = sup("up", "-n", "1000000", *SLEEP)
    assert done.returncode == 125, text(done)
    assert b"1000000" in done.stderr or b"pty" in done.stderr, text(done)
    assert b"Traceback" not in done.stderr
    assert sup.names("-a") == []


def test_a_fleet_that_fails_says_at_which_call(sup: Sup) -> None:
    done = sup("up", "-n", "2", "--", "no-such-command")
    assert done.returncode != 0
    assert b"execve" in done.stdout + done.stderr, text(done)
    assert sup.names() == []


# Living with it.


def test_stop_restart_kill(sup: Sup) -> None:
    sup.ok("up", "--name", "c", "--", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
    sup.ok("stop", "c")
    assert sup.names() == []
    assert sup("wait", "c").stdout.split()[-1] == b"5"
    sup.ok("restart", "c")
    assert sup.names() == ["c"]
    sup.ok("kill", "-s", "KILL", "c")
    assert sup("wait", "c").stdout.split()[-1] == b"137"


def test_a_container_that_will_not_stop_is_killed(sup: Sup) -> None:
    sup.ok(
        "up",
        "--name",
        "c",
        "--stop-timeout",
        "1",
        "--",
        "sh",
        "-c",
        "trap '' TERM HUP; while :; do sleep 0.1; done",
    )
    sup.ok("stop", "c", timeout=20)
    assert sup.names() == []


def test_a_running_container_is_removed_only_by_force(sup: Sup) -> None:
    sup.ok("up", "--name", "c", *SLEEP)
    refused(sup("rm", "c"), "c")
    assert sup.names() == ["c"]
    sup.ok("rm", "-f", "c")
    assert sup.names("-a") == []


def test_names_may_be_prefixes_and_patterns(sup: Sup) -> None:
    sup.ok("up", "-n", "2", "--name", "web", *SLEEP)
    sup.ok("up", "--name", "database", *SLEEP)
    assert sup.ok("exec", "data", "hostname").strip() == "database"
    refused(sup("exec", "we", "hostname"), "web-1", "web-2")
    sup.ok("stop", "web-*")
    assert sup.names() == ["database"]


def test_inspect_events_info(sup: Sup) -> None:
    sup.ok("up", "--name", "c", *SLEEP)
    (entry,) = objects(sup.ok("inspect", "c"))
    assert entry["name"] == "c"
    assert "spec" in entry
    info = objects(sup.ok("info", "--json"))[0]
    assert not gone(int(str(info["supervisor_pid"])))
    assert not gone(int(str(info["shim_pid"])))
    assert sup.ok("version").strip()
    assert sup("doctor").returncode in (0, 1)


def test_events_since_the_beginning(sup: Sup) -> None:
    sup.ok("up", "--name", "c", *SLEEP)
    follower = sup.popen("events", "--since", "0")
    assert follower.stdout is not None
    line = follower.stdout.readline()
    while line and b"running" not in line.lower():
        line = follower.stdout.readline()
    assert b"running" in line.lower(), "events ended before the container ran"
    follower.terminate()
    follower.communicate(timeout=10)


def test_shutdown_ends_everything(sup: Sup) -> None:
    sup.ok("up", "-n", "2", *SLEEP)
    info = objects(sup.ok("info", "--json"))[0]
    pids = [int(str(info[key])) for key in ("supervisor_pid", "shim_pid")]
    pids += [int(str(entry["pid"])) for entry in objects(sup.ok("ps", "--json"))]
    sup.ok("shutdown")
    assert eventually(lambda: all(gone(pid) for pid in pids), 5)
    assert not sup.running()


def test_without_a_server_there_is_nothing(sup: Sup) -> None:
    for command in (("ps", "-q"), ("down",), ("shutdown",)):
        done = sup(*command)
        assert b"Traceback" not in done.stderr, text(done)
        assert done.returncode in (0, 1, 125), text(done)
        assert done.stdout.strip() == b"", text(done)


def test_twenty_at_once_start_one_server(sup: Sup) -> None:
    started = [sup.popen("up", "--json", "--name", f"c{n}", *SLEEP) for n in range(20)]
    for process in started:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err)
    assert len(sup.names()) == 20
    log = Path(sup.root, "state", "sup.log")
    assert not log.exists() or b"Traceback" not in log.read_bytes()


def test_a_killed_client_does_not_take_its_fleet_along(sup: Sup) -> None:
    client = sup.popen("up", "-n", "2", "--follow", *SLEEP)
    assert eventually(lambda: len(sup.names("--filter", "status=running")) == 2, 10)
    client.kill()
    client.communicate()
    assert sup.names() == ["sup-1", "sup-2"]


def test_follow_merges_output_and_interrupt_stops(sup: Sup) -> None:
    client = sup.popen("up", "-n", "2", "--follow", "--", "sh", "-c", "echo here; sleep 1000")
    assert eventually(lambda: len(sup.names()) == 2, 10)
    assert eventually(lambda: "here" in sup.ok("logs", "sup-2"), 5)
    client.send_signal(signal.SIGINT)
    out, _ = client.communicate(timeout=30)
    assert out.count(b"here") == 2
    assert eventually(lambda: sup.names() == [], 5)


def test_a_client_that_goes_away_in_the_middle_of_up(sup: Sup) -> None:
    sup.ok("info")  # a warm server, so that the launch itself is what is cut short
    client = sup.popen("up", "-n", "30", "--json", *SLEEP)
    assert client.stdout is not None
    client.stdout.readline()
    client.kill()
    client.communicate()
    states = {str(entry["state"]) for entry in objects(sup.ok("ps", "-a", "--json"))}
    assert eventually(lambda: states <= {"running", "RUNNING", "exited", "EXITED"}, 5), states
    sup.ok("down")
    assert sup.names("-a") == []


def test_another_users_socket_directory_is_refused(sup: Sup) -> None:
    os.symlink("/tmp", os.path.join(sup.root, "run"))
    try:
        refused(sup("up", *SLEEP), "run")
    finally:
        os.unlink(os.path.join(sup.root, "run"))


def test_a_root_too_long_for_a_socket_is_refused(sup: Sup) -> None:
    long = os.path.join(sup.root, "x" * 100)
    refused(Sup.__call__(Sup(sup.root), "--root", long, "up", *SLEEP), "107")
