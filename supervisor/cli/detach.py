"""The keys that leave a console: found in what is typed, without swallowing what is something else."""

from __future__ import annotations

from ..errors import SpecError

WITHIN = 1.0
"""Seconds from the first key of the sequence to its last."""
DEFAULT = b"\x1d\x1d\x1d"

_CTRL = {chr(code + 0x60): code for code in range(1, 27)} | {
    "@": 0,
    "[": 0x1B,
    "\\": 0x1C,
    "]": 0x1D,
    "^": 0x1E,
    "_": 0x1F,
}


def parse(notation: str) -> bytes:
    """Keys in docker's notation: `ctrl-p,ctrl-q`, `a,b`, `ctrl-]`. Raises SpecError."""
    return bytes(_key(notation, part) for part in notation.split(","))


def _key(notation: str, part: str) -> int:
    if len(part) == 1 and 0x20 <= ord(part) < 0x7F:
        return ord(part)
    if part.lower().startswith("ctrl-") and part[5:].lower() in _CTRL:
        return _CTRL[part[5:].lower()]
    raise SpecError(
        "detach-keys",
        notation,
        "give keys with commas between: a letter, or ctrl- and a-z @ [ \\ ] ^ _",
    )


class Detector:
    """Holds back what may be the beginning of the sequence, until it is, cannot be, or is late."""

    def __init__(self, sequence: bytes = DEFAULT, within: float = WITHIN) -> None:
        self._sequence = sequence
        self._within = within
        self._held = bytearray()
        self._times: list[float] = []

    def feed(self, data: bytes, now: float) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the sequence is complete: the rest is dropped then."""
        passed = bytearray(self.expire(now))
        for key in data:
            self._held.append(key)
            self._times.append(now)
            while not self._sequence.startswith(self._held):
                passed += self._release()
            if len(self._held) == len(self._sequence):
                self._held.clear()
                self._times.clear()
                return bytes(passed), True
        return bytes(passed), False

    def expire(self, now: float) -> bytes:
        """What was held for too long, to be passed on."""
        passed = bytearray()
        while self._held and (
            now - self._times[0] >= self._within or not self._sequence.startswith(self._held)
        ):
            passed += self._release()
        return bytes(passed)

    def _release(self) -> bytes:
        self._times.pop(0)
        return bytes([self._held.pop(0)])

    @property
    def deadline(self) -> float | None:
        """When `expire` will have something to say."""
        return self._times[0] + self._within if self._times else None
