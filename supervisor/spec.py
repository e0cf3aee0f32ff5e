"""What a user asks for: `ContainerSpec`, validated once, when it is made.

Every field takes docker's notation (a string) or the structured value, and raises SpecError naming
the field, the value and the remedy. A spec that exists is consistent; nothing checks it again.
"""

from __future__ import annotations

import difflib
import json
import posixpath
import re
import resource as _resource
import shlex
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeGuard

import attrs

from . import text
from .errors import SpecError

NAME_MAX: Final = 64
STRING_MAX: Final = 131071
"""Bytes of one argument or variable: MAX_ARG_STRLEN without its NUL; execve(2)."""
SPEC_MAX: Final = 1 << 20
SECONDS_MAX: Final = 1e9
TMPFS_SIZE: Final = 64 << 20

NAMESPACES: Final = frozenset({"mnt", "uts", "ipc", "net", "pid", "cgroup"})
"""Namespaces that a container has of its own unless shared."""
EXTRA_NAMESPACES: Final = frozenset({"time", "user"})
"""Namespaces that it has when asked for."""
VOLUME_OPTIONS: Final = frozenset(
    {"nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "nosymfollow"}
)
RLIMITS: Final[Mapping[str, int]] = {
    name[7:].lower(): getattr(_resource, name)
    for name in sorted(dir(_resource))
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}

_NAME = re.compile(r"[a-zA-Z0-9_+-][a-zA-Z0-9_+.-]*")
_HOSTNAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*")
_ACCOUNT = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}\$?")
_NUMBER = re.compile(r"[0-9]{1,10}")
_RLIMIT = re.compile(r"[0-9]{1,19}|-1|unlimited")
_ID_MAX = 4294967294
_SYSCTL = re.compile(r"[a-z0-9_]+(?:\.[a-zA-Z0-9_-]+)+")
_SYSCTL_IPC = re.compile(
    r"fs\.mqueue\..+|kernel\.(?:msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)"
)


def check_name(name: object) -> str:
    """`name` if it may name a container or a fleet."""
    if isinstance(name, str) and len(name) <= NAME_MAX and _NAME.fullmatch(name):
        return name
    raise _bad("name", name, f"use up to {NAME_MAX} of a-z A-Z 0-9 _ + - and, after the first, '.'")


# The checks that all fields are made of


