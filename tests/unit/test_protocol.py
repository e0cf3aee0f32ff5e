"""The API's framing survives whatever comes: it is cut into messages or refused, and never hoarded."""

from __future__ import annotations

import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.api import protocol
from supervisor.api.protocol import FrameSplitter, Splitter
from supervisor.errors import ProtocolError, VersionMismatch

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)
MESSAGES = st.dictionaries(st.text(), VALUES)
FRAMES = st.tuples(st.sampled_from([b"d", b"e", b"r", b"s", b"q"]), st.binary(max_size=200))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(0, 10_000), max_size=10))
def test_messages_come_out_as_they_went_in(messages: list[dict[str, object]], cuts: list[int]) -> None:
    data = b"".join(protocol.encode(message) for message in messages)
    splitter = Splitter()
    assert [m for piece in pieces(data, cuts) for m in splitter.feed(piece)] == messages
    assert splitter.held == 0


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 10_000), max_size=10))
def test_frames_come_out_as_they_went_in(frames: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join(protocol.frame(kind, payload) for kind, payload in frames)
    splitter = FrameSplitter(protocol.FROM_CLIENT)
    assert [f for piece in pieces(data, cuts) for f in splitter.feed(piece)] == frames


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_refused(data: bytes) -> None:
    try:
        messages = Splitter(limit=100).feed(data + b"\0")
    except ProtocolError:
        return
    assert all(isinstance(message, dict) for message in messages)


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    try:
        frames = FrameSplitter(protocol.FROM_CLIENT).feed(data)
    except ProtocolError:
        return
    assert all(kind in protocol.FROM_CLIENT for kind, _ in frames)


@given(MESSAGES)
def test_any_object_is_a_call_or_refused(message: dict[str, object]) -> None:
    try:
        method, parameters = protocol.check_call(message)
    except (ProtocolError, VersionMismatch):
        return
    assert isinstance(method, str)
    assert isinstance(parameters, dict)


@given(st.binary(max_size=40))
def test_any_payload_is_a_number_and_a_size_or_refused(payload: bytes) -> None:
    for read in (protocol.number, protocol.screen_size):
        try:
            value = read(payload)
        except ProtocolError:
            continue
        assert value == (int(payload) if read is protocol.number else tuple(json.loads(payload)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no JSON"),
        (b'{"method": "\xff\xfe"}', "no JSON"),
        (b"\xff\xfe{\x01", "no JSON"),
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"a": 1} {"b": 2}', "no JSON"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        Splitter().feed(data + b"\0")


def test_a_message_without_end_is_not_kept() -> None:
    splitter = Splitter(limit=1000)
    for _ in range(10):
        assert splitter.feed(b"x" * 100) == []
    with pytest.raises(ProtocolError, match="too large"):
        splitter.feed(b"x")
    assert splitter.held == 0


def test_a_frame_that_claims_too_much_is_refused_at_its_head() -> None:
    head = struct.pack(">cI", b"d", protocol.FRAME_MAX + 1)
    with pytest.raises(ProtocolError, match="none of ours"):
        FrameSplitter().feed(head)
    with pytest.raises(ProtocolError, match="too large"):
        protocol.frame(b"d", bytes(protocol.FRAME_MAX + 1))


def test_what_follows_an_upgrade_is_left_alone() -> None:
    splitter = Splitter()
    frame = protocol.frame(b"d", b"no \0 message")
    splitter.push(protocol.encode({"method": "x"}) + frame)
    assert splitter.next() == {"method": "x"}
    assert splitter.rest() == frame


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"method": 1},
        {"method": None, "parameters": {}},
        {"method": "sup.List", "parameters": []},
        {"method": ["sup.List"], "protocol": protocol.PROTOCOL},
    ],
)
def test_a_call_of_the_wrong_types_is_refused(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        protocol.check_call(message)


@pytest.mark.parametrize("version", [None, 0, protocol.PROTOCOL + 1, "1", [], "x" * 10_000])
def test_another_version_is_told_what_to_do(version: object) -> None:
    with pytest.raises(VersionMismatch, match="sup shutdown") as caught:
        protocol.check_call({"method": "sup.List", "protocol": version})
    assert len(str(caught.value)) < 300
    for method in protocol.ANY_VERSION:  # these two work between all versions
        assert protocol.check_call({"method": method, "protocol": version}) == (method, {})


def test_what_cannot_be_sent_is_refused() -> None:
    nested: object = []
    for _ in range(100_000):
        nested = [nested]
    for message in ({"a": nested}, {"a": b"bytes"}, {"a": "x" * protocol.MESSAGE_MAX}):
        with pytest.raises(ProtocolError):
            protocol.encode(message)
