"""The server under bad clients, without descriptors, on a full disk, killed: it answers and lives."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import support
from support import requires

from supervisor import start
from supervisor.api import protocol
from supervisor.client import Client
from supervisor.errors import LimitReached, SupError
from supervisor.paths import Paths

pytestmark = pytest.mark.requires("containers")

SLEEP = {"command": ["sleep", "100"]}


class Server:
    """A supervisor in the background, and raw connections to it."""

    def __init__(self, root: str) -> None:
        self.paths = Paths.find(root)
        self.start()

    def start(self) -> None:
        start.ensure(self.paths)
        info = self.call("sup.Info")
        self.pid, self.shim = int(str(info["supervisor_pid"])), int(str(info["shim_pid"]))

    def call(self, method: str, **parameters: object) -> dict[str, object]:
        with Client(self.paths) as client:
            return client.call(method, **parameters)

    @contextmanager
    def raw(self, timeout: float = 30) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout)
            sock.connect(self.paths.socket)
            yield sock

    def answer(self, data: bytes) -> tuple[str, str]:
        """What the server says to these bytes: the error's name and its message."""
        with self.raw() as sock:
            with suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
            said = bytearray()
            with suppress(ConnectionResetError):
                while not said.endswith(b"\0") and (piece := sock.recv(65536)):
                    said += piece
        reply = json.loads(bytes(said).rstrip(b"\0"))
        return reply.get("error", ""), reply["parameters"].get("message", "")

    def memory(self) -> int:
        """Resident bytes at the peak so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def assert_well(self) -> None:
        """The same process serves, and has nothing to complain of."""
        assert self.call("sup.Info")["supervisor_pid"] == self.pid
        assert "Traceback" not in Path(self.paths.log).read_text()


@pytest.fixture
def server(sup_root: str) -> Iterator[Server]:
    one = Server(sup_root)
    yield one
    one.assert_well()


def message(method: str, version: object = protocol.PROTOCOL, **parameters: object) -> bytes:
    made = {"method": method, "parameters": parameters, "protocol": version}
    return json.dumps(made).encode() + b"\0"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"x" * (100 << 20) + b"\0", "ProtocolError", "too large"),
        (message("sup.Up", spec={"command": ["x" * (100 << 20)]}), "ProtocolError", "too large"),
        (message("sup.Up", spec={"command": ["x" * (2 << 20)]}), "SpecError", "command"),
        (b"[" * 100_000 + b"\0", "ProtocolError", "nested too deeply"),
        (b'{"spec":' * 100_000 + b"\0", "ProtocolError", "nested too deeply"),
        (b'{"method": "sup.\xff\xfeUp"}\0', "ProtocolError", "no JSON"),
        (b"GET / HTTP/1.1\r\n\r\n\0", "ProtocolError", "no JSON"),
        (b"\0", "ProtocolError", "no JSON"),
        (b"[]\0", "ProtocolError", "no JSON object"),
        (protocol.frame(b"d", b"typed without attaching\0"), "ProtocolError", "no JSON"),
        (message("sup.Nothing"), "ProtocolError", "no method 'sup.Nothing'"),
        (message("sup." + "x" * 10_000 + "\x1b[31m"), "ProtocolError", "no method"),
        (message("sup.List", version=99), "VersionMismatch", "version 99"),
        (message("sup.List", version=None), "VersionMismatch", "version None"),
        (message("sup.List", all="yes"), "SpecError", "all 'yes'"),
        (message("sup.List", colour="red"), "SpecError", "colour"),
        (message("sup.Stop", names="web"), "SpecError", "names 'web'"),
        (message("sup.Stop", names=["web"], timeout=-1), "SpecError", "timeout"),
        (message("sup.Stop", names=["web"], timeout=float("nan")), "SpecError", "timeout"),
        (message("sup.Stop", names=["no\0name"]), "SpecError", "names"),
        (message("sup.Stop", names=["\ud800"]), "NotFound", "no container"),
        (message("sup.Kill", names=["web"], signal=65), "SpecError", "signal"),
        (message("sup.Send", names=["web"], data="no base64!"), "SpecError", "data"),
        (message("sup.Up", spec=[]), "SpecError", "spec"),
        (message("sup.Up", spec={"command": 1}), "SpecError", "command 1"),
        (
            message("sup.Up", spec={nested_key: 1 for nested_key in ["\x1b]0;x\x07"]}),
            "SpecError",
            "key",
        ),
        (message("sup.Up", spec={}, replicas=10**9), "SpecError", "replicas"),
        (message("sup.Up", spec={}, replicas=True), "SpecError", "replicas"),
        (message("sup.Up", spec={}, name="../x"), "SpecError", "name '../x'"),
        (message("sup.Up", file="[[[["), "SpecError", ""),
        (message("sup.Attach", name="x"), "ProtocolError", "session of frames"),
        (message("sup.Events"), "ProtocolError", "many replies"),
    ],
)
def test_a_bad_request_gets_a_clear_reply(server: Server, data: bytes, error: str, words: str) -> None:
    began = time.monotonic()
    name, said = server.answer(data)
    assert name == f"sup.{error}"
    assert words in said
    assert len(said) < 1000
    assert said.isprintable()
    assert time.monotonic() - began < 10
    assert server.memory() < 200 << 20


@pytest.mark.parametrize("depth", [50, 200, 500, 800, 900, 950, 980])
@pytest.mark.parametrize("key", ["spec", "env", "name", "file"])
def test_nesting_that_json_still_takes(server: Server, depth: int, key: str) -> None:
    parameters = {"spec": {"env": "HERE"}} if key == "env" else {key: "HERE"}
    call = message("sup.Up", **parameters).replace(b'"HERE"', nested(depth).encode())
    name, said = server.answer(call)
    assert name in ("sup.SpecError", "sup.ProtocolError"), said


def test_clients_that_leave_in_the_middle(server: Server) -> None:
    whole = message("sup.Up", spec=SLEEP, name="box")
    for end in (1, len(whole) // 2, len(whole) - 1):
        with server.raw() as sock:
            sock.sendall(whole[:end])
    with server.raw() as sock:  # the same, slowly, byte by byte
        for at in range(len(whole)):
            sock.sendall(whole[at : at + 1])
        assert b'"running"' in sock.recv(65536)
    assert server.call("sup.Down")["names"] == ["box"]


def test_a_client_that_leaves_while_it_waits(server: Server) -> None:
    """What it asked for and is not there yet is rolled back; what runs stays."""
    for n in range(5):
        with server.raw() as sock:
            sock.sendall(message("sup.Up", spec=SLEEP, name=f"web{n}", replicas=20))
            time.sleep(0.01 * n)
    deadline = time.monotonic() + 30
    states = {"starting"}
    while states & {"created", "starting"} and time.monotonic() < deadline:
        listed = server.call("sup.List", all=True)["containers"]
        assert isinstance(listed, list)
        states = {container["state"] for container in listed}
    assert states <= {"running"}
    server.call("sup.Down", timeout=0)
    assert support.eventually(lambda: support.children_of(server.shim) == {server.pid}, 20)


def test_a_client_that_never_reads(server: Server) -> None:
    spec = {"command": ["sh", "-c", "yes | head -c 20000000; echo done"], "tty": False}
    with Client(server.paths) as deaf, server.raw() as flood:
        deaf.upgrade("sup.Run", spec={**spec, "tty": True}, name="loud", lossless=False)
        flood.settimeout(0.5)
        with suppress(TimeoutError):
            while True:
                flood.sendall(message("sup.Info") * 100)
        assert server.call("sup.Up", spec=spec, name="other")
        with Client(server.paths) as client:
            replies = list(client.stream("sup.Wait", names=["loud", "other"]))
        assert sorted((r["name"], r["status"]) for r in replies if r) == [("loud", 0), ("other", 0)]
    assert server.memory() < 200 << 20


def test_more_clients_than_there_is_room_for(server: Server) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(server.raw(60)) for _ in range(300)]
        for sock in idle[:256]:
            sock.sendall(message("sup.Info"))
            assert b"supervisor_pid" in sock.recv(65536)
        # Those beyond are told, once those within had their time to leave.
        for sock in idle[256:]:
            assert b"sup.LimitReached" in sock.recv(65536)
        with pytest.raises(LimitReached, match="256"):
            server.call("sup.Info")
    for _ in range(20):
        server.call("sup.Info")


def test_500_clients_that_say_nothing(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(server.raw())
    began = time.monotonic()
    server.call("sup.Info")
    assert time.monotonic() - began < 10


# Frames

TALK = {"command": ["sh", "-c", "read line; echo got $line; sleep 100"], "tty": False, "stdin": True}


def frames(client: Client) -> Iterator[tuple[bytes, bytes]]:
    splitter = protocol.FrameSplitter(protocol.FROM_SERVER)
    while data := client.receive():
        yield from splitter.feed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        message("sup.Info"),
        protocol.frame(protocol.EXIT, b'{"status": 0}'),  # the server's to say
        b"d\xff\xff\xff\xff",
        protocol.frame(protocol.SIGNAL, b"99"),
        protocol.frame(protocol.SIGNAL, b"-9"),
        protocol.frame(protocol.RESIZE, b"[[" * 1000),
        protocol.frame(protocol.RESIZE, b"[100000, 1]"),
        protocol.frame(protocol.DATA, b"x" * (1 << 20)) * 4,  # without waiting for ACK
    ],
)
def test_frames_out_of_place_end_the_session_alone(server: Server, data: bytes) -> None:
    with Client(server.paths) as client:
        client.upgrade("sup.Run", spec=TALK, name="box", stdin=True)
        with suppress(OSError):
            client.send(data)
        seen: list[bytes] = []
        with suppress(OSError):
            seen += [kind for kind, _ in frames(client)]
        assert protocol.EXIT not in seen
    [box] = server.call("sup.List", all=True)["containers"]  # type: ignore[misc]
    assert box["state"] == "running"


def test_a_signal_for_a_container_that_has_ended(server: Server) -> None:
    """Its client has much to read before it comes to the exit status."""
    spec = {"command": ["sh", "-c", "yes | head -c 3000000; exit 7"], "tty": False}
    with Client(server.paths) as client:
        client.upgrade("sup.Run", spec=spec, name="box", lossless=False)
        with Client(server.paths) as other:
            list(other.stream("sup.Wait", names=["box"]))
        client.send(protocol.frame(protocol.SIGNAL, b"15"))
        *_, (kind, payload) = frames(client)
    assert (kind, json.loads(payload)) == (protocol.EXIT, {"status": 7})


# What the supervisor may lack


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def no_descriptor_above(pid: int) -> Iterator[int]:
    """A process gets none above its highest; how many are free below."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(one.split()[0]) for one in support.descriptors(pid)}
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(used) + 1, hard))
    try:
        yield max(used) + 1 - len(used)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("tty", [True, False])
