"""Reads a call's parameters: each is asked for by name and type, and what is left over is refused."""

from __future__ import annotations

import binascii
from collections.abc import Mapping

from ..errors import SpecError


class Parameters:
    """The parameters of one call. Null counts as absent. Raises SpecError."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._left = {name: value for name, value in values.items() if value is not None}

    def done(self) -> None:
        """No parameter is left that nobody asked for."""
        for name in self._left:
            raise SpecError("parameter", name, "leave it out: this method has none by that name")

    def given(self, name: str) -> bool:
        return name in self._left

    def text(self, name: str, default: str = "") -> str:
        value = self._left.pop(name, default)
        if isinstance(value, str) and "\0" not in value:
            return value
        raise SpecError(name, _shown(value), "give a string")

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._left.pop(name, default)
        if isinstance(value, bool):
            return value
        raise SpecError(name, _shown(value), "give true or false")

    def whole(self, name: str, low: int = 0, high: int = 1 << 53) -> int | None:
        """A whole number within bounds, None when absent."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise SpecError(name, _shown(value), f"give a whole number from {low} to {high}")

    def seconds(self, name: str) -> float | None:
        """A time that is not negative, None when absent."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12:
            return float(value)
        raise SpecError(name, _shown(value), "give a number of seconds")

    def texts(self, name: str) -> list[str]:
        """A list of strings, empty when absent."""
        value = self._left.pop(name, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            for item in value:
                if "\0" in item:
                    raise SpecError(name, item, "remove the NUL byte")
            return value
        raise SpecError(name, _shown(value), "give a list of strings")

    def table(self, name: str) -> dict[str, object]:
        value = self._left.pop(name, {})
        if isinstance(value, dict):
            return value
        raise SpecError(name, _shown(value), "give an object")

    def data(self, name: str) -> bytes:
        """Bytes that came as base64."""
        try:
            return binascii.a2b_base64(self.text(name), strict_mode=True)
        except (ValueError, binascii.Error):
            raise SpecError(name, "of this call", "give base64") from None


def _shown(value: object) -> object:
    """A value that an error can quote: nothing that takes long, or cannot be, printed."""
    short = isinstance(value, int) and value.bit_length() <= 64
    return value if short or isinstance(value, str | float) else type(value).__name__
