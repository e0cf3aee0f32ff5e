"""What tests share: needs of the host, snapshots of what must not leak, and how to run `sup`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

requires = pytest.mark.requires
TIMEOUT = float(os.environ.get("SUP_TEST_TIMEOUT", "60"))
SHARED = os.environ.get("SUP_TEST_SHARED") == "1"
"""Others work on this host: what changes outside of a test's own root may be theirs."""
# Skipped even when tests are strict: never both true, or not to be had on every supported host.
OPTIONAL = frozenset({"root", "user", "cgroup2", "systemd", "vagrant"})


def _runs(*argv: str) -> bool:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _command(name: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(name) else f"{name} is not installed"


def _has_subids() -> str:
    if not shutil.which("newuidmap"):
        return "newuidmap is not installed"
    import pwd

    names = {str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name}
    for file in ("/etc/subuid", "/etc/subgid"):
        lines = Path(file).read_text().splitlines() if os.path.exists(file) else []
        if not any(line.split(":")[0] in names for line in lines):
            return f"{file} has no range for {sorted(names)}"
    return ""


def _cgroup2() -> str:
    return "" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "no unified cgroup v2"


NEEDS: dict[str, Callable[[], str]] = {
    "root": lambda: "" if os.geteuid() == 0 else "needs root",
    "user": lambda: "" if os.geteuid() != 0 else "needs an ordinary user",
    "userns": lambda: "" if _runs("unshare", "-Urm", "true") else "user namespaces are not available",
    "containers": lambda: (
        ""
        if _runs("unshare", *(("-Ur",) if os.geteuid() else ()), "-muinpfC", "true")
        else "namespaces cannot be made here"
    ),
    "newuidmap": _has_subids,
    "cgroup2": _cgroup2,
    "systemd": lambda: "" if os.path.isdir("/run/systemd/system") else "systemd is not running",
    "tmux": _command("tmux"),
    "gcc": _command("gcc"),
    "man": _command("man"),
    "vi": _command("vi"),
    "strace": _command("strace"),
    "vagrant": _command("vagrant"),
}


@functools.cache
def lacks(need: str) -> str:
    """Why the host does not have `need`; empty when it has. Unlisted needs are commands."""
    return NEEDS.get(need, _command(need))()


def enforce(needs: Iterable[str]) -> None:
    """Skips the running test where the host lacks something; fails it with SUP_TEST_STRICT=1."""
    for need in needs:
        if reason := lacks(need):
            if os.environ.get("SUP_TEST_STRICT") == "1" and need not in OPTIONAL:
                pytest.fail(f"SUP_TEST_STRICT: {reason}")
            pytest.skip(reason)


def eventually(check: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether `check` comes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# What must not leak.


def processes() -> Iterator[int]:
    """Every process id in /proc."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> tuple[str, int]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return "", 0
    return fields[0].decode(), int(fields[1])


def children(reap: bool = False) -> set[int]:
    """Living children of this process. `reap`: orphans that have ended are reaped."""
    found = set()
    for pid in processes():
        state, parent = _stat(pid)
        if parent != os.getpid():
            continue
        if state == "Z" and reap and pid not in _known_to_subprocess():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if state != "Z":
            found.add(pid)
    return found


def children_of(parent: int) -> set[int]:
    """Children of a process, zombies among them."""
    return {pid for pid in processes() if _stat(pid)[1] == parent}


def _known_to_subprocess() -> set[int]:
    return {child.pid for child in getattr(subprocess, "_active", ()) or ()}


def gone(pid: int) -> bool:
    """Whether a process has ended; an orphan that waits to be reaped has."""
    return _stat(pid)[0] in ("", "Z", "X")


def mounts() -> set[str]:
    with open("/proc/self/mountinfo") as file:
        return {" ".join(line.split()[:5]) for line in file}


def cgroups() -> set[str]:
    """Directories below the cgroup mounts that are named after sup."""
    roots = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.split()[0] in ("cgroup", "cgroup2"):
                roots.append(before.split()[4])
    found = set()
    for root in roots:
        for parent, names, _ in os.walk(root):
            found |= {os.path.join(parent, name) for name in names if "sup" in name}
    return found


def descriptors(pid: int = 0) -> set[str]:
    """Open descriptors of this process or another, with what they are."""
    directory = f"/proc/{pid or 'self'}/fd"
    found = set()
    for number in os.listdir(directory):
        try:
            found.add(f"{number} {os.readlink(f'{directory}/{number}')}")
        except FileNotFoundError:
            continue  # the listing's own
    return found


def terminals() -> int:
    return int(Path("/proc/sys/kernel/pty/nr").read_text())


@dataclass
class Snapshot:
    """What a test may not change. Host-wide figures are left out with SUP_TEST_SHARED=1."""

    children: set[int] = field(default_factory=children)
    mounts: set[str] = field(default_factory=mounts)
    descriptors: set[str] = field(default_factory=descriptors)
    cgroups: set[str] = field(default_factory=cgroups)
    terminals: int = field(default_factory=terminals)

    def leaks(self) -> list[str]:
        """What is there now and was not before (descriptors: what differs)."""
        now = Snapshot(children(reap=True))
        found = [f"process {pid}: {command_line(pid)}" for pid in now.children - self.children]
        found += [f"mount {mount}" for mount in now.mounts - self.mounts]
        found += [f"descriptor opened: {one}" for one in now.descriptors - self.descriptors]
        found += [f"descriptor closed: {one}" for one in self.descriptors - now.descriptors]
        if not SHARED:
            found += [f"cgroup {path}" for path in now.cgroups - self.cgroups]
            if now.terminals > self.terminals:
                found.append(f"{now.terminals - self.terminals} terminals")
        return found


def command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def holders(directory: str) -> list[str]:
    """Processes that have `directory` in their command line, as cwd, as root or open."""
    found = []
    for pid in processes():
        if pid == os.getpid() or gone(pid):
            continue
        if directory in command_line(pid) or any(
            target.startswith(directory) for target in _targets(pid)
        ):
            found.append(f"{pid}: {command_line(pid)}")
    return found


def _targets(pid: int) -> Iterator[str]:
    links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
    try:
        links += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return
    for link in links:
        try:
            yield os.readlink(link)
        except OSError:
            continue


# The command line.


@dataclass(frozen=True)
class Sup:
    """Runs the installed command line under one --root."""

    root: str

    def argv(self, *args: str | bytes) -> list[str | bytes]:
        return [sys.executable, "-m", "supervisor", "--root", self.root, *args]

    def __call__(
        self,
        *args: str | bytes,
        data: bytes | None = None,
        timeout: float = TIMEOUT,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs it to its end in pipes; no terminal. `data` is its stdin (else /dev/null)."""
        return subprocess.run(
            self.argv(*args),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            timeout=timeout,
            cwd=self.root,
            env={**os.environ, **(env or {})},
            check=False,
        )

    def popen(self, *args: str | bytes, **options: object) -> subprocess.Popen[bytes]:
        """Starts it and returns at once; stdout and stderr are pipes."""
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.argv(*args), cwd=self.root, **{**given, **options})  # type: ignore

    def ok(self, *args: str | bytes, **options: object) -> str:
        """Runs it, expects status 0, returns its stdout."""
        done = self(*args, **options)  # type: ignore[arg-type]
        assert done.returncode == 0, f"sup {args}: {done.returncode}\n{text(done)}"
        return done.stdout.decode(errors="surrogateescape")

    def names(self, *args: str) -> list[str]:
        """Names of the containers that `ps` lists."""
        return sorted(str(entry["name"]) for entry in objects(self.ok("ps", "--json", *args)))

    def running(self) -> bool:
        """Whether a process still serves this root."""
        return os.path.exists(os.path.join(self.root, "run", "api.sock"))


def text(done: subprocess.CompletedProcess[bytes]) -> str:
    """Both outputs, for a failed assertion."""
    return f"stdout: {done.stdout[-2000:]!r}\nstderr: {done.stderr[-4000:].decode(errors='replace')}"


def objects(output: str) -> list[dict[str, object]]:
    """JSON objects, one a line or in one array."""
    output = output.strip()
    if output.startswith("["):
        return list(json.loads(output))
    return [json.loads(line) for line in output.splitlines() if line]


def refused(
    done: subprocess.CompletedProcess[bytes], *mentions: str, codes: Sequence[int] = (125,)
) -> None:
    """Asserts a clean refusal: the code, one clear sentence on stderr, nothing on stdout."""
    errors = done.stderr.decode(errors="surrogateescape")
    assert done.returncode in codes, text(done)
    assert "Traceback" not in errors, text(done)
    assert done.stdout == b"", text(done)
    assert 1 <= len(errors.splitlines()) <= 3, text(done)
    assert len(errors) < 1000, text(done)
    assert all(ord(char) >= 32 or char == "\n" for char in errors), text(done)
    for mention in mentions:
        assert mention in errors, text(done)


def stop_all(root: str) -> list[str]:
    """Ends what runs under a root; returns what went wrong, such as what had to be killed."""
    problems: list[str] = []
    sup = Sup(root)
    if sup.running() or holders(root):
        try:
            done = sup("shutdown", timeout=30)
            if done.returncode:
                problems.append(f"sup shutdown: {done.returncode} {text(done)}")
        except subprocess.TimeoutExpired:
            problems.append("sup shutdown hangs")
    if not eventually(lambda: not holders(root), 5):
        problems += [f"still holds {root}: {holder}" for holder in holders(root)]
        for holder in holders(root):
            os.kill(int(holder.partition(":")[0]), signal.SIGKILL)
        eventually(lambda: not holders(root), 3)
    return problems
