"""The options that `up` and `run` share: each is a field of ContainerSpec, which checks it."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from functools import partial

from ..errors import NotFound, SpecError, SupError

ENV_FILE_MAX = 1 << 20


def add(parser: ArgumentParser) -> None:
    """Everything about a container but its command."""
    group = parser.add_argument_group("the container")
    one = group.add_argument
    many = partial(group.add_argument, action="append", default=[])
    one("--hostname", metavar="NAME", help="host name; {n} becomes the replica's number")
    many("-e", "--env", metavar="KEY[=VALUE]", help="a variable; without a value, the caller's")
    many("--env-file", metavar="FILE", help="variables from a file, one a line")
    one("-w", "--workdir", metavar="DIR", help="start in this directory")
    one("-u", "--user", metavar="USER[:GROUP]", help="run as this user, by name or number")
    one("--rootfs", metavar="DIR[:rw]", help="root file system; default: host, read-only")
    many("-v", "--volume", metavar="SRC:DST[:ro,...]", help="mount a directory or file of the host")
    many("--tmpfs", metavar="DST[:size=SIZE,mode=MODE]", help="mount an empty file system in memory")
    many("--share", metavar="NS[,NS...]", help="leave out namespaces: mnt uts ipc net pid cgroup")
    many("--unshare", metavar="NS[,NS...]", help="add namespaces: time user")
    one("--no-tty", action="store_true", help="pipes instead of a terminal")
    one("--no-init", action="store_true", help="make the command process 1")
    one("--stop-signal", metavar="SIGNAL", help="what asks it to stop; default TERM")
    one("--stop-timeout", metavar="DURATION", help="how long it may take to stop; default 10s")
    many("--label", metavar="KEY=VALUE", help="a label, for `sup ps --filter`")
    many("--ulimit", metavar="NAME=SOFT[:HARD]", help="a resource limit, such as nofile=1024:2048")
    many("--sysctl", metavar="KEY=VALUE", help="a kernel parameter of one of its namespaces")
    one("--log-max", metavar="SIZE", help="bytes of output to keep, such as 64m; default all")
    one("--timeout", metavar="DURATION", help="end the container after this time")


def spec(args: Namespace, *, tty: bool, stdin: bool) -> dict[str, object]:
    """The fields that were given, as the supervisor takes them. Raises SupError."""
    fields: dict[str, object] = {
        "command": args.command,
        "env": environment(args.env, args.env_file),
        "volumes": [_volume(notation) for notation in args.volume],
        "tmpfs": args.tmpfs,
        "share": _names(args.share),
        "unshare": _names(args.unshare),
        "labels": args.label,
        "ulimits": args.ulimit,
        "sysctls": args.sysctl,
        "rootfs": _rootfs(args.rootfs) if args.rootfs is not None else None,
        "tty": tty,
        "stdin": stdin,
        "init": not args.no_init,
    }
    for name in ("hostname", "workdir", "user", "stop_signal", "stop_timeout", "timeout", "log_max"):
        fields[name] = getattr(args, name)
    return {name: value for name, value in fields.items() if value is not None and value != []}


def _names(given: list[str]) -> list[str]:
    return [name.strip() for notation in given for name in notation.split(",") if name.strip()]


def _volume(notation: str) -> str:
    """The supervisor's directory is not ours: a relative source is below ours."""
    source, colon, rest = notation.partition(":")
    return f"{os.path.abspath(source)}{colon}{rest}" if source else notation


def _rootfs(notation: str) -> str:
    if notation in ("", "host") or notation.startswith(("/", "host:")):
        return notation
    return os.path.join(os.getcwd(), notation)


def environment(given: list[str], files: list[str]) -> list[str]:
    """KEY=VALUE of files, then of options; a KEY alone takes the caller's value, if there is one."""
    lines = [line for path in files for line in _lines(path)]
    found = []
    for item in [*lines, *given]:
        key, equals, _ = item.partition("=")
        if key and equals:
            found.append(item)
        elif not key:
            raise SpecError("env", item, "write KEY=VALUE, or KEY to take the caller's value")
        elif key in os.environ:
            found.append(f"{key}={os.environ[key]}")
    return found


def _lines(path: str) -> list[str]:
    text = read_file(path, ENV_FILE_MAX)
    lines = [line.strip("\r") for line in text.split("\n")]
    return [line.lstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_file(path: str, most: int) -> str:
    """A file of at most `most` bytes; bytes that are no UTF-8 come through. "-" is stdin."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path!a}") from None
    except OSError as error:
        raise SupError(f"cannot read {path!a}: {error.strerror}") from None
    if len(data) > most:
        raise SupError(f"{path!a} is larger than {most} bytes", remedy="make it smaller")
    return os.fsdecode(data)
