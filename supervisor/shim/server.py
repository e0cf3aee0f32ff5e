"""The root of the tree: one thread, one epoll; clones what it is asked to, reaps, reports.

Requests come over one message socket, the control socket, from the supervisor:
`spawn`, `template`, `exec`; each carries descriptors, the first of them the report socket of what is
to be made. Each is answered once: with `refused`, or with `spawned` (with a pidfd) and, once that is
reaped, `exited`. `kill` is for a child whose pidfd could not be taken. When the control socket closes,
every container is killed and reaped, and the shim ends.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NamedTuple

from supervisor.linux import clone, process
from supervisor.shim import ENVIRONMENT, child, protocol, template

Request = dict[str, Any]

_PATIENCE = 5.0


class Child(NamedTuple):
    """One that lives. The supervisor knows it by `name`, or not at all ("")."""

    name: str
    pid: int
    helper: bool
    pid_namespace: bool


class Shim:
    """All of the shim's state: who lives, by pidfd."""

    def __init__(self, control: socket.socket, supervisor: int = 0) -> None:
        self.control = control
        self.supervisor = supervisor
        self.births, self.announce = protocol.pair()
        self.births.setblocking(False)
        self.pidfd = os.pidfd_open(os.getpid())
        self.living: dict[int, Child] = {}
        self.helpers = 0
        self.ended: list[tuple[str, int]] = []
        self.untidy = False
        self.epoll = select.epoll()
        self.epoll.register(control, select.EPOLLIN)
        self.epoll.register(self.births, select.EPOLLIN)
        self.pids: dict[int, int] = {}  # pid -> pidfd
        self.orphans = False  # whether some may have ended
        self.wakeup, self.alarm = socket.socketpair()
        self.wakeup.setblocking(False)
        self.alarm.setblocking(False)
        self.epoll.register(self.wakeup, select.EPOLLIN)
        signal.set_wakeup_fd(self.alarm.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)

    def run(self) -> None:
        """Serve until the control socket closes, then kill and reap everything."""
        while True:
            # Births first: a child must be known before its death is looked at.
            events = [fd for fd, _ in self.epoll.poll()]
            if self.births.fileno() in events:
                self.register_births()
            for fd in events:
                if fd in self.living:
                    self.reap(fd)
            if self.wakeup.fileno() in events:
                self.wakeup.recv(4096)
                self.orphans = True
            if self.orphans:
                self.orphans = not self.reap_orphans()
            self.sweep()
            if self.control.fileno() in events and not self.serve():
                break
        self.end()

    def serve(self) -> bool:
        """One request; False when the supervisor has gone."""
        try:
            received = protocol.receive(self.control)
        except ConnectionResetError:
            return False
        except protocol.Truncated as cut:
            self.refuse(cut.id, "recvmsg", cut)
            return True
        if received is None:
            return False
        request, fds = received
        try:
            if request["op"] == "kill":
                self.kill(request["id"])
            else:
                self.make(request, fds)
        except OSError as error:
            self.refuse(request["id"], "clone3", error)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def refuse(self, name: str, call: str, error: OSError) -> None:
        number = error.errno or errno.EIO
        self.tell({"event": "refused", "id": name, "call": call, "errno": number})

    def kill(self, name: str) -> None:
        for pidfd, one in self.living.items():
            if one.name == name:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def make(self, request: Request, fds: list[int]) -> None:
        """Clone what `request` describes. Raises OSError."""
        kind = request["op"]
        pid, pidfd = clone.clone3(request["flags"] if kind != "exec" else 0)
        if pid == 0:
            try:
                self.forget_in_child()
                self.become(kind, request, fds)
            finally:
                os._exit(1)  # a second shim would be worse than anything
        # What the joiner makes has the request's name, not the joiner.
        name = request["id"] if kind != "exec" else ""
        alone = kind != "spawn" or request["pid_namespace"]
        self.add(pidfd, Child(name, pid, kind != "spawn", alone))

    def become(self, kind: str, request: Request, fds: list[int]) -> None:
        """In a clone. Never returns."""
        if kind == "spawn":
            self.announce.close()
            child.become_container(request, fds[0], fds[1:], self.pidfd)
        elif kind == "exec":
            child.become_joiner(request, fds[0], fds[1:], self.announce, self.pidfd)
        else:
            replica = {**request, "flags": request["replica_flags"]}
            requests = socket.socket(fileno=fds[1])
            template.become_template(replica, fds[0], requests, self.announce, self.pidfd)

    def forget_in_child(self) -> None:
        """In a clone: only the request's descriptors, `announce` and the shim's pidfd stay open."""
        self.epoll.close()
        self.control.close()
        self.births.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.wakeup.close()
        self.alarm.close()
        for pidfd in self.living:
            os.close(pidfd)

    def add(self, pidfd: int, made: Child) -> None:
        """Know a child from now on. Raises OSError when it cannot be watched: it is dead then."""
        try:
            self.epoll.register(pidfd, select.EPOLLIN)
        except OSError:
            self.end_unknown(made.pid)
            os.close(pidfd)
            raise
        self.living[pidfd] = made
        self.helpers += made.helper
        self.pids[made.pid] = pidfd
        if made.name:
            self.tell({"event": "spawned", "id": made.name, "pid": made.pid}, (pidfd,))

    @staticmethod
    def end_unknown(pid: int) -> None:
        """Kill and reap a child that has no pidfd here: until it is reaped its number is its own."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, process.WALL)

    def register_births(self) -> None:
        """What templates and joiners cloned on the shim's behalf, or could not."""
        while True:
            try:
                received = protocol.receive(self.births)
            except BlockingIOError:
                return
            except protocol.Truncated as cut:
                self.register_birth(cut.message, [])
                continue
            if received is not None:
                self.register_birth(*received)

    def register_birth(self, message: Request, fds: list[int]) -> None:
        if "refused" in message:
            self.tell({**message, "event": "refused", "call": message["refused"]})
            return
        try:
            pidfd = fds[0] if fds else self.open_pidfd(message["pid"])
            made = Child(message["id"], message["pid"], False, message["pid_namespace"])
            self.add(pidfd, made)
        except OSError as error:
            self.refuse(message["id"], "pidfd_open", error)

    def open_pidfd(self, pid: int) -> int:
        try:
            return os.pidfd_open(pid)
        except OSError:
            self.end_unknown(pid)
            raise

    def reap(self, pidfd: int) -> None:
        status = process.reap(pidfd)
        if status is None:
            return
        name, pid, helper, pid_namespace = self.living.pop(pidfd)
        if helper:  # what it made is told before its end
            self.register_births()
        del self.pids[pid]
        self.helpers -= helper
        self.epoll.unregister(pidfd)
        os.close(pidfd)
        if not pid_namespace:
            self.ended.append((name, status))
            self.untidy = True
        elif name:
            self.tell({"event": "exited", "id": name, "status": status})

    def sweep(self) -> None:
        """Without a pid namespace there is no init with which the kernel kills the rest: what such a
        container leaves falls to this subreaper. Its end is told when all of that is dead; but a
        helper's child that is not announced yet looks the same, and no end waits for a helper's."""
        if not self.untidy:
            return
        left = process.children() - self.pids.keys() - {self.supervisor}
        if left and not self.helpers:  # the death of each is a SIGCHLD, and brings us back
            kill_all(left)
            return
        for name, status in self.ended:
            self.tell({"event": "exited", "id": name, "status": status})
        self.ended.clear()
        self.untidy = bool(left)

    def reap_orphans(self) -> bool:
        """What the subreaper adopted; whether that is all for now: the kernel walks every child.
        Its own children show up here too (execve gives them SIGCHLD as their exit signal): those are
        left to their pidfds, and so is a child that a helper has cloned but not yet announced."""
        while not self.helpers:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return True
            if dead is None:
                return True
            if dead.si_pid in self.pids:
                return False
            os.waitpid(dead.si_pid, 0)
        return False

    def tell(self, message: Request, fds: tuple[int, ...] = ()) -> None:
        try:
            protocol.send(self.control, message, fds)
        except (BrokenPipeError, ConnectionResetError):
            return  # the next receive says so, and ends the loop
        except OSError:
            if not fds:
                raise
            self.tell(message)  # no descriptor may be in flight: the supervisor asks for a `kill`

    def end(self) -> None:
        """Kill every child and wait for it; orphans that fell to the subreaper too."""
        for pidfd in self.living:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in list(self.living):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | process.WALL)
        patience = time.monotonic() + _PATIENCE
        while (left := process.children() - {self.supervisor}) and time.monotonic() < patience:
            kill_all(left)
            for pid in left:
                os.waitpid(pid, os.WNOHANG | process.WALL)
            time.sleep(0.002)


