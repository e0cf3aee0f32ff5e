"""The root of a container as kernel steps: everything that is mounted, in order. Pure, as the plan is.

Two kinds. The host's userland, read-only, is put together and pivoted into once, in the shared part.
Above a directory each replica has an overlay of its own: there the shared part pivots into a small
base that holds what the replicas need (the directory, /dev, sources), and each replica leaves it for
its own root. What lies in that directory is not trusted: every target is resolved below its root by
descriptor, and device nodes in it do not work.

An overlay's upper layer is a tmpfs in the replica's own mount namespace: it needs no room and no
cleaning on the host and costs 0.2 ms in all, where ext4 took 1.5 to 2.5. Where a tmpfs cannot hold
it (`HostFacts.layers`) it is a directory of the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from supervisor.host import HostFacts
from supervisor.linux.mount import (
    MNT_DETACH,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_STRICTATIME,
)
from supervisor.spec import ContainerSpec, Tmpfs, Volume

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
_OWN_FILES = ("/etc/hosts", "/etc/hostname")
_FLAGS = MS_NOSUID | MS_NODEV
_ATTRIBUTES = {
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
    "noatime": MOUNT_ATTR_NOATIME,
    "relatime": MOUNT_ATTR_RELATIME,
    "nodiratime": MOUNT_ATTR_NODIRATIME,
    "nosymfollow": MOUNT_ATTR_NOSYMFOLLOW,
}


@attrs.frozen
class Var:
    """A value that each replica has of its own."""

    name: str


Step = tuple[Any, ...]
Steps = list[Step]
Attach = Callable[[int, Volume], Step]


class Root:
    """What both kinds of root have in common."""

    stash = ""
    """Where the sources lie that replicas need, once the host is out of sight."""

    def __init__(self, spec: ContainerSpec, host: HostFacts, made: set[str]) -> None:
        self.spec = spec
        self.host = host
        self.made = made
        self.user = makes_user_namespace(spec, host)
        self.overlay = "lowerdir={},upperdir={},workdir={}" + (",userxattr" if self.user else "")

    def base(self, *names: str) -> Steps:
        """A tmpfs with some directories, over the stage: the mount namespace's root to be."""
        stage = self.host.stage
        return [
            ("mount", "none", "/", "", MS_REC | MS_PRIVATE, ""),
            ("mount", "tmpfs", stage, "tmpfs", _FLAGS, "mode=755,size=1m"),
            *(("mkdir", f"{stage}/{name}", 0o755) for name in names),
            ("open_root", stage),
        ]

    def bind(self, source: str, target: str, attributes: int = 0, cleared: int = 0) -> Steps:
        opened = ("open_tree", "tree", source, attributes, cleared, 1)
        return [opened, ("move_mount", "tree", target)]

    def dev(self, path: str) -> Steps:
        options = "mode=755,size=64k"
        steps: Steps = [("mount", "tmpfs", path, "tmpfs", MS_NOSUID | MS_STRICTATIME, options)]
        for name, major, minor in _NODES:
            if self.user:  # mknod(2) is refused in a user namespace: the host's own nodes are bound
                steps += [("write", f"{path}/{name}", "")]
                steps += [("mount", f"/dev/{name}", f"{path}/{name}", "", MS_BIND, "")]
            else:
                steps += [("mknod", f"{path}/{name}", major, minor)]
        steps += [("symlink", target, f"{path}/{name}") for target, name in _LINKS]
        steps += [("mkdir", f"{path}/{name}", 0o755) for name in ("pts", "shm", "mqueue")]
        return [*steps, ("write", f"{path}/console", "")]

    def seal(self, path: str) -> Step:
        """Replicas share it: what one writes there would be the others' too."""
        return ("mount_setattr", path, MOUNT_ATTR_RDONLY, int(path == "/dev"))

    def sources(self) -> Steps:
        """Bind what replicas need of the host to the stash."""
        steps: Steps = []
        # A user namespace may mount proc and sysfs only where full ones are to be seen, and where it
        # owns the pid or network namespace; else the host's are bound.
        if self.user:
            steps += self.bind("/proc", f"{self.stash}/proc")
            steps += self.bind("/sys", f"{self.stash}/sys", MOUNT_ATTR_RDONLY)
        if "ipc" not in self.made:
            steps += self.bind("/dev/shm", f"{self.stash}/shm")
        for number, volume in enumerate(self.spec.volumes):
            source = f"{self.stash}/volume{number}"
            steps += self.bind(volume.source, source, *attributes(volume))
        return steps

    def kernel_mounts(self, call: str) -> Steps:
        """Fresh file systems of the kernel, mounted by `call`; the host's where it has to be."""
        ptmx = "newinstance,ptmxmode=0666,mode=0620"
        ptmx += ",gid=5" if self.host.gids.maps(5) or not self.user else ""
        mounts = [
            ("proc", "/proc", _FLAGS | MS_NOEXEC, "", "pid"),
            ("sysfs", "/sys", _FLAGS | MS_NOEXEC | MS_RDONLY, "", "net"),
            ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, ptmx, "mnt"),
            ("mqueue", "/dev/mqueue", _FLAGS | MS_NOEXEC, "", "ipc"),
        ]
        steps: Steps = []
        for fstype, target, flags, data, owner in mounts:
            if owner in self.made or not self.user:
                steps += [(call, fstype, target, fstype, flags, data)]
            elif owner != "ipc":  # /dev/mqueue stays empty
                steps += [("move_below", f"{self.stash}{target}", target)]
        return [*steps, *self.shared_memory(call)]

    def shared_memory(self, call: str) -> Steps:
        if "ipc" not in self.made:
            return [("move_below", f"{self.stash}/shm", "/dev/shm")]
        return [(call, "tmpfs", "/dev/shm", "tmpfs", _FLAGS | MS_NOEXEC, "mode=1777,size=64m")]

    def user_mounts(self, attach: Attach) -> Steps:
        """Volumes and tmpfs, the outer before the inner."""
        mounts: list[tuple[str, Step]] = []
        for tmpfs in self.spec.tmpfs:
            data = f"mode={tmpfs.mode:o},size={tmpfs.effective_size}"
            call = ("mount_below", "tmpfs", tmpfs.target, "tmpfs", _FLAGS, data)
            mounts += [(tmpfs.target, call)]
        for number, volume in enumerate(self.spec.volumes):
            mounts += [(volume.target, attach(number, volume))]
        return [step for _, step in sorted(mounts, key=lambda pair: pair[0].count("/"))]

    def mount_points(self, made_before: Callable[[str], bool]) -> Steps:
        """Targets in what replicas share must be made before that is sealed."""
        mounts: list[tuple[Tmpfs | Volume, str]] = [(tmpfs, "") for tmpfs in self.spec.tmpfs]
        mounts += [(v, f"{self.stash}/volume{n}") for n, v in enumerate(self.spec.volumes)]
        targets = [mount.target for mount, _ in mounts]
        return [
            ("make_target", mount.target, like)
            for mount, like in mounts
            if made_before(mount.target) and not any(_below(mount.target, other) for other in targets)
        ]

    def identity(self) -> Steps:
        return identity(self.spec, self.made)


