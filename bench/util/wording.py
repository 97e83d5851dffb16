"""Lists, counts and ranges in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache


def listed(texts: Iterable[str]) -> str:
    """Return 'a', 'a and b', or 'a, b and c'."""
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def counted(n: int, noun: str) -> str:
    """Return '1 seed', or '2 seeds'."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def ranged(numbers: Sequence[int]) -> str:
    """Return ascending numbers as '0 to 4', if there are more than two and none is left out, else as '0, 2, 4'."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Return 'seed 3', or 'seeds 0 to 4'."""
    return f"seed{'' if len(seeds) == 1 else 's'} {ranged(seeds)}"


@cache
def natural(text: str) -> tuple[tuple[str, float], ...]:
    """Return a sorting key that puts beta=4 before beta=10."""
    return tuple((word, float(number or 0)) for word, number in re.findall(r"([^\d]+|^)(\d*\.?\d*)", text))