_bad = SpecError


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _bad(field, value, "give a string")
    if "\0" in value:
        raise _bad(field, value, "remove the NUL byte")
    try:
        length = len(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise _bad(field, value, "remove the lone surrogate: it stands for no byte") from None
    if length > STRING_MAX:
        raise _bad(field, value, f"it has {length} bytes where the kernel takes {STRING_MAX}")
    return value


def _scalar(field: str, value: object) -> str:
    if _is_int(value) and abs(value) < 1 << 64:
        return str(value)
    if not isinstance(value, str):
        raise _bad(field, value, "give a string, or put the value in quotes")
    return _text(field, value)


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _absolute(field: str, value: object) -> str:
    path = _text(field, value)
    if not path.startswith("/"):
        raise _bad(field, value, "give an absolute path")
    return path


def _mount_point(field: str, value: object) -> str:
    path = _absolute(field, value)
    if ".." in path.split("/"):
        raise _bad(field, value, "give a target without '..'")
    path = "/" + posixpath.normpath(path).lstrip("/")
    if path == "/":
        raise _bad(field, value, "the target may not be '/': use rootfs")
    return path


def _flag(field: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise _bad(field, value, "give true or false")


def _items(field: str, value: object) -> list[object]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    raise _bad(field, value, "give a string or a list")


def _keyed(field: str, value: Mapping[Any, Any], known: Iterable[str]) -> dict[str, Any]:
    """`value` as keyword arguments, if it has no keys but `known` ones."""
    for key in value:
        if key not in known:
            raise _bad(f"{field} key", key, nearest(key, known))
    return dict(value)


def nearest(key: object, known: Iterable[str]) -> str:
    """The remedy for a word that is not among `known`."""
    names = sorted(known)
    near = difflib.get_close_matches(key[:80], names, 2) if isinstance(key, str) else []
    return f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(names)}"


def _pairs(field: str, value: object) -> tuple[tuple[str, str], ...]:
    """Keys and values in order; of a key that comes twice, the last value counts."""
    items = value.items() if isinstance(value, Mapping) else _items(field, value)
    return tuple(dict(_pair(field, item) for item in items).items())


def _pair(field: str, item: object) -> tuple[str, str]:
    if isinstance(item, str) and "=" in item:
        key, _, given = item.partition("=")
        return _key(field, key), _text(field, given)
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return _key(field, item[0]), _scalar(field, item[1])
    raise _bad(field, item, "write KEY=VALUE")


def _key(field: str, key: object) -> str:
    name = _text(field, key)
    if not name or "=" in name:
        raise _bad(field, key, "a key is not empty and holds no '='")
    return name


def _seconds(field: str, value: object) -> float:
    if isinstance(value, str):
        try:
            value = text.parse_duration(value)
        except ValueError as error:
            raise _bad(field, value, str(error)) from None
    if not (isinstance(value, float) or _is_int(value)):
        raise _bad(field, value, "give seconds, or a time such as '1m30s'")
    if not 0 <= value <= SECONDS_MAX:  # neither is NaN
        raise _bad(field, value, f"give 0 to {SECONDS_MAX:.0f} seconds")
    return float(value)


def _whole(field: str, value: object, low: int, high: int) -> int:
    if _is_int(value) and low <= value <= high:
        return int(value)
    raise _bad(field, value, f"give a whole number from {low} to {high}")


# Structured values


def _volume_target(value: object) -> str:
    return _mount_point("volumes", value)


def _tmpfs_target(value: object) -> str:
    return _mount_point("tmpfs", value)


def _volume_options(value: object) -> tuple[str, ...]:
    options = _items("volumes options", value)
    for option in options:
        if not isinstance(option, str) or option not in VOLUME_OPTIONS:
            raise _bad("volumes options", option, nearest(option, VOLUME_OPTIONS | {"ro", "rw"}))
    if {"noatime", "relatime"} <= set(options):
        raise _bad("volumes options", options, "choose noatime or relatime")
    return tuple(sorted({str(option) for option in options}))


def _size(field: str, value: object) -> int:
    if isinstance(value, str):
        try:
            value = text.parse_size(value)
        except ValueError as error:
            raise _bad(field, value, str(error)) from None
    return _whole(field, value, 0, (1 << 63) - 1)


def _tmpfs_size(value: object) -> int:
    return _size("tmpfs size", value)


def _tmpfs_mode(value: object) -> int:
    if isinstance(value, str):
        if not re.fullmatch("(?:0o)?[0-7]{1,5}", value):
            raise _bad("tmpfs mode", value, "give an octal mode such as '1777'")
        value = int(value, 8)
    return _whole("tmpfs mode", value, 0, 0o7777)


@attrs.frozen
class Rootfs:
    """The tree that becomes /; path "" is the host's own."""

    path: str = ""
    writable: bool = False

    def __attrs_post_init__(self) -> None:
        _flag("rootfs writable", self.writable)
        if self.path != "":
            _absolute("rootfs", self.path)
        elif self.writable:
            raise _bad("rootfs", "host:rw", "the host's tree is never writable: bind a volume")

    @staticmethod
    def parse(notation: str) -> Rootfs:
        """From `host`, `DIR` or `DIR:rw`."""
        path, _, mode = notation.rpartition(":")
        if not path or mode not in ("rw", "ro"):
            path, mode = notation, "ro"
        if not path:
            raise _bad("rootfs", notation, "give 'host', DIR or DIR:rw")
        return Rootfs("" if path == "host" else path, mode == "rw")


@attrs.frozen
class Volume:
    """A directory or file of the host at a place in the container."""

    source: str
    target: str = attrs.field(converter=_volume_target)
    read_only: bool = False
    options: tuple[str, ...] = attrs.field(default=(), converter=_volume_options)

    def __attrs_post_init__(self) -> None:
        _absolute("volumes", self.source)
        _flag("volumes read_only", self.read_only)

    @staticmethod
    def parse(notation: str) -> Volume:
        """From `SRC:DST[:OPTION,...]`; a path with a colon needs the structured form."""
        parts = notation.split(":")
        if len(parts) not in (2, 3):
            raise _bad("volumes", notation, "write SRC:DST or SRC:DST:OPTIONS")
        options = [option for option in "".join(parts[2:]).split(",") if option]
        return Volume.make(parts[0], parts[1], False, options)

    @staticmethod
    def make(source: str, target: str, read_only: bool = False, options: object = ()) -> Volume:
        """A volume of which `ro` and `rw` may be among the options."""
        given = _items("volumes options", options)
        if "rw" in given and ("ro" in given or read_only):
            raise _bad("volumes options", given, "choose ro or rw")
        others = [option for option in given if option not in ("ro", "rw")]
        return Volume(source, target, read_only or "ro" in given, _volume_options(others))


@attrs.frozen
class Tmpfs:
    """A file system in memory; size 0 is the default of 64 MiB."""

    target: str = attrs.field(converter=_tmpfs_target)
    size: int = attrs.field(default=0, converter=_tmpfs_size)
    mode: int = attrs.field(default=0o1777, converter=_tmpfs_mode)

    @property
    def effective_size(self) -> int:
        return self.size or TMPFS_SIZE

    @staticmethod
    def parse(notation: str) -> Tmpfs:
        """From `DST[:size=64m,mode=1777]`."""
        target, _, rest = notation.partition(":")
        options = dict(_pair("tmpfs", option) for option in rest.split(",") if option)
        return Tmpfs(target, **_keyed("tmpfs", options, ("size", "mode")))


@attrs.frozen
class Ulimit:
    """A resource limit; -1 is unlimited."""

    name: str
    resource: int
    soft: int
    hard: int

    def __attrs_post_init__(self) -> None:
        if RLIMITS.get(self.name) != self.resource:
            raise _bad("ulimits", self.name, nearest(self.name, RLIMITS))
        if self.hard != -1 and (self.soft == -1 or self.soft > self.hard):
            raise _bad("ulimits", self.name, f"the soft limit exceeds the hard one, {self.hard}")

    @staticmethod
    def make(name: object, soft: object, hard: object) -> Ulimit:
        """The limit called `name`, as in ulimit -a: nofile, core, nproc…"""
        if not isinstance(name, str) or name not in RLIMITS:
            raise _bad("ulimits", name, nearest(name, RLIMITS))
        return Ulimit(name, RLIMITS[name], _limit(name, soft), _limit(name, hard))

    @staticmethod
    def parse(notation: str) -> Ulimit:
        """From `NAME=SOFT[:HARD]`."""
        name, given, value = notation.partition("=")
        soft, both, hard = value.partition(":")
        if not given:
            raise _bad("ulimits", notation, "write NAME=SOFT or NAME=SOFT:HARD")
        return Ulimit.make(name, soft, hard if both else soft)


def _limit(name: str, value: object) -> int:
    if isinstance(value, str) and _RLIMIT.fullmatch(value):
        value = -1 if value == "unlimited" else int(value)
    if _is_int(value) and -1 <= value < 1 << 63:
        return int(value)
    raise _bad(f"ulimits {name}", value, "give a number, or 'unlimited'")


# One converter a field


def _command(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = shlex.split(_text("command", value))
        except ValueError as error:
            raise _bad("command", value, f"{error}: write it as a list") from None
    command = tuple(_text("command", item) for item in _items("command", value))
    if command and not command[0]:
        raise _bad("command", command, "the first word names the program")
    return command


def _hostname(value: object) -> str:
    hostname = _text("hostname", value)
    shown = hostname.replace("{n}", "10000")
    if hostname and not (_HOSTNAME.fullmatch(shown) and len(shown) <= 64):
        raise _bad("hostname", value, "use up to 64 of a-z A-Z 0-9 _ - '.', and {n} for the number")
    return hostname


def _env(value: object) -> tuple[tuple[str, str], ...]:
    pairs = _pairs("env", value)
    for key, given in pairs:
        _text("env", f"{key}={given}")
    return pairs


def _workdir(value: object) -> str:
    return "" if value == "" else _absolute("workdir", value)


def _user(value: object) -> str:
    user = _scalar("user", value)
    if user and not all(_account(part) for part in user.split(":", 1)):
        raise _bad("user", value, f"give UID, NAME, UID:GID or NAME:GROUP, numbers to {_ID_MAX}")
    return user


def _account(part: str) -> bool:
    if _NUMBER.fullmatch(part):
        return int(part) <= _ID_MAX
    return bool(_ACCOUNT.fullmatch(part))


def _structured(field: str, value: object, cls: type[Any], make: Callable[..., Any]) -> Any:
    """`value` as a `cls`, from itself, its notation, or a mapping of its fields."""
    if isinstance(value, cls):
        return value
    if isinstance(value, str):
        return cls.parse(_text(field, value))
    if not isinstance(value, Mapping):
        raise _bad(field, value, "give a string or a table")
    arguments = _keyed(field, value, [a.name for a in attrs.fields(cls)])
    try:
        return make(**arguments)
    except TypeError:
        raise _bad(field, arguments, "a key is missing or of the wrong type") from None


def _rootfs(value: object) -> Rootfs:
    result: Rootfs = _structured("rootfs", value, Rootfs, Rootfs)
    return result


def _volumes(value: object) -> tuple[Volume, ...]:
    items = [value] if isinstance(value, Mapping) else _items("volumes", value)
    return tuple(_structured("volumes", item, Volume, Volume.make) for item in items)


def _tmpfs(value: object) -> tuple[Tmpfs, ...]:
    items = [value] if isinstance(value, Mapping) else _items("tmpfs", value)
    return tuple(_structured("tmpfs", item, Tmpfs, Tmpfs) for item in items)


def _ulimits(value: object) -> tuple[Ulimit, ...]:
    if isinstance(value, Mapping):
        pairs = value.items()
        items: list[object] = [f"{name}={_scalar('ulimits', limit)}" for name, limit in pairs]
    else:
        items = _items("ulimits", value)
    limits = [_structured("ulimits", item, Ulimit, _ulimit) for item in items]
    return tuple({limit.name: limit for limit in limits}.values())


def _ulimit(name: object, soft: object, hard: object, resource: object = None) -> Ulimit:
    return Ulimit.make(name, soft, hard)


def _chosen(field: str, value: object, known: frozenset[str]) -> frozenset[str]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    for item in (items := _items(field, value)):
        if not isinstance(item, str) or item not in known:
            raise _bad(field, item, nearest(item, known))
    return frozenset(str(item) for item in items)


def _share(value: object) -> frozenset[str]:
    return _chosen("share", value, NAMESPACES)


def _unshare(value: object) -> frozenset[str]:
    return _chosen("unshare", value, EXTRA_NAMESPACES)


def _tty(value: object) -> bool:
    return _flag("tty", value)


def _stdin(value: object) -> bool:
    return _flag("stdin", value)


def _init(value: object) -> bool:
    return _flag("init", value)


def _stop_signal(value: object) -> int:
    if isinstance(value, str) and value != "0":
        try:
            return text.parse_signal(value)
        except ValueError as error:
            raise _bad("stop_signal", value, str(error)) from None
    return _whole("stop_signal", 0 if value == "0" else value, 0, signal.SIGRTMAX)


def _stop_timeout(value: object) -> float:
    return _seconds("stop_timeout", value)


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    seconds = _seconds("timeout", value)
    if not seconds:
        raise _bad("timeout", value, "give more than 0 seconds, or leave it out")
    return seconds


def _log_max(value: object) -> int:
    return _size("log_max", value)


def _labels(value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, (str, list, tuple)):
        items = _items("labels", value)
        value = [f"{i}=" if isinstance(i, str) and "=" not in i else i for i in items]
    return _pairs("labels", value)


def _sysctls(value: object) -> tuple[tuple[str, str], ...]:
    pairs = _pairs("sysctls", value)
    for key, given in pairs:
        if not _SYSCTL.fullmatch(key) or not sysctl_namespace(key):
            raise _bad("sysctls", key, _SYSCTL_REMEDY)
        if "\n" in given or len(given) > 4096:
            raise _bad(f"sysctls {key}", given, "give one line of up to 4096 characters")
    return pairs


_SYSCTL_REMEDY = (
    "only namespaced ones can be set: net.*, fs.mqueue.*, kernel.domainname, kernel.msg*,"
    " kernel.sem, kernel.shm*"
)


def sysctl_namespace(key: str) -> str:
    """The namespace that holds the sysctl `key`; "" when it is the whole host's, or hostname."""
    if key.startswith("net."):
        return "net"
    if _SYSCTL_IPC.fullmatch(key):
        return "ipc"
    return "uts" if key == "kernel.domainname" else ""


@attrs.frozen(kw_only=True)
class ContainerSpec:
    """One container, as asked for; a fleet is one spec and a number."""

    command: tuple[str, ...] = attrs.field(default=(), converter=_command)
    """() is the user's login shell."""
    hostname: str = attrs.field(default="", converter=_hostname)
    """"" is the container's name; {n} is its number in the fleet."""
    env: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_env)
    workdir: str = attrs.field(default="", converter=_workdir)
    user: str = attrs.field(default="", converter=_user)
    rootfs: Rootfs = attrs.field(default=Rootfs(), converter=_rootfs)
    volumes: tuple[Volume, ...] = attrs.field(default=(), converter=_volumes)
    tmpfs: tuple[Tmpfs, ...] = attrs.field(default=(), converter=_tmpfs)
    share: frozenset[str] = attrs.field(default=frozenset(), converter=_share)
    unshare: frozenset[str] = attrs.field(default=frozenset(), converter=_unshare)
    tty: bool = attrs.field(default=True, converter=_tty)
    stdin: bool = attrs.field(default=False, converter=_stdin)
    init: bool = attrs.field(default=True, converter=_init)
    stop_signal: int = attrs.field(default=0, converter=_stop_signal)
    stop_timeout: float = attrs.field(default=10.0, converter=_stop_timeout)
    labels: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_labels)
    ulimits: tuple[Ulimit, ...] = attrs.field(default=(), converter=_ulimits)
    sysctls: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_sysctls)
    timeout: float | None = attrs.field(default=None, converter=_timeout)
    log_max: int = attrs.field(default=0, converter=_log_max)
    """Bytes of output that are kept at most, the newest; 0 keeps all."""

    def __attrs_post_init__(self) -> None:
        self._check_shared()
        self._check_mount_points()
        self._check_weight()

    def _check_shared(self) -> None:
        if "mnt" in self.share:
            for field in ("volumes", "tmpfs"):
                if getattr(self, field):
                    raise _bad(field, "", "it would be mounted on the host: do not share mnt")
            if path := self.rootfs.path:
                raise _bad("rootfs", path, "it needs mounts of its own: do not share mnt")
        if "uts" in self.share and self.hostname:
            raise _bad("hostname", self.hostname, "it would be the host's: do not share uts")
        for key, _ in self.sysctls:
            if (namespace := sysctl_namespace(key)) in self.share:
                raise _bad("sysctls", key, f"it would be the host's: do not share {namespace}")

    def _check_mount_points(self) -> None:
        seen: set[str] = set()
        for field, mounts in (("volumes", self.volumes), ("tmpfs", self.tmpfs)):
            for mount in mounts:
                if mount.target in seen:
                    raise _bad(field, mount.target, "mount one thing at a place")
                seen.add(mount.target)

    def _check_weight(self) -> None:
        encoded = json.dumps(self.to_mapping(), ensure_ascii=False)
        weight = len(encoded.encode("utf-8", "surrogateescape"))
        if weight > SPEC_MAX:
            raise _bad("spec", f"of {weight} bytes", f"keep it below {SPEC_MAX}")

    @property
    def effective_stop_signal(self) -> int:
        """SIGTERM unless said otherwise; login shells ignore that, and end at SIGHUP."""
        return self.stop_signal or int(signal.SIGTERM if self.command else signal.SIGHUP)

    @staticmethod
    def from_mapping(data: Mapping[str, object], where: str = "") -> ContainerSpec:
        """A spec from JSON or TOML; errors name the field after `where`."""
        try:
            if not isinstance(data, Mapping):
                raise _bad("spec", data, "give a table of fields")
            known = [a.name for a in attrs.fields(ContainerSpec)]
            for key in data:
                if key not in known:
                    raise _bad("key", key, nearest(key, known))
            return ContainerSpec(**dict(data))
        except SpecError as error:
            if not where:
                raise
            raise SpecError(f"{where} {error.field}", error.value, error.remedy) from None

    def to_mapping(self) -> dict[str, object]:
        """The spec as JSON can carry it; `from_mapping` makes an equal one of it."""
        result: dict[str, object] = attrs.asdict(self, value_serializer=_plain)
        for field in ("env", "labels", "sysctls"):
            result[field] = dict(getattr(self, field))
        return result


def _plain(owner: object, attribute: object, value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else value
