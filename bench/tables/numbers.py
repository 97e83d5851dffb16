"""Numbers as tables print them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def decimals(lines: Sequence[Sequence[float]]) -> int:
    """Return the decimals that suit a column, given each line's values: -1 is scientific, means of counts get 1."""
    values = [value for line in lines for value in line]
    if all(value == round(value) for value in values):
        return int(any(len(line) > 1 for line in lines))
    largest = max(map(abs, values), default=0.0)
    return next((d for limit, d in ((1e-3, -1), (0.1, 4), (1, 3), (1e3, 2), (1e5, 1)) if largest < limit), 0)


def certain(places: int, deviations: Sequence[float]) -> int:
    """Return at most `places` decimals: as many as the first digit of a typical standard deviation has."""
    spread = [sd for sd in deviations if sd > 0]
    return min(places, max(0, -math.floor(math.log10(median(spread))))) if spread else places


def printed(value: float, places: int) -> str:
    """Return a value with a real minus sign and no negative zero."""
    text = f"{value:.2e}" if places < 0 else f"{value:.{places}f}"
    if text.startswith("-") and not float(text):
        text = text[1:]
    return text.replace("-", "−", 1) if text.startswith("-") else text


def duration(seconds: float) -> str:
    """Return a length of time in the largest unit of which there is more than one: '12 s', '4 min', '1.5 h'."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
