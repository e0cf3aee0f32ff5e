"""What the groups below ours can hold: hierarchies with their files, CPUs and memory nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import attrs

from supervisor.cgroup.layout import UNIFIED, find


@attrs.frozen
class Place:
    """One hierarchy: `directory` is where groups are made, `files` what a group in it has."""

    version: int
    controllers: tuple[str, ...]
    directory: str
    files: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """`unified`, or the controllers of v1."""
        return UNIFIED if self.version == 2 else ",".join(self.controllers)


@attrs.frozen
class Offer:
    """`absent` says of controllers why they are not to be had; `refusal` why nothing is."""

    places: tuple[Place, ...] = ()
    absent: Mapping[str, str] = attrs.Factory(dict)
    refusal: str = ""
    remedy: str = ""
    cpus: frozenset[int] = frozenset()
    mems: frozenset[int] = frozenset()

    def of(self, controller: str) -> Place | None:
        """Where a controller is."""
        return find(self.places, controller)

    @property
    def unified(self) -> Place | None:
        return next((one for one in self.places if one.version == 2), None)


class Write(NamedTuple):
    """`value` into `file` of a group in the hierarchy `place`, because `field` was asked for."""

    place: str
    file: str
    value: str
    field: str
