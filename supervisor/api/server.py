"""Serves a Supervisor on its unix socket: varlink framing, one task a connection.

A connection's failure is its own: an error of ours becomes an error reply, any other is logged and
becomes a plain one, and a client that hangs up cancels the call that it was waiting for.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ..errors import LimitReached, ProtocolError, SupError
from . import protocol
from .connection import Call, Connection, HungUp, Upgrade
from .methods import METHODS
from .parameters import Parameters

if TYPE_CHECKING:
    from ..paths import Paths
    from ..supervisor import Supervisor

CONNECTIONS = 256
FIRST_MESSAGE = 30.0
"""Seconds for the first call; a client that has made one may stay idle."""
_FULL = 5.0
_SPARE = 8
_SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _Spare:
    """Descriptors that are kept back, so that `sup down` gets in where containers took all others."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self.fill()

    def fill(self) -> None:
        with suppress(OSError):
            while len(self._fds) < _SPARE:
                self._fds.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))

    def give(self) -> bool:
        """Make room for one; False when all are given."""
        if not self._fds:
            return False
        os.close(self._fds.pop())
        return True

    def close(self) -> None:
        while self.give():
            pass


async def serve(sup: Supervisor, paths: Paths, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until `sup` is asked to shut down. `ready` is called when the socket listens."""
    listener = await _listen(paths)
    spare = _Spare()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept_all, sup, listener, nursery, spare)
            ready()
            await sup.wait_shutdown()
            nursery.cancel_scope.cancel()
    finally:
        spare.close()
        listener.close()
        with suppress(OSError):
            os.unlink(paths.socket)


async def _listen(paths: Paths) -> trio.socket.SocketType:
    """A socket that clients never see before it listens, in place of one left over."""
    new = os.path.join(paths.run, "api.new")
    with suppress(FileNotFoundError):
        os.unlink(new)
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await listener.bind(os.fsencode(new))
        os.chmod(new, 0o600)
        listener.listen(1024)
        os.rename(new, paths.socket)
    except OSError as error:
        listener.close()
        raise SupError(f"cannot listen on {paths.socket!a}: {error.strerror}") from None
    return listener


async def _accept_all(
    sup: Supervisor, listener: trio.socket.SocketType, nursery: trio.Nursery, spare: _Spare
) -> None:
    slots = trio.Semaphore(CONNECTIONS)
    patience = _FULL
    while True:
        sock = await _accept(listener, spare)
        # Many short commands at once wait for their turn; behind long ones they would wait in vain.
        if await _take(slots, patience):
            patience = _FULL
            nursery.start_soon(_serve_client, sup, sock, slots, spare)
        else:
            patience = 0
            with sock:
                await _refuse(Connection(sock))


async def _take(slots: trio.Semaphore, patience: float) -> bool:
    with suppress(trio.WouldBlock):
        slots.acquire_nowait()
        return True
    if patience:
        with trio.move_on_after(patience):
            await slots.acquire()
            return True
    return False


async def _accept(listener: trio.socket.SocketType, spare: _Spare) -> trio.socket.SocketType:
    told = False
    while True:
        # accept(2) says EMFILE also where nobody waits: that would cost a spare, or a poll.
        await trio.lowlevel.wait_readable(listener)
        try:
            sock, _ = await listener.accept()
        except OSError as error:
            # Other errors are of a client that gave up while it waited.
            if error.errno in _SHORT_OF and not spare.give():
                if not told:
                    log(f"cannot accept a client: {error.strerror}")
                told = True
                await trio.sleep(0.1)
        else:
            return sock


async def _refuse(connection: Connection) -> None:
    error = LimitReached(
        f"{CONNECTIONS} commands are connected to the supervisor", remedy="end some, then repeat"
    )
    with suppress(HungUp), trio.move_on_after(0.1):
        await connection.send(error.to_wire())


async def _serve_client(
    sup: Supervisor, sock: trio.socket.SocketType, slots: trio.Semaphore, spare: _Spare
) -> None:
    connection = Connection(sock)
    try:
        if connection.peer_allowed():
            await _serve_calls(sup, connection)
        else:
            await connection.send(SupError("this supervisor belongs to another user").to_wire())
    except HungUp:
        pass
    except Exception:
        log_exception()
    finally:
        slots.release()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await connection.close()
        spare.fill()


async def _serve_calls(sup: Supervisor, connection: Connection) -> None:
    limit = FIRST_MESSAGE
    while True:
        message = None
        try:
            with trio.move_on_after(limit):
                message = await connection.receive_message()
        except ProtocolError as error:
            await connection.send(error.to_wire())
            return
        if message is None or not await _serve_call(sup, connection, message):
            return
        limit = float("inf")


async def _serve_call(sup: Supervisor, connection: Connection, message: protocol.Message) -> bool:
    """Answer one call; whether another may follow."""
    answer: Upgrade | protocol.Message | None = None
    async with trio.open_nursery() as nursery:

        async def cancel_when_hung_up() -> None:
            await connection.wait_hung_up()
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel_when_hung_up)
        answer = await _answer(sup, connection, message)
        nursery.cancel_scope.cancel()
    if isinstance(answer, Upgrade):
        await answer.session(connection)
        return False
    if answer is None:
        return False
    await _send_answer(connection, answer)
    return True


async def _send_answer(connection: Connection, answer: protocol.Message) -> None:
    try:
        await connection.send(answer)
    except ProtocolError as error:  # more containers than fit into one reply
        await connection.send(error.to_wire())


async def _answer(
    sup: Supervisor, connection: Connection, message: protocol.Message
) -> Upgrade | protocol.Message | None:
    """The reply to a call, be it an error; None when the client has gone."""
    try:
        name, values = protocol.check_call(message)
        method = METHODS.get(name)
        if method is None:
            raise ProtocolError(
                f"there is no method {ascii(name)[:80]}", remedy="use the supervisor's own version"
            )
        more, upgrade = message.get("more") is True, message.get("upgrade") is True
        answer = await method(Call(sup, connection, Parameters(values), more, upgrade))
    except HungUp:
        return None
    except Exception as error:
        return _error_reply(error)
    return answer if isinstance(answer, Upgrade) else {"parameters": answer}


def _error_reply(error: Exception) -> protocol.Message | None:
    leaf: BaseException = error
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    if isinstance(leaf, HungUp):
        return None
    if isinstance(leaf, SupError):
        return leaf.to_wire()
    log_exception()
    problem = f"the supervisor failed: {type(leaf).__name__}: {str(leaf)[:500]}"
    return SupError(problem, remedy="this is a defect: its log says where").to_wire()


def log(line: str) -> None:
    """One line into the supervisor's log, which is its stderr; lost when the disk is full."""
    with suppress(OSError):
        print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, file=sys.stderr, flush=True)


def log_exception() -> None:
    """The exception being handled, into the log."""
    log(traceback.format_exc().rstrip())
