"""What `run`, `exec` and `attach` do once they have a console: serve it, and say how it was left."""

from __future__ import annotations

import sys

from ..client import Client
from ..errors import SpecError
from ..paths import Paths
from ..text import escape
from . import detach, terminal
from .detach import Detector
from .session import Left, Session


def detector(notation: str | None) -> Detector:
    """Of `--detach-keys`. Raises SpecError."""
    if notation == "":
        raise SpecError("detach-keys", notation, "give keys, or leave the option out")
    return Detector(detach.DEFAULT if notation is None else detach.parse(notation))


def serve(
    client: Client,
    paths: Paths,
    reply: dict[str, object],
    first: bytes,
    *,
    stdin: bool,
    detector: Detector,
    read_only: bool = False,
    forward: bool = False,
) -> int:
    """Our terminal is the console until it ends: its exit status; 0 when it is left by the keys."""
    tty = reply.get("tty") is True
    session = Session(
        client,
        paths,
        tty=tty,
        stdin=stdin,
        read_only=read_only,
        detector=detector if tty and terminal.is_terminal(0) else None,
        forward=forward,
    )
    try:
        status = session.run(first)
    except Left as left:
        return 128 + int(left.args[0])
    if status is not None:
        return status
    container = reply.get("container")
    name = container.get("name") if isinstance(container, dict) else ""
    sys.stderr.write(f"\r\n[sup: detached from {escape(str(name))}]\r\n")
    return 0
