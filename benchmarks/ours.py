"""The suite in the race: a job as its worker does it; and a bare loop over the same model, which is the job's floor."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from baselines.bare import descend
from baselines.clock import Clock
from baselines.networks import LATENT
from rich.console import Console as RichConsole
from torch import Tensor

import bench.contracts.events
from bench.blocks import GaussianVAE
from bench.contracts.dataset import DATASETS, Data, Splits, prepare
from bench.contracts.events import Event, RunStarted
from bench.contracts.images import Images
from bench.contracts.protocol import RunRequest, Training
from bench.contracts.variant import Batch
from bench.data import data_root, load
from bench.engine.checkpoint import Checkpoints
from bench.engine.snapshot import fill, under
from bench.results.store import Run
from bench.running.grid import Cell, Config, cell
from bench.running.job import Conduct, Stopped, perform
from bench.running.supervisor import POLL
from bench.running.worker import BEAT
from bench.show.progress import Console
from bench.util.errors import DataError


class Asked:
    """A trained model of the suite, as `held_out` asks it."""

    def __init__(self, model: GaussianVAE) -> None:
        self.model = model

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_terms(x, _labels(x))

    def logits(self, z: Tensor) -> Tensor:
        return self.model.decoded(z, _labels(z))


def _labels(x: Tensor) -> Tensor:
    return torch.full((len(x),), -1, device=x.device)


def mnist() -> Data:
    """MNIST from where the user's data lies, or drawn images of its shape where it isn't there."""
    try:
        return load("mnist", data_root(None), download=False)
    except DataError:
        generator = torch.Generator().manual_seed(0)
        kinds = torch.nn.functional.interpolate(torch.rand(10, 1, 5, 5, generator=generator) ** 4, (28, 28))

        def drawn(n: int) -> Images:
            labels = torch.arange(n) % 10
            return Images((kinds[labels] * torch.rand(n, 1, 28, 28, generator=generator) * 255).to(torch.uint8), labels)

        return prepare("drawn images", DATASETS.load("mnist")(), Splits(drawn(60_000), drawn(10_000)))


def offers(precision: str, compiled: bool) -> bool:
    """Whether the engine trains so."""
    known = {f.name for f in fields(Training)}
    return (precision == "fp32" or "compile" in known) and (not compiled or "compile" in known)


def made(network: str, data: Data, seed: int, precision: str = "fp32", compiled: bool = False) -> Cell:
    """The variant of that name with the dataset's own budget."""
    c = cell(Config(network, (("latent_dim", LATENT),)), data, seed, RunRequest())
    changed: dict[str, Any] = {"precision": precision} | ({"compile": True} if compiled else {})
    return replace(c, training=replace(c.training, **changed))


def built(c: Cell) -> GaussianVAE:
    model = c.config.build(c.spec, c.seed)
    assert isinstance(model, GaussianVAE)
    return model


def train(c: Cell, clock: Clock, threads: int) -> Asked:
    """The job until the clock says so, as a worker does it: history, checks, signs of life and checkpoints.

    Its events go to a file, from which a display reads them in a process of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        store, path = Run(Path(folder) / "run"), Path(folder) / "events.jsonl"
        store.create(RunRequest())
        events, beat = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), time.monotonic()

        def listener(event: Event) -> None:
            os.write(events, (json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n").encode())

        def alive() -> None:
            nonlocal beat
            if time.monotonic() - beat >= BEAT:
                beat = time.monotonic()
                os.utime(events)

        with _displayed(path):
            listener(RunStarted(1, sum(c.steps), folder))
            try:
                perform(c, {}, store, listener, Conduct(clock.device, threads, alive=alive, stop=clock.tick))
            except Stopped:
                pass
            else:
                failed = [row.reason for row in store.rows()]
                raise SystemExit(f"{c.name} ended before its lap: {failed}")
        os.close(events)
        snapshot, _ = Checkpoints(store.work(c.name) / "checkpoints", c.name).load()
    assert snapshot is not None
    model = built(c)
    fill(model, under("model.", snapshot.tensors))
    return Asked(model.to(clock.device))


@contextmanager
def _displayed(path: Path) -> Iterator[None]:
    """A process that shows the events of a file as a terminal would."""
    shown = multiprocessing.get_context("fork").Process(target=_show, args=(path,), daemon=True)
    shown.start()
    try:
        yield
    finally:
        shown.terminate()
        shown.join()


def _show(path: Path) -> None:
    with path.open() as file, open(os.devnull, "w") as null:
        console = RichConsole(file=null, force_terminal=True, width=100)
        with Console(console) as display:
            while True:
                for line in file:
                    document = json.loads(line)
                    display(getattr(bench.contracts.events, document.pop("event"))(**document))
                time.sleep(POLL)


def floor(c: Cell, clock: Clock) -> Asked:
    """The bare loop with the suite's own model, loss and kernels."""
    model, images = built(c).to(clock.device), c.data.train
    everything = torch.arange(len(images))
    pixels, labels = images.take(everything, clock.device), images.labels(everything, clock.device)
    progress = torch.zeros((), device=clock.device)
    compiled = getattr(c.training, "compile", False)
    loss = torch.compile(model.loss) if compiled else model.loss

    def value(x: Tensor, index: Tensor) -> Tensor:
        of_batch: Tensor = loss(Batch(x, labels[index], index, progress))[0]
        return of_batch

    descend(value, model.parameters(), pixels, clock, c.training.precision)
    return Asked(model)