def test_descriptors_run_out_for_a_fleet(server: Server, tty: bool) -> None:
    spec = {**SLEEP, "tty": tty}
    with ExitStack() as stack:
        idle = [stack.enter_context(server.raw()) for _ in range(50)]
        idle[-1].sendall(message("sup.Info"))
        assert idle[-1].recv(65536)  # all are connected
        limited = stack.enter_context(no_descriptor_above(server.pid))
        while idle:
            idle.pop().close()
        n = limited + 50
        containers = server.call("sup.Up", spec=spec, name="web", replicas=n)["containers"]
        assert isinstance(containers, list)
        states = [container["state"] for container in containers]
        assert states.count("running") > 3
        assert states.count("exited") > 3
        for container in containers:
            if container["state"] == "exited":
                assert "open files" in str(container["error"]["parameters"])
        running = states.count("running")
        assert len(server.call("sup.List")["containers"]) == running  # type: ignore[arg-type]
        assert len(server.call("sup.Down", timeout=0)["names"]) == n  # type: ignore[arg-type]
        assert server.call("sup.Up", spec=spec, name="web", replicas=2)["containers"]
    server.call("sup.Down", timeout=0)
    assert support.eventually(lambda: support.children_of(server.shim) == {server.pid}, 20)


def test_no_descriptor_for_a_client(server: Server) -> None:
    """Some are kept back; those who come when these are gone wait, which costs nothing."""
    with ExitStack() as stack, no_descriptor_above(server.pid):
        held = []
        while True:
            before = cpu_seconds(server.pid)
            held.append(stack.enter_context(server.raw(1.5)))
            held[-1].sendall(message("sup.Info"))
            try:
                assert b"supervisor_pid" in held[-1].recv(65536)
            except TimeoutError:
                break
        assert cpu_seconds(server.pid) - before < 0.5
        assert len(held) > 8
        held[0].close()
        held[-1].settimeout(10)
        assert b"supervisor_pid" in held[-1].recv(65536)
    log = Path(server.paths.log).read_text()
    assert log.count("cannot accept a client: Too many open files") == 1


