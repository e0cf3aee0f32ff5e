"""The registry: names, fleets, replicas; the only process-wide state, changed synchronously."""

from __future__ import annotations

import fnmatch
import secrets
from collections.abc import Callable, Iterable, Sequence

from supervisor.container import Container
from supervisor.errors import Ambiguous, NameTaken, NotFound
from supervisor.spec import check_name
from supervisor.text import escape


class Registry:
    """Every container by its name."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}

    def replicas(self, fleet: str) -> list[Container]:
        """The containers of a fleet, by number."""
        found = [c for c in self.containers.values() if c.fleet == fleet]
        return sorted(found, key=lambda container: container.index)

    def reserve(
        self,
        name: str | None,
        n: int | None,
        make: Callable[[str, str, int], Container],
        *,
        scale: bool = False,
    ) -> list[Container]:
        """Make and enter what a launch asks for, all or nothing. Raises NameTaken, SpecError."""
        base = check_name(name or ("sup" if n is not None else f"run-{secrets.token_hex(3)}"))
        wanted = _wanted(base, n)
        if scale:
            wanted = [pair for pair in wanted if pair[0] not in self.containers]
        else:
            self.check_free([(base, n)])
        made = [make(each, base, index) for each, index in wanted]
        self.containers.update((container.name, container) for container in made)
        return made

    def check_free(self, launches: Iterable[tuple[str, int | None]]) -> None:
        """Raises NameTaken when a container or fleet of one of these names exists."""
        for base, n in launches:
            if n is not None and self.replicas(base):
                raise NameTaken(
                    f"fleet {base} exists already",
                    remedy=f"`--scale` brings it to {n}, `sup down {base}` ends it, or use `--name`",
                )
            for taken, _ in _wanted(base, n):
                if check_name(taken) in self.containers:
                    raise NameTaken(f"{taken} exists already", remedy=f"`sup rm -f {taken}` ends it")

    def forget(self, container: Container) -> bool:
        """Take a container out; False if it was out already."""
        if self.containers.get(container.name) is not container:
            return False
        del self.containers[container.name]
        return True

    def select(self, patterns: Sequence[str]) -> list[Container]:
        """The containers that names, fleets, ids, unambiguous prefixes or patterns mean, each once."""
        chosen: dict[str, Container] = {}
        for pattern in patterns:
            chosen.update((container.name, container) for container in self._match(pattern))
        return list(chosen.values())

    def _match(self, pattern: str) -> list[Container]:
        if pattern in self.containers:
            return [self.containers[pattern]]
        if any(character in pattern for character in "*?["):
            found = [c for c in self.containers.values() if fnmatch.fnmatchcase(c.name, pattern)]
            return self._some(found, pattern)
        begin = [
            c
            for c in self.containers.values()
            if c.name.startswith(pattern) or c.id.startswith(pattern)
        ]
        if len(begin) > 1:
            names = ", ".join(container.name for container in begin[:5])
            raise Ambiguous(
                f"{escape(pattern)} may be any of {len(begin)} containers ({names}, ...)",
                remedy=f"write one whole, or the pattern '{escape(pattern)}*' for all",
            )
        return self._some(begin, pattern)

    @staticmethod
    def _some(found: list[Container], pattern: str) -> list[Container]:
        if not found:
            shown = escape(pattern[:80])
            raise NotFound(f"there is no container {shown}", remedy="see `sup ps -a`")
        return found


def _wanted(base: str, n: int | None) -> list[tuple[str, int]]:
    """Names and numbers of one container, or of n replicas."""
    return [(base, 0)] if n is None else [(f"{base}-{i}", i) for i in range(1, n + 1)]
