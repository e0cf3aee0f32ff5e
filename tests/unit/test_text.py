"""Text for people: escaping is complete, the short forms read back."""

from __future__ import annotations

import signal
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import text

ANY = st.text(st.characters(exclude_categories=()))  # surrogates too


@given(ANY)
def test_escaped_text_holds_nothing_that_a_terminal_acts_on(value: str) -> None:
    shown = text.escape(value)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown.encode()  # no surrogate left


@given(ANY)
def test_escape_is_idempotent_and_leaves_harmless_characters(value: str) -> None:
    shown = text.escape(value)
    assert text.escape(shown) == shown
    harmless = [c for c in value if unicodedata.category(c)[0] in "LNPSM"]
    rest = iter(shown)
    assert all(c in rest for c in harmless)  # in their order


@given(st.text(st.characters(categories=("L", "N", "P", "S", "M"))))
def test_escape_of_harmless_text_is_the_text(value: str) -> None:
    assert text.escape(value) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("\u202eevil", "\\u202eevil"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\u2028", "\\u2028"),
        ("käse 日本", "käse 日本"),
    ],
)
def test_escape_examples(value: str, shown: str) -> None:
    assert text.escape(value) == shown


def test_escape_keeps_what_it_is_told_to() -> None:
    assert text.escape("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_table_aligns_escapes_and_counts_wide_characters() -> None:
    made = text.table([["日本", "x"], ["a\x1b", ""]], ["NAME", "S"])
    assert made == "NAME   S\n日本   x\na\\x1b\n"


def test_table_of_nothing_and_of_uneven_rows() -> None:
    assert text.table([]) == ""
    assert text.table([], ["A", "B"]) == "A  B\n"
    assert text.table([["1"], ["2", "3"]]) == "1\n2  3\n"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1536, "1.5KiB"),
        (64 << 20, "64MiB"),
        ((1 << 20) - 1, "1MiB"),
        (1 << 70, "1024EiB"),
        (-2048, "-2KiB"),
    ],
)
def test_size(count: int, shown: str) -> None:
    assert text.size(count) == shown


@given(st.integers(0, (1 << 60) - 1))
def test_size_reads_back_within_its_precision(count: int) -> None:
    assert text.parse_size(text.size(count)) == pytest.approx(count, rel=0.05)


@pytest.mark.parametrize(
    ("given_text", "count"),
    [("0", 0), ("512", 512), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("2kb", 2048), ("7B", 7)],
)
def test_parse_size(given_text: str, count: int) -> None:
    assert text.parse_size(given_text) == count


@pytest.mark.parametrize("bad", ["", "m", "-1", "1 2", "1ib", "0x10", "1.m", "٣", "1e3", "+1"])
def test_parse_size_refuses(bad: str) -> None:
    with pytest.raises(ValueError, match="a size is"):
        text.parse_size(bad)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.000012, "12us"),
        (0.35, "350ms"),
        (0.9996, "1s"),
        (1.5, "1.5s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (90, "1m30s"),
        (7500, "2h5m"),
        (86400 * 3 + 4 * 3600 + 59, "3d4h"),
        (-90, "-1m30s"),
        (float("inf"), "forever"),
        (float("nan"), "-"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@given(st.floats(1e-6, 1e9))
def test_duration_reads_back_within_its_precision(seconds: float) -> None:
    assert text.parse_duration(text.duration(seconds)) == pytest.approx(seconds, rel=0.5)
    if seconds > 10:
        assert text.parse_duration(text.duration(seconds)) == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("given_text", "seconds"),
    [("10", 10), ("2.5", 2.5), ("350ms", 0.35), ("1m30s", 90), ("1h0.5s", 3600.5), ("1w", 604800)],
)
def test_parse_duration(given_text: str, seconds: float) -> None:
    assert text.parse_duration(given_text) == pytest.approx(seconds)


@pytest.mark.parametrize("bad", ["", "s", "-1", "1m 30s", "1x", "1m30", "nan", "inf", "1e3", "٣s"])
def test_parse_duration_refuses(bad: str) -> None:
    with pytest.raises(ValueError, match="a time is"):
        text.parse_duration(bad)


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "sigterm", "15", " term "])
def test_parse_signal(name: str) -> None:
    assert text.parse_signal(name) == signal.SIGTERM


def test_parse_signal_knows_realtime_ones() -> None:
    assert text.parse_signal("RTMIN") == signal.SIGRTMIN
    assert text.parse_signal("SIGRTMIN+3") == signal.SIGRTMIN + 3
    assert text.parse_signal("RTMAX-1") == signal.SIGRTMAX - 1


@pytest.mark.parametrize(
    "bad",
    ["", "0", "65", "-9", "SIG", "NOPE", "_DFL", "RTMIN-1", "RTMAX+1", "RTMIN+99", "٩", "9.0"],
)
def test_parse_signal_refuses(bad: str) -> None:
    with pytest.raises(ValueError, match="a signal is"):
        text.parse_signal(bad)
