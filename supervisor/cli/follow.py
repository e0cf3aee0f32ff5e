"""`sup up --follow`: the merged output of containers, until all of them have ended."""

from __future__ import annotations

import binascii
import signal
from types import FrameType

from ..client import Client
from ..errors import SupError
from ..paths import Paths
from . import output


def follow(paths: Paths, names: list[str]) -> int:
    """The highest exit status. Interrupted once it asks them to stop, twice it kills."""
    if not names:
        return 0
    interrupts = _Interrupts(paths, names)
    before = {number: signal.signal(number, interrupts) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _merge(paths, names)
        return _statuses(paths, names)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        interrupts.close()


def _merge(paths: Paths, names: list[str]) -> None:
    merged = output.Prefixed(names)
    with Client(paths) as client:
        for record in client.stream("sup.Logs", names=names, follow=True):
            if "data" in record:
                name, data = str(record["name"]), binascii.a2b_base64(str(record["data"]))
                merged.feed(name, data, stream=str(record["stream"]))
            elif "lost" in record:
                output.complain(f"{record['name']}: {record['lost']} bytes of output were lost")
    merged.finish_all()


def _statuses(paths: Paths, names: list[str]) -> int:
    with Client(paths) as client:
        replies = client.stream("sup.Wait", names=names)
        ended = {str(each["name"]): each["status"] for each in replies if "name" in each}
    statuses = {name: status for name, status in ended.items() if isinstance(status, int)}
    return output.report_statuses({name: statuses[name] for name in names if name in statuses})


class _Interrupts:
    """What Ctrl-C does: calls whose replies nobody waits for, while the output goes on."""

    def __init__(self, paths: Paths, names: list[str]) -> None:
        self._paths = paths
        self._names = names
        self._clients: list[Client] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        method = "sup.Kill" if self._clients else "sup.Stop"
        try:
            client = Client(self._paths)
        except SupError:
            return  # it has gone, and the stream of output says so
        self._clients.append(client)
        client.begin(method, names=self._names)

    def close(self) -> None:
        for client in self._clients:
            client.close()
