"""Keys: the sequence that leaves a console, and the names of `sup send --key`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli import detach, keys
from supervisor.cli.detach import Detector
from supervisor.errors import SpecError


@pytest.mark.parametrize(
    ("notation", "expected"),
    [
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-],ctrl-],ctrl-]", b"\x1d\x1d\x1d"),
        ("CTRL-A,d", b"\x01d"),
        ("ctrl-@", b"\0"),
        ("ctrl-\\,ctrl-^,ctrl-_,ctrl-[", b"\x1c\x1e\x1f\x1b"),
    ],
)
def test_dockers_notation(notation: str, expected: bytes) -> None:
    assert detach.parse(notation) == expected


@pytest.mark.parametrize(
    "notation", ["", ",", "ctrl-", "ctrl-pp", "ab", "é", "ctrl-p,", "\x1b", "ctrl-1"]
)
def test_what_is_no_key_is_refused(notation: str) -> None:
    with pytest.raises(SpecError, match="detach-keys"):
        detach.parse(notation)


def test_three_in_time_leave() -> None:
    detector = Detector()
    assert detector.feed(b"ls\r\x1d", 0.0) == (b"ls\r", False)
    assert detector.feed(b"\x1d", 0.5) == (b"", False)
    assert detector.feed(b"\x1dbehind", 0.99) == (b"", True)


def test_three_that_are_late_are_passed_on() -> None:
    detector = Detector()
    assert detector.feed(b"\x1d", 0.0) == (b"", False)
    assert detector.feed(b"\x1d", 0.9) == (b"", False)
    assert detector.feed(b"\x1d", 1.1) == (b"\x1d", False)
    assert detector.deadline == pytest.approx(1.9)
    assert detector.expire(1.89) == b""
    assert detector.expire(2.0) == b"\x1d"
    assert detector.expire(2.2) == b"\x1d"
    assert detector.deadline is None


def test_a_sequence_that_overlaps_itself_is_found() -> None:
    detector = Detector(b"aab")
    assert detector.feed(b"aaab", 0.0) == (b"a", True)


def test_keys_that_turn_out_otherwise_are_passed_on_in_order() -> None:
    detector = Detector(b"\x10\x11")
    assert detector.feed(b"\x10", 0.0) == (b"", False)
    assert detector.feed(b"x", 0.1) == (b"\x10x", False)


@given(
    sequence=st.binary(min_size=1, max_size=4),
    pieces=st.lists(st.tuples(st.binary(max_size=6), st.floats(0, 2)), max_size=12),
)
def test_nothing_is_swallowed_and_nothing_changes_places(
    sequence: bytes, pieces: list[tuple[bytes, float]]
) -> None:
    detector, now, passed, typed = Detector(sequence), 0.0, b"", b""
    for data, pause in pieces:
        now += pause
        out, left = detector.feed(data, now)
        passed += out
        typed += data
        if left:
            at = len(passed)
            assert typed[:at] == passed
            assert typed[at : at + len(sequence)] == sequence
            return
    assert passed + detector.expire(now + 10) == typed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("C-c", b"\x03"),
        ("^D", b"\x04"),
        ("ctrl-z", b"\x1a"),
        ("C-?", b"\x7f"),
        ("C-[", b"\x1b"),
        ("M-x", b"\x1bx"),
        ("M-C-a", b"\x1b\x01"),
        ("Enter", b"\r"),
        ("up", b"\x1b[A"),
        ("F1", b"\x1bOP"),
        ("F12", b"\x1b[24~"),
        ("q", b"q"),
        ("é", "é".encode()),
        ("\udcff", b"\xff"),
    ],
)
def test_names_of_keys(name: str, expected: bytes) -> None:
    assert keys.encode(name) == expected


@pytest.mark.parametrize("name", ["", "Nonsense", "C-", "C-ab", "M-", "F13"])
def test_unknown_keys_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match="key"):
        keys.encode(name)
