"""Writing a console's output to disk, whatever the disk does. The format is in `records`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress

from supervisor.console.records import (
    DATA_KINDS,
    GENERATIONS,
    KINDS,
    RAW_NAME,
    RECORD,
    TIMING_NAME,
    Files,
    LogRecord,
    generations,
    open_file,
    read_log,
    since,
    tail,
    tail_offset,
)

__all__ = ["ConsoleLog", "LogRecord", "read_log", "since", "tail", "tail_offset"]

_MAX_LENGTH = 2**32 - 1
_Bytes = bytes | bytearray | memoryview


class ConsoleLog:
    """Appends to a log. A full or failing disk raises nothing: bytes are dropped and counted."""

    def __init__(self, directory: str, *, rotate_at: int = 0) -> None:
        """Two generations are kept of a log that reaches `rotate_at` bytes (0 = never rotate)."""
        self.directory = directory
        self.written = 0
        self.dropped = 0
        self._rotate_at = rotate_at
        self._unmarked = 0
        self._size: int | None = None
        self._files: Files | None = None

    @property
    def end(self) -> int:
        """The absolute offset after the last byte on disk."""
        if self._files is not None:
            return self._files.base + self._files.raw_size
        with generations(self.directory) as kept:
            return kept[-1].end if kept else 0

    def append(self, kind: str, chunks: Sequence[_Bytes]) -> None:
        """Write the chunks as one stretch of `kind` ("out" or "err")."""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        # Where it rotates, no stretch is longer than a generation may be.
        most = self._rotate_at or len(data)
        if len(data) <= most:
            self._append(kind, data)
            return
        for at in range(0, len(data), most):
            self._append(kind, data[at : at + most])

    def _append(self, kind: str, data: _Bytes) -> None:
        if not len(data):
            return
        kept = 0
        with suppress(OSError):
            kept = self._write(self._files or self._open(), kind, data)
        self.written += kept
        self.dropped += len(data) - kept
        self._unmarked += len(data) - kept
        if self._rotate_at and self._files and self._files.raw_size >= self._rotate_at:
            self._rotate()

    def resize(self, rows: int, cols: int) -> None:
        """Note the terminal's size; kept in memory until there is a byte to write."""
        self._size = (rows & 0xFFFF) << 16 | (cols & 0xFFFF)
        if self._files is not None:
            self._write_marks(self._files)

    def close(self) -> None:
        """Close the files; a later append opens them again."""
        files, self._files = self._files, None
        if files is not None:
            if self._unmarked:
                self._write_marks(files)
            files.close()

    def _open(self) -> Files:
        with suppress(FileExistsError):
            os.mkdir(self.directory, 0o700)
        raw = open_file(self.directory, RAW_NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            timing = open_file(self.directory, TIMING_NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        except OSError:
            os.close(raw)
            raise
        files = Files(raw, timing)
        try:
            _align(files, self.directory)
        except OSError:
            files.close()
            raise
        self._files = files
        return files

    def _write(self, files: Files, kind: str, data: _Bytes) -> int:
        kept = _write_some(files.raw, data)
        if not kept:
            return 0
        record = RECORD.pack(time.time_ns(), files.base + files.raw_size, kept, KINDS[kind])
        if not self._commit(files, self._marks(files) + record):
            return 0
        files.raw_size += kept
        return kept

    def _marks(self, files: Files) -> bytes:
        now, offset, marks = time.time_ns(), files.base + files.raw_size, b""
        for done in range(0, self._unmarked, _MAX_LENGTH):
            count = min(self._unmarked - done, _MAX_LENGTH)
            marks += RECORD.pack(now, offset, count, KINDS["lost"])
        if self._size is not None:
            marks += RECORD.pack(now, offset, self._size, KINDS["resize"])
        return marks

    def _write_marks(self, files: Files) -> None:
        with suppress(OSError):
            self._commit(files, self._marks(files))

    def _commit(self, files: Files, records: bytes) -> bool:
        """Write the records whole; else take back what they describe, so that both files agree."""
        if _write_some(files.timing, records) == len(records):
            files.timing_size += len(records)
            self._unmarked, self._size = 0, None
            return True
        try:
            files.roll_back()
        except OSError:
            self._files = None
            files.close()
            raise
        return False

    def _rotate(self) -> None:
        self.close()
        with suppress(OSError):
            for name in (TIMING_NAME, RAW_NAME):
                path = os.path.join(self.directory, name)
                os.rename(path, path + GENERATIONS[0])


def _write_some(fd: int, data: _Bytes) -> int:
    """How much of `data` could be written."""
    done = 0
    with suppress(OSError), memoryview(data) as view:
        while done < len(view):
            done += os.write(fd, view[done:])
    return done


def _align(files: Files, directory: str) -> None:
    """Bring the files of an earlier writer, which may have died at any point, into agreement."""
    status = os.fstat(files.raw)
    files.raw_size = status.st_size
    size = os.fstat(files.timing).st_size
    files.timing_size = size - size % RECORD.size
    files.base = _base_of(files, directory)
    limit = files.base + files.raw_size
    covered = _covered(files)
    while covered > limit:
        files.timing_size -= RECORD.size
        covered = _covered(files)
    if files.timing_size != size:
        os.ftruncate(files.timing, files.timing_size)
    while covered < limit:
        length = min(limit - covered, _MAX_LENGTH)
        record = RECORD.pack(status.st_mtime_ns, covered, length, KINDS["out"])
        if _write_some(files.timing, record) != len(record):
            os.ftruncate(files.timing, files.timing_size)
            raise OSError(f"no room for a record in {directory}/{TIMING_NAME}")
        files.timing_size += len(record)
        covered += length


def _base_of(files: Files, directory: str) -> int:
    if files.timing_size:
        return int(RECORD.unpack(os.pread(files.timing, RECORD.size, 0))[1])
    with generations(directory, GENERATIONS[:-1]) as earlier:
        return earlier[-1].end if earlier else 0


def _covered(files: Files) -> int:
    """The offset up to which the records describe the bytes."""
    if not files.timing_size:
        return files.base
    last = os.pread(files.timing, RECORD.size, files.timing_size - RECORD.size)
    _, offset, length, kind = RECORD.unpack(last)
    return int(offset + length if kind in DATA_KINDS else offset)
