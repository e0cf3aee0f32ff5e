"""What a console has printed, and goes on to print, read from its log: nothing is ever missed."""

from __future__ import annotations

from collections.abc import Generator

import trio

from supervisor.console.console import Console
from supervisor.console.log import LogRecord, read_log, since, tail_offset


class LogStream(trio.abc.ReceiveChannel[LogRecord]):
    """The records of a console's log as a trio channel, up to its present end or, with `follow`,
    to the end of the console. A record of kind "lost" counts bytes that no longer can be had."""

    def __init__(
        self,
        console: Console,
        directory: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
    ) -> None:
        self._console = console
        self._directory = directory
        self._follow = follow
        self._since_ns = int(since * 1e9) if since is not None else 0
        self._next = tail_offset(directory, tail) if tail is not None else 0
        self._newest = -1
        self._closed = False
        self._present = self.records()

    async def receive(self) -> LogRecord:
        """The next record. Raises EndOfChannel after the last one."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the log stream was closed")
            if record := next(self._present, None):
                return record
            if not self._follow:
                raise trio.EndOfChannel
            self._present = self.records()
            if record := next(self._present, None):
                return record
            if self._console.ended:
                raise trio.EndOfChannel
            # No checkpoint since that look: no news can have been missed.
            await self._console.wait_output()

    async def aclose(self) -> None:
        """Let the files go; a `receive` that waits raises ClosedResourceError."""
        self._closed = True
        self._present.close()
        self._console.wake()
        await trio.lowlevel.checkpoint()

    def records(self) -> Generator[LogRecord, None, None]:
        """What has been recorded and was not read yet; ends where the log ends now."""
        first = not self._next and self._since_ns and self._newest < 0
        found = (
            since(self._directory, self._since_ns)
            if first
            else read_log(self._directory, start=self._next)
        )
        for record in found:
            # A record without bytes stands at an offset that may be read again.
            if not record.data and record.time_ns <= self._newest:
                continue
            if self._newest >= 0 and record.offset > self._next:
                gone = record.offset - self._next  # rotated away before it could be read
                yield LogRecord(record.time_ns, "lost", self._next, value=gone)
            self._next = record.offset + len(record.data)
            self._newest = record.time_ns
            if record.time_ns >= self._since_ns:
                yield record
