"""Consoles: one epoll for all, a ring and a log for each, viewers with cursors."""

from supervisor.console.console import Chunk, Console, Viewer
from supervisor.console.hub import ConsoleHub
from supervisor.console.log import ConsoleLog, LogRecord, read_log, since, tail, tail_offset
from supervisor.console.past import LogStream
from supervisor.console.ring import Ring
from supervisor.console.stream import ConsoleStream

__all__ = [
    "Chunk",
    "Console",
    "ConsoleHub",
    "ConsoleLog",
    "ConsoleStream",
    "LogRecord",
    "LogStream",
    "Ring",
    "Viewer",
    "read_log",
    "since",
    "tail",
    "tail_offset",
]
