"""Docker's notation of limits: each function takes what was given for a field, or raises SpecError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from supervisor import text
from supervisor.errors import SpecError

UNLIMITED: Final = -1
MEMORY_LEAST: Final = 6 << 20
"""docker's, too: below it a container dies of its own start."""
_SIZE_MAX: Final = 1 << 62
_CPU_MAX: Final = 65_535

_LIST = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*", re.ASCII)
_RULE = re.compile(r"([abc]) ([0-9]{1,10}|\*):([0-9]{1,10}|\*) ([rwm]{1,3})", re.ASCII)
_FILE = re.compile(r"[a-z][a-z0-9_]*(?:\.[A-Za-z0-9_-]+)+", re.ASCII)
_OWN = frozenset(
    "cgroup.procs cgroup.threads cgroup.type cgroup.subtree_control cgroup.freeze cgroup.kill "
    "cgroup.event_control cgroup.clone_children freezer.state".split()
)

Rates = tuple[tuple[str, int], ...]


def memory(field: str, value: object, least: int = MEMORY_LEAST) -> int | None:
    if value is None or is_unlimited(value):
        return None if value is None else UNLIMITED
    count = _bytes(field, value)
    if count < least:
        raise SpecError(field, value, f"give at least {text.size(least)}, or unlimited")
    return count


def _bytes(field: str, value: object) -> int:
    count = value
    if isinstance(value, str):
        try:
            count = text.parse_size(value)
        except ValueError as error:
            raise SpecError(field, value, str(error)) from None
    if not isinstance(count, int) or isinstance(count, bool):
        raise SpecError(field, value, "give a number of bytes, or a size such as 64m")
    if not 0 <= count <= _SIZE_MAX:
        raise SpecError(field, value, f"give 0 to {text.size(_SIZE_MAX)}")
    return count


def is_unlimited(value: object) -> bool:
    return value in ("unlimited", "max", "-1") or (
        value == UNLIMITED and isinstance(value, (int, float))
    )


def whole(field: str, value: object, most: int) -> int | None:
    if value is None:
        return None
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value, re.ASCII):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
        raise SpecError(field, value, f"give a whole number from 1 to {most}")
    return number


def cpus(value: object) -> float | None:
    if value is None:
        return None
    if is_unlimited(value):
        return float(UNLIMITED)
    try:
        number = Decimal(str(value)) if isinstance(value, (int, float, str)) else Decimal("nan")
    except InvalidOperation:
        number = Decimal("nan")
    # cpu.max takes no less than a millisecond of quota.
    if isinstance(value, bool) or not number.is_finite() or not Decimal("0.01") <= number <= _CPU_MAX:
        raise SpecError("cpus", value, "give a number of CPUs, at least 0.01, or unlimited")
    return float(number)


def listed(field: str, value: object) -> str | None:
    """The kernel's list format, with something in it."""
    if value is None:
        return None
    given = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(given, str) or not _LIST.fullmatch(given):
        raise SpecError(field, value, "give numbers and ranges, such as 0-3,5")
    numbers(given, field)
    return given


def numbers(text: str, field: str = "list") -> frozenset[int]:
    """The numbers of the kernel's list format, `0-3,5`; empty of an empty one."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise SpecError(field, text, f"write {part} the other way round")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _strings(field: str, value: object) -> list[str]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) for one in given):
        raise SpecError(field, value, "give a string or a list of strings")
    return list(given)


def rates(field: str, value: object) -> Rates:
    found = {}
    for one in _pairs(field, value, ":"):
        device, _, rate = one.rpartition(":")
        if not device.startswith("/") or "\0" in device:
            raise SpecError(field, one, "write it as /dev/NAME:RATE")
        found[device] = _rate(field, one, rate)
    return tuple(sorted(found.items()))


def _pairs(field: str, value: object, sign: str) -> list[str]:
    """A mapping, a list of pairs, or the strings that they are written as."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        value = [sign.join(map(str, one)) if isinstance(one, tuple) else one for one in value]
    return _strings(field, value)


def _rate(field: str, given: str, rate: str) -> int:
    if is_unlimited(rate):
        return UNLIMITED
    parse = text.parse_size if field.endswith("bps") else int
    try:
        count = parse(rate) if len(rate) < 40 and rate.isascii() else 0
    except ValueError:
        count = 0
    if not 1 <= count <= _SIZE_MAX:
        raise SpecError(field, given, "give a rate of at least 1 a second, or unlimited")
    return count


def devices(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    rules = _strings("devices", value)
    for rule in rules:
        if not _RULE.fullmatch(rule):
            raise SpecError("devices", rule, "write a rule as TYPE MAJOR:MINOR ACCESS: c 10:200 rwm")
    return tuple(rules)


def flag(field: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise SpecError(field, value, "give true or false")


def raw(value: object) -> tuple[tuple[str, str], ...]:
    found = []
    for one in _pairs("cgroup", value, "="):
        name, equals, given = one.partition("=")
        if not equals or not given or not given.isprintable() or not _FILE.fullmatch(name):
            raise SpecError("cgroup", one, "write it as FILE=VALUE, such as memory.high=8m")
        if name in _OWN:
            raise SpecError("cgroup", one, f"{name} is sup's to write: leave it out")
        found.append((name, given))
    return tuple(found)
