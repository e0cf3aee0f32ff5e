"""The command line: a thin client. Each command is a module, loaded only when it is asked for.

A module has `HELP` (one line), `configure(parser)` and `run(args, paths) -> int`. Those that take a
command for the container set `TAKES_COMMAND`; main() splits it off, so that its options stay its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

from ..errors import SupError
from ..paths import Paths
from ..text import escape

GROUPS = (
    ("Launching", ("up", "run")),
    ("Working", ("attach", "exec", "send", "logs")),
    ("Looking", ("ps", "inspect", "events", "wait", "info", "doctor", "version", "completion")),
    ("Ending", ("stop", "kill", "restart", "rm", "down", "shutdown")),
)
COMMANDS = tuple(name for _, names in GROUPS for name in names)
USAGE = 2


class Parser(argparse.ArgumentParser):
    """argparse, with messages that cannot act on the terminal."""

    def error(self, message: str) -> NoReturn:
        command = self.prog
        print(f"{command}: {escape(message)}\nTry `{command} --help`.", file=sys.stderr)
        raise SystemExit(USAGE)


def load(command: str) -> Any:
    """The module of a command; `exec` and the like are no names for a module's user to trip over."""
    return import_module(f".{command}", __name__)


def parser_of(command: str) -> Parser:
    """The parser of one command."""
    module = load(command)
    parser = Parser(
        prog=f"sup {command}",
        description=module.__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    if getattr(module, "TAKES_COMMAND", False):
        parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD [ARG ...]")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run `sup` with `argv` (default: the process's); returns its exit status."""
    try:
        status = _main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except SupError as error:
        return _complain(error)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does: end as if by SIGPIPE, without a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        shown = f" {error.filename!a}" if error.filename else ""
        return _complain(SupError(f"{error.strerror or error}{shown}"))


def _complain(error: SupError) -> int:
    print(f"sup: {escape(str(error))}", file=sys.stderr)
    return error.exit_code


def _main(argv: list[str]) -> int:
    root, rest = _global_options(argv)
    if not rest:
        _print_help()
        return USAGE
    command, *words = rest
    if command in ("-h", "--help", "help"):
        return _help(words)
    if command in ("-V", "--version"):
        command = "version"
    if command not in COMMANDS:
        raise _unknown(command)
    parser = parser_of(command)
    module = load(command)
    if getattr(module, "TAKES_COMMAND", False):
        args = _parse_with_command(parser, words)
    else:
        args = parser.parse_intermixed_args(words)
    args.parser = parser
    return int(module.run(args, Paths.find(root)))


def _global_options(argv: list[str]) -> tuple[str | None, list[str]]:
    """`--root DIR` and what comes behind it; other options belong to commands."""
    root = None
    while argv and (argv[0] == "--root" or argv[0].startswith("--root=")):
        option, given, value = argv[0].partition("=")
        rest = argv[1:]
        if not given:
            if not rest:
                raise _usage(f"{option} needs a directory")
            value, *rest = rest
        if not value:
            raise _usage(f"{option} needs a directory")
        root, argv = value, rest
    return root, argv


def _parse_with_command(parser: Parser, words: list[str]) -> argparse.Namespace:
    """What stands behind `--` is the container's; and so is `--` itself behind its first word."""
    at = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:at])
    behind = words[at + 1 :]
    args.command = [*args.command, *words[at:]] if args.command else behind
    return args


def _usage(message: str) -> SupError:
    error = SupError(message, remedy="see `sup --help`")
    error.exit_code = USAGE
    return error


def _unknown(command: str) -> SupError:
    import difflib

    near = difflib.get_close_matches(command[:40], COMMANDS, 1)
    hint = f"did you mean `sup {near[0]}`?" if near else "see `sup --help`"
    error = SupError(f"there is no command {escape(command[:40])!r}", remedy=hint)
    error.exit_code = USAGE
    return error


def _help(words: list[str]) -> int:
    if words and words[0] in COMMANDS:
        parser_of(words[0]).print_help()
    else:
        _print_help()
    return 0


def _print_help() -> None:
    print(
        "usage: sup [--root DIR] COMMAND [OPTION ...] [ARGUMENT ...]\n\n"
        "Launches fleets of containers and holds a console for every one of them."
    )
    for title, names in GROUPS:
        print(f"\n{title}:")
        for name in names:
            print(f"  {name:<11} {load(name).HELP}")
    print(
        "\n`sup COMMAND --help` explains a command, `man sup` everything."
        "\n--root DIR (or SUP_ROOT) keeps all state and run-time files below DIR."
    )