class HostRoot(Root):
    """The host's userland, read-only, shared by all replicas."""

    stash = "/run"

    def shared(self) -> Steps:
        stage = self.host.stage
        names = ("etc", "proc", "sys", "dev", "mnt", "opt", "srv", "media")
        steps = self.base(*names, *(name for name, _ in _PRIVATE))
        for name, target in self.host.userland:
            steps += self.userland(name, target)
        steps += [("mount", "tmpfs", f"{stage}/run", "tmpfs", _FLAGS, "mode=700,size=64k")]
        steps += [*self.etc(), *self.dev(f"{stage}/dev"), *self.sources()]
        steps += [("pivot_root", stage), ("open_root", "/")]
        steps += self.mount_points(_on_shared_root)
        return [*steps, *(self.seal(path) for path in ("/", "/etc", "/dev"))]

    def userland(self, name: str, target: str) -> Steps:
        if target:
            return [("symlink", target, f"{self.host.stage}/{name}")]
        return self.bind(f"/{name}", f"/{name}", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV)

    def etc(self) -> Steps:
        """All containers share /etc: where mount points have to be made in it, above it."""
        steps = self.bind(f"{self.host.skeleton}/etc", "/etc", MOUNT_ATTR_RDONLY)
        targets = [v.target for v in self.spec.volumes] + [t.target for t in self.spec.tmpfs]
        if any(_below(target, "/etc") and target not in _OWN_FILES for target in targets):
            upper, work = (f"{self.host.stage}/run/{name}" for name in ("upper", "work"))
            steps += [("mkdir", upper, 0o755), ("mkdir", work, 0o755)]
            # Relative to the mount point: a path of the host would have to be quoted.
            data = self.overlay.format(".", "../run/upper", "../run/work")
            steps += [("mount_below", "overlay", "/etc", "overlay", _FLAGS, data)]
        for tree in self.host.trees:
            steps += self.bind(f"/etc/{tree}", f"/etc/{tree}", MOUNT_ATTR_RDONLY)
        return steps

    def own(self) -> Steps:
        steps: Steps = [("open_root", "/"), *self.kernel_mounts("mount")]
        steps += [
            ("open_tree", f"volume{number}", f"/run/volume{number}", 0, 0, 1)
            for number, _ in enumerate(self.spec.volumes)
        ]
        steps += [("umount2", "/run", MNT_DETACH)]
        for name, mode in _PRIVATE:
            steps += [("mount", "tmpfs", f"/{name}", "tmpfs", _FLAGS, f"mode={mode}")]
        steps += [("mkdir", f"/var/{name}", mode) for name, mode in _VAR]
        steps += [("symlink", "/run", "/var/run"), ("mkdir", "/run/sup", 0o755)]
        steps += [("mkdir", "/run/lock", 0o1777)]
        steps += [("write", "/run/sup/hostname", Var("hostname_file"))]
        steps += [("write", "/run/sup/hosts", Var("hosts_file"))]
        return [*steps, *self.user_mounts(_from_descriptor), *self.identity()]


