"""Samples of a user's own model, from files, scored as those of every variant, without a plugin.

Nothing is known of the model's training, so its row has no training protocol and stands in a block of its own. Metrics
that need to call the model are n/a.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.contracts.abilities import ABILITIES, HoldsSamples
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.likelihood import Likelihood
from bench.contracts.measurement import Metric
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
from bench.running.grid import describe, load_data, slug
from bench.running.job import is_missing
from bench.running.outside import ElboAlone, check_bounds, read_bounds, read_samples
from bench.running.planning import check_plain, choose_metrics, device_of
from bench.tables import frames
from bench.util.errors import NotAvailable, UsageError
from bench.util.places import cache_dir

UNKNOWN = "unknown"
OUTSIDE = "samples from a file"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True)
class Submission:
    """What `bench score` is to score, and how."""

    samples: Path  #: an .npz or .npy file, or a folder of .png files
    dataset: str
    name: str | None = None  #: the row's; None: the file's
    bounds: Path | None = None  #: an .npz or .csv file with one number for each test image
    likelihood: str | None = None  #: of the bounds
    fid_reference: Path | None = None  #: statistics, such as pytorch-fid's, to compare with too
    scale: float | None = None  #: the value of white in the samples; None: by their type
    metrics: tuple[str, ...] = ()
    out: Path | None = None  #: the run's folder, new or not; None: results/NAME
    device: str = "auto"
    data_root: str | None = None


@dataclass(frozen=True)
class Feedback:
    """Functions that are called with the progress of a submission."""

    say: Callable[[str], None] = lambda _: None  #: takes the step that begins
    foretell: Callable[[str, float | None], None] = lambda *_: None  #: takes a metric, and its predicted seconds
    note: Callable[[str], None] = lambda _: None  #: takes a remark on odd data or samples


class _Spec(Spec):
    """The spec of a model whose likelihood may be unknown."""

    def make_likelihood(self) -> Likelihood:
        if self.likelihood == UNKNOWN:
            raise NotAvailable("its likelihood is unknown: give that of the bounds with --likelihood")
        return super().make_likelihood()


class Outsider(Variant):
    """A model of which only samples are known."""

    lacks = dict.fromkeys(set(ABILITIES) - {HoldsSamples}, "only samples were handed in, no model that can be asked")
    samples: Tensor

    def __init__(self, spec: Spec, samples: Tensor) -> None:
        super().__init__(spec)
        self.register_buffer("samples", samples)

    def stages(self) -> tuple[Stage, ...]:
        return ()

    def held_samples(self) -> Tensor:
        return self.samples


class _Evaluator(Evaluator):
    """An evaluator with the bounds from a file, where there are any."""

    def __init__(self, model: Variant, data: Data, scoring: Scoring, terms: BoundTerms | ElboAlone | None) -> None:
        super().__init__(model, data, scoring, cache_dir())
        if terms is not None:
            self._known[Terms()] = terms
            try:
                self._known[LogLikelihood()] = terms.log_likelihood
            except NotAvailable as reason:
                self._known[LogLikelihood()] = reason


def submit(submission: Submission, feedback: Feedback | None = None) -> tuple[Row, Run]:
    """Score samples, and bounds, from files; return the row, and its run. Scores on disk are not computed again.

    Raises:
        UsageError, DataError: the request or a file can't be used; nothing is written.
        StoreError: the folder can't be written.
    """
    it, feedback = submission, feedback or Feedback()
    name = _name(it)
    metrics = {n: m for n, m in choose_metrics(it.metrics).items() if not m.derived}
    to_reference = None if it.fid_reference is None else _to(it.fid_reference)
    device = device_of(it.device)
    check_plain("--dataset", it.dataset)
    data = load_data(it.dataset, RunRequest(data_root=it.data_root), download=True)
    spec = _Spec(data.train.shape, data.classes, len(data.train), data.latent_dim, it.likelihood or UNKNOWN)
    if it.likelihood is not None:
        spec.make_likelihood()  # raises for an unknown name
    feedback.say("reading")
    samples = read_samples(it.samples, data.train.shape, Scoring.samples, it.scale)
    pixels = samples.pixels
    for line in data.notes:
        feedback.note(line)
    if odd := oddity(Images(pixels)):
        feedback.note(f"samples: {odd}")
    terms = None if it.bounds is None else read_bounds(it.bounds, len(data.test))
    if it.bounds is not None and terms is not None:
        check_bounds(it.bounds, terms, data.test, it.likelihood)
    scoring = Scoring(samples=len(pixels))  # another number of samples is another protocol
    evaluator = _Evaluator(Outsider(spec, pixels).to(device), data, scoring, terms)
    bounds = "" if it.bounds is None else hashlib.sha256(it.bounds.read_bytes()).hexdigest()
    content = [spec.likelihood, hashlib.sha256(pixels.numpy().tobytes()).hexdigest(), bounds]
    row = Row(
        variant=name,
        label=name,
        dataset=data.name,
        seed=0,
        status="ok",
        likelihood=spec.likelihood,
        plugin={"distribution": OUTSIDE},
        data=describe(data),
        provenance=provenance(device, now()),
        cell=slug(f"{name}-{data.name}", digest([OUTSIDE, name, data.train.digest, data.test.digest, *content])),
    )
    store = Run(it.out or Path("results") / name)
    if not store.exists():
        store.create(RunRequest(variants=(name,), datasets=(data.name,), baseline=False, sanity=False))
    store.refuse_links(row.cell)
    if store.flaw(row.cell):
        store.quarantine(row.cell)
    if not store.is_done(row.cell):
        feedback.say("evidence")
        _commit(store, row, evaluator, metrics, f"{now()} {OUTSIDE}: {len(pixels):,} of {samples.of:,}\n")
    _score(store, row.cell, evaluator, metrics, feedback)
    if to_reference is not None:
        reference = {to_reference.function.__name__: to_reference}
        _score(store, row.cell, evaluator, reference, feedback, again=True)
    frames.write(store.path, store.rows())
    scored = store.row(row.cell)
    assert scored is not None
    return scored, store


def namesakes(row: Row, run: Run) -> list[Row]:
    """Return the rows of a run that share a line of its tables with `row`; tables count the first alone, the newest."""

    def line(of: Row) -> tuple[Any, ...]:
        return of.status, of.label, of.seed, of.block, dict(of.data), dict(of.scoring)

    return [other for other in run.rows() if line(other) == line(row)]


def _name(submission: Submission) -> str:
    name = submission.samples.resolve().stem if submission.name is None else submission.name
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a row can't be called {name!r}",
            cause="A name is up to 64 letters, digits and . _ + -, the first a letter or digit.",
            fix="Give it one with --name.",
        )
    if name in VARIANTS:
        raise UsageError(f"{name!r} is an installed variant's name", fix="Give the row another one with --name.")
    return name


def _to(reference: Path) -> Metric:
    """Return the metric that compares samples with statistics from a file, made by the plugin for that role."""
    if (maker := default("fid-reference")) is None:
        raise UsageError("no metric takes statistics from a file", cause="None is registered for `fid-reference`.")
    if not reference.is_file():
        raise UsageError(f"there is no file {str(reference)!r}", fix="--fid-reference FILE.npz")
    metric: Metric = EntryPoint("fid-reference", maker, "bench.defaults").load()(reference)
    return metric


def _commit(store: Run, row: Row, evaluator: Evaluator, metrics: Mapping[str, Metric], log: str) -> None:
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
    feedback: Feedback,
    *,
    again: bool = False,
) -> None:
    data = evaluator.data
    key = {**evaluator.scoring.document(), "test": data.test.digest, "source": data.source.digest}
    known = {} if again else store.read_scores(cell, key)
    for name, metric in metrics.items():
        if is_missing(known.get(name)):
            feedback.say(name)
            feedback.foretell(name, evaluator.predict(metric))
            score, seconds = evaluator.score(metric)
            store.write_scores(cell, key, {name: score}, {name: seconds})
