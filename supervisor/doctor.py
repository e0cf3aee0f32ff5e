"""What this host has, what it lacks, what the lack costs and what to do: `sup doctor`.

Standard library only, and no import of its siblings: it runs itself as a script, in a process of
its own, to try what only a real attempt can tell (namespaces, an overlay mount).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pwd
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

KERNEL = (5, 12)
PYTHON = (3, 11)
MACHINES = ("x86_64", "aarch64")

# Numbers are the same on every architecture since Linux 5.1; the size of 0 makes each say EINVAL.
_CALLS = {
    "clone3": (435, (0, 0), "no container can be started"),
    "openat2": (437, (-1, 0, 0, 0), "paths in a rootfs cannot be resolved safely"),
    "mount_setattr": (442, (-1, 0, 0, 0, 0), "mounts cannot be made read-only as a tree"),
}
# CLONE_NEW* of clone(2); user is first, since it gives the right to the others.
_NAMESPACES = {
    "user": 0x10000000,
    "mnt": 0x20000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "cgroup": 0x2000000,
    "time": 0x80,
}
_MS_PRIVATE_REC = 1 << 18 | 1 << 14


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `costs` and `remedy` are empty where it is as it should be."""

    name: str
    ok: bool
    found: str
    costs: str = ""
    remedy: str = ""


def examine() -> list[Finding]:
    """Every finding, in the order to read them."""
    root = os.geteuid() == 0
    findings = [
        kernel(os.uname().release),
        machine(os.uname().machine),
        python(sys.version_info[:3], sys.implementation.name),
        *(system_call(name) for name in _CALLS),
        *attempts(_attempt(), root=root),
        terminals("/proc"),
        open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        *cgroups(_read("/proc/mounts"), _read("/proc/self/cgroup"), root=root),
    ]
    return findings if root else [*findings, id_mappers(), *_own_ranges()]


def _finding(name: str, ok: bool, found: str, costs: str, remedy: str) -> Finding:
    return Finding(name, ok, found) if ok else Finding(name, ok, found, costs, remedy)


def kernel(release: str) -> Finding:
    match = re.match(r"(\d+)\.(\d+)", release, re.ASCII)
    ok = bool(match) and tuple(map(int, match.groups() if match else ())) >= KERNEL
    wanted = ".".join(map(str, KERNEL))
    return _finding("kernel", ok, release, "sup does not run", f"boot Linux {wanted} or newer")


def machine(name: str) -> Finding:
    remedy = f"use one of {', '.join(MACHINES)}"
    return _finding("machine", name in MACHINES, name, "sup is not tested there", remedy)


def python(version: Iterable[int], implementation: str) -> Finding:
    version = tuple(version)
    ok = implementation == "cpython" and version >= PYTHON
    remedy = f"install CPython {'.'.join(map(str, PYTHON))} or newer"
    found = f"{implementation} {'.'.join(map(str, version))}"
    return _finding("python", ok, found, "sup does not run", remedy)


def system_call(name: str) -> Finding:
    number, arguments, costs = _CALLS[name]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    code = ctypes.get_errno()
    ok = code not in (errno.ENOSYS, errno.EPERM)
    remedy = "use a newer kernel, or allow the call in the seccomp profile around sup"
    return _finding(name, ok, "present" if ok else os.strerror(code), costs, remedy)


def attempts(tried: Mapping[str, str], *, root: bool) -> list[Finding]:
    """Findings of the trial process: a name to "" for success, or to the reason of the failure."""
    failed = {name: why for name, why in tried.items() if why}
    found = ", ".join(f"{name}: {why}" for name, why in failed.items() if name != "overlayfs")
    lacking = tried.get("overlayfs", "could not be tried")
    remedy = "run sup with CAP_SYS_ADMIN" if root else _USER_NAMESPACE_REMEDY
    namespaces = _finding(
        "namespaces",
        not found,
        found or ("all" if root else "all, in a user namespace"),
        "containers cannot be isolated by those",
        remedy,
    )
    overlay = _finding(
        "overlayfs",
        not lacking,
        lacking or "present",
        "a rootfs cannot be shared by containers that write to it",
        "load the module overlay" if root else "use Linux 5.11 or newer with the module overlay",
    )
    return [namespaces, overlay]


_USER_NAMESPACE_REMEDY = (
    "allow unprivileged user namespaces: sysctl -w user.max_user_namespaces=10000"
    " kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"
    " (those that exist)"
)


def terminals(proc: str) -> Finding:
    texts = [_read(f"{proc}/sys/kernel/pty/{name}").strip() for name in ("max", "reserve", "nr")]
    if not all(text.isdecimal() for text in texts):
        return Finding("terminals", True, "unknown")
    top, reserve, used = map(int, texts)
    free = max(0, top - reserve - used)
    found = f"{free} free of {top}, {reserve} of them reserved for the host"
    remedy = f"sysctl -w kernel.pty.max={top + 4096}"
    return _finding("terminals", free >= 256, found, f"at most {free} containers with a tty", remedy)


