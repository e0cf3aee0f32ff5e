"""Run by hatchling when the wheel is built: completions are made of the commands that there are."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLACES = {
    "bash": "share/bash-completion/completions/sup",
    "zsh": "share/zsh/site-functions/_sup",
    "fish": "share/fish/vendor_completions.d/sup.fish",
}


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds a completion script for each shell to what the wheel installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        sys.path.insert(0, self.root)
        from supervisor.cli.completion import script

        self._made = tempfile.TemporaryDirectory()
        for shell, place in _PLACES.items():
            path = Path(self._made.name, shell)
            path.write_text(script(shell))
            build_data["shared_data"][str(path)] = place

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.target_name == "wheel":
            self._made.cleanup()
