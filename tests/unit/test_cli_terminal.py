"""What a console has switched on in the caller's terminal is switched off, and nothing else."""

from __future__ import annotations

import os
import pty
import termios
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli import terminal
from supervisor.cli.terminal import Modes

EDITOR = b"\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004h\x1b[?25l\x1b[?1000;1006hsome text"
UNDONE = b"\x1b[?1l\x1b[?1000l\x1b[?1006l\x1b[?1049l\x1b[?2004l\x1b[?25h\x1b>\x1b[0m"


def test_nothing_written_needs_nothing() -> None:
    assert Modes().undo() == b""


def test_plain_output_leaves_only_its_colours() -> None:
    modes = Modes()
    modes.watch(b"\x1b[31mred")
    assert modes.undo() == b"\x1b[0m"


def test_an_editor_is_undone() -> None:
    modes = Modes()
    modes.watch(EDITOR)
    assert modes.undo() == UNDONE


def test_an_editor_that_ended_by_itself_needs_nothing() -> None:
    modes = Modes()
    modes.watch(EDITOR)
    modes.watch(b"\x1b[?1049l\x1b[?1l\x1b>\x1b[?2004l\x1b[?25h\x1b[?1000;1006l")
    assert modes.undo() == b"\x1b[0m"


@given(st.lists(st.integers(0, len(EDITOR)), max_size=8))
def test_sequences_may_be_cut_anywhere(cuts: list[int]) -> None:
    modes, start = Modes(), 0
    for cut in [*sorted(cuts), len(EDITOR)]:
        modes.watch(EDITOR[start:cut])
        start = cut
    assert modes.undo() == UNDONE


def _interrupted(fd: int) -> list[int]:
    """The modes inside, of a block that ends by an error."""
    modes: list[int] = []
    with suppress(RuntimeError), terminal.raw(fd):
        modes = termios.tcgetattr(fd)
        raise RuntimeError
    return modes


def test_raw_and_back() -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        during = _interrupted(slave)
        assert not during[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_a_pipe_has_no_size() -> None:
    reader, writer = os.pipe()
    try:
        assert terminal.size(reader) == (0, 0)
    finally:
        os.close(reader)
        os.close(writer)
