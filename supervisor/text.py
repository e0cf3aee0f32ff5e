"""Text for people: making untrusted strings visible, tables, and the short forms of numbers.

Standard library only. The parsers accept what the formatters print, and raise ValueError otherwise.
"""

from __future__ import annotations

import math
import re
import signal
import unicodedata
from collections.abc import Sequence

# Controls, format characters (bidi overrides among them), surrogates, line separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?\s*([kmgtpe]?)(i?b?)", re.I | re.A)
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|us|µs|s|m|h|d|w)", re.ASCII)
_PLAIN = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?", re.ASCII)
_REALTIME = re.compile(r"RTM(IN|AX)(?:([+-])([0-9]{1,2}))?", re.ASCII)
_SECONDS = {
    "w": 604800.0,
    "d": 86400.0,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
}

_WHOLE = (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1))


def escape(text: str, keep: str = "") -> str:
    r"""`text` with everything a terminal might act on, or hide, written as `\x1b`, `\u202e`…

    A byte that was not UTF-8 (surrogateescape) is shown as that byte. Characters of `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char in keep else _visible(char) for char in text)


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _UNSAFE:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Left-aligned columns, two spaces apart, every cell escaped; each line ends with a newline."""
    lines = [[escape(cell) for cell in row] for row in ([header, *rows] if header else rows)]
    count = max((len(line) for line in lines), default=0)
    widths = [max(width(line[i]) for line in lines if i < len(line)) for i in range(count)]
    return "".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(cells))
    return "  ".join(padded).rstrip() + "\n"


def size(count: int) -> str:
    """`count` bytes in binary units: 512B, 1.5KiB, 64MiB."""
    if abs(count) < 1024:
        return f"{count}B"
    value, unit = float(count), ""
    for unit in "KMGTPE":
        value /= 1024
        if abs(value) < 1023.95 or unit == "E":
            break
    return f"{value:.1f}".removesuffix(".0") + f"{unit}iB"


def duration(seconds: float) -> str:
    """The two leading units of a time: 350ms, 1.5s, 1m30s, 2h5m, 3d4h."""
    if not math.isfinite(seconds):
        return "forever" if seconds > 0 else "-"
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f}us" if seconds else "0s"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    return _whole(round(seconds))


def _whole(seconds: int) -> str:
    for unit, below, length, part in _WHOLE:
        if seconds >= length:
            rest = seconds % length // part
            return f"{seconds // length}{unit}" + (f"{rest}{below}" if rest else "")
    return f"{seconds}s"


def parse_size(text: str) -> int:
    """Bytes from `512`, `64m`, `1.5GiB`; a unit is binary, as everywhere in docker."""
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[4].lower().startswith("i") and not match[3]):
        raise ValueError("a size is a number of bytes, or one with a unit: 512, 64m, 1.5GiB")
    unit = 1 << 10 * "_kmgtpe".index(match[3].lower() or "_")
    fraction = match[2] or ""
    return int(match[1] + fraction) * unit // int("1" + "0" * len(fraction))


def parse_duration(text: str) -> float:
    """Seconds from `10`, `2.5`, `350ms`, `1m30s`."""
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return float(text)
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError("a time is a number of seconds, or one with units: 10, 2.5, 350ms, 1m30s")
    return sum(float(part[1]) * _SECONDS[part[2]] for part in parts)


def parse_signal(text: str) -> int:
    """The number of a signal from `TERM`, `SIGTERM`, `15` or `RTMIN+1`."""
    name = text.strip().upper().removeprefix("SIG")
    number = 0
    if name.isascii() and name.isdigit() and len(name) <= 3:
        number = int(name)
    elif match := _REALTIME.fullmatch(name):
        base = signal.SIGRTMIN if match[1] == "IN" else signal.SIGRTMAX
        offset = int(match[3] or 0)
        number = base - offset if match[2] == "-" else base + offset
        number = number if number >= signal.SIGRTMIN else 0
    elif named := signal.Signals.__members__.get(f"SIG{name}"):
        number = int(named)
    if not 1 <= number <= signal.SIGRTMAX:
        raise ValueError("a signal is a name or a number: TERM, SIGTERM, 15, RTMIN+1")
    return number
