"""spec -> plan: which kernel steps a container takes. Pure: no system call, no root needed.

A plan has three parts. `shared` is what all replicas of a fleet have in common: run once, in a
template, or first in the container itself when there is but one. `own` is what each replica does for
itself as PID 1; `workload` what the command does before its execve. A step is `(call, *arguments)`,
named after its system call; `Var(name)` stands for a value of the replica (hostname, layer).
"""

from __future__ import annotations

from typing import Any

import attrs

from supervisor.host import HostFacts
from supervisor.linux import caps, clone
from supervisor.linux.mount import (
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_STRICTATIME,
)
from supervisor.spec import ContainerSpec

CAPABILITIES = (
    "chown",
    "dac_override",
    "fsetid",
    "fowner",
    "setgid",
    "setuid",
    "setfcap",
    "setpcap",
    "net_bind_service",
    "sys_chroot",
    "kill",
)
_NODES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
_PRIVATE = (("tmp", "1777"), ("run", "755"), ("var", "755"), ("root", "700"), ("home", "755"))
_VAR = (("lib", 0o755), ("cache", 0o755), ("log", 0o755), ("spool", 0o755), ("tmp", 0o1777))
_FLAGS = MS_NOSUID | MS_NODEV
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPTIONS = {
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
}


@attrs.frozen
class Var:
    """A value that each replica has of its own."""

    name: str


Step = tuple[Any, ...]
Steps = tuple[Step, ...]


@attrs.frozen
class Plan:
    """The kernel steps of one kind of container; see the module's docstring for the parts."""

    template_flags: int
    flags: int
    shared: Steps
    own: Steps
    workload: Steps
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    ptmx: str
    init: bool
    console: bool

    def request(self) -> dict[str, Any]:
        """The plan as the shim's protocol carries it."""
        return {
            "flags": self.flags | self.template_flags,
            "shared": [],
            "own": [_encode(step) for step in self.shared + self.own],
            **self._common(),
        }

    def template(self) -> dict[str, Any]:
        """The same, cut in two: the shared part is run once, in a template."""
        return {
            "flags": self.template_flags | clone.CLONE_NEWNS,
            "replica_flags": self.flags,
            "shared": [_encode(step) for step in self.shared],
            "own": [_encode(step) for step in self.own],
            **self._common(),
        }

    def joining(self) -> dict[str, Any]:
        """A request to run the workload in the namespaces that the plan would make."""
        time = clone.CLONE_NEWTIME if self.flags & clone.CLONE_NEWTIME else 0
        join = (self.flags | self.template_flags) & ~clone.CLONE_NEWTIME | time
        common = {**self._common(), "console": False, "pid_namespace": True}
        return {"op": "exec", "flags": 0, "join": join, "own": [], "values": {}, **common}

    @property
    def pivots_shared(self) -> bool:
        """Whether the shared part leaves the host's root: only then a template saves anything."""
        return any(step[0] == "pivot_root" for step in self.shared)

    def _common(self) -> dict[str, Any]:
        return {
            "workload": [_encode(step) for step in self.workload],
            "argv": list(self.argv),
            "env": [list(pair) for pair in self.env],
            "ptmx": self.ptmx,
            "init": self.init,
            "console": self.console,
            "pid_namespace": bool(self.flags & clone.CLONE_NEWPID),
        }


def _encode(step: Step) -> list[Any]:
    return [{"$": part.name} if isinstance(part, Var) else part for part in step]


def compile(spec: ContainerSpec, host: HostFacts) -> Plan:
    """The steps that make what `spec` asks for on `host`."""
    made = {"mnt", "uts", "ipc", "net", "pid", "cgroup"} - spec.share
    made |= spec.unshare - {"user"}
    flags = 0
    for name in made:
        flags |= clone.NAMESPACES[name]
    builder = _Builder(spec, host, made)
    shared, own = builder.build()
    user = not host.root or "user" in spec.unshare
    return Plan(
        template_flags=clone.CLONE_NEWUSER if user else 0,
        flags=flags,
        shared=tuple(shared),
        own=tuple(own),
        workload=tuple(_workload(spec, host)),
        argv=spec.command,
        env=_environment(spec),
        ptmx=_ptmx(spec, made),
        init=spec.init,
        console=spec.tty and "mnt" in made,
    )


def _ptmx(spec: ContainerSpec, made: set[str]) -> str:
    if not spec.tty:
        return ""
    return "/dev/pts/ptmx" if "mnt" in made else "/dev/ptmx"


def _environment(spec: ContainerSpec) -> tuple[tuple[str, str], ...]:
    env = {"PATH": _PATH}
    if spec.tty:
        env["TERM"] = "xterm-256color"
    env.update(spec.env)
    return tuple(env.items())


