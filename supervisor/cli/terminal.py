"""The caller's terminal: raw while a console is on it, and as it was before in every case.

Facts: raw mode belongs to the terminal, not to us: it outlives us unless taken back (termios(3)).
A program that is cut off on the alternate screen, with the cursor hidden or the mouse reported, leaves
the terminal so: what it switched on is remembered, to be switched off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import termios
import tty
from collections.abc import Iterator

_MODE = re.compile(rb"\x1b\[\?([0-9;]{1,40})([hl])")
_TAIL = 48
# Alternate screens, mouse reports, focus events, bracketed paste, application cursor keys.
_WATCHED = frozenset(
    {b"1", b"9", b"47", b"1000", b"1002", b"1003", b"1004", b"1005", b"1006", b"1015", b"1047"}
    | {b"1049", b"2004"}
)
_CURSOR = b"25"


def is_terminal(fd: int) -> bool:
    return os.isatty(fd)


def size(fd: int) -> tuple[int, int]:
    """Rows and columns; (0, 0) where there is no terminal or it does not say."""
    try:
        packed = fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return 0, 0
    rows, cols, _, _ = struct.unpack("4H", packed)
    return rows, cols


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Raw mode, and the modes of before at the end, whatever the end is."""
    before = termios.tcgetattr(fd)
    try:
        make_raw(fd)
        yield
    finally:
        with contextlib.suppress(termios.error):  # it may have been hung up
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def make_raw(fd: int) -> None:
    """Every key is ours. Raises termios.error."""
    tty.setraw(fd, termios.TCSADRAIN)


class Modes:
    """What a console's output has switched on in the terminal that shows it."""

    def __init__(self) -> None:
        self._on: set[bytes] = set()
        self._cursor_hidden = False
        self._keypad = False
        self._tail = b""
        self._written = False

    def watch(self, data: bytes) -> None:
        """Look at output; a sequence may be cut anywhere."""
        self._written = self._written or bool(data)
        text = self._tail + data
        start = len(self._tail)
        if b"\x1b" in text:
            for match in _MODE.finditer(text):
                # What lay whole in the tail has been counted already.
                if match.end() > start:
                    self._switch(match[1].split(b";"), match[2] == b"h")
            self._watch_keypad(text)
        self._tail = text[-_TAIL:]

    def _switch(self, numbers: list[bytes], on: bool) -> None:
        for number in numbers:
            if number == _CURSOR:
                self._cursor_hidden = not on
            elif number in _WATCHED:
                (self._on.add if on else self._on.discard)(number)

    def _watch_keypad(self, text: bytes) -> None:
        on, off = text.rfind(b"\x1b="), text.rfind(b"\x1b>")
        if on != off:
            self._keypad = on > off

    def undo(self) -> bytes:
        """What gives the terminal back: only what is needed, as each may be seen."""
        if not self._written:
            return b""
        parts = [b"\x1b[?%bl" % number for number in sorted(self._on)]
        if self._cursor_hidden:
            parts.append(b"\x1b[?25h")
        if self._keypad:
            parts.append(b"\x1b>")
        return b"".join(parts) + b"\x1b[0m"
