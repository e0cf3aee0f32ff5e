"""A container's console: its input, its output, who looks at it.

The reader waits for nobody: output goes to the log and into a ring, and every viewer has a cursor
into the ring. Only a viewer that asked for losslessness holds a console back.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from collections import deque
from contextlib import suppress
from types import TracebackType

import attrs
import trio

from supervisor.console.hub import BUDGET, Channel, ConsoleHub, Sink
from supervisor.console.log import ConsoleLog, read_log
from supervisor.console.replay import clean, from_line_start
from supervisor.console.ring import DEFAULT_SIZE, Kinds, Ring
from supervisor.errors import WrongState

_REDRAW_PAUSE = 0.02
_VEOF = b"\x04"


@attrs.frozen
class Chunk:
    """What a viewer gets: output ("out", "err"), or how many bytes it missed ("lost")."""

    kind: str
    data: bytes = b""
    lost: int = 0


class Console:
    """One console. It may be connected again after `finish`; ring, log and viewers go on."""

    def __init__(
        self, hub: ConsoleHub, log: ConsoleLog | None = None, ring_size: int = DEFAULT_SIZE
    ) -> None:
        self.hub = hub
        self.log = log
        self.ring = Ring(ring_size)
        self.kinds = Kinds()
        self.tty = False
        self.ended = False
        self.bytes_in = 0
        self.bytes_out = 0
        self._input: Channel | None = None
        self._outputs: list[Channel] = []
        self._held = False
        self._line_start = True
        self._size: tuple[int, int] | None = None
        self._viewers: list[Viewer] = []
        self._waiting = trio.lowlevel.ParkingLot()
        self._write_lock = trio.StrictFIFOLock()

    @property
    def bytes_logged(self) -> int:
        return self.log.written if self.log is not None else 0

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    @property
    def at_eof(self) -> bool:
        """No output can come any more: ended, or every stream of a pipe console is closed."""
        return self.ended or bool(
            self._outputs and not self.tty and all(channel.fd < 0 for channel in self._outputs)
        )

    # -- connecting

    def connect_tty(self, master_fd: int) -> None:
        """Serve a terminal by its master; the fd belongs to the console from now on. Raises OSError."""
        self._connect(tty=True)
        self._outputs = self._channels((master_fd, self._sink("out")))
        self._input = self._outputs[0]
        if self._size is not None:
            self.resize(*self._size)
        self.apply_owner_size()

    def connect_pipes(self, stdin_fd: int | None, stdout_fd: int, stderr_fd: int | None) -> None:
        """Serve pipes; the fds belong to the console from now on. Raises OSError."""
        self._connect(tty=False)
        wanted: list[tuple[int, Sink | None]] = [(stdout_fd, self._sink("out"))]
        wanted += [(stderr_fd, self._sink("err"))] if stderr_fd is not None else []
        wanted += [(stdin_fd, None)] if stdin_fd is not None else []
        channels = self._channels(*wanted)
        if stdin_fd is not None:
            self._input = channels.pop()
        self._outputs = channels

    def _channels(self, *wanted: tuple[int, Sink | None]) -> list[Channel]:
        """All or none: the fds are ours either way."""
        made: list[Channel] = []
        try:
            for fd, sink in wanted:
                made.append(Channel(self.hub, fd, tty=self.tty, sink=sink))
        except OSError:
            for channel in made:
                channel.close()
            for fd, _ in wanted[len(made) :]:
                os.close(fd)
            raise
        return made

    def _connect(self, *, tty: bool) -> None:
        if self._outputs:
            raise WrongState("the console is connected already", remedy="finish it first")
        self.tty = tty
        self.ended = self._held = False
        self._line_start = True

    def _sink(self, kind: str) -> Sink:
        return Sink(lambda data: self._publish(kind, data), self._room, self._output_ended)

    def recall(self) -> None:
        """Fill an empty ring from the end of the log, as after a restart of the supervisor."""
        if self.log is None or self.ring.end:
            return
        for record in read_log(self.log.directory, start=max(0, self.log.end - self.ring.size)):
            if record.data:
                self.kinds.add(self.ring.end, record.kind)
                self.ring.append(record.data)

    def finish(self) -> None:
        """Read what is still there, give the fds up, let viewers come to their end; idempotent."""
        if self.ended:
            return
        self.ended, self._held = True, False
        for channel in self._outputs:
            channel.drain_rest(min(BUDGET, self.ring.size))
        for channel in (*self._outputs, *self._inputs()):
            channel.close()
        self._outputs, self._input = [], None
        if self.log is not None:
            self.log.close()
        self.wake()

    def _inputs(self) -> tuple[Channel, ...]:
        return (self._input,) if self._input is not None else ()

    # -- output

    def _publish(self, kind: str, data: memoryview) -> None:
        self.bytes_out += len(data)
        if self.log is not None:
            self.log.append(kind, (data,))
        for viewer in self._viewers:
            if viewer.lossless:
                viewer.make_way(len(data))
        self.kinds.add(self.ring.end, kind)
        self.ring.append(data)
        self.kinds.forget(self.ring.start)
        self.wake()

    def _room(self) -> int:
        """How much may be read now, for the viewers' sake."""
        if not self._viewers or self.ended:
            return sys.maxsize
        room = max(1, self.ring.size // 4)  # so that a viewer that keeps up loses nothing
        lossless = [viewer.behind for viewer in self._viewers if viewer.lossless]
        if lossless:
            room = min(room, self.ring.size // 2 - max(lossless))
            self._held = room <= 0
        return room

    def caught_up(self) -> None:
        """A viewer moved or left: go on reading if that was what reading waited for."""
        if self._held and self._room() > 0:
            self._held = False
            for channel in self._outputs:
                channel.resume()

    def _output_ended(self, channel: Channel) -> None:
        self.wake()

    async def wait_output(self) -> None:
        """Sleep until there is more output or an end."""
        await self._waiting.park()

    def wake(self) -> None:
        """Have everybody who waits for output look again."""
        self._waiting.unpark_all()

    # -- input

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` to the input. BrokenPipeError when nobody can ever read it."""
        async with self._write_lock:
            rest = memoryview(data).cast("B")
            while rest:
                channel = self._open_input()
                sent = channel.try_write(rest)
                if sent:
                    self.bytes_in += sent
                    self._line_start = rest[sent - 1] in b"\n\r"
                    rest = rest[sent:]
                else:
                    await channel.park_writer()

    async def wait_writable(self) -> None:
        """Sleep until a write may be worth trying."""
        await trio.lowlevel.checkpoint()
        while not (channel := self._open_input()).is_writable():
            await channel.park_writer()

    def _open_input(self) -> Channel:
        if self._input is None or self._input.fd < 0:
            raise BrokenPipeError("the console has no open input")
        return self._input

    def close_stdin(self) -> None:
        """Close the input; on a terminal, type its end-of-file character if it has one."""
        channel = self._input
        if channel is None or channel.fd < 0:
            return
        if not self.tty:
            channel.close()
            return
        character = _end_of_file(channel.fd)
        with suppress(BrokenPipeError):
            # In the middle of a line the first one only hands that line over.
            channel.try_write(memoryview(character if self._line_start else character * 2))

    # -- size

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns, once somebody has set them."""
        return self._size

    def resize(self, rows: int, cols: int) -> None:
        """Set the terminal's size; a console of pipes has none."""
        self._note_size(rows, cols)
        self._apply_size(self._size)

    def _note_size(self, rows: int, cols: int) -> None:
        self._size = (rows, cols)
        if self.log is not None and self.tty and not self.ended:
            self.log.resize(rows, cols)

    async def redraw(self, rows: int, cols: int) -> None:
        """Make the program draw its screen anew: a size that is set already signals nothing."""
        self._note_size(rows, cols)
        try:
            self._apply_size((rows - 1 if rows > 1 else rows + 1, cols))
            await trio.sleep(_REDRAW_PAUSE)
        finally:
            self._apply_size(self._size)  # which another viewer may have changed meanwhile

    def _apply_size(self, size: tuple[int, int] | None) -> None:
        if size is None or not self.tty or self._input is None or self._input.fd < 0:
            return
        packed = struct.pack("HHHH", size[0] & 0xFFFF, size[1] & 0xFFFF, 0, 0)
        with suppress(OSError):
            fcntl.ioctl(self._input.fd, termios.TIOCSWINSZ, packed)

    def apply_owner_size(self) -> None:
        """Set the size of the newest viewer that may write and has one."""
        sizes = [viewer.size for viewer in self._viewers if viewer.size and not viewer.read_only]
        if sizes and sizes[-1] != self._size:
            self.resize(*sizes[-1])

    # -- viewers

    def view(
        self,
        *,
        replay: bool = True,
        lossless: bool = False,
        read_only: bool = False,
        until_eof: bool = False,
    ) -> Viewer:
        """A new viewer, to be used as a context manager or closed.

        With `until_eof` it comes to its end as soon as all output streams are closed, without it
        when the console is finished.
        """
        viewer = Viewer(self, lossless=lossless, read_only=read_only, until_eof=until_eof)
        if replay:
            viewer.rewind()
        self._viewers.append(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        if viewer in self._viewers:
            self._viewers.remove(viewer)
            if viewer.size:
                self.apply_owner_size()
            self.caught_up()
            self.wake()


class Viewer:
    """A cursor into a console's output. `Console.view` makes them."""

    def __init__(self, console: Console, *, lossless: bool, read_only: bool, until_eof: bool) -> None:
        self.console = console
        self.lossless = lossless
        self.read_only = read_only
        self.size: tuple[int, int] | None = None
        self.cursor = console.ring.end
        self.closed = False
        self._until_eof = until_eof
        self._backlog: deque[Chunk] = deque()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the console; a `receive` that waits raises ClosedResourceError."""
        if not self.closed:
            self.closed = True
            self._backlog.clear()
            self.console.leave(self)

    @property
    def behind(self) -> int:
        """How many bytes of the ring are still to be read."""
        return self.console.ring.end - self.cursor

    def rewind(self) -> None:
        """Start with what the ring holds."""
        ring = self.console.ring
        self.cursor = ring.start
        if self.console.tty and self.behind:
            _, data = ring.read(self.cursor, self.behind)
            data = clean(from_line_start(data) if self.cursor else data)
            self.cursor = ring.end
            if data:
                self._backlog.append(Chunk("out", data))

    def make_way(self, count: int) -> None:
        """Take out what the next `count` bytes would overwrite: finishing waits for nobody."""
        ring = self.console.ring
        if self.behind and self.behind + count > ring.size:
            while chunk := self._from_ring(ring.size):
                self._backlog.append(chunk)

    async def receive(self) -> Chunk | None:
        """The next piece of output, or None when the console ended and all of it was read."""
        await trio.lowlevel.checkpoint()
        while True:
            if self.closed:
                raise trio.ClosedResourceError("the viewer was closed")
            chunk = self.receive_nowait()
            if chunk is not None:
                return chunk
            if self.console.ended or (self._until_eof and self.console.at_eof):
                return None
            await self.console.wait_output()

    def receive_nowait(self) -> Chunk | None:
        """What is there now, or None."""
        if self._backlog:
            return self._backlog.popleft()
        chunk = self._from_ring(self.console.ring.size)
        if chunk is not None and self.lossless:
            self.console.caught_up()
        return chunk

    def _from_ring(self, limit: int) -> Chunk | None:
        ring = self.console.ring
        lost = ring.start - self.cursor
        if lost > 0:
            self.cursor = ring.start
            return Chunk("lost", lost=lost)
        if self.cursor >= ring.end:
            return None
        kind, end = self.console.kinds.at(self.cursor, ring.end)
        _, data = ring.read(self.cursor, min(limit, end - self.cursor))
        self.cursor += len(data)
        return Chunk(kind, data)

    def resize(self, rows: int, cols: int) -> None:
        """The size of the viewer's own screen; the newest viewer that may write decides."""
        self.size = (rows, cols)
        self.console.apply_owner_size()


def _end_of_file(fd: int) -> bytes:
    """The character that means end of file on this terminal now; empty in raw mode."""
    try:
        attributes = termios.tcgetattr(fd)
    except termios.error:
        return _VEOF
    if not attributes[3] & termios.ICANON:
        return b""
    character = attributes[6][termios.VEOF]
    return b"" if character == b"\0" else bytes(character)
