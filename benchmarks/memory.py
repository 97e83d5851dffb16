"""The peak memory of a cell: the largest process of a run of one."""

from __future__ import annotations

import click
import torch
from runs import run
from training import cores, machine, show

GOAL = 1536  #: MiB, of Fashion-MNIST with the default metrics
CASES = {
    "vae, default metrics": ("--variants", "vae", "--steps", 300),
    "conv, default metrics": ("--variants", "conv", "--steps", 100),
    "vae, elbo alone": ("--variants", "vae", "--steps", 300, "--metrics", "elbo"),
}


@click.command(
    epilog="""\b
Examples:
  python benchmarks/memory.py
  python benchmarks/memory.py --dataset mnist --threads 1
\b"""
)
@click.option("--dataset", default="fashion", show_default=True)
@click.option("--threads", type=int, help="[default: all cores]")
@click.option("--quick", is_flag=True, help="The first case alone.")
@click.option("--markdown", is_flag=True)
def main(dataset: str, threads: int | None, quick: bool, markdown: bool) -> None:
    """Measure the peak resident memory of cells, from start to the last score. Steps don't add to it: a few will do."""
    threads = threads or cores()
    lines = []
    for name, what in list(CASES.items())[: 1 if quick else None]:
        cost = run("--dataset", dataset, *what, "--threads", threads)
        lines.append([name, f"{cost.peak:,.0f}", f"{cost.peak / GOAL:.0%}", f"{cost.wall:.0f}", f"{cost.cpu:.0f}"])
    heads = ["", "peak MiB", f"of {GOAL:,}", "s", "CPU s"]
    show(f"peak memory of one cell · {dataset} · {machine(torch.device('cpu'), threads)}", heads, lines, markdown)


if __name__ == "__main__":
    main()
