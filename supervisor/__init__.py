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
    from supervisor.container import Container, Exec, State
    from supervisor.errors import SupError
    from supervisor.spec import ContainerSpec
    from supervisor.supervisor import Supervisor, open_supervisor

__all__ = [
    "Container",
    "ContainerSpec",
    "Exec",
    "State",
    "SupError",
    "Supervisor",
    "open_supervisor",
]
__version__ = "0.1.0"

_HOMES = {
    "Container": "container",
    "ContainerSpec": "spec",
    "Exec": "container",
    "State": "container",
    "SupError": "errors",
    "Supervisor": "supervisor",
    "open_supervisor": "supervisor",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
