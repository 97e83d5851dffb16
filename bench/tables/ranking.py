"""The best value of a column among lines that are comparable, and what ties with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from bench.contracts.measurement import Direction
from bench.tables.numbers import printed
from bench.tables.statistics import LEAST, paired, verdicts

Mark = Literal["best", "tie", ""]
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Ranking:
    """The marks of a column's lines, by position, and the lines that have too few seeds to be compared."""

    marks: Mapping[int, Mark]
    few: tuple[int, ...] = ()  #: fewer seeds than a test needs, where others have enough
    apart: tuple[int, ...] = ()  #: too few seeds that the best has too


NOTHING = Ranking({})


def rank(lines: Mapping[int, BySeed], labels: Mapping[int, str], direction: Direction | None, places: int) -> Ranking:
    """Rank the lines of a block in one column; without a direction or a second label nothing is ranked.

    Every line is paired with the best by seed, and tested with Holm's correction over these comparisons. Where some
    line has seeds enough to be compared, lines with fewer cannot be the best: a single seed may be a lucky one.

    Args:
        lines: the values of each line by seed, by the line's position.
        labels: the label of each line.
        direction: of the column.
        places: decimals with which means are printed; lines with the same printed mean share the first place.
    """
    if direction is None or len({labels[i] for i in lines}) < 2:
        return NOTHING
    enough = {i: values for i, values in lines.items() if len(values) >= LEAST}
    rivals = enough or lines
    few = tuple(i for i in lines if i not in rivals)
    means = {i: fmean(values.values()) for i, values in rivals.items()}
    texts = {i: printed(mean, places) for i, mean in means.items()}
    if len({labels[i] for i in rivals}) < 2 or len(set(texts.values())) < 2:
        return Ranking({}, few)
    first = (max if direction == "higher" else min)(means, key=means.__getitem__)
    common = {i: sorted(rivals[i].keys() & rivals[first].keys()) for i in rivals if i != first}
    tested = [i for i, seeds in common.items() if len(seeds) >= LEAST]
    pairs = [[[rivals[j][seed] for seed in common[i]] for j in (first, i)] for i in tested]
    found = verdicts([(paired(best, other), direction) for best, other in pairs])
    marks: dict[int, Mark] = {i: "tie" for i, verdict in zip(tested, found, strict=True) if verdict.mark != "-"}
    marks |= {i: "best" for i in rivals if texts[i] == texts[first]}
    return Ranking(marks, few, tuple(i for i in common if i not in tested) if enough else ())


def overall(means: Mapping[str, float], direction: Direction, places: int) -> list[str]:
    """Return the labels with the best printed mean, of lines that need not be comparable."""
    best = (max if direction == "higher" else min)(means.values())
    return [label for label, mean in means.items() if printed(mean, places) == printed(best, places)]
