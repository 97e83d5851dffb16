"""The suite's training beside the textbook loop, pythae, a bare tensor loop and the matrix limit, in one table."""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import click
import ours
import torch
from baselines import bare, limit, peer, textbook
from baselines.clock import Clock
from baselines.networks import BATCH, NETWORKS, held_out
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.contracts.dataset import Data

EPOCH = 60_000 / BATCH  #: steps
APART = 0.05  #: how far a contender's held-out loss may be from the median of all
EARLY = 200, 0.15  #: and after fewer steps than these, where the initial weights still count

Lap = Callable[[Clock, int], Any]  # (clock, seed) to what was trained, or None
PLANS = {"vae": (7, 20, 469), "conv": (5, 5, 40)}  #: rounds, warm-up steps, timed steps
QUICK = {"vae": (3, 10, 60), "conv": (2, 2, 8)}


@dataclass
class Contender:
    """Somebody who trains the network; the fastest of its `ways` is who races."""

    name: str
    ways: dict[str, Lap]
    way: str = ""
    walls: list[float] = field(default_factory=list)  #: seconds an epoch, a round each
    cpus: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.name} ({self.way})" if self.way else self.name


def contenders(network: str, data: Data, threads: int, precisions: list[str], compiled: bool) -> list[Contender]:
    """Everybody who can race here, ours first."""
    pixels, labels = data.train.take(torch.arange(len(data.train))), data.train.labels()
    floats = pixels.float() / 255
    layouts = {"": False} if network == "vae" else {"": False, "channels last": True}

    def fresh(seed: int) -> Any:
        torch.manual_seed(seed)
        return NETWORKS[network]()

    def our(precision: str, c: bool) -> Lap:
        return lambda clock, seed: ours.train(ours.made(network, data, seed, precision, c), clock, threads)

    def our_floor(precision: str, c: bool) -> Lap:
        return lambda clock, seed: ours.floor(ours.made(network, data, seed, precision, c), clock)

    def tensors(precision: str, c: bool, last: bool) -> Lap:
        return lambda clock, seed: bare.train(
            fresh(seed), pixels, clock, channels_last=last, precision=precision, compiled=c
        )

    def matrices(precision: str, last: bool) -> Lap:
        return lambda clock, seed: limit.train(fresh(seed), clock, precision=precision, channels_last=last)

    def workers(n: int) -> Lap:
        return lambda clock, seed: textbook.train(fresh(seed), pixels, labels, clock, n)

    found: list[Contender] = []
    for precision in precisions:
        for c in (False, True) if compiled else (False,):
            tag = " ".join(filter(None, ["" if precision == "fp32" else precision, "compiled" if c else ""]))
            if ours.offers(precision, c):
                found.append(Contender(f"ours {tag}".strip(), {"": our(precision, c)}))
                found.append(Contender(f"floor {tag}".strip(), {"": our_floor(precision, c)}))
            ways = {way: tensors(precision, c, last) for way, last in layouts.items()}
            found.append(Contender(f"bare {tag}".strip(), ways))
    found.append(Contender("textbook", {f"{n} workers": workers(n) for n in (0, 2)}))
    if find_spec("pythae"):
        found.append(Contender("pythae", {"": lambda clock, seed: peer.train(fresh(seed), floats, clock)}))
    for precision in precisions:
        ways = {way: matrices(precision, last) for way, last in layouts.items()}
        found.append(Contender(f"matrices {precision}" if precision != "fp32" else "matrices", ways))
    return found


