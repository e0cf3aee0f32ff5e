"""The log of a console: what was written is read, whatever happened in between."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.console.log import ConsoleLog, LogRecord, read_log, since, tail, tail_offset
from supervisor.console.records import RECORD


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "c")


def write(directory: str, *stretches: tuple[str, bytes]) -> None:
    log = ConsoleLog(directory)
    for kind, data in stretches:
        log.append(kind, [data])
    log.close()


def data(records: Iterator[LogRecord]) -> bytes:
    return b"".join(record.data for record in records)


def brief(records: Iterator[LogRecord]) -> list[tuple[str, int, bytes | int]]:
    return [(record.kind, record.offset, record.data or record.value) for record in records]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_reads_what_was_written(directory: str) -> None:
    log = ConsoleLog(directory)
    log.append("out", [b"one\n", b"two\n"])
    log.append("err", [bytearray(b"oops\n")])
    log.append("out", [])
    log.append("out", [memoryview(b"three\n")])
    log.close()
    assert brief(read_log(directory)) == [
        ("out", 0, b"one\ntwo\n"),
        ("err", 8, b"oops\n"),
        ("out", 13, b"three\n"),
    ]
    assert log.written == log.end == 19
    times = [record.time_ns for record in read_log(directory)]
    assert times == sorted(times)


def test_nothing_is_made_before_the_first_byte(directory: str) -> None:
    log = ConsoleLog(directory)
    log.resize(24, 80)
    log.append("out", [b""])
    log.close()
    assert not os.path.exists(directory)
    assert (list(read_log(directory)), list(tail(directory, 5)), log.end) == ([], [], 0)


def test_only_the_owner_may_read_it(directory: str) -> None:
    previous = os.umask(0)
    try:
        write(directory, ("out", b"x"))
    finally:
        os.umask(previous)
    for name in ("console.log", "console.timing"):
        assert stat.S_IMODE(os.stat(f"{directory}/{name}").st_mode) == 0o600


def test_sizes_are_noted(directory: str) -> None:
    log = ConsoleLog(directory)
    log.resize(24, 80)
    log.append("out", [b"a"])
    log.resize(50, 132)
    log.append("out", [b"b"])
    log.close()
    assert brief(read_log(directory)) == [
        ("resize", 0, 24 << 16 | 80),
        ("out", 0, b"a"),
        ("resize", 1, 50 << 16 | 132),
        ("out", 1, b"b"),
    ]


@pytest.mark.parametrize("name", ["console.log", "console.timing"])
@pytest.mark.parametrize("what", ["link", "fifo"])
def test_does_not_follow_what_lies_in_wait(directory: str, name: str, what: str) -> None:
    os.mkdir(directory)
    target = f"{directory}/../target"
    if what == "link":
        os.symlink(target, f"{directory}/{name}")
    else:
        os.mkfifo(f"{directory}/{name}")
    log = ConsoleLog(directory)
    log.append("out", [b"data"])
    log.close()
    assert (log.written, log.dropped) == (0, 4)
    assert not os.path.exists(target)
    assert list(read_log(directory)) == []


stretches = st.lists(st.tuples(st.sampled_from(["out", "err"]), st.binary(min_size=1, max_size=9)))


@given(stretches, st.integers(0, 100), st.integers(0, 100))
def test_reads_any_range(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, bytes]], start: int, stop: int
) -> None:
    directory = str(tmp_path_factory.mktemp("log") / "c")
    write(directory, *parts)
    whole = b"".join(part for _, part in parts)
    assert data(read_log(directory, start=start)) == whole[start:]
    assert data(read_log(directory, start=start, stop=stop)) == whole[start:stop]
    for record in read_log(directory, start=start):
        assert whole[record.offset :].startswith(record.data)


@given(st.lists(st.binary(max_size=6).map(lambda b: b.replace(b"x", b"\n"))), st.integers(0, 8))
def test_tail_is_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], lines: int
) -> None:
    directory = str(tmp_path_factory.mktemp("log") / "c")
    write(directory, *(("out", part) for part in parts))
    kept = b"".join(parts).split(b"\n")
    ends = kept[-1:] == [b""]
    wanted = kept[max(0, len(kept) - lines - ends) :] if lines else []
    assert data(tail(directory, lines)) == b"\n".join(wanted if wanted != [b""] else [])


def test_tail_over_many_blocks(directory: str) -> None:
    text = b"".join(b"line %d\n" % number for number in range(50_000))
    write(directory, ("out", text))
    assert data(tail(directory, 30_000)).splitlines() == text.splitlines()[-30_000:]


def test_since_a_time(directory: str) -> None:
    log = ConsoleLog(directory)
    for number in range(5):
        log.resize(number, 80)
        log.append("out", [b"%d" % number])
    log.close()
    records = list(read_log(directory))
    for index, record in enumerate(records):
        first = next(i for i, r in enumerate(records) if r.time_ns >= record.time_ns)
        assert list(since(directory, record.time_ns)) == records[first:], index
    assert list(since(directory, records[-1].time_ns + 1)) == []
    assert list(since(directory, 0)) == records


def test_a_restarted_writer_goes_on(directory: str) -> None:
    write(directory, ("out", b"one"))
    write(directory, ("err", b"two"))
    assert brief(read_log(directory)) == [("out", 0, b"one"), ("err", 3, b"two")]


@pytest.mark.parametrize("cut", range(1, 2 * RECORD.size + 1))
def test_torn_records_cost_no_bytes(directory: str, cut: int) -> None:
    write(directory, ("out", b"one"), ("err", b"two"))
    timing = f"{directory}/console.timing"
    os.truncate(timing, os.path.getsize(timing) - cut)
    assert data(read_log(directory)) == b"onetwo"
    write(directory, ("err", b"three"))
    assert data(read_log(directory)) == b"onetwothree"
    assert brief(read_log(directory))[-1] == ("err", 6, b"three")
    assert os.path.getsize(timing) % RECORD.size == 0


@pytest.mark.parametrize("left", range(6))
def test_records_without_bytes_are_dropped(directory: str, left: int) -> None:
    write(directory, ("out", b"one"), ("err", b"two"))
    os.truncate(f"{directory}/console.log", left)
    assert data(read_log(directory)) == b"onetwo"[:left]
    write(directory, ("out", b"!"))
    assert data(read_log(directory)) == b"onetwo"[:left] + b"!"


@pytest.mark.parametrize("size", [*range(0, 100, 7), 1000])
def test_a_full_disk_is_marked_and_survived(directory: str, size: int) -> None:
    log = ConsoleLog(directory)
    log.append("out", [b"before"])
    with file_size_limit(size):
        for _ in range(9):
            log.append("out", [b"x" * 40])
    assert log.written + log.dropped == 6 + 9 * 40
    lost = log.dropped
    log.append("out", [b"after"])
    log.close()
    records = list(read_log(directory))
    assert sum(record.value for record in records if record.kind == "lost") == lost
    assert data(iter(records)) == b"before" + b"x" * (360 - lost) + b"after"
    assert (records[-1].data, records[0].data) == (b"after", b"before")
    if lost:
        assert records[-2].kind == "lost"
    assert log.end == os.path.getsize(f"{directory}/console.log")


def test_losses_are_marked_on_closing(directory: str) -> None:
    log = ConsoleLog(directory)
    log.append("out", [b"before"])
    with file_size_limit(0):
        log.append("out", [b"dropped"])
    log.close()
    assert brief(read_log(directory)) == [("out", 0, b"before"), ("lost", 6, 7)]


def test_no_directory_is_no_error(tmp_path: Path) -> None:
    log = ConsoleLog(str(tmp_path / "no" / "such"))
    log.append("out", [b"data"])
    log.close()
    assert (log.written, log.dropped, log.end) == (0, 4, 0)


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=20), st.integers(0, 400))
def test_rotation_keeps_the_end(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], start: int
) -> None:
    directory = str(tmp_path_factory.mktemp("log") / "c")
    log, whole = ConsoleLog(directory, rotate_at=64), b"".join(parts)
    for part in parts:
        log.append("out", [part])
        assert log.end == log.written
    records = list(read_log(directory))
    first = records[0].offset if records else 0
    assert data(iter(records)) == whole[first:]
    assert len(whole) - first >= min(len(whole), 64)
    assert data(read_log(directory, start=start)) == whole[max(first, start) :]
    assert tail_offset(directory, 1) >= first
    log.close()
    assert ConsoleLog(directory).end == len(whole)


def test_rotation_that_was_cut_short_costs_no_bytes(directory: str) -> None:
    log = ConsoleLog(directory, rotate_at=5)
    log.append("out", [b"first"])
    log.append("out", [b"secon"])
    log.close()
    os.rename(f"{directory}/console.log.1", f"{directory}/console.log")
    assert brief(read_log(directory)) == [("out", 5, b"secon")]
    write(directory, ("out", b"third"))
    assert brief(read_log(directory)) == [("out", 5, b"secon"), ("out", 10, b"third")]


def test_nonsense_is_survived(directory: str) -> None:
    write(directory, ("out", b"good"))
    with open(f"{directory}/console.timing", "ab") as timing:
        timing.write(RECORD.pack(1, 4, 2**32 - 1, 1) + RECORD.pack(1, 2**60, 5, 77) + b"\xff" * 48)
    assert data(read_log(directory)) == b"good"
    list(tail(directory, 3))
    list(since(directory, 1))
    write(directory, ("out", b"more"))
    assert data(read_log(directory)) == b"goodmore"
