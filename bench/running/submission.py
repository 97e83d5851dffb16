"""Somebody's own model as a row: samples that were made outside are scored as those of every variant, without a plugin.

Of its training nothing is known, so its row has no training protocol and stands in a block of its own. What needs a
model that can be asked is n/a.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import data as datasets
from bench.contracts.abilities import ABILITIES, HoldsSamples
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.likelihood import Likelihood
from bench.contracts.measurement import Metric, Request, Score
from bench.contracts.protocol import RunRequest, Scoring, digest
from bench.contracts.row import Row
from bench.contracts.scale import oddity
from bench.contracts.variant import VARIANTS, Spec, Stage, Variant
from bench.drawing.pictures import grid
from bench.engine.evaluator import Evaluator, keepers
from bench.evidence import KEPT, BoundTerms, LogLikelihood, Terms
from bench.plugins.registry import default
from bench.results.provenance import now, provenance
from bench.results.store import Run
from bench.running.grid import slug
from bench.running.outside import check_bounds, read_bounds, read_samples
from bench.running.planning import check_plain, choose_metrics, device_of
from bench.tables import frames
from bench.util.errors import NotAvailable, UsageError
from bench.util.places import cache_dir

UNKNOWN = "unknown"
OUTSIDE = "samples from a file"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


class _Spec(Spec):
    """What it was built for, as far as that is known."""

    def make_likelihood(self) -> Likelihood:
        if self.likelihood == UNKNOWN:
            raise NotAvailable("its likelihood is unknown (--likelihood says what its bounds are of)")
        return super().make_likelihood()


class Outsider(Variant):
    """Samples, and nothing that could be asked."""

    lacks = dict.fromkeys(set(ABILITIES) - {HoldsSamples}, "its samples were handed in, and no model that can be asked")
    samples: Tensor

    def __init__(self, spec: Spec, samples: Tensor) -> None:
        super().__init__(spec)
        self.register_buffer("samples", samples)

    def stages(self) -> tuple[Stage, ...]:
        return ()

    def held_samples(self) -> Tensor:
        return self.samples


class _Told(Evaluator):
    """An evaluator that is told some of the evidence beforehand."""

    def tell(self, request: Request[Any], found: Any) -> None:
        self._known[request] = found


def submit(
    samples: Path,
    dataset: str,
    *,
    name: str | None = None,
    bounds: Path | None = None,
    likelihood: str | None = None,
    fid_reference: Path | None = None,
    scale: float | None = None,
    metrics: tuple[str, ...] = (),
    out: Path | None = None,
    device: str = "auto",
    data_root: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    foretell: Callable[[str, float | None], None] = lambda *_: None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Row, Run]:
    """Score samples (and bounds) from files, as a row in the run at `out`. What is scored already isn't scored again.

    Args:
        samples: an .npz or .npy file, or a folder of .png files.
        name: the row's; by default that of the file.
        bounds: an .npz or .csv file with one number for each test image.
        likelihood: what the bounds are of.
        fid_reference: statistics from a file, such as pytorch-fid's, to compare with besides.
        scale: the number that is white in the samples; None: what their type says.
        out: a run's folder, new or not; by default one under results/, called like the row.
        say: told what is being done.
        foretell: told each metric before it starts, and the seconds that it predicts.
        note: told what is odd about the data or the samples, a line each.

    Raises:
        UsageError, DataError: the request or a file can't be used; nothing is written.
        StoreError: the folder can't be written.
    """
    name = _named(name, samples)
    way_to = None if fid_reference is None else _to(fid_reference)
    chosen = {n: m for n, m in choose_metrics(metrics).items() if not m.derived}
    on = device_of(device)
    check_plain("--dataset", dataset)
    data = datasets.load(dataset, datasets.data_root(data_root))
    spec = _Spec(data.train.shape, data.classes, len(data.train), data.latent_dim, likelihood or UNKNOWN)
    if likelihood is not None:
        spec.make_likelihood()  # is there one called so?
    say("reading")
    held = read_samples(samples, data.train.shape, Scoring.samples, scale)
    scoring = Scoring(samples=len(held.pixels))  # rows of other numbers of samples are scored by another protocol
    for line in data.notes:
        note(line)
    if odd := oddity(Images(held.pixels)):
        note(f"samples: {odd}")
    terms = None if bounds is None else read_bounds(bounds, len(data.test))
    if bounds is not None and terms is not None:
        check_bounds(bounds, terms, data.test, likelihood)
    model = Outsider(spec, held.pixels).to(on)
    evaluator = _Told(model, data, scoring, cache_dir())
    if terms is not None:
        evaluator.tell(Terms(), terms)
        evaluator.tell(LogLikelihood(), _half(terms))
    row = _row(name, data, spec, held.pixels, bounds, on)
    store = Run(out or Path("results") / name)
    if not store.exists():
        store.create(RunRequest(variants=(name,), datasets=(data.name,), baseline=False, sanity=False))
    store.refuse_links(row.cell)
    if store.flaw(row.cell):
        store.quarantine(row.cell)
    if not store.is_done(row.cell):
        say("evidence")
        _keep(store, row, evaluator, chosen, f"{now()} {OUTSIDE}: {len(held.pixels):,} of {held.of:,}\n")
    _score(store, row.cell, evaluator, chosen, say, foretell)
    if way_to is not None:
        say(way_to.function.__name__)
        _score(store, row.cell, evaluator, {way_to.function.__name__: way_to}, say, foretell, again=True)
    frames.write(store.path, store.rows())
    found = store.row(row.cell)
    assert found is not None
    return found, store


def namesakes(row: Row, run: Run) -> list[Row]:
    """Of a run's rows those that share a line of its tables with `row`, which counts the first alone: the newest."""

    def line(of: Row) -> tuple[Any, ...]:
        return of.status, of.label, of.seed, of.block, dict(of.data), dict(of.scoring)

    return [other for other in run.rows() if line(other) == line(row)]


