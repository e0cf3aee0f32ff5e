"""What the containers of one supervisor have in common."""

from __future__ import annotations

import attrs

from supervisor.background import Background
from supervisor.bus import Bus
from supervisor.console import ConsoleHub
from supervisor.host import HostFacts
from supervisor.link import Link
from supervisor.paths import Paths


@attrs.define
class Shared:
    """The rooms that a container works with."""

    paths: Paths
    link: Link
    host: HostFacts
    background: Background
    hub: ConsoleHub = attrs.Factory(ConsoleHub)
    events: Bus = attrs.Factory(Bus)