def _workload(spec: ContainerSpec, host: HostFacts) -> list[Step]:
    """What the command does to itself; the order is the kernel's (see linux/caps.py)."""
    keep = caps.mask(CAPABILITIES) & host.capabilities
    steps: list[Step] = [("umask", 0o022)]
    steps += [("prlimit", limit.resource, limit.soft, limit.hard) for limit in spec.ulimits]
    steps += [("cap_bound", keep)]
    # With setgroups denied (a single-id map) there are no groups to set.
    steps += [("setuser", spec.user, int(host.root and "user" not in spec.unshare))]
    steps += [("capset", keep), ("no_new_privs",)]
    return [*steps, ("chdir", spec.workdir or "/")]


class _Builder:
    """The shared and own steps of one spec, in order."""

    def __init__(self, spec: ContainerSpec, host: HostFacts, made: set[str]) -> None:
        self.spec = spec
        self.host = host
        self.made = made
        self.user = not host.root or "user" in spec.unshare

    def build(self) -> tuple[list[Step], list[Step]]:
        shared: list[Step] = []
        if self.user:
            shared.append(("idmap", self.host.uid, self.host.gid))
        if "mnt" not in self.made:
            return shared, self.identity()
        if self.spec.rootfs.path:
            return shared, self.directory_root()
        return [*shared, *self.host_root()], self.host_own()

    def identity(self) -> list[Step]:
        steps: list[Step] = []
        if "uts" in self.made:
            steps.append(("sethostname", Var("hostname")))
        if "net" in self.made:
            steps.append(("interface_up", "lo"))
        return steps + [("sysctl", key, value) for key, value in self.spec.sysctls]

    # -- the host's userland, read-only ------------------------------------------------------------

    def host_root(self) -> list[Step]:
        """A read-only root that all replicas share, pivoted into once."""
        stage = self.host.stage
        steps: list[Step] = [
            ("mount", "none", "/", "", MS_REC | MS_PRIVATE, ""),
            ("mount", "tmpfs", stage, "tmpfs", _FLAGS, "mode=755,size=1m"),
        ]
        names = ["etc", "proc", "sys", "dev", "mnt", "opt", "srv", "media"]
        names += [name for name, _ in _PRIVATE]
        steps += [("mkdir", f"{stage}/{name}", 0o755) for name in names]
        steps += [("open_root", stage)]
        for name, target in self.host.userland:
            steps += self.userland(name, target)
        steps += self.bind(f"{self.host.skeleton}/etc", "/etc", MOUNT_ATTR_RDONLY)
        for tree in self.host.trees:
            steps += self.bind(f"/etc/{tree}", f"/etc/{tree}", MOUNT_ATTR_RDONLY)
        steps += self.dev(f"{stage}/dev")
        steps += self.stash(f"{stage}/run")
        steps += [("pivot_root", stage), ("open_root", "/")]
        steps += self.mount_points()
        return [*steps, ("mount_setattr", "/", MOUNT_ATTR_RDONLY)]

    def userland(self, name: str, target: str) -> list[Step]:
        if target:
            return [("symlink", target, f"{self.host.stage}/{name}")]
        return self.bind(f"/{name}", f"/{name}", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV)

    def bind(self, source: str, target: str, attributes: int) -> list[Step]:
        return [("open_tree", "tree", source, attributes, 1), ("move_mount", "tree", target)]

    def dev(self, path: str) -> list[Step]:
        options = "mode=755,size=64k"
        steps: list[Step] = [("mount", "tmpfs", path, "tmpfs", MS_NOSUID | MS_STRICTATIME, options)]
        for name, major, minor in _NODES:
            if self.user:  # mknod(2) is refused in a user namespace: the host's own nodes are bound
                steps += [("write", f"{path}/{name}", "")]
                steps += [("mount", f"/dev/{name}", f"{path}/{name}", "", MS_BIND, "")]
            else:
                steps += [("mknod", f"{path}/{name}", major, minor)]
        steps += [("symlink", target, f"{path}/{name}") for target, name in _LINKS]
        steps += [("mkdir", f"{path}/{name}", 0o755) for name in ("pts", "shm", "mqueue")]
        return [*steps, ("write", f"{path}/console", "")]

    def stash(self, path: str) -> list[Step]:
        """Sources that replicas need after the host is out of sight lie below /run until then."""
        steps: list[Step] = [("mount", "tmpfs", path, "tmpfs", _FLAGS, "mode=700,size=64k")]
        sources = [("proc", "/proc"), ("sys", "/sys")] if self.stashes_proc else []
        sources += [(f"volume{n}", v.source) for n, v in enumerate(self.spec.volumes)]
        for name, source in sources:
            steps += self.bind(source, f"/run/{name}", 0)
        return steps

    @property
    def stashes_proc(self) -> bool:
        # A user namespace may mount proc and sysfs only where full ones are to be seen, and where it
        # owns the pid or network namespace; else the host's are bound.
        return self.user or bool({"pid", "net"} & self.spec.share)

    def mount_points(self) -> list[Step]:
        """Made while the shared root can be written to; those on private tmpfs come later."""
        private = tuple(f"/{name}/" for name, _ in _PRIVATE)
        targets = [tmpfs.target for tmpfs in self.spec.tmpfs]
        steps: list[Step] = []
        for target in targets:
            if not f"{target}/".startswith(private):
                steps += [("make_target", target, "")]
        for number, volume in enumerate(self.spec.volumes):
            if not f"{volume.target}/".startswith(private):
                steps += [("make_target", volume.target, f"/run/volume{number}")]
        return steps

    def host_own(self) -> list[Step]:
        steps = self.kernel_mounts("")
        steps += [
            ("open_tree", f"volume{number}", f"/run/volume{number}", self.attributes(volume), 1)
            for number, volume in enumerate(self.spec.volumes)
        ]
        steps += [("umount2", "/run", MNT_DETACH)]
        for name, mode in _PRIVATE:
            steps += [("mount", "tmpfs", f"/{name}", "tmpfs", _FLAGS, f"mode={mode}")]
        steps += [("mkdir", f"/var/{name}", mode) for name, mode in _VAR]
        steps += [("symlink", "/run", "/var/run"), ("mkdir", "/run/sup", 0o755)]
        steps += [("mkdir", "/run/lock", 0o1777)]
        steps += [("write", "/run/sup/hostname", Var("hostname_file"))]
        steps += [("write", "/run/sup/hosts", Var("hosts_file"))]
        return [*steps, ("open_root", "/"), *self.volumes(), *self.identity()]

    # -- a directory -------------------------------------------------------------------------------

    def directory_root(self) -> list[Step]:
        """An overlay above the directory (or the directory itself), pivoted into by each replica."""
        stage = self.host.stage
        steps: list[Step] = [("mount", "none", "/", "", MS_REC | MS_PRIVATE, "")]
        if self.spec.rootfs.writable:
            path = self.spec.rootfs.path
            steps += [("mount", path, stage, "", MS_BIND | MS_REC, "")]
        else:
            steps += [("mount", "overlay", stage, "overlay", 0, Var("overlay"))]
        steps += [("open_root", stage)]
        for name in ("proc", "sys", "dev"):
            steps += [("make_target", f"/{name}", "")]
        steps += self.dev_below()
        for name in ("hostname", "hosts", "resolv.conf"):
            steps += [
                ("open_tree", "tree", Var(name), 0, 0),
                ("move_mount", "tree", f"/etc/{name}"),
            ]
        for number, volume in enumerate(self.spec.volumes):
            name = f"volume{number}"
            steps += [("open_tree", name, volume.source, self.attributes(volume), 1)]
        steps += self.kernel_mounts(stage, below=True)
        steps += self.volumes()
        return [*steps, ("pivot_root", stage), *self.identity()]

    def dev_below(self) -> list[Step]:
        """/dev is built beside the root, then moved in by descriptor: the directory may hold links."""
        beside = f"{self.host.skeleton}/dev"
        steps = self.dev(beside)
        return [*steps, ("open_tree", "dev", beside, 0, 1), ("move_mount", "dev", "/dev")]

    # -- both --------------------------------------------------------------------------------------

    def kernel_mounts(self, root: str, *, below: bool = False) -> list[Step]:
        steps: list[Step] = []
        ptmx = "newinstance,ptmxmode=0666,mode=0620" + ("" if self.user else ",gid=5")
        mounts = [
            ("proc", "/proc", _FLAGS | MS_NOEXEC, "", "pid"),
            ("sysfs", "/sys", _FLAGS | MS_NOEXEC | MS_RDONLY, "", "net"),
            ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, ptmx, "mnt"),
            ("tmpfs", "/dev/shm", _FLAGS | MS_NOEXEC, "mode=1777,size=64m", "mnt"),
            ("mqueue", "/dev/mqueue", _FLAGS | MS_NOEXEC, "", "ipc"),
        ]
        for fstype, target, flags, data, owner in mounts:
            if owner in self.made:
                call: Step = ("mount", fstype, target, fstype, flags, data)
                steps += [("mount_below", fstype, target, flags, data) if below else call]
            elif owner != "ipc":
                source = target if below else f"/run{target}"
                read_only = MOUNT_ATTR_RDONLY if owner == "net" else 0
                steps += [("open_root", "/")] if not below else []
                steps += self.bind(source, target, read_only)
        return steps

    def attributes(self, volume: Any) -> int:
        attributes = MOUNT_ATTR_RDONLY if volume.read_only else 0
        for option in volume.options:
            attributes |= _OPTIONS.get(option, 0)
        return attributes

    def volumes(self) -> list[Step]:
        steps: list[Step] = []
        for tmpfs in self.spec.tmpfs:
            data = f"mode={tmpfs.mode:o},size={tmpfs.effective_size}"
            steps += [("mount_below", "tmpfs", tmpfs.target, _FLAGS, data)]
        for number, volume in enumerate(self.spec.volumes):
            steps += [("move_mount", f"volume{number}", volume.target)]
        return steps