def _named(name: str | None, samples: Path) -> str:
    wanted = samples.resolve().stem if name is None else name
    if not _NAME.fullmatch(wanted):
        raise UsageError(
            f"a row can't be called {wanted!r}",
            cause="A name is up to 64 letters, digits and . _ + -, the first a letter or digit.",
            fix="Give it one with --name.",
        )
    if wanted in VARIANTS:
        raise UsageError(f"{wanted!r} is an installed variant's name", fix="Give the row another one with --name.")
    return wanted


def _to(reference: Path) -> Metric:
    """The metric that compares with statistics from a file: whose maker is registered for that role.

    Raises:
        UsageError: nobody's is, or there is no such file.
    """
    if (maker := default("fid-reference")) is None:
        raise UsageError("no metric takes statistics from a file", cause="None is registered for `fid-reference`.")
    if not reference.is_file():
        raise UsageError(f"there is no file {str(reference)!r}", fix="--fid-reference FILE.npz")
    made: Metric = EntryPoint("fid-reference", maker, "bench.defaults").load()(reference)
    return made


def _half(terms: BoundTerms) -> Any:
    """What `LogLikelihood` comes to: n/a where the difference alone is known."""
    return terms.log_likelihood if isinstance(terms.log_likelihood, Tensor) else NotAvailable("only the bound is known")


def _row(name: str, data: Data, spec: Spec, samples: Tensor, bounds: Path | None, device: torch.device) -> Row:
    pixels = hashlib.sha256(samples.numpy().tobytes()).hexdigest()
    told = "" if bounds is None else hashlib.sha256(bounds.read_bytes()).hexdigest()
    identity = [OUTSIDE, name, data.train.digest, data.test.digest, spec.likelihood, pixels, told]
    return Row(
        variant=name,
        label=name,
        dataset=data.name,
        seed=0,
        status="ok",
        likelihood=spec.likelihood,
        plugin={"distribution": OUTSIDE},
        data={
            "shape": list(spec.shape),
            "classes": data.classes,
            "latent_dim": data.latent_dim,
            "train": data.train.digest,
            "test": data.test.digest,
            "train_images": len(data.train),
            "test_images": len(data.test),
        },
        provenance=provenance(device, now()),
        cell=slug(f"{name}-{data.name}", digest(identity)),
    )


def _keep(store: Run, row: Row, evaluator: Evaluator, metrics: Mapping[str, Metric], log: str) -> None:
    evidence = evaluator.keep((*KEPT, *keepers(metrics)))
    pictures = {"samples": grid(evidence["samples"][:128])}
    weights = {k: v.cpu() for k, v in evaluator.model.state_dict().items()}
    row = replace(row, provenance={**row.provenance, "ended": now()})
    store.write_done(row, weights, [], evidence, pictures, log)


def _score(
    store: Run,
    cell: str,
    evaluator: Evaluator,
    metrics: Mapping[str, Metric],
    say: Callable[[str], None],
    foretell: Callable[[str, float | None], None],
    *,
    again: bool = False,
) -> None:
    data = evaluator.data
    way = {**evaluator.scoring.document(), "test": data.test.digest, "source": data.source.digest}
    known = {} if again else store.read_scores(cell, way)
    for name, metric in metrics.items():
        score = known.get(name)
        if score is None or (isinstance(score, NotAvailable) and score.retry):
            say(name)
            foretell(name, evaluator.predict(metric))
            began = time.perf_counter()
            found: Score | NotAvailable = evaluator.score(metric)[0]
            store.write_scores(cell, way, {name: found}, {name: time.perf_counter() - began})
