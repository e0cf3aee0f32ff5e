"""sup: an async container supervisor for Linux.

The floors of the house, from the ground up: `errors`, `text`, `paths` (standard library only);
`spec` (what a user asks for) and `plan` (which kernel steps that takes, pure); `linux` (doors to
the kernel) and `shim` (the reaper-init that runs plans); `console`, `container`, `fleet` and
`supervisor` (one trio event loop, every decision); `api`, `client` and `cli`.

Names are imported on first use, so that the shim and the thin client pay for neither trio nor attrs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.bus import EventStream
    from supervisor.console import ConsoleStream, LogRecord, LogStream, read_log
    from supervisor.container import Container, State
    from supervisor.errors import SupError
    from supervisor.execution import Exec
    from supervisor.fleetfile import FleetEntry, load_fleet
    from supervisor.spec import ContainerSpec, Rootfs, Tmpfs, Ulimit, Volume
    from supervisor.supervisor import Supervisor, open_supervisor

__all__ = [
    "ConsoleStream",
    "Container",
    "ContainerSpec",
    "EventStream",
    "Exec",
    "FleetEntry",
    "LogRecord",
    "LogStream",
    "Rootfs",
    "State",
    "SupError",
    "Supervisor",
    "Tmpfs",
    "Ulimit",
    "Volume",
    "load_fleet",
    "open_supervisor",
    "read_log",
]
__version__ = "0.1.0"

_HOMES = {
    "bus": ("EventStream",),
    "console": ("ConsoleStream", "LogRecord", "LogStream", "read_log"),
    "container": ("Container", "State"),
    "errors": ("SupError",),
    "execution": ("Exec",),
    "fleetfile": ("FleetEntry", "load_fleet"),
    "spec": ("ContainerSpec", "Rootfs", "Tmpfs", "Ulimit", "Volume"),
    "supervisor": ("Supervisor", "open_supervisor"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
