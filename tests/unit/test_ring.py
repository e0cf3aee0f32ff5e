"""The ring against a model: everything ever appended, of which the ring keeps the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.console.ring import Kinds, Ring

pieces = st.lists(st.binary(max_size=40), max_size=30)


@given(size=st.integers(1, 50), chunks=pieces)
def test_keeps_the_newest_bytes(size: int, chunks: list[bytes]) -> None:
    ring, model = Ring(size), b""
    for chunk in chunks:
        ring.append(memoryview(chunk))
        model += chunk
        assert ring.end == len(model)
        assert ring.start == max(0, len(model) - size)
        assert ring.read(ring.start, size) == (0, model[-size:] if model else b"")


@given(
    size=st.integers(1, 50),
    chunks=pieces,
    cursor=st.integers(0, 1200),
    limit=st.integers(0, 60),
)
def test_read_from_any_cursor(size: int, chunks: list[bytes], cursor: int, limit: int) -> None:
    ring, model = Ring(size), b"".join(chunks)
    for chunk in chunks:
        ring.append(chunk)
    lost, data = ring.read(cursor, limit)
    assert lost == max(0, ring.start - cursor)
    assert data == model[cursor + lost :][:limit]


def test_memory_grows_with_use_only() -> None:
    ring = Ring(1 << 30)
    ring.append(b"prompt$ ")
    assert len(ring._buffer) == 8
    ring.append(bytes(100_000))
    assert len(ring._buffer) == 100_008


def test_refuses_to_hold_nothing() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        Ring(0)


@given(st.lists(st.tuples(st.sampled_from(["out", "err"]), st.integers(1, 9)), min_size=1))
def test_kinds_of_stretches(stretches: list[tuple[str, int]]) -> None:
    kinds, model = Kinds(), []
    for kind, length in stretches:
        kinds.add(len(model), kind)
        model += [kind] * length
    position, seen = 0, []
    while position < len(model):
        kind, end = kinds.at(position, len(model))
        assert end > position
        seen += [kind] * (end - position)
        position = end
    assert seen == model


def test_kinds_forgets_what_the_ring_has_lost() -> None:
    kinds = Kinds()
    for offset in range(10_000):
        kinds.add(offset, "out" if offset % 2 else "err")
        kinds.forget(max(0, offset - 50))
    assert len(kinds._names) < 300
    assert kinds.at(9_999, 10_000) == ("out", 10_000)
    assert kinds.at(9_950, 10_000) == ("err", 9_951)
