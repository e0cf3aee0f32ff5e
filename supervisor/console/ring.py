"""The last part of a console's output in memory: a byte ring with absolute offsets.

Offsets count every byte ever appended, so a cursor never has to be adjusted when the ring wraps.
"""

from __future__ import annotations

from bisect import bisect_right

DEFAULT_SIZE = 256 * 1024


class Ring:
    """Keeps the newest `size` bytes; memory grows with what was written, up to `size`."""

    __slots__ = ("_buffer", "end", "size")

    def __init__(self, size: int = DEFAULT_SIZE) -> None:
        if size < 1:
            raise ValueError(f"a ring of {size} bytes cannot hold anything")
        self.size = size
        self.end = 0
        self._buffer = bytearray()

    @property
    def start(self) -> int:
        """The offset of the oldest byte that is still here."""
        return max(0, self.end - self.size)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add `data`, forgetting the oldest bytes where there is no room."""
        surplus = len(data) - self.size
        if surplus > 0:
            self.end += surplus
            data = data[surplus:]
        position = self.end % self.size
        first = self.size - position
        if len(data) <= first:
            self._put(position, data)
        else:
            self._put(position, data[:first])
            self._put(0, data[first:])
        self.end += len(data)

    def _put(self, position: int, data: bytes | bytearray | memoryview) -> None:
        gap = position - len(self._buffer)
        if gap > 0:
            self._buffer.extend(bytes(gap))
        self._buffer[position : position + len(data)] = data

    def read(self, cursor: int, limit: int) -> tuple[int, bytes]:
        """How many bytes after `cursor` are gone, and up to `limit` bytes that follow those."""
        lost = max(0, self.start - cursor)
        count = max(0, min(limit, self.end - cursor - lost))
        position = (cursor + lost) % self.size
        with memoryview(self._buffer) as view:
            data = bytes(view[position : position + count])
            if position + count > self.size:
                data += view[: position + count - self.size]
        return lost, data


class Kinds:
    """Which stretch of a ring came from which stream."""

    __slots__ = ("_names", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._names: list[str] = []

    def add(self, offset: int, kind: str) -> None:
        """What is appended from `offset` on is of `kind`."""
        if not self._names or self._names[-1] != kind:
            self._starts.append(offset)
            self._names.append(kind)

    def at(self, offset: int, end: int) -> tuple[str, int]:
        """The kind of the byte at `offset`, and where its stretch ends (`end` for the last one)."""
        index = bisect_right(self._starts, offset)
        return self._names[index - 1], self._starts[index] if index < len(self._starts) else end

    def forget(self, start: int) -> None:
        """Drop the stretches that end before `start`."""
        dead = bisect_right(self._starts, start) - 1
        if dead > 64 and dead * 2 > len(self._starts):
            del self._starts[:dead], self._names[:dead]
