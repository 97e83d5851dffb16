"""Cells side by side: what `--jobs` brings, and what a cell costs beside its steps."""

from __future__ import annotations

import statistics
from itertools import product

import click
import numpy as np
from runs import Cost, run
from training import cores, machine, show

METRICS = ("--metrics", "elbo")


def throughput(dataset: str, cells: int, steps: int, jobs: int, rounds: int) -> list[list[str]]:
    """Cells one at a time with all cores or one, and `jobs` at once with a share each; interleaved."""
    what = ("--variants", "vae", "--dataset", dataset, "--seeds", cells, "--steps", steps, *METRICS)
    ways: dict[tuple[int, int], list[Cost]] = {(1, cores()): [], (1, 1): [], (jobs, max(1, cores() // jobs)): []}
    for _ in range(rounds):
        for (n, threads), costs in ways.items():
            costs.append(run(*what, "--jobs", n, "--threads", threads))
    alone = [min(costs[i].wall for (n, _), costs in ways.items() if n == 1) for i in range(rounds)]
    lines = []
    for (n, threads), costs in ways.items():
        wall, cpu = (statistics.median(getattr(c, name) for c in costs) for name in ("wall", "cpu"))
        gain = statistics.median(a / c.wall for a, c in zip(alone, costs, strict=True))
        lines.append([f"--jobs {n}", str(threads), f"{wall:.1f}", f"{cpu:.1f}", f"{gain:.2f}"])
    return lines


def fixed(dataset: str, rounds: int, counts: tuple[int, ...], budgets: tuple[int, ...]) -> list[list[str]]:
    """seconds = run + cells * (cell + steps * step), by least squares over medians; one cell at a time, one thread."""
    found: dict[tuple[int, int], list[Cost]] = {point: [] for point in product(counts, budgets)}
    for _ in range(rounds):
        for (cells, steps), costs in found.items():
            what = ("--variants", "vae", "--dataset", dataset, "--seeds", cells, "--steps", steps, *METRICS)
            costs.append(run(*what, "--jobs", 1, "--threads", 1))
    columns = np.array([[1, cells, cells * steps] for cells, steps in found], float)
    lines = []
    for name in ("wall", "cpu"):
        seconds = [statistics.median(getattr(c, name) for c in costs) for costs in found.values()]
        (a, b, c), *_ = np.linalg.lstsq(columns, np.array(seconds), rcond=None)
        lines.append([name, f"{a:.2f}", f"{b:.2f}", f"{a + b:.2f}", f"{1000 * c:.2f}"])
    return lines


@click.command(
    epilog="""\b
Examples:
  python benchmarks/grid.py
  python benchmarks/grid.py --dataset mnist --jobs 2
  python benchmarks/grid.py --quick
\b"""
)
@click.option("--dataset", default="digits", show_default=True)
@click.option("--jobs", default=2, show_default=True)
@click.option("--cells", default=8, show_default=True)
@click.option("--steps", default=1000, show_default=True, help="Of each cell.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="One round, of less.")
@click.option("--markdown", is_flag=True)
def main(dataset: str, jobs: int, cells: int, steps: int, rounds: int, quick: bool, markdown: bool) -> None:
    """Time whole runs of small `vae` cells, scored by their ELBO alone, as a user starts them.

    First a grid, one cell at a time (all cores, or one) and several at once (a share each), interleaved; throughput is
    in units of the better of the former. Then what a cell costs beside its steps: start, data, save, ELBO. It's the
    intercept of seconds over steps, for the only cell of a run and for one more cell in a grid.
    """
    import torch

    rounds, cells, steps = (1, 4, 300) if quick else (rounds, cells, steps)
    on = f"{dataset} · {machine(torch.device('cpu'), cores())}"
    lines = throughput(dataset, cells, steps, jobs, rounds)
    show(
        f"{cells} cells of {steps:,} steps · {on}", ["", "threads a cell", "s", "CPU s", "throughput"], lines, markdown
    )
    budgets = (50, 400) if quick else (50, 800)
    lines = fixed(dataset, rounds, (1, 4), budgets)
    heads = ["seconds", "a run", "one more cell", "the only cell", "ms a step"]
    show(f"what a cell costs beside its steps · {on}, 1 used", heads, lines, markdown)


if __name__ == "__main__":
    main()
