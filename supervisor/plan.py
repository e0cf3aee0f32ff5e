"""spec -> plan: which kernel steps a container takes. Pure: no system call, no root needed.

A plan has three parts. `shared` is what all replicas of a fleet have in common: run once, in a
template, or first in the container itself when there is but one. `own` is what each replica does for
itself as PID 1; `workload` what the command does before its execve. A step is `(call, *arguments)`,
named after its system call; `Var(name)` stands for a value of the replica (hostname, layer).
"""

from __future__ import annotations

from typing import Any

import attrs

from supervisor import roots
from supervisor.host import HostFacts
from supervisor.linux import caps, clone
from supervisor.roots import Step, Var
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
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

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
            "flags": self.template_flags | (self.flags & clone.CLONE_NEWNS),
            "replica_flags": self.flags,
            "shared": [_encode(step) for step in self.shared],
            "own": [_encode(step) for step in self.own],
            **self._common(),
        }

    def joining(self) -> dict[str, Any]:
        """A request to run the workload in the namespaces that the plan would make."""
        join = self.flags | self.template_flags
        common = {**self._common(), "console": False}
        return {"op": "exec", "flags": 0, "join": join, "own": [], "values": {}, **common}

    @property
    def pivots_shared(self) -> bool:
        """Whether the shared part leaves the host's root: then a template saves something."""
        return any(step[0] == "pivot_root" for step in self.shared)

    @property
    def awaits_ids(self) -> bool:
        """Whether the supervisor has to write the maps of ids: once in a template."""
        return ("await_idmap",) in self.shared

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
    user = roots.makes_user_namespace(spec, host)
    shared, own = _steps(spec, host, made)
    return Plan(
        template_flags=clone.CLONE_NEWUSER if user else 0,
        flags=flags,
        shared=(*_idmap(host, user), *shared),
        own=tuple(own),
        workload=tuple(_workload(spec, host, user)),
        argv=spec.command,
        env=_environment(spec),
        ptmx=_ptmx(spec, made),
        init=spec.init,
        console=spec.tty and "mnt" in made,
    )


def _steps(spec: ContainerSpec, host: HostFacts, made: set[str]) -> tuple[list[Step], list[Step]]:
    if "mnt" not in made:
        return [], roots.identity(spec, made)
    kind = roots.DirectoryRoot if spec.rootfs.path else roots.HostRoot
    root = kind(spec, host, made)
    return root.shared(), root.own()


def _idmap(host: HostFacts, user: bool) -> list[Step]:
    if not user:
        return []
    return [("await_idmap",)] if host.has_ranges else [("idmap", host.uid, host.gid)]


def values(spec: ContainerSpec, host: HostFacts, name: str, index: int, place: str) -> dict[str, str]:
    """What stands for the `Var`s of one replica; `place` is its name in `host.layers`."""
    hostname = (spec.hostname or name[:64]).replace("{n}", str(index or ""))
    if "uts" in spec.share:
        hostname = host.hostname
    return {
        "hostname": hostname,
        "hostname_file": f"{hostname}\n",
        "hosts_file": f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost\n",
        "layer": f"/layers/{place}",
    }


def _ptmx(spec: ContainerSpec, made: set[str]) -> str:
    if not spec.tty:
        return ""
    return "/dev/pts/ptmx" if "mnt" in made else "/dev/ptmx"  # the former is mode 0 on a host


def _environment(spec: ContainerSpec) -> tuple[tuple[str, str], ...]:
    env = {"PATH": _PATH}
    if spec.tty:
        env["TERM"] = "xterm-256color"
    env.update(spec.env)
    return tuple(env.items())


def _workload(spec: ContainerSpec, host: HostFacts, user: bool) -> list[Step]:
    """What the command does to itself; the order is the kernel's (see linux/caps.py)."""
    keep = caps.mask(CAPABILITIES) & host.capabilities
    steps: list[Step] = [("umask", 0o022)]
    steps += [("prlimit", limit.resource, limit.soft, limit.hard) for limit in spec.ulimits]
    steps += [("cap_bound", keep)]
    # With setgroups denied (a single-id map) there are no groups to set.
    steps += [("setuser", spec.user, int(host.has_ranges or not user))]
    steps += [("capset", keep), ("no_new_privs",)]
    return [*steps, ("chdir", spec.workdir or "/")]