def open_files(hard: int) -> Finding:
    if hard == resource.RLIM_INFINITY:
        return Finding("open files", True, "unlimited")
    costs = f"about {max(0, hard - 64) // 6} containers at most"
    remedy = "raise the hard limit (ulimit -Hn, LimitNOFILE=)"
    return _finding("open files", hard >= 4096, str(hard), costs, remedy)


def cgroups(mounts: str, own: str, *, root: bool) -> list[Finding]:
    """The layout, from /proc/mounts; and for a user whether their own group is theirs to divide."""
    places = [line.split(" ")[1:3] for line in mounts.splitlines() if line.count(" ") >= 2]
    unified = [place for place, kind in places if kind == "cgroup2"]
    legacy = any(kind == "cgroup" for _, kind in places)
    layout = "hybrid" if unified and legacy else "v2" if unified else "v1" if legacy else "none"
    remedy = "mount -t cgroup2 none /sys/fs/cgroup"
    costs = "no limits and no figures"
    findings = [_finding("cgroups", layout != "none", layout, costs, remedy)]
    if unified and not root:
        findings.append(_delegated(unified[0], own))
    return findings


def _delegated(mount: str, own: str) -> Finding:
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    ok = os.access(f"{mount}{path}/cgroup.procs", os.W_OK) and os.access(mount + path, os.W_OK)
    remedy = "run sup by systemd-run --user -p Delegate=yes --scope, or in a session with linger"
    found = path if ok else f"{path} is not writable"
    return _finding("cgroup delegation", ok, found, "no limits for rootless containers", remedy)


def id_mappers() -> Finding:
    missing = [name for name in ("newuidmap", "newgidmap") if not shutil.which(name)]
    found = f"no {' and no '.join(missing)}" if missing else "newuidmap, newgidmap"
    remedy = "install the package uidmap (Debian) or shadow-utils (Fedora)"
    return _finding("id mapping", not missing, found, "containers have one user only", remedy)


def _own_ranges() -> list[Finding]:
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return [id_range(name, _read(f"/etc/{name}"), user, uid) for name in ("subuid", "subgid")]


def id_range(name: str, text: str, user: str, uid: int) -> Finding:
    """The range that /etc/subuid or subgid gives to the user; subuid(5)."""
    count = 0
    for line in text.splitlines():
        owner, *rest = line.strip().split(":")
        if owner in (user, str(uid)) and len(rest) == 2 and all(r.isdecimal() for r in rest):
            count += int(rest[1])
    kind = "--add-subuids" if name == "subuid" else "--add-subgids"
    remedy = f"usermod {kind} 100000-165535 {user}"
    found = f"{count} ids" if count else f"no range in /etc/{name}"
    return _finding(name, count >= 65536, found, "containers have few users of their own", remedy)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


# The trial process


def _attempt() -> dict[str, str]:
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=True
        )
        result: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"trial": str(error)}
    return result


def _trial() -> dict[str, str]:
    """Leave every namespace for a new one and mount an overlay; all of it ends with the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    result = {}
    for name, flag in _NAMESPACES.items():
        if name == "user" and uid == 0:
            continue
        result[name] = "" if libc.unshare(flag) == 0 else os.strerror(ctypes.get_errno())
        if name == "user" and not result[name]:
            result[name] = _map_to_root(uid, gid)
        if name == "user" and result[name]:
            return result
    result["overlayfs"] = result["mnt"] or _overlay(libc, "" if uid == 0 else ",userxattr")
    return result


def _map_to_root(uid: int, gid: int) -> str:
    maps = (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"))
    try:
        for name, line in maps:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(line)
    except OSError as error:
        return f"{name}: {error.strerror}"
    return ""


def _overlay(libc: ctypes.CDLL, options: str) -> str:
    base = "/tmp"  # hidden below a tmpfs, in a mount namespace of our own
    steps: tuple[tuple[bytes, str, bytes, int, str], ...] = (
        (b"none", "/", b"", _MS_PRIVATE_REC, ""),
        (b"none", base, b"tmpfs", 0, "size=64k"),
    )
    for source, target, kind, flags, data in steps:
        if libc.mount(source, target.encode(), kind, ctypes.c_ulong(flags), data.encode()):
            return f"mount {target}: {os.strerror(ctypes.get_errno())}"
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{base}/{name}")
    data = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work{options}"
    merged = f"{base}/merged".encode()
    if libc.mount(b"none", merged, b"overlay", ctypes.c_ulong(0), data.encode()):
        return os.strerror(ctypes.get_errno())
    return ""


if __name__ == "__main__":
    print(json.dumps(_trial()))
