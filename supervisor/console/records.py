"""The format of a console's log, and reading it.

`console.log` holds the raw bytes. `console.timing` holds fixed records of 24 bytes, little endian:
time in ns since the epoch (u64), absolute offset of the first byte (u64), length (u32), kind (u8),
three bytes of padding. Kinds: 1 out, 2 err, 3 lost (length = bytes that could not be written),
4 resize (length = rows << 16 | columns). Offsets go on over rotations: the first record of a file
says where the file begins. The bytes are written before their record, so a crash between the two
leaves bytes without a record, never the reverse; they count as output.
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import attrs

RAW_NAME = "console.log"
TIMING_NAME = "console.timing"
GENERATIONS = (".1", "")
RECORD = struct.Struct("<QQIBxxx")
KINDS = {"out": 1, "err": 2, "lost": 3, "resize": 4}
NAMES = {number: name for name, number in KINDS.items()}
DATA_KINDS = (KINDS["out"], KINDS["err"])
_BLOCK = 64 * 1024
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@attrs.frozen
class LogRecord:
    """A piece of a console's past. `value`: bytes of a `lost`, rows << 16 | cols of a `resize`."""

    time_ns: int
    kind: str
    offset: int
    data: bytes = b""
    value: int = 0


@attrs.define
class Files:
    """The two open files of a log, and how much of them is known to be consistent."""

    raw: int
    timing: int
    base: int = 0
    raw_size: int = 0
    timing_size: int = 0

    def close(self) -> None:
        for fd in (self.raw, self.timing):
            if fd >= 0:
                os.close(fd)
        self.raw = self.timing = -1

    def roll_back(self) -> None:
        os.ftruncate(self.raw, self.raw_size)
        os.ftruncate(self.timing, self.timing_size)


