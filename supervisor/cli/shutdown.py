"""End every container, the supervisor and the shim."""

from __future__ import annotations

import os
import select
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack

from ..client import Client
from ..errors import NoServer, ProtocolError, SupError
from ..paths import Paths

HELP = "end every container, and the server"
_PATIENCE = 10.0


def configure(parser: ArgumentParser) -> None:
    pass


def run(args: Namespace, paths: Paths) -> int:
    try:
        with Client(paths) as client, ExitStack() as stack:
            about = client.call("sup.Info")
            # Before the end: a number may be another process's afterwards.
            ends = {key: _pidfd(about.get(key), stack) for key in ("supervisor_pid", "shim_pid")}
            client.call("sup.Shutdown")
            for key, pidfd in ends.items():
                if not select.select([pidfd], [], [], _PATIENCE)[0]:
                    raise SupError(f"{key} {about.get(key)} does not end", remedy=f"see {paths.log!a}")
    except NoServer:
        pass  # that is what was asked for
    return 0


def _pidfd(pid: object, stack: ExitStack) -> int:
    """A descriptor that becomes readable when the process ends; pidfd_open(2)."""
    if not isinstance(pid, int) or pid <= 1:
        raise ProtocolError(f"the supervisor's reply holds {pid!a} instead of a process")
    pidfd = os.pidfd_open(pid)
    stack.callback(os.close, pidfd)
    return pidfd