def kill_all(pids: set[int]) -> None:
    """Children of ours: until they are reaped their numbers are their own."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def start_supervisor() -> tuple[socket.socket, int]:
    """Start the supervisor's process with its end of the control socket; returns the shim's, and
    the process's id."""
    ours, theirs = protocol.pair()
    theirs.set_inheritable(True)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = (
        f"import sys; sys.path.insert(0, {root!r}); from supervisor.daemon import main; "
        "raise SystemExit(main())"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    env = {**kept, "SUP_SHIM_FD": str(theirs.fileno())}
    if "SUP_READY_FD" in env:
        os.set_inheritable(int(env["SUP_READY_FD"]), True)
    pid = os.posix_spawn(sys.executable, [sys.executable, "-P", "-c", program], env)
    theirs.close()
    if "SUP_READY_FD" in env:
        os.close(int(env["SUP_READY_FD"]))
    return ours, pid


def raise_open_files() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_low_descriptors() -> None:
    """Nothing that a container is given may take the place of 0, 1 or 2."""
    while (fd := os.open("/dev/null", os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)


def main() -> int:
    """The shim's process: with SUP_CONTROL_FD it serves whoever started it, else it starts the
    supervisor."""
    process.set_name(b"sup-shim")
    process.become_subreaper()
    raise_open_files()
    open_low_descriptors()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inherited = os.environ.get("SUP_CONTROL_FD")
    if inherited:
        control, supervisor = socket.socket(fileno=int(inherited)), 0
    else:
        control, supervisor = start_supervisor()
    os.set_inheritable(control.fileno(), False)
    # A collection in a child would copy every page that it walks.
    gc.collect()
    gc.freeze()
    gc.disable()
    os.umask(0o022)  # what a container finds was made with it
    Shim(control, supervisor).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
