"""How fast a folder of images is read for training: `python benchmarks/folder.py FOLDER [IMAGES]`.

FOLDER is made if it isn't there: smooth 64x64 JPEGs in 100 classes, 200,000 of them. Compared are batches of 128 in
random order, as floats from 0 to 1: from our memory-mapped copy in one process, and from torchvision's ImageFolder with
ToTensor and a DataLoader of 0, 1 and 2 workers, started before they're timed. They take turns, in
which the workers fill their queues; medians are printed. On a busy machine go by the seconds of CPU.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from bench.contracts.images import to_float
from bench.data import load
from bench.engine.trainer import Order

BATCH, ROUNDS, SECONDS, CLASSES = 128, 7, 3.0, 100


def make(folder: Path, count: int) -> None:
    """Smooth noise: enlarged from 8x8."""
    rng = np.random.default_rng(0)
    for c in range(CLASSES):
        (folder / f"{c:03d}").mkdir(parents=True)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        image = small.resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"{i % CLASSES:03d}" / f"{i:06d}.jpg", quality=85)


def ours(folder: Path) -> Iterator[Tensor]:
    images = load(f"folder:{folder}", Path(), on_progress=_progress()).train
    order = Order(len(images), BATCH, seed=0)
    k = 0
    while True:
        yield to_float(images.take(order.batch(k)))
        k += 1


def _progress() -> Callable[[str, int, int], None]:
    began, seen = time.perf_counter(), ""

    def say(what: str, done: int, total: int) -> None:
        nonlocal seen
        text = f"{what}{f': {done / total:.0%}' if total else ''}"
        if text != seen:
            print(f"\r{time.perf_counter() - began:7.1f} s  {text}", end="", file=sys.stderr, flush=True)  # noqa: T201
        seen = text

    return say


def theirs(folder: Path, workers: int) -> Iterator[Tensor]:
    images = ImageFolder(str(folder), ToTensor())
    keep = workers > 0
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=keep, drop_last=True)
    return (x for epoch in cycle([loader]) for x, _ in epoch)


def rates(batches: Iterator[Tensor]) -> tuple[float, float]:
    """Images a second, and a second of this process's CPU."""
    began, used, n = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < SECONDS:
        n += len(next(batches))
    return n / (time.perf_counter() - began), n / (time.process_time() - used)


def anonymous() -> float:
    """MB of memory that aren't a file's."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon")), float("nan"))


def main(folder: Path, count: int) -> None:
    if not folder.exists():
        make(folder, count)
    before, began = anonymous(), time.perf_counter()
    ways = {"memory-mapped": ours(folder)}
    next(ways["memory-mapped"])
    print(f"\nready in {time.perf_counter() - began:.1f} s, {anonymous() - before:,.0f} MB of memory more")  # noqa: T201
    ways |= {f"ImageFolder, {n} workers": theirs(folder, n) for n in (0, 1, 2)}
    for batches in ways.values():
        next(batches)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, batches in ways.items():
            found[name].append(rates(batches))
    wall = {name: [rate for rate, _ in turns] for name, turns in found.items()}
    cpu = {name: statistics.median(rate for _, rate in turns) for name, turns in found.items()}
    first, *others = ways
    best = max(statistics.median(wall[name]) for name in others)
    for name, turns in wall.items():
        middle = statistics.median(turns)
        spread = f"({min(turns):,.0f} to {max(turns):,.0f})"
        print(f"{name:>22}  {middle:8,.0f} images/s {spread:>18}  {middle / best:5.1f} of the best ImageFolder")  # noqa: T201
    alone = cpu[others[0]]
    both = f"{cpu[first]:,.0f} and {alone:,.0f}"
    print(f"images a second of CPU, where one process does all: {both}; {cpu[first] / alone / 2:.1f} of two cores full")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200_000)
