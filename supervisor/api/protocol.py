"""The API's framing, without I/O: NUL-terminated JSON as varlink has it, and frames after an upgrade.

A call is {"method", "parameters", "protocol", ["more"], ["upgrade"]}; a reply {"parameters",
["continues"]} or {"error", "parameters"}. After the reply to an upgraded call both sides speak
frames: one letter, the length (32 bits, big-endian), the payload.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from ..errors import ProtocolError, VersionMismatch

PROTOCOL = 1
MESSAGE_MAX = 4 << 20
FRAME_MAX = 1 << 20
WINDOW = 256 << 10
"""Bytes of input that a client may send before the server has said (ACK) that they were taken, so
that a container that does not read its input never delays a signal or a resize."""
ANY_VERSION = frozenset({"sup.Info", "sup.Shutdown"})

# Client to server
DATA = b"d"  # input; server to client: stdout
END = b"e"  # end of the input
RESIZE = b"r"  # json [rows, cols]
SIGNAL = b"s"  # decimal
DETACH = b"q"  # the client leaves by intent: what it started goes on
# Server to client
STDERR = b"2"
LOST = b"l"  # decimal: bytes that the viewer was too slow for
ACK = b"a"  # decimal: bytes of input that were taken
EXIT = b"x"  # json {"status": int}; the last frame

FROM_CLIENT = DATA + END + RESIZE + SIGNAL + DETACH
FROM_SERVER = DATA + STDERR + LOST + ACK + EXIT

_HEAD = struct.Struct(">cI")

Message = dict[str, Any]


def encode(message: Mapping[str, object]) -> bytes:
    """One message as it travels. Raises ProtocolError when it is too large or no JSON."""
    try:
        data = json.dumps(message, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a message cannot be written as JSON: {error}") from None
    if len(data) >= MESSAGE_MAX:
        raise ProtocolError(
            f"a message of {len(data)} bytes is too large",
            remedy=f"keep it below {MESSAGE_MAX} bytes",
        )
    return data + b"\0"


def decode(data: bytes | bytearray) -> Message:
    """The object in one message without its NUL."""
    try:
        message = json.loads(data)
    except RecursionError:
        raise ProtocolError("a message is nested too deeply") from None
    except ValueError:  # JSONDecodeError, UnicodeDecodeError, an int of thousands of digits
        raise ProtocolError("a message is no JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError("a message is no JSON object")
    return message


class Splitter:
    """Cuts a stream of bytes into messages."""

    def __init__(self, limit: int = MESSAGE_MAX) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._searched = 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes."""
        self.push(data)
        messages = []
        while (message := self.next()) is not None:
            messages.append(message)
        return messages

    def push(self, data: bytes) -> None:
        """Take bytes without looking at them."""
        self._buffer += data

    @property
    def held(self) -> int:
        """How many bytes wait."""
        return len(self._buffer)

    def next(self) -> Message | None:
        """The next message, alone: behind a call that upgrades there are no more messages."""
        end = self._buffer.find(b"\0", self._searched)
        if (end if end >= 0 else len(self._buffer)) > self._limit:
            self._buffer.clear()
            raise ProtocolError("a message is too large", remedy=f"keep it below {self._limit} bytes")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        data = self._buffer[:end]
        del self._buffer[: end + 1]
        self._searched = 0
        return decode(data)

    def rest(self) -> bytes:
        """What came behind the last message, taken out: the first bytes of frames."""
        data = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return data


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame."""
    if len(payload) > FRAME_MAX:
        raise ProtocolError(f"a frame of {len(payload)} bytes is too large")
    return _HEAD.pack(kind, len(payload)) + payload


def json_frame(kind: bytes, value: object) -> bytes:
    """One frame whose payload is JSON."""
    return frame(kind, json.dumps(value, separators=(",", ":")).encode())


class FrameSplitter:
    """Cuts a stream of bytes into frames of the given kinds."""

    def __init__(self, kinds: bytes = FROM_CLIENT + FROM_SERVER) -> None:
        self._buffer = bytearray()
        self._kinds = kinds

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The (kind, payload) pairs that `data` completes."""
        self._buffer += data
        frames = []
        start, have = 0, len(self._buffer)
        while have - start >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._buffer, start)
            if kind not in self._kinds or length > FRAME_MAX:
                raise ProtocolError(f"a frame {kind!a} of {length} bytes is none of ours")
            end = start + _HEAD.size + length
            if end > have:
                break
            frames.append((kind, bytes(self._buffer[start + _HEAD.size : end])))
            start = end
        del self._buffer[:start]
        return frames


def number(payload: bytes) -> int:
    """The decimal in a frame."""
    if not (0 < len(payload) <= 18 and payload.isdigit()):
        raise ProtocolError(f"a frame holds {payload[:20]!a} instead of a number")
    return int(payload)


def screen_size(payload: bytes) -> tuple[int, int]:
    """Rows and columns from a RESIZE frame."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        value = None
    if not (isinstance(value, list) and len(value) == 2):
        raise ProtocolError("a resize frame holds no [rows, columns]")
    return check_size(value[0], value[1])


def check_size(rows: object, cols: object) -> tuple[int, int]:
    """Rows and columns if the kernel's winsize can hold them."""
    if type(rows) is int and type(cols) is int and 0 <= rows <= 0xFFFF and 0 <= cols <= 0xFFFF:
        return rows, cols
    raise ProtocolError("a screen has 0 to 65535 rows and columns")


def call(
    method: str,
    parameters: Mapping[str, object] | None = None,
    *,
    more: bool = False,
    upgrade: bool = False,
) -> Message:
    """A call as a message."""
    message: Message = {"method": method, "parameters": dict(parameters or {})}
    message["protocol"] = PROTOCOL
    if more:
        message["more"] = True
    if upgrade:
        message["upgrade"] = True
    return message


def check_call(message: Message) -> tuple[str, dict[str, object]]:
    """Method and parameters of a call. Raises ProtocolError and VersionMismatch."""
    method, parameters = message.get("method"), message.get("parameters", {})
    if not isinstance(method, str) or not isinstance(parameters, dict):
        raise ProtocolError("a call has no method, or parameters that are no object")
    theirs = message.get("protocol")
    if theirs != PROTOCOL and method not in ANY_VERSION:
        shown = ascii(theirs)[:20]
        raise VersionMismatch(
            f"this command speaks version {shown} of the protocol, the supervisor {PROTOCOL}",
            remedy="end the running supervisor and its containers with `sup shutdown`, then repeat",
        )
    return method, parameters