# SIGKILL


def test_the_supervisor_is_killed(sup_root: str) -> None:
    server = Server(sup_root)
    spec = {"command": ["sh", "-c", "trap '' TERM HUP; sleep 100"]}
    server.call("sup.Up", spec=spec, name="web", replicas=5)
    below = support.children_of(server.shim)
    assert len(below) >= 6
    with Client(server.paths) as client:
        client.upgrade("sup.Attach", name="web-1")
        os.kill(server.pid, signal.SIGKILL)
        while client.receive():
            pass
    assert support.eventually(lambda: all(map(support.gone, {server.shim, *below})), 20)
    # The place can be used again as it is.
    server.start()
    assert server.call("sup.List", all=True)["containers"] == []
    server.call("sup.Up", spec=spec, name="web", replicas=5)
    server.call("sup.Down", timeout=0)
    server.assert_well()


def test_the_shim_is_killed(sup_root: str) -> None:
    server = Server(sup_root)
    server.call("sup.Up", spec=SLEEP, name="web", replicas=5)
    below = support.children_of(server.shim)
    with Client(server.paths) as client:
        waiting = client.stream("sup.Wait", names=["web-1"])
        os.kill(server.shim, signal.SIGKILL)
        with suppress(SupError):  # the server may end before it answers
            assert next(waiting)["status"] == 137
    assert support.eventually(lambda: all(map(support.gone, below)), 20)
    server.start()
    server.call("sup.Up", spec=SLEEP, name="web", replicas=5)
    server.call("sup.Down", timeout=0)
    server.assert_well()


# A full disk


@requires("root")
def test_a_full_disk(sup_root: str) -> None:
    """In a mount namespace of its own, where --root is a small tmpfs: see full_disk.py."""
    program = os.path.join(os.path.dirname(os.path.dirname(__file__)), "full_disk.py")
    argv = ["unshare", "-m", "--propagation", "private", sys.executable, program, sup_root]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
