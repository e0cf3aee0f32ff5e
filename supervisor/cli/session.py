"""A console on our own stdin and stdout: frames one way and the other, until it ends or is left.

One loop around poll(2). Output is written only as far as it does not block where that can be known,
so that signals and keys are never behind a slow reader; nothing is read from the supervisor until
what came before is written, which is how a slow reader slows the container down.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any

from ..api import protocol
from ..client import Client, lost
from ..errors import ProtocolError
from ..paths import Paths
from . import terminal
from .detach import Detector

_CHUNK = 64 << 10
_PIPE_BUF = 4096
"""What poll(2) promises of a pipe that is writable: pipe(7)."""
FORWARDED = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2),
)


Handler = Callable[[int, FrameType | None], Any] | int | None


class Left(Exception):
    """A signal asks us to leave the console and end."""


class Session:
    """After `client.upgrade`: `run` returns the exit status, or None when it was detached."""

    def __init__(
        self,
        client: Client,
        paths: Paths,
        *,
        tty: bool,
        stdin: bool,
        read_only: bool = False,
        detector: Detector | None = None,
        forward: bool = False,
    ) -> None:
        self._client = client
        self._paths = paths
        self._tty = tty
        self._stdin = stdin
        self._read_only = read_only
        self._detector = detector
        self._forward = forward
        self._frames = protocol.FrameSplitter(protocol.FROM_SERVER)
        self._out = _Writer(1)
        self._err = _Writer(2)
        self._window = protocol.WINDOW
        self._signals: list[int] = []
        self._modes = terminal.Modes()
        self.status: int | None = None
        self.detached = False

    def run(self, first: bytes = b"") -> int | None:
        """Serve. Raises SupError when the connection is lost, Left at a signal."""
        with ExitStack() as stack:
            if self._tty and terminal.is_terminal(0):
                stack.enter_context(terminal.raw(0))
            stack.callback(self._give_back)
            wakeup = stack.enter_context(_Alarm(self._handlers()))
            self._take(first)
            self._loop(wakeup)
        return None if self.detached else self.status

    def _give_back(self) -> None:
        if self._tty and terminal.is_terminal(1):
            with suppress(OSError):
                os.write(1, self._modes.undo())

    # -- signals -----------------------------------------------------------------------------------

    def _handlers(self) -> dict[int, Handler]:
        """In pipes the container gets what we get; on a console its keys do that."""
        handlers: dict[int, Handler] = {}
        if self._forward and not self._tty:
            handlers.update(dict.fromkeys(FORWARDED, self._note))
        else:
            fatal = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
            handlers.update(dict.fromkeys(fatal, self._leave))
            handlers.update({signal.SIGWINCH: self._note, signal.SIGCONT: self._note})
        return handlers

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        # Raised wherever we are, as a write to a terminal that nobody reads may never return.
        signal.signal(number, signal.SIG_IGN)
        raise Left(number)

    def _heed_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGCONT:
                with suppress(termios.error):
                    terminal.make_raw(0)
                self._tell_size()
            elif number == signal.SIGWINCH:
                self._tell_size()
            else:
                self._send(protocol.frame(protocol.SIGNAL, b"%d" % number))

    def _tell_size(self) -> None:
        rows, cols = terminal.size(1)
        if rows and cols and not self._read_only:
            self._send(protocol.json_frame(protocol.RESIZE, [rows, cols]))

    # -- the loop ----------------------------------------------------------------------------------

    def _loop(self, wakeup: int) -> None:
        while (self.status is None and not self.detached) or self._out.pending or self._err.pending:
            poll = select.poll()
            poll.register(wakeup, select.POLLIN)
            for writer in (self._out, self._err):
                if writer.pending:
                    poll.register(writer.fd, select.POLLOUT)
            if self.status is None and not self._out.pending and not self._err.pending:
                poll.register(self._client, select.POLLIN)
            if self._stdin and self._window > 0 and self.status is None:
                poll.register(0, select.POLLIN)
            ready = dict(poll.poll(self._patience()))
            if wakeup in ready:
                os.read(wakeup, 512)
            self._heed_signals()
            self._serve(ready)

    def _patience(self) -> float | None:
        if self._detector is None or self._detector.deadline is None:
            return None
        return max(0.0, self._detector.deadline - time.monotonic()) * 1000 + 1

    def _serve(self, ready: dict[int, int]) -> None:
        for writer in (self._out, self._err):
            if writer.fd in ready and writer.pending and not writer.flush():
                # Nobody reads any more: the container is told as a process in a pipe would be.
                self._send(protocol.frame(protocol.SIGNAL, b"%d" % signal.SIGPIPE))
        if self._detector is not None and (late := self._detector.expire(time.monotonic())):
            self._send_input(late)
        if self._client.fileno() in ready:
            self._receive()
        if 0 in ready and self._stdin:
            self._read_stdin()

    def _receive(self) -> None:
        try:
            data = self._client.receive()
        except OSError:
            data = b""
        if not data:
            raise lost(self._paths)
        self._take(data)

    def _take(self, data: bytes) -> None:
        for kind, payload in self._frames.feed(data):
            if kind == protocol.DATA:
                self._show(payload)
            elif kind == protocol.STDERR:
                self._err.add(payload)
            elif kind == protocol.ACK:
                self._window += protocol.number(payload)
            elif kind == protocol.LOST:
                self._say(f"lost {protocol.number(payload):,} bytes")
            elif kind == protocol.EXIT:
                self.status = _status(payload)

    def _show(self, data: bytes) -> None:
        if self._tty:
            self._modes.watch(data)
        self._out.add(data)

    def _say(self, words: str) -> None:
        end = "\r\n" if self._tty else "\n"
        self._err.add(f"{end if self._tty else ''}[sup: {words}]{end}".encode())

    # -- input -------------------------------------------------------------------------------------

    def _read_stdin(self) -> None:
        try:
            data = os.read(0, min(_CHUNK, self._window))
        except OSError:  # a terminal that was hung up
            data = b""
        if not data:
            self._stdin = False
            self._send(protocol.frame(protocol.END))
            return
        if self._detector is not None:
            data, self.detached = self._detector.feed(data, time.monotonic())
        if data and not self._read_only:
            self._send_input(data)
        if self.detached:
            self._stdin = False
            self._send(protocol.frame(protocol.DETACH))

    def _send_input(self, data: bytes) -> None:
        if not self._read_only:
            self._window -= len(data)
            self._send(protocol.frame(protocol.DATA, data))

    def _send(self, data: bytes) -> None:
        # That the other side has gone is seen where we read, behind the last thing that it said.
        with suppress(OSError):
            self._client.send(data)


def _status(payload: bytes) -> int:
    import json

    try:
        return int(json.loads(payload)["status"])
    except (ValueError, TypeError, KeyError):
        raise ProtocolError(f"an exit frame holds {payload[:40]!a}") from None


class _Writer:
    """Bytes on their way to one of our descriptors."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._data = bytearray()
        self._broken = False
        try:
            kind = os.fstat(fd).st_mode
        except OSError:  # closed by our caller: nobody wants it
            self._broken, kind = True, stat.S_IFREG
        self._most = _PIPE_BUF if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else _CHUNK

    @property
    def pending(self) -> bool:
        return bool(self._data)

    def add(self, data: bytes) -> None:
        if not self._broken:
            self._data += data

    def flush(self) -> bool:
        """Write what can be written now; False when it broke."""
        try:
            with memoryview(self._data) as view:
                count = os.write(self.fd, view[: self._most])
        except BlockingIOError:
            return True
        except OSError:
            self._broken = True
            self._data.clear()
            return False
        del self._data[:count]
        return True


class _Alarm:
    """Signal handlers that wake poll(2) through a pipe, and the ones of before afterwards."""

    def __init__(self, handlers: dict[int, Handler]) -> None:
        self._handlers = handlers
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> int:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number, handler in self._handlers.items():
            self._before[number] = signal.signal(number, handler)
        return self._read

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._read)
        os.close(self._write)


def leave_by(number: int) -> int:
    """The exit status after a signal, told to whoever looks."""
    sys.stderr.write(f"\r\n[sup: left by {signal.Signals(number).name}]\r\n")
    return 128 + number
