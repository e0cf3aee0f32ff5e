"""The kernel steps that a plan is made of, each named after its system call.

A step is a list `[call, argument, ...]` of strings and integers; an argument `{"$": NAME}` stands
for a value of the replica. Descriptors that one step opens for a later one lie in `State.held`.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Callable
from typing import Any

from supervisor.linux import caps, libc, mount, net
from supervisor.shim import protocol
from supervisor.shim.users import User

Step = list[Any]
_MACHINE = os.uname().machine


class StepError(Exception):
    """A step failed: its place in the plan, the step and the kernel's errno."""

    def __init__(self, index: int, step: Step, error: OSError) -> None:
        super().__init__(index, step, error)
        self.index = index
        self.step = step
        self.errno = error.errno or errno.EIO


class State:
    """What the steps of one process share."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values
        self.held: dict[str, int] = {}
        self.user: User | None = None
        self.env: dict[str, str] = {}
        self.report: socket.socket | None = None

    def value(self, argument: Any) -> Any:
        return self.values[argument["$"]] if isinstance(argument, dict) else argument

    def root(self) -> int:
        return self.held["root"]


def run(state: State, steps: list[Step], first: int = 0) -> None:
    """Execute steps in order. Raises StepError at the first that fails."""
    for index, (call, *arguments) in enumerate(steps, first):
        values = [state.value(argument) for argument in arguments]
        try:
            _CALLS[call](state, *values)
        except OSError as error:
            raise StepError(index, [call, *values], error) from error


def _mount(state: State, source: str, target: str, fstype: str, flags: int, data: str) -> None:
    arguments = [os.fsencode(text) for text in (source, target, fstype)]
    libc.mount(arguments[0], arguments[1], arguments[2], flags, os.fsencode(data))


def _umount2(state: State, target: str, flags: int) -> None:
    libc.umount2(os.fsencode(target), flags)


def _mkdir(state: State, path: str, mode: int) -> None:
    os.mkdir(path, mode)
    if mode & 0o7022:  # what the umask took away
        os.chmod(path, mode)


def _mknod(state: State, path: str, major: int, minor: int) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    os.chmod(path, 0o666)


def _symlink(state: State, target: str, path: str) -> None:
    os.symlink(target, path)


def _write(state: State, path: str, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, os.fsencode(text))
    finally:
        os.close(fd)


def _sysctl(state: State, key: str, text: str) -> None:
    fd = os.open("/proc/sys/" + key.replace(".", "/"), os.O_WRONLY | os.O_CLOEXEC)
    try:
        if libc.fstatfs_type(fd) != mount.PROC_SUPER_MAGIC:
            raise OSError(errno.EXDEV, "not of a proc file system", key)
        os.write(fd, os.fsencode(text))
    finally:
        os.close(fd)


def _open_root(state: State, path: str) -> None:
    state.held["root"] = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _open_tree(
    state: State, name: str, path: str, attributes: int, cleared: int, recursive: int
) -> None:
    tree = mount.open_tree(os.fsencode(path), recursive=bool(recursive))
    state.held[name] = tree
    if attributes or cleared:
        mount.mount_setattr(tree, attributes, cleared, recursive=bool(recursive))


def _move_mount(state: State, name: str, target: str) -> None:
    tree = state.held.pop(name)
    try:
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        _attach(state, target, directory, tree)
    finally:
        os.close(tree)


def _move_below(state: State, source: str, target: str) -> None:
    """Move what is mounted at a path that the container cannot change to one below the root."""
    _attach(state, target, os.path.isdir(source), mount.AT_FDCWD, os.fsencode(source))


def _attach(state: State, target: str, directory: bool, tree: int, source: bytes = b"") -> None:
    where = mount.make_target(state.root(), os.fsencode(target), directory=directory)
    try:
        if stat.S_ISDIR(os.fstat(where).st_mode) != directory:  # the kernel only says EINVAL
            number = errno.ENOTDIR if directory else errno.EISDIR
            raise OSError(number, os.strerror(number), target)
        mount.move_mount(tree, where, source)
    finally:
        os.close(where)


def _mount_below(state: State, source: str, target: str, fstype: str, flags: int, data: str) -> None:
    where = mount.make_target(state.root(), os.fsencode(target), directory=True)
    try:
        os.fchdir(where)  # /proc, and so /proc/self/fd, may not be there yet
        libc.mount(os.fsencode(source), b".", os.fsencode(fstype), flags, os.fsencode(data))
    finally:
        os.chdir("/")
        os.close(where)


def _make_target(state: State, target: str, like: str) -> None:
    """A mount point: a directory, or a file where `like` is one."""
    directory = not like or os.path.isdir(like)
    os.close(mount.make_target(state.root(), os.fsencode(target), directory=directory))


def _mount_setattr(state: State, path: str, attributes: int, recursive: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mount.mount_setattr(fd, attributes, recursive=bool(recursive))
    finally:
        os.close(fd)


def _pivot_root(state: State, path: str) -> None:
    os.chdir(path)
    mount.pivot_root(b".", b".")
    libc.umount2(b".", mount.MNT_DETACH)
    os.chdir("/")


def _idmap(state: State, uid: int, gid: int) -> None:
    """user_namespaces(7): one id, written by oneself, and setgroups given up for it."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _await_idmap(state: State) -> None:
    """Ranges are written by the supervisor, which then says go."""
    assert state.report is not None
    protocol.send(state.report, {"idmap": True})
    if state.report.recv(16) != b"go":
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _sethostname(state: State, name: str) -> None:
    libc.sethostname(os.fsencode(name))


def _interface_up(state: State, name: str) -> None:
    net.interface_up(os.fsencode(name))


def _prlimit(state: State, number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # Python's word for EINVAL and EPERM
        raise OSError(errno.EPERM, str(error)) from error


def _setuser(state: State, wanted: str, set_groups: int) -> None:
    user = state.user = User(wanted)
    if set_groups:
        os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def _cap_bound(state: State, keep: int) -> None:
    caps.drop_bounding(keep)


def _capset(state: State, keep: int) -> None:
    caps.set_sets(_MACHINE, keep)


def _no_new_privs(state: State) -> None:
    libc.prctl(caps.PR_SET_NO_NEW_PRIVS, 1)


def _chdir(state: State, path: str) -> None:
    """By openat2 without magic links: /proc/self/fd/N is no way out."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = mount.open_in_root(root, os.fsencode(path), os.O_PATH | os.O_DIRECTORY)
        os.fchdir(fd)
        os.close(fd)
    finally:
        os.close(root)


def _umask(state: State, mask: int) -> None:
    os.umask(mask)


_CALLS: dict[str, Callable[..., None]] = {
    "mount": _mount,
    "umount2": _umount2,
    "mkdir": _mkdir,
    "mknod": _mknod,
    "symlink": _symlink,
    "write": _write,
    "sysctl": _sysctl,
    "open_root": _open_root,
    "open_tree": _open_tree,
    "move_mount": _move_mount,
    "move_below": _move_below,
    "mount_below": _mount_below,
    "make_target": _make_target,
    "mount_setattr": _mount_setattr,
    "pivot_root": _pivot_root,
    "idmap": _idmap,
    "await_idmap": _await_idmap,
    "sethostname": _sethostname,
    "interface_up": _interface_up,
    "prlimit": _prlimit,
    "setuser": _setuser,
    "cap_bound": _cap_bound,
    "capset": _capset,
    "no_new_privs": _no_new_privs,
    "chdir": _chdir,
    "umask": _umask,
}
CALLS = frozenset(_CALLS)
