"""Moments in time as `--since` takes them, and as `-t` prints them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from ..errors import SpecError
from ..text import parse_duration

_EPOCH = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", re.ASCII)


def parse(text: str, now: float | None = None) -> float:
    """Seconds since 1970 from `5m` (ago), `1700000000`, `2026-01-31T12:00:00[Z]`. Raises SpecError."""
    text = text.strip()
    if _EPOCH.fullmatch(text):
        return float(text)
    try:
        return max(0.0, (time.time() if now is None else now) - parse_duration(text))
    except ValueError:
        pass
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):
        raise SpecError(
            "since", text, "give a time ago (5m, 1h30m), seconds since 1970, or 2026-01-31T12:00:00"
        ) from None


def stamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds, as docker prints it; sorts as it happened."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"