def open_file(directory: str, name: str, flags: int) -> int:
    fd = os.open(os.path.join(directory, name), flags | _SAFE, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{directory}/{name} is not a regular file")
    return fd


@attrs.frozen
class _Entry:
    time_ns: int
    offset: int
    length: int
    kind: int

    @property
    def end(self) -> int:
        return self.offset + self.length if self.kind in DATA_KINDS else self.offset


@attrs.frozen
class _Generation(Sequence[_Entry]):
    """One pair of files for reading, a sequence of entries; as it was when it was opened."""

    files: Files

    @property
    def end(self) -> int:
        return self.files.base + self.files.raw_size

    def __len__(self) -> int:
        return self.files.timing_size // RECORD.size

    def __getitem__(self, index: int) -> _Entry:  # type: ignore[override]
        return _Entry(*RECORD.unpack(os.pread(self.files.timing, RECORD.size, index * RECORD.size)))

    def entries(self, first: int) -> Iterator[_Entry]:
        """The entries from `first` on, then one for bytes that have none."""
        covered, position = self.files.base, first * RECORD.size
        if first:
            covered = self[first - 1].end
        while position < self.files.timing_size:
            length = min(RECORD.size * 2048, self.files.timing_size - position)
            block = os.pread(self.files.timing, length, position)
            for fields in RECORD.iter_unpack(block[: len(block) - len(block) % RECORD.size]):
                entry = _Entry(*fields)
                covered = max(covered, entry.end)
                yield entry
            position += length
        if covered < self.end:
            modified = os.fstat(self.files.raw).st_mtime_ns
            yield _Entry(modified, covered, self.end - covered, KINDS["out"])

    def first_at(self, start: int) -> int:
        """The index of the first entry that has to do with the bytes from `start` on."""
        first = bisect_left(self, start, key=lambda entry: entry.offset)
        return first - 1 if first and self[first - 1].end > start else first

    def first_since(self, time_ns: int) -> int | None:
        entries = enumerate(self.entries(0))
        return next((index for index, entry in entries if entry.time_ns >= time_ns), None)

    def records(self, first: int, start: int, stop: int) -> Iterator[LogRecord]:
        for entry in self.entries(first):
            if entry.kind in DATA_KINDS:
                yield from self.pieces(entry, start, stop)
            elif entry.kind in NAMES and start <= entry.offset <= stop:
                kind = NAMES[entry.kind]
                yield LogRecord(entry.time_ns, kind, entry.offset, value=entry.length)

    def pieces(self, entry: _Entry, start: int, stop: int) -> Iterator[LogRecord]:
        offset, end = max(entry.offset, start), min(entry.end, stop, self.end)
        while offset < end:
            position = offset - self.files.base
            data = os.pread(self.files.raw, min(end - offset, 4 * _BLOCK), position)
            if not data:
                return
            yield LogRecord(entry.time_ns, NAMES[entry.kind], offset, data)
            offset += len(data)


@contextmanager
def generations(directory: str, suffixes: Sequence[str] = GENERATIONS) -> Iterator[list[_Generation]]:
    """The generations of a log that exist, oldest first, open until the block is left."""
    found: list[_Generation] = []
    with ExitStack() as stack:
        for suffix in suffixes:
            with suppress(OSError):
                base = found[-1].end if found else 0
                found.append(_open_generation(stack, directory, suffix, base))
        yield found


def _open_generation(stack: ExitStack, directory: str, suffix: str, base: int) -> _Generation:
    raw, raw_size = _open_part(stack, directory, RAW_NAME + suffix)
    timing, size = _open_part(stack, directory, TIMING_NAME + suffix)
    files = Files(raw, timing, base, raw_size, size - size % RECORD.size)
    if files.timing_size:
        files.base = _Generation(files)[0].offset
    return _Generation(files)


def _open_part(stack: ExitStack, directory: str, name: str) -> tuple[int, int]:
    """A file and its size. One of two may be missing: a rotation can be cut short."""
    try:
        fd = open_file(directory, name, os.O_RDONLY)
    except FileNotFoundError:
        return -1, 0
    stack.callback(os.close, fd)
    return fd, os.fstat(fd).st_size


def read_log(directory: str, *, start: int = 0, stop: int | None = None) -> Iterator[LogRecord]:
    """What the log holds from offset `start` up to `stop` or its present end, in order."""
    with generations(directory) as kept:
        for generation in kept:
            end = generation.end
            yield from generation.records(
                generation.first_at(start), start, end if stop is None else min(stop, end)
            )


def tail(directory: str, lines: int) -> Iterator[LogRecord]:
    """The records of the last `lines` lines; the first is cut at its line's start."""
    return read_log(directory, start=tail_offset(directory, lines))


def since(directory: str, time_ns: int) -> Iterator[LogRecord]:
    """The records from the first one on that is not older than `time_ns`."""
    found = False
    with generations(directory) as kept:
        for generation in kept:
            first = 0 if found else generation.first_since(time_ns)
            if first is not None:
                found = True
                yield from generation.records(first, 0, generation.end)


def tail_offset(directory: str, lines: int) -> int:
    """The offset at which the last `lines` lines begin."""
    with generations(directory) as kept:
        missing = lines
        for number, generation in enumerate(reversed(kept)):
            if lines <= 0:
                return generation.end
            if number == 0 and _ends_line(generation):
                missing += 1
            missing, offset = _newline_back(generation, missing)
            if not missing:
                return offset
        return kept[0].files.base if kept else 0


def _ends_line(generation: _Generation) -> bool:
    size = generation.files.raw_size
    return size > 0 and os.pread(generation.files.raw, 1, size - 1) == b"\n"


def _newline_back(generation: _Generation, missing: int) -> tuple[int, int]:
    """Go back over `missing` newlines: how many were not found, and the offset after the last."""
    position = generation.files.raw_size
    while position > 0:
        length = min(_BLOCK, position)
        position -= length
        block = os.pread(generation.files.raw, length, position)
        count = block.count(b"\n")
        if count < missing:
            missing -= count
            continue
        at = len(block)
        for _ in range(missing):
            at = block.rfind(b"\n", 0, at)
        return 0, generation.files.base + position + at + 1
    return missing, generation.files.base
