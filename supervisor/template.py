"""A template: a process that holds what the replicas of a fleet share, and clones them."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import AsyncIterator
from typing import Any

import trio

from supervisor.errors import ShimLost
from supervisor.idmap import IdMap
from supervisor.launch import (
    deadline,
    ended_early,
    failure,
    first_word,
    lacking,
    report_pair,
    undo,
)
from supervisor.link import Link, Process, send
from supervisor.plan import Plan


class Template:
    """The supervisor's end of one."""

    def __init__(self, name: str, requests: socket.socket, process: Process) -> None:
        self.name = name
        self._requests = requests
        self._process = process
        self._sending = trio.Lock()

    async def send(self, message: dict[str, Any], fds: tuple[int, ...]) -> None:
        """Ask for one replica. Raises ShimLost, and SupError when the template has ended."""
        async with self._sending:
            try:
                await send(self._requests, message, fds)
            except ShimLost:
                raise await ended_early(self._process) from None


@contextlib.asynccontextmanager
async def open_template(link: Link, plan: Plan, ids: tuple[IdMap, IdMap]) -> AsyncIterator[Template]:
    """A template for as long as its fleet is launched. Raises StepFailed when a shared step fails."""
    name = secrets.token_hex(6)
    with contextlib.ExitStack() as ours:
        try:
            requests, report, process = await _ask(link, name, plan, ours)
        except OSError as error:
            raise lacking("the fleet's template cannot be started", error) from None
        try:
            await _built(report, process, ids)
            yield Template(name, requests, process)
        except BaseException:
            requests.close()
            await undo(link, name, process)
            raise
        # Not by the end of its requests: it may hang in a step of a replica that was given up.
        process.kill()
        link.forget(name)


async def _ask(
    link: Link, name: str, plan: Plan, ours: contextlib.ExitStack
) -> tuple[socket.socket, socket.socket, Process]:
    with contextlib.ExitStack() as passed:
        report, their_report = report_pair(ours, passed)
        requests, theirs = report_pair(ours, passed)
        process = link.expect(name)
        try:
            message = {"op": "template", "id": name, **plan.template()}
            await link.send(message, (their_report.fileno(), theirs.fileno()))
        except BaseException:
            link.forget(name)
            raise
    return requests, report, process


async def _built(report: socket.socket, process: Process, ids: tuple[IdMap, IdMap]) -> None:
    """Wait for the shared steps. Raises StepFailed, LaunchTimeout, ShimLost."""
    with deadline():
        try:
            received = await first_word(report, process, ids)
        except OSError as error:
            raise lacking("the fleet's template cannot be given its ids", error) from None
        await process.answered.wait()
    if received is not None:
        raise failure(received[0])
    if process.refused is not None or process.lost:
        raise await ended_early(process)
