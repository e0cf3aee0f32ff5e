"""What a plan needs to know of the host, read once: who we are, the userland, its /etc.

The default root file system is the host's own userland, read-only. Its /etc is a skeleton that sup
keeps below its run-time directory: only what programs need, nothing secret. All containers share it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat

import attrs

from supervisor import idmap
from supervisor.errors import SupError
from supervisor.idmap import IdMap
from supervisor.linux import caps
from supervisor.linux.libc import prctl
from supervisor.paths import Paths

_USERLAND = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FILES = (
    "adjtime bash.bashrc ca-certificates.conf debian_version environment gai.conf host.conf inputrc "
    "issue ld.so.cache ld.so.conf localtime locale.alias login.defs magic mime.types nanorc networks "
    "nsswitch.conf os-release profile protocols resolv.conf rpc services shells timezone wgetrc"
).split()
# Hundreds of links, all public: bound where nothing in them is private, as copying takes long.
_BOUND = ("alternatives", "ssl/certs")
_TREES = (
    "ld.so.conf.d",
    "profile.d",
    "terminfo",
    "ssl/openssl.cnf",
    "vim",
    "python3",
    "python3.11",
    "perl",
    "pki/tls/certs",
)


@attrs.frozen
class HostFacts:
    """uid and gid of the supervisor; the userland: (name, link target or "" for a directory);
    `trees` of /etc that are the host's own, not copies in the skeleton;
    `layers` is where ordinary users' overlays keep what is written to them: "" is in memory."""

    uid: int
    gid: int
    userland: tuple[tuple[str, str], ...]
    capabilities: int
    stage: str
    skeleton: str
    trees: tuple[str, ...]
    hostname: str
    layers: str
    uids: IdMap
    gids: IdMap

    @property
    def root(self) -> bool:
        return self.uid == 0

    @property
    def ids(self) -> tuple[IdMap, IdMap]:
        return self.uids, self.gids

    @property
    def has_ranges(self) -> bool:
        """Whether a user namespace has more than the one id that it can map by itself."""
        return not self.uids.single


def gather(paths: Paths) -> HostFacts:
    """Look at the host. No privilege needed."""
    uids, gids = idmap.find(os.geteuid(), os.getegid())
    return HostFacts(
        uid=os.geteuid(),
        gid=os.getegid(),
        uids=uids,
        gids=gids,
        hostname=os.uname().nodename,
        layers="" if _tmpfs_takes_attributes() else paths.layers,
        userland=tuple(_userland()),
        capabilities=_bounding(),
        stage=paths.stage,
        skeleton=paths.skeleton,
        trees=tuple(name for name in _BOUND if _public(os.path.join("/etc", name))),
    )


def _public(directory: str) -> bool:
    """Whether others may read all of a tree."""
    try:
        if not os.stat(directory).st_mode & stat.S_IROTH:
            return False
        with os.scandir(directory) as entries:
            return all(
                _public(entry.path)
                if entry.is_dir(follow_symlinks=False)
                else entry.is_symlink() or entry.stat().st_mode & stat.S_IROTH
                for entry in entries
            )
    except OSError:
        return False


def _tmpfs_takes_attributes() -> bool:
    """A user's overlay marks directories by user.* attributes, which a tmpfs has since Linux 6.6."""
    memfd = os.memfd_create("sup", os.MFD_CLOEXEC)
    try:
        os.setxattr(memfd, "user.sup", b"y")
    except OSError:
        return False
    finally:
        os.close(memfd)
    return True


def _userland() -> list[tuple[str, str]]:
    found = []
    for name in _USERLAND:
        path = "/" + name
        if os.path.islink(path):
            found.append((name, os.readlink(path)))
        elif os.path.isdir(path):
            found.append((name, ""))
    return found


def _bounding() -> int:
    held = 0
    for number in range(len(caps.NAMES)):
        try:
            held |= prctl(caps.PR_CAPBSET_READ, number) << number
        except OSError:
            break
    return held


def check_rootfs(path: str) -> None:
    """Refuse a directory that cannot be a root. Raises SupError."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SupError(
            f"rootfs {path!a} cannot be used: {reason}", remedy="give a directory that you can read"
        ) from None


def build_skeleton(paths: Paths) -> None:
    """Make the shared /etc anew. Raises OSError, also where a copy does not fit."""
    shutil.rmtree(paths.skeleton, ignore_errors=True)
    etc = os.path.join(paths.skeleton, "etc")
    os.makedirs(etc, 0o755)
    os.makedirs(paths.stage, 0o700, exist_ok=True)
    for name in (*_FILES, *_TREES, *_BOUND):
        source, target = os.path.join("/etc", name), os.path.join(etc, name)
        if name in _BOUND and _public(source):
            os.makedirs(target, 0o755)
        else:
            _copy(source, target)
    resolver = os.path.join(etc, "resolv.conf")
    if not os.path.isfile(resolver):
        _write(resolver, "")
    _write(os.path.join(etc, "passwd"), _accounts("/etc/passwd", 7))
    _write(os.path.join(etc, "group"), _accounts("/etc/group", 4))
    for name in ("hostname", "hosts"):
        os.symlink(f"../run/sup/{name}", os.path.join(etc, name))
    os.symlink("../proc/self/mounts", os.path.join(etc, "mtab"))
    for directory, _, _ in os.walk(paths.skeleton):
        os.chmod(directory, 0o755)


def _copy(source: str, target: str) -> None:
    """A file, link or tree that others may read; what is missing or private is left out."""
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    try:
        mode = os.stat(source).st_mode
        if stat.S_ISDIR(mode):
            shutil.copytree(source, target, symlinks=True, ignore=_private)
        elif mode & stat.S_IROTH:
            follow = source.endswith("resolv.conf")  # often a link into /run, which is not there
            shutil.copy(source, target, follow_symlinks=follow)
    except shutil.Error:
        return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise


def _private(directory: str, names: list[str]) -> list[str]:
    paths = [(name, os.path.join(directory, name)) for name in names]
    return [
        name
        for name, path in paths
        if not os.path.islink(path) and not os.stat(path).st_mode & stat.S_IROTH
    ]


def _accounts(path: str, fields: int) -> str:
    """The host's system accounts (ids below 1000, and nobody), passwords left out."""
    kept = []
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.rstrip("\n").split(":") for line in file]
    except OSError:
        rows = [["root", "x", "0", "0", "root", "/root", "/bin/sh"][:fields]]
    for row in rows:
        if len(row) == fields and row[2].isdigit() and (int(row[2]) < 1000 or row[2] == "65534"):
            kept.append(":".join([row[0], "x", *row[2:]]))
    return "\n".join(kept) + "\n"


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.chmod(path, 0o644)
