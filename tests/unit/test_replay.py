"""What a replay leaves out: queries, and nothing else."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.console.replay import clean, from_line_start

QUERIES = (
    b"\x1b[5n \x1b[6n \x1b[?6n \x1b[?996n \x1b[c \x1b[0c \x1b[>c \x1b[>0c \x1b[=c \x1b[14t \x1b[18t "
    b"\x1b[21t \x1b[?2026$p \x1b[4$p \x1b[>q \x1b[>0q \x1b[?u \x1b[?4m \x1b[1$w \x1b[x \xc2\x9b6n "
    b"\x05 \x1bZ \x1b]10;?\x07 \x1b]11;?\x1b\\ \x1b]4;1;?\x07 \x1b]52;c;?\x07 "
    b"\x1b]1337;ReportCellSize\x07 \x1bP+q544e\x1b\\ \x1bP$qm\x1b\\ \x1b_Gi=31,s=1,a=q;AAAA\x1b\\"
).split(b" ")
OUTPUT = (
    b"\x1b[m \x1b[1;31m \x1b[2J \x1b[H \x1b[?25h \x1b[?1049h \x1b[?2004h \x1b[8;24;80t \x1b[22;0t "
    b"\x1b[4q \x1b[1;24r \x1b[u \x1b[>4;1m \x1b]0;title\x07 \x1b]0;?\x07 \x1b]2;a;?\x1b\\ "
    b"\x1b]8;;http://x/?q\x1b\\ \x1b]52;c;aGk=\x07 \x1b]11;#fff\x07 \x1b(B \x1b7 \x1b= "
    b"\x1b_Ga=T,f=24;AAAA\x1b\\ \xc4\x9b6n caf\xc3\xa9"
).split(b" ")


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_left_out(query: bytes) -> None:
    assert clean(b"a" + query + b"b") == b"ab"


@pytest.mark.parametrize("output", OUTPUT)
def test_output_stays(output: bytes) -> None:
    assert clean(b"a" + output + b"b") == b"a" + output + b"b"


@given(st.lists(st.sampled_from([*OUTPUT, b"text\r\n"])))
def test_any_output_stays(parts: list[bytes]) -> None:
    assert clean(b"".join(parts)) == b"".join(parts)


@pytest.mark.parametrize(
    "unit",
    [
        b"\x1b]",
        b"\xc2\x9d",
        b"\x1b]4;?",
        b";?",
        b"\x1b[",
        b"\x1b[1;",
        b"\x1bP+q",
        b"\xc2",
        b"\x1b_G",
    ],
)
def test_takes_linear_time(unit: bytes) -> None:
    began = time.process_time()
    clean(b"\x1b]4" + unit * (256 * 1024 // len(unit)))
    assert time.process_time() - began < 1


def test_begins_with_a_whole_line() -> None:
    assert from_line_start(b"lf of a line\r\nwhole\r\n") == b"whole\r\n"
    assert from_line_start(b";31mred\x1b[H\x1b[2J") == b"\x1b[H\x1b[2J"
    assert from_line_start(b"no line") == b"no line"
