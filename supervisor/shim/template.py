"""A template: builds what the replicas of a fleet share, once; then makes replicas, in batches.

A process that forks has its pages copied as soon as it, or its child, writes to them. So the template
first clones all the containers that are asked for, and they do next to nothing but wait: few of its
pages are copied. Then it enters the namespaces of one after the other (setns(2)), runs that
container's own steps there, in memory that is its own already, and lets its PID 1 go on.

* proc is mounted by PID 1: it shows the pid namespace of who mounts it, and a template in a user
  namespace could enter a container's but never come back, as the host's is not its own.
* For the same reason the template comes back to its own mount namespace only: the others of the
  last container are its own until it makes the next batch, or ends.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from typing import Any

from supervisor.linux import clone, libc, process
from supervisor.shim import child, command, init, protocol, spawn, steps

Request = dict[str, Any]

BATCH = 16
_TERMINAL = b"/dev/pts/0"  # the first of a devpts of its own
_JOINED = (
    clone.CLONE_NEWNS
    | clone.CLONE_NEWUTS
    | clone.CLONE_NEWIPC
    | clone.CLONE_NEWNET
    | clone.CLONE_NEWCGROUP
)


def _changes_etc(own: list[steps.Step]) -> bool:
    """Whether a replica may find other users than the template does."""
    return any(step[0] in ("move_mount", "mount_below") and step[2].startswith("/etc") for step in own)


class Replica:
    """One that is being made: its request, what came with it, and its PID 1 once there is one.

    The descriptors belong to it. Raises OSError where no more may be opened."""

    def __init__(self, request: Request, fds: list[int]) -> None:
        self.request = request
        self.report = socket.socket(fileno=fds[0])
        self.stdio = fds[1:]
        self.pid = 0
        self.pidfd = -1
        try:
            self.go, self.gate = protocol.pair()
        except OSError:
            self.report.close()
            for fd in self.stdio:
                os.close(fd)
            raise

    def kept(self) -> tuple[int, ...]:
        """What its PID 1 needs."""
        return (self.report.fileno(), self.gate.fileno(), *self.stdio)

    def close(self) -> None:
        for sock in (self.report, self.go, self.gate):
            sock.close()
        for fd in self.stdio:
            os.close(fd)
        if self.pidfd >= 0:
            os.close(self.pidfd)


class Template:
    """The process's state."""

    def __init__(
        self, request: Request, requests: socket.socket, births: socket.socket, parent: int
    ) -> None:
        pivoted = any(step[0] == "pivot_root" for step in request["shared"])
        parts = child.split(request["own"]) if pivoted else None
        self.builds = parts is not None  # else each replica runs the rest of the plan itself
        early, own = parts or ([], request["own"])
        self.request = {**request, "early": early, "own": own, "ready": None}
        self.requests = requests
        self.births = births
        self.parent = parent
        self.join = request["flags"] & _JOINED
        self.home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def run(self) -> None:
        """Make replicas until the socket closes."""
        while (batch := self.receive()) is not None:
            for replica in batch:
                self.clone(replica)
            for replica in batch:
                if replica.pid:
                    child.announce(self.births, replica.request, replica.pid, replica.pidfd)
            for replica in batch:
                if replica.pid and self.builds:
                    self.build(replica)
                replica.close()
            if self.join & clone.CLONE_NEWNS:
                libc.setns(self.home, clone.CLONE_NEWNS)

    def get_ready(self) -> None:
        """Where init may share what the workload does to itself, it is done here, once for all."""
        request = self.request
        possible = self.builds and request["init"] and spawn.possible(request)
        if possible and not _changes_etc(request["own"]):
            state = steps.State({})
            spawn.prepare(state, request, template=True)
            request["ready"] = command.find(state, request)
            spawn.rehearse()

    def receive(self) -> list[Replica] | None:
        """All that is asked for now, at least one; None at the end."""
        batch: list[Replica] = []
        while len(batch) < BATCH:
            try:
                received = protocol.receive(self.requests, wait=not batch)
            except BlockingIOError:
                break
            except protocol.Truncated as cut:
                self.refuse(cut.id, "recvmsg", cut)
                continue
            if received is None:
                return batch or None
            request, fds = received
            try:
                batch.append(Replica({**self.request, **request}, fds))
            except OSError as error:
                self.refuse(request["id"], "socketpair", error)
        return batch

    def refuse(self, name: str, call: str, error: OSError) -> None:
        child.refuse(self.births, name, call, error.errno or errno.EIO)

    def clone(self, replica: Replica) -> None:
        request = replica.request
        request["actions"] = spawn.place(replica.stdio, _TERMINAL if request["ptmx"] else b"")
        gaps = process.gaps((*replica.kept(), self.parent))
        try:
            pid, pidfd = clone.clone3(request["flags"] | clone.CLONE_PARENT)
        except OSError as error:
            self.refuse(request["id"], "clone3", error)
            return
        if pid == 0:
            process.close_ranges(gaps)
            if not self.builds:
                child.become_container(request, replica.report.detach(), replica.stdio, self.parent)
            child.become_replica(request, replica.report, replica.stdio, replica.gate, self.parent)
        replica.pid, replica.pidfd = pid, pidfd
        replica.gate.close()  # its end is to be seen

    def build(self, replica: Replica) -> None:
        """Run a container's own steps in its namespaces; then its PID 1 goes on."""
        if not replica.go.recv(1):
            return  # it has told why
        state = steps.State(replica.request["values"])
        consoles: list[int] = []
        try:
            started = time.monotonic_ns()
            if self.join:  # else all that it could enter is shared
                child.named(["setns"], libc.setns, replica.pidfd, self.join)
            steps.run(state, replica.request["own"])
            mounted = time.monotonic_ns()
            master, stdio = child.open_stdio(replica.request, replica.stdio)
            if master >= 0:
                consoles = [master, stdio[0]]
            child.tell_times(replica.report, replica.request, [started, mounted], master)
            self.let_go(replica, stdio)
        except steps.StepError as error:
            if not process.has_ended(replica.pidfd):  # else its end is the cause, and told already
                child.tell(replica.report, error)
        finally:
            for fd in consoles:
                os.close(fd)
            child.close_directories(state)

    def let_go(self, replica: Replica, stdio: list[int]) -> None:
        """Its PID 1 goes on."""
        request = replica.request
        if request["ready"] is None:
            fds = tuple(stdio[:1]) if request["ptmx"] else ()
            child.named(["sendmsg", "stdio"], protocol.send, replica.go, {}, fds)
            return
        if request["ptmx"] and spawn.terminal_path(stdio[0], request["ptmx"]) != _TERMINAL:
            raise steps.StepError(-1, ["open", os.fsdecode(_TERMINAL)], OSError(errno.ENOTTY))
        child.named(["sendmsg", "go"], replica.go.send, bytes([request["ready"].absent()]))


def become_template(
    request: Request, report_fd: int, requests: socket.socket, births: socket.socket, parent: int
) -> None:
    """Never returns. A request is `{"id", "values"}` with the replica's report socket and stdio."""
    report = socket.socket(fileno=report_fd)
    try:
        process.die_with(parent)
        signal.pthread_sigmask(signal.SIG_BLOCK, init.SIGNALS)
        template = Template(request, requests, births, parent)
        state = steps.State({})
        state.report = report
        steps.run(state, request["shared"])
        template.get_ready()
        report.close()
        template.run()
    except steps.StepError as error:
        child.tell(report, error)
    except OSError:
        os._exit(child.LAUNCH_FAILED)
    os._exit(0)
