"""The suite of a metric: one check for each promise of `bench.contracts.measurement`, on briefly trained models."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.blocks import GaussianVAE
from bench.contracts.dataset import Data
from bench.contracts.measurement import BaselineScored, Metric, Score, Scored
from bench.contracts.protocol import Scoring, Training
from bench.contracts.variant import VARIANTS, Batch, Loss, Spec, Variant
from bench.data import load
from bench.engine.evaluator import Evaluator
from bench.engine.snapshot import seeded
from bench.engine.trainer import train
from bench.plugins.registry import OURS, default
from bench.running.grid import fresh
from bench.testing.kit import Check, Failed, Noted, Skipped, where
from bench.util.errors import NotAvailable, Unsuitable
from bench.util.places import cache_dir

FEW = Scoring(samples=1000, codes=1000)
CPU = torch.device("cpu")


class Bare(Variant):
    """A model without any ability: a metric has to say why it has no number for it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.logits = nn.Parameter(torch.zeros(spec.shape))

    def loss(self, batch: Batch) -> Loss:
        loss = (batch.x - self.logits.sigmoid()).square().mean()
        return loss, {}


@cache
def embedded() -> Data:
    return load(default("dataset") or "", Path())


@dataclass(frozen=True)
class Kind:
    """A kind of model of the embedded dataset."""

    cls: type[Variant]
    likelihood: str = "bernoulli"

    def __str__(self) -> str:
        return f"{self.cls.__name__} with {self.likelihood} pixels"


@cache
def model(kind: Kind, steps: int) -> Variant:
    """A model after so many steps.

    Raises:
        Unsuitable: it can't take the dataset.
    """
    d = embedded()
    made = fresh(kind.cls, Spec(d.train.shape, d.classes, len(d.train), d.latent_dim, kind.likelihood))
    if steps:
        train(made, d.train, Training(steps), seed=0)
    return made.eval()


@cache
def score(metric: Metric, kind: Kind, steps: int) -> Score | NotAvailable:
    """A stored metric's score, by an evaluator of its own."""
    return anew(metric, kind, steps)


def anew(metric: Metric, kind: Kind, steps: int) -> Score | NotAvailable:
    """The same, not taken from an earlier check; whatever its range."""
    return evaluator(kind, steps).score(replace(metric, range=(-math.inf, math.inf)))[0]


def evaluator(kind: Kind, steps: int) -> Evaluator:
    return Evaluator(model(kind, steps), embedded(), FEW, cache_dir())


PLAIN = Kind(GaussianVAE)


class Broken(Skipped):
    """It doesn't get as far as to a number."""


class Subject:
    """A metric under check, with a model that it has a number for."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    @property
    def look(self) -> str:
        return where(self.metric.function)

    def on(self, kind: Kind, steps: int) -> Score | NotAvailable:
        """The score of a model; of a derived metric, that of made-up scores, for which no model is asked."""
        if not self.metric.derived:
            return score(self.metric, kind, steps)
        names = [need.name for need in self.metric.needs if isinstance(need, Scored | BaselineScored)]
        have = kind.cls is not Bare
        try:
            return self.metric.from_scores(
                {name: Score(0.9, 100, 0.01) for name in names if have}, {name: Score(1.0, 100, 0.01) for name in names}
            )
        except NotAvailable as reason:
            return reason

    @cached_property
    def example(self) -> Kind:
        """The first kind of model that it has a number for: a Gaussian VAE, or else one of the suite's own variants."""
        reasons = []
        own = [name for name in VARIANTS if VARIANTS.entry(name).distribution == OURS]
        for kind in (PLAIN, Kind(GaussianVAE, "logistic"), *(Kind(VARIANTS.load(name)) for name in own)):
            try:
                found = self.on(kind, 20)
            except Unsuitable:
                continue
            if isinstance(found, Score):
                return kind
            if found.retry and found.reason.startswith("the metric "):
                raise Broken(found.reason)
            reasons.append(f"{kind}: {found.reason}")
        raise Skipped(f"it has a number for none of the models at hand ({reasons[0]})")


def says_what_it_measures(subject: Subject) -> None:
    """It has a meaning, a unit, a direction or none, and a range."""
    m = subject.metric
    if not m.doc:
        raise Failed("it says nothing of what it measures", subject.look, "Its docstring is what `bench info` shows.")
    if not isinstance(m.unit, str) or m.direction not in ("higher", "lower", None):
        raise Failed(f"unit {m.unit!r}, direction {m.direction!r}", subject.look, "'higher', 'lower' or None.")
    if len(m.range) != 2 or not m.range[0] < m.range[1]:
        raise Failed(f"its range is {m.range}", subject.look, "(lowest, highest)")
    if m.few not in ("unbiased", "anchored", None) and not callable(m.few):
        raise Failed(f"few is {m.few!r}", subject.look, "'unbiased', 'anchored', a function of the Context, or None.")


def requests_can_be_compared(subject: Subject) -> None:
    """Requests are frozen dataclasses: equal ones are resolved once."""
    for need in subject.metric.needs:
        values = {f.name: getattr(need, f.name) for f in fields(need)} if is_dataclass(need) else {}
        if not is_dataclass(need) or type(need)(**values) != need or hash(type(need)(**values)) != hash(need):
            raise Failed(f"two requests like {need!r} aren't equal", type(need).__qualname__, "@dataclass(frozen=True)")


