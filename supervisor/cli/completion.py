"""Print a completion script for a shell, made of the commands and options that there are.

bash: eval "$(sup completion bash)"
zsh:  sup completion zsh >DIR/_sup, with DIR in $fpath
fish: sup completion fish >~/.config/fish/completions/sup.fish"""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from ..paths import Paths

HELP = "print a completion script for bash, zsh or fish"
SHELLS = ("bash", "zsh", "fish")
_FILES = frozenset({"file", "env_file", "rootfs", "volume"})
_SIGNALS = "TERM KILL HUP INT QUIT USR1 USR2 STOP CONT"
_RUNNING = frozenset({"attach", "exec", "send", "stop", "kill"})
_ANY = frozenset({"logs", "inspect", "wait", "restart", "rm", "down"})


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: Namespace, paths: Paths) -> int:
    sys.stdout.write(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The completion script for one of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _options(command: str) -> Iterator[argparse.Action]:
    from . import parser_of

    for action in parser_of(command)._actions:
        if action.option_strings:
            yield action


def _flags(command: str) -> list[str]:
    return [name for action in _options(command) for name in action.option_strings]


def _valued(command: str) -> list[str]:
    """Options that take a value."""
    return [name for action in _options(command) if action.nargs != 0 for name in action.option_strings]


def _names_of(command: str) -> str:
    """Which containers a command's arguments name: a `sup ps` option, "" for none."""
    return "-a" if command in _ANY else ""


_BASH_HEAD = """\
# bash completion for sup; made by `sup completion bash`
_sup_names() {
    sup "${root[@]}" ps $1 --format '{name}' 2>/dev/null
}
_sup() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local command= i word root=() flags= valued= names= shell=
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            --root) root=(--root "${COMP_WORDS[i+1]}"); ((i++)) ;;
            --root=*) root=("$word") ;;
            -*) ;;
            *) command=$word; break ;;
        esac
    done
    for ((; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] && { _sup_rest; return; }
    done
    case $command in
"""
_BASH_TAIL = """\
    esac
    case " $valued " in *" $prev "*)
        case $prev in
            --stop-signal | --signal | -s) COMPREPLY=($(compgen -W "%(signals)s" -- "$cur")) ;;
            --share) COMPREPLY=($(compgen -W "mnt uts ipc net pid cgroup" -- "$cur")) ;;
            --unshare) COMPREPLY=($(compgen -W "time user" -- "$cur")) ;;
            --file | -f | --env-file | --rootfs | --volume | -v) COMPREPLY=($(compgen -f -- "$cur")) ;;
        esac
        return ;;
    esac
    case $cur in
        -*) COMPREPLY=($(compgen -W "$flags" -- "$cur")); return ;;
    esac
    case $names in
        ?*) COMPREPLY=($(compgen -W "$(_sup_names "${names#.}")" -- "$cur")) ;;
        *) COMPREPLY=($(compgen -W "$shell" -- "$cur")) ;;
    esac
}
_sup_rest() {
    COMPREPLY=($(compgen -c -- "$cur"))
}
complete -o default -F _sup sup
"""


def _bash() -> str:
    from . import COMMANDS

    lines = [_BASH_HEAD]
    lines.append(
        '        "") COMPREPLY=($(compgen -W "'
        + " ".join((*COMMANDS, "--root", "--help", "--version"))
        + '" -- "$cur")); return ;;\n'
    )
    for command in COMMANDS:
        parts = [f'flags="{" ".join(_flags(command))}"', f'valued="{" ".join(_valued(command))}"']
        if command in _RUNNING | _ANY:
            parts.append(f"names=.{_names_of(command)}")
        if command == "completion":
            parts.append(f'shell="{" ".join(SHELLS)}"')
        lines.append(f"        {command}) {'; '.join(parts)} ;;\n")
    return "".join(lines) + _BASH_TAIL % {"signals": _SIGNALS}


def _quoted(text: str) -> str:
    """A word in single quotes, as all three shells take it."""
    return "'" + text.replace("'", "") + "'"


def _zsh() -> str:
    from . import COMMANDS, load

    described = "\n".join(f"        {_quoted(f'{name}:{load(name).HELP}')}" for name in COMMANDS)
    cases = "\n".join(f"        {name}) {_zsh_arguments(name)} ;;" for name in COMMANDS)
    return f"""\
#compdef sup
# zsh completion for sup; made by `sup completion zsh`
_sup_names() {{
    local -a names
    names=(${{(f)"$(sup $root ps $1 --format '{{name}}' 2>/dev/null)"}})
    compadd -a names
}}
_sup() {{
    local -a commands root
    local context state line
    commands=(
{described}
    )
    _arguments -C '--root[keep all files below DIR]:directory:_files -/' \\
        '--help[explain]' '--version[print the version]' '1:command:->command' '*::argument:->rest'
    case $state in
        command) _describe command commands; return ;;
    esac
    case $words[1] in
{cases}
    esac
}}
_sup "$@"
"""


def _zsh_arguments(command: str) -> str:
    parts = ["_arguments -s"]
    for action in _options(command):
        text = (action.help or "").replace("[", "(").replace("]", ")").replace(":", ";")
        value = f":{action.dest}:{_zsh_values(action)}" if action.nargs != 0 else ""
        many = "*" if isinstance(action, argparse._AppendAction) else ""
        parts += [_quoted(f"{many}{name}[{text}]{value}") for name in action.option_strings]
    if command in _RUNNING | _ANY:
        parts.append(_quoted(f"*:container:_sup_names {_names_of(command)}".strip()))
    elif command == "completion":
        parts.append(_quoted(f"1:shell:({' '.join(SHELLS)})"))
    else:
        parts.append(_quoted("*::command:_normal"))
    return " ".join(parts)


def _zsh_values(action: argparse.Action) -> str:
    if action.dest in _FILES:
        return "_files"
    return f"({_SIGNALS})" if action.dest in ("signal", "stop_signal") else " "


def _fish() -> str:
    from . import COMMANDS, load

    lines = [
        "# fish completion for sup; made by `sup completion fish`",
        "complete -c sup -f",
        "complete -c sup -n __fish_use_subcommand -l root -r -d 'keep all files below DIR'",
    ]
    for name in COMMANDS:
        about = _quoted(load(name).HELP)
        lines.append(f"complete -c sup -n __fish_use_subcommand -a {name} -d {about}")
    for name in COMMANDS:
        lines += _fish_arguments(name)
    return "\n".join(lines) + "\n"


def _fish_arguments(command: str) -> Iterator[str]:
    seen = f"complete -c sup -n '__fish_seen_subcommand_from {command}'"
    for action in _options(command):
        words = [
            f"-{'l' if name.startswith('--') else 's'} {name.lstrip('-')}"
            for name in action.option_strings
        ]
        takes = " -r" if action.nargs != 0 else ""
        files = " -F" if action.dest in _FILES else ""
        yield f"{seen} {' '.join(words)}{takes}{files} -d {_quoted(action.help or '')}"
    if command in _RUNNING | _ANY:
        listing = f'sup ps {_names_of(command)} --format "{{name}}" 2>/dev/null'
        yield f"{seen} -a '({listing})'"
    if command == "completion":
        yield f"{seen} -a '{' '.join(SHELLS)}'"
