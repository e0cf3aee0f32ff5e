"""Names of keys, as tmux's send-keys has them, to the bytes that a terminal sends for them."""

from __future__ import annotations

import re

from ..errors import SpecError

_NAMED = {
    "Enter": "\r",
    "Tab": "\t",
    "BTab": "\x1b[Z",
    "Escape": "\x1b",
    "Esc": "\x1b",
    "Space": " ",
    "BSpace": "\x7f",
    "Backspace": "\x7f",
    "Up": "\x1b[A",
    "Down": "\x1b[B",
    "Right": "\x1b[C",
    "Left": "\x1b[D",
    "Home": "\x1b[H",
    "End": "\x1b[F",
    "Insert": "\x1b[2~",
    "Delete": "\x1b[3~",
    "PageUp": "\x1b[5~",
    "PageDown": "\x1b[6~",
    **{f"F{number}": f"\x1bO{letter}" for number, letter in enumerate("PQRS", 1)},
    **{
        f"F{number}": f"\x1b[{code}~"
        for number, code in zip(range(5, 13), (15, 17, 18, 19, 20, 21, 23, 24), strict=True)
    },
}
_BY_LOWER = {name.lower(): text for name, text in _NAMED.items()}
_CTRL = re.compile(r"(?:C-|ctrl-|\^)([a-zA-Z@\[\\\]^_?])")


def encode(name: str) -> bytes:
    """The bytes of one key: `C-c`, `M-x`, `Enter`, `Up`, `F5`, or a character. Raises SpecError."""
    if name[:2] in ("M-", "m-") and len(name) > 2:
        return b"\x1b" + encode(name[2:])
    if match := _CTRL.fullmatch(name):
        return b"\x7f" if match[1] == "?" else bytes([ord(match[1].upper()) & 0x1F])
    if name.lower() in _BY_LOWER:
        return _BY_LOWER[name.lower()].encode()
    if len(name) == 1:
        return name.encode(errors="surrogateescape")
    raise SpecError("key", name, f"give C-x, M-x, a character or one of {', '.join(_NAMED)}")