def choose(contender: Contender, warmup: int, steps: int, device: torch.device) -> None:
    """Keep the faster of a contender's ways, by the better of two short laps each."""
    walls: dict[str, list[float]] = {way: [] for way in contender.ways}
    for _ in range(2 if len(walls) > 1 else 0):
        for way, lap in contender.ways.items():
            clock = Clock(warmup, max(2, steps // 4), device)
            lap(clock, 0)
            walls[way].append(clock.wall)
    contender.way = min(walls, key=lambda way: min(walls[way], default=0.0))


def race(field: list[Contender], data: Data, plan: tuple[int, int, int], device: torch.device) -> None:
    """Interleaved rounds: everybody trains from scratch for as many steps, by the same seed, one after the other."""
    rounds, warmup, steps = plan
    test = data.test.take(torch.arange(0, len(data.test), max(1, len(data.test) // 1000)), device).float() / 255
    for contender in field:
        choose(contender, warmup, steps, device)
    laps = [(seed, contender) for seed in range(rounds) for contender in field]
    for seed, contender in track(laps, "laps", console=Console(stderr=True), transient=True):
        clock = Clock(warmup, steps, device)
        trained = contender.ways[contender.way](clock, seed)
        contender.walls.append(clock.wall / steps * EPOCH)
        contender.cpus.append(clock.cpu() / steps * EPOCH)
        if trained is not None:
            contender.losses.append(held_out(trained, test))


def spread(values: list[float]) -> float:
    """The interquartile range."""
    if len(values) < 2:
        return math.nan
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def ratio(contender: Contender, our: Contender) -> float:
    """How many times our time it takes: the median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(contender.walls, our.walls, strict=True))


def cpu_ratio(contender: Contender, our: Contender) -> float:
    """The same of CPU seconds: less disturbed by what else the machine does."""
    return statistics.median(a / b for a, b in zip(contender.cpus, our.cpus, strict=True))


def lines(field: list[Contender]) -> tuple[list[str], list[list[str]]]:
    """Heads, and a line for each contender."""
    our = [c for c in field if c.name.startswith("ours")]
    heads = [
        "",
        "s / epoch",
        "IQR",
        "CPU s",
        *(f"÷ {c.name}" for c in our),
        *(f"CPU ÷ {c.name}" for c in our[:1]),
        "-ELBO",
    ]
    made = []
    for c in field:
        loss = f"{statistics.median(c.losses):.1f}" if c.losses else ""
        numbers = [f"{statistics.median(c.walls):.2f}", f"{spread(c.walls):.2f}", f"{statistics.median(c.cpus):.2f}"]
        ratios = [ratio(c, o) for o in our] + [cpu_ratio(c, o) for o in our[:1]]
        made.append([c.label, *numbers, *(f"{r:.2f}" for r in ratios), loss])
    return heads, made


def idle(field: list[Contender], apart: float = APART) -> list[str]:
    """Who hasn't learnt what the others have, in some round."""
    found = {}
    for losses in zip(*(c.losses for c in field if c.losses), strict=True):
        middle = statistics.median(filter(math.isfinite, losses))
        for c, loss in zip([c for c in field if c.losses], losses, strict=True):
            if not abs(loss - middle) <= apart * middle:
                found[c.name] = f"{c.name} came to {loss:.1f} nats where the others came to {middle:.1f}"
    return list(found.values())


def machine(device: torch.device, threads: int) -> str:
    """What all of it ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}, torch {torch.__version__}"


def cores() -> int:
    """Cores that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            found = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
        return {k.strip(): v.strip() for k, v in found.items()}["model name"]
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def show(title: str, heads: list[str], body: list[list[str]], markdown: bool) -> None:
    if markdown:
        rule = ["---", *["---:"] * (len(heads) - 1)]
        click.echo("\n".join([title, "", *("| " + " | ".join(row) + " |" for row in [heads, rule, *body]), ""]))
        return
    table = Table(box=None, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left")
    for row in body:
        table.add_row(*row)
    click.echo(f"\n{title}")
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)


@click.command(
    epilog="""\b
Examples:
  python benchmarks/training.py
  python benchmarks/training.py --network conv --threads 1
  python benchmarks/training.py --precision fp32,bf16 --compile --markdown
  python benchmarks/training.py --quick --only ours,floor
\b"""
)
@click.option("--network", type=click.Choice([*NETWORKS, "both"]), default="both", show_default=True)
@click.option("--precision", default="fp32", show_default=True, help="Of ours, floor and bare: fp32,bf16.")
@click.option("--compile", "compiled", is_flag=True, help="Ours, floor and bare once more, compiled.")
@click.option("--only", default="", help="These contenders alone, by the first words of their names.")
@click.option("--threads", type=int, help="CPU threads of everybody.  [default: all cores]")
@click.option("--device", default="cpu", show_default=True)
@click.option("--rounds", type=int, help=f"[default: {PLANS['vae'][0]}; conv {PLANS['conv'][0]}]")
@click.option("--steps", type=int, help=f"Timed steps of a lap.  [default: {PLANS['vae'][2]}; conv {PLANS['conv'][2]}]")
@click.option("--quick", is_flag=True, help="Few short laps: whether everybody runs, not how fast.")
@click.option("--markdown", is_flag=True, help="Tables in Markdown.")
def main(
    network: str,
    precision: str,
    compiled: bool,
    only: str,
    threads: int | None,
    device: str,
    rounds: int | None,
    steps: int | None,
    quick: bool,
    markdown: bool,
) -> None:
    """Time the training of the suite (`ours`) beside its peers', on MNIST, batch 128, Adam 1e-3.

    Rounds are interleaved: in each, everybody trains from scratch by the same seed, and a fixed number of steps is
    timed after a warm-up. Shown are medians over rounds in seconds per epoch of 60,000 images, their interquartile
    range, CPU seconds, and how many times our time somebody takes (the median of ratios within rounds). -ELBO is on
    1,000 held-out images after the lap: who skips work is found out, and the exit code is 1.

    `floor` is the bare loop over our own model and loss: what the suite does around it is the ratio of the two.
    """
    threads = threads or cores()
    torch.set_num_threads(threads)
    where, data, wrong = torch.device(device), ours.mnist(), []
    for name in NETWORKS if network == "both" else [network]:
        plan = (QUICK if quick else PLANS)[name]
        plan = (rounds or plan[0], plan[1], steps or plan[2])
        everybody = contenders(name, data, threads, precision.split(","), compiled)
        wanted = tuple(filter(None, only.split(",")))
        racing = [c for c in everybody if not wanted or c.name.startswith(wanted)]
        race(racing, data, plan, where)
        heads, body = lines(racing)
        title = f"{name} · {data.name} · {machine(where, threads)} · {plan[0]} rounds of {plan[2]} steps"
        show(title, heads, body, markdown)
        for c in racing:
            if c.name.startswith("matrices"):
                rate = limit.operations(NETWORKS[name]()) * EPOCH / statistics.median(c.walls) / 1e9
                click.echo(f"{c.name}: {rate:,.0f} GFLOP/s")
        wrong += idle(racing, EARLY[1] if plan[2] < EARLY[0] else APART)
    if not find_spec("pythae"):
        click.echo("pythae isn't there: pip install -e '.[benchmarks]'")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
