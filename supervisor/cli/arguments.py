"""What several commands read from their arguments."""

from __future__ import annotations

from ..errors import SpecError
from ..text import parse_duration, parse_signal


def signal_number(text: str | None) -> int | None:
    """The number of `TERM`, `SIGTERM` or `15`. Raises SpecError."""
    if text is None:
        return None
    try:
        return parse_signal(text)
    except ValueError as error:
        raise SpecError("signal", text, str(error)) from None


def seconds(field: str, text: str | None) -> float | None:
    """Seconds from `10` or `1m30s`. Raises SpecError."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise SpecError(field, text, str(error)) from None