class DirectoryRoot(Root):
    """An overlay above a directory, or the directory itself."""

    def shared(self) -> Steps:
        stage, rootfs = self.host.stage, self.spec.rootfs
        steps = self.base("dev", "layer", "root")
        if rootfs.writable:
            steps += self.bind(rootfs.path, "/root", MOUNT_ATTR_NODEV)
        else:
            # An overlay sees one file system only, not what is mounted below the directory.
            steps += [("open_tree", "tree", rootfs.path, MOUNT_ATTR_RDONLY, 0, 0)]
            steps += [("move_mount", "tree", "/lower")]
        if layered_on_disk(self.spec, self.host):
            steps += self.bind(self.host.layers, "/layers")
        steps += self.bind(f"{self.host.skeleton}/etc", "/etc", MOUNT_ATTR_RDONLY)
        steps += [*self.dev(f"{stage}/dev"), *self.sources()]
        steps += [("pivot_root", stage), ("open_root", "/")]
        steps += self.mount_points(lambda target: _below(target, "/dev"))
        return [*steps, self.seal("/dev")]

    def own(self) -> Steps:
        steps = [*self.layer(), ("open_root", "/root"), ("move_below", "/dev", "/dev")]
        steps += self.kernel_mounts("mount_below")
        steps += [("write", "/layer/hostname", Var("hostname_file"))]
        steps += [("write", "/layer/hosts", Var("hosts_file"))]
        for path in ("/layer/hostname", "/layer/hosts", "/etc/resolv.conf"):
            name = path.rpartition("/")[2]
            steps += [("open_tree", "tree", path, 0, 0, 0), ("move_mount", "tree", f"/etc/{name}")]
        steps += self.user_mounts(_from_base)
        return [*steps, ("pivot_root", "/root"), *self.identity()]

    def layer(self) -> Steps:
        """What the replica writes to: an overlay's upper layer, and its own files for /etc."""
        if layered_on_disk(self.spec, self.host):
            steps: Steps = [("mount", Var("layer"), "/layer", "", MS_BIND, "")]
        else:
            steps = [("mount", "tmpfs", "/layer", "tmpfs", _FLAGS, "mode=755")]
        if self.spec.rootfs.writable:
            return steps
        data = self.overlay.format("/lower", "/layer/upper", "/layer/work")
        steps += [("mkdir", f"/layer/{name}", 0o755) for name in ("upper", "work")]
        return [*steps, ("mount", "overlay", "/root", "overlay", MS_NODEV, data)]


def makes_user_namespace(spec: ContainerSpec, host: HostFacts) -> bool:
    """Whether the container has a user namespace of its own."""
    return not host.root or "user" in spec.unshare


def layered_on_disk(spec: ContainerSpec, host: HostFacts) -> bool:
    """Whether a replica's upper layer is a directory of the host."""
    overlaid = bool(spec.rootfs.path) and not spec.rootfs.writable
    return overlaid and bool(host.layers) and makes_user_namespace(spec, host)


def identity(spec: ContainerSpec, made: set[str]) -> Steps:
    """What a container without a mount namespace of its own does too."""
    steps: Steps = []
    if "uts" in made:
        steps.append(("sethostname", Var("hostname")))
    if "net" in made:
        steps.append(("interface_up", "lo"))
    return steps + [("sysctl", key, value) for key, value in spec.sysctls]


def attributes(volume: Volume) -> tuple[int, int]:
    """What mount_setattr(2) sets and clears for a volume; of the access times only one can hold."""
    chosen = MOUNT_ATTR_RDONLY if volume.read_only else 0
    for option in volume.options:
        chosen |= _ATTRIBUTES[option]
    return chosen, MOUNT_ATTR__ATIME if {"noatime", "relatime"} & {*volume.options} else 0


def _from_descriptor(number: int, volume: Volume) -> Step:
    return ("move_mount", f"volume{number}", volume.target)


def _from_base(number: int, volume: Volume) -> Step:
    return ("move_below", f"/volume{number}", volume.target)


def _below(path: str, directory: str) -> bool:
    return path.startswith(f"{directory}/")


def _on_shared_root(target: str) -> bool:
    """Not on what replicas mount themselves: private tmpfs, and the kernel's file systems."""
    names = (*(name for name, _ in _PRIVATE), "proc", "sys")
    return target not in _OWN_FILES and target.split("/")[1] not in names