def gives_a_score(subject: Subject) -> None:
    """For some model of the suite's own it gives a `Score` with a count and, if any, an error that isn't negative."""
    try:
        found = subject.on(subject.example, 20)
    except Broken as reason:
        raise Failed(str(reason), subject.look, "A bench.Score; or raise NotAvailable(why).") from None
    assert isinstance(found, Score)
    if found.n < 1 or (found.se is not None and found.se < 0):
        raise Failed(
            f"n = {found.n}, se = {found.se}", subject.look, "n counts the samples behind it; se >= 0 or None."
        )
    if subject.example != PLAIN:
        raise Noted(f"checked on {subject.example}")


def has_a_reason_where_it_has_no_number(subject: Subject) -> None:
    """For a model without abilities it's `NotAvailable` with a reason, not an exception, not 0."""
    found = subject.on(Kind(Bare), 0)
    if isinstance(found, Score):
        return
    if found.retry and "raised" in found.reason:
        raise Failed(
            f"for a model without abilities {found.reason}",
            subject.look,
            'raise NotAvailable("why"), or request evidence that does.',
        )
    if not found.reason.strip():
        raise Failed("n/a without a reason", subject.look, 'NotAvailable("why")')


def stays_in_its_range(subject: Subject) -> None:
    """Scores of models trained and untrained lie in the range that it states."""
    low, high = subject.metric.range
    for steps in (0, 20, 400):
        found = subject.on(subject.example, steps)
        if isinstance(found, Score) and not low <= found.value <= high:
            raise Failed(f"{found.value:g} is outside of {low:g} to {high:g}", subject.look, "State the range it has.")


def is_pure(subject: Subject) -> None:
    """The same evidence gives the same number, is left as it was, and no random state outside of torch's is moved."""
    if subject.metric.derived:
        first, second = subject.on(subject.example, 20), subject.on(subject.example, 20)
        if first != second:
            raise Failed(f"{first} and then {second}", subject.look, "A function of what it requests alone.")
        return
    judge = evaluator(subject.example, 20)
    with torch.inference_mode(), seeded(0, CPU):
        evidence = [judge.get(need) for need in subject.metric.needs]
    before = [t.clone() for t in _tensors(evidence)]
    states = _states()
    numbers = []
    for seed in (1, 2):
        with torch.inference_mode(), torch.random.fork_rng([]):
            torch.manual_seed(seed)
            numbers.append(subject.metric(*evidence).value)
    if not math.isclose(*numbers, rel_tol=1e-9, abs_tol=1e-12):
        raise Failed(
            f"the same evidence gave {numbers[0]:.9g} and then {numbers[1]:.9g}",
            subject.look,
            "A function of its arguments alone; what is drawn is a request's, in `context.chunks`.",
        )
    if not all(torch.equal(a, b) for a, b in zip(before, _tensors(evidence), strict=True)):
        raise Failed("it changes the evidence, which other metrics read too", subject.look, "Work on a copy.")
    if states != _states():
        raise Failed("it draws from numpy's or Python's global generator", subject.look, "Draw nothing here.")


def _states() -> tuple[Any, ...]:
    """Of Python's and numpy's global generators."""
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["pos"], numpy["key"].tolist()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [t for item in value for t in _tensors(item)]
    return []


def is_the_same_each_time(subject: Subject) -> None:
    """Scored again from the beginning, with other random states before, the number is the same."""
    if subject.metric.derived:
        raise Skipped("it's made of stored scores")
    first = score(subject.metric, subject.example, 20)
    with seeded(77, CPU):
        second = anew(subject.metric, subject.example, 20)
    numbers = [found.value if isinstance(found, Score) else math.nan for found in (first, second)]
    if not math.isclose(*numbers, rel_tol=1e-6):
        raise Failed(f"{first} and then {second}", subject.look, "Draw in `context.chunks`, which seeds each chunk.")


def its_direction_holds(subject: Subject) -> None:
    """A model trained for 400 steps isn't worse than the same one untrained."""
    if subject.metric.direction not in ("higher", "lower"):
        raise Skipped("it has no direction")
    before, after = (subject.on(subject.example, steps) for steps in (0, 400))
    if not (isinstance(before, Score) and isinstance(after, Score)):
        raise Skipped("it has no number for the untrained model")
    gain = after.value - before.value if subject.metric.direction == "higher" else before.value - after.value
    if gain < -3 * math.hypot(before.se or 0.0, after.se or 0.0):
        raise Failed(
            f"{subject.metric.direction} is better, it says, and {before.value:.4g} untrained is better than "
            f"{after.value:.4g} trained",
            subject.look,
            "The other direction; or None for a coordinate that is no merit.",
        )


CHECKS = (
    says_what_it_measures, requests_can_be_compared, gives_a_score, has_a_reason_where_it_has_no_number,
    stays_in_its_range, is_pure, is_the_same_each_time, its_direction_holds,
)  # fmt: skip


def suite(metric: Metric, arguments: Mapping[str, Any]) -> list[Check]:
    """All checks of a metric, which takes no arguments."""
    if arguments:
        raise TypeError(f"a metric takes no arguments, not {', '.join(arguments)}")
    subject = Subject(metric)
    return [Check(c.__name__, (c.__doc__ or "").strip().partition("\n")[0], partial(c, subject)) for c in CHECKS]
