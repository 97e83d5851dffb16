"""The suite of a metric: one check for each promise of `bench.contracts.measurement`, on briefly trained models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.blocks import GaussianVAE
from bench.contracts.dataset import Data
from bench.contracts.measurement import BaselineScored, Metric, Score, Scored
from bench.contracts.protocol import Scoring, Training
from bench.contracts.variant import VARIANTS, Batch, Loss, Spec, Variant
from bench.data import load
from bench.engine.evaluator import Evaluator
from bench.engine.trainer import train
from bench.plugins.registry import OURS, default
from bench.running.grid import fresh
from bench.testing.kit import Check, Failed, Noted, Skipped, Subject, bind, moved_generators, random_states, seeded
from bench.util.errors import NotAvailable, Unsuitable
from bench.util.places import cache_dir

FEW = Scoring(samples=1000, codes=1000)
IN_CHUNKS = "Draw noise only in a request, in `context.chunks`, which seeds each chunk."


class WithoutAbilities(Variant):
    """A model without any ability, for which a metric has to give a reason instead of a number."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.logits = nn.Parameter(torch.zeros(spec.shape))

    def loss(self, batch: Batch) -> Loss:
        return (batch.x - self.logits.sigmoid()).square().mean(), {}


@cache
def _embedded() -> Data:
    return load(default("dataset") or "", Path())


@dataclass(frozen=True)
class Example:
    """A variant with a likelihood, to be trained on the embedded dataset."""

    cls: type[Variant]
    likelihood: str = "bernoulli"

    def __str__(self) -> str:
        return f"{self.cls.__name__} with {self.likelihood} pixels"


PLAIN = Example(GaussianVAE)


@cache
def _trained(example: Example, steps: int) -> Variant:
    """Return the model after some steps.

    Raises:
        Unsuitable: the variant does not accept the dataset.
    """
    d = _embedded()
    model = fresh(example.cls, Spec(d.train.shape, d.classes, len(d.train), d.latent_dim, example.likelihood))
    if steps:
        train(model, d.train, Training(steps), seed=0)
    return model.eval()


def _evaluator(example: Example, steps: int) -> Evaluator:
    return Evaluator(_trained(example, steps), _embedded(), FEW, cache_dir())


def _score_anew(metric: Metric, example: Example, steps: int) -> Score | NotAvailable:
    """Return a stored metric's score by an evaluator of its own, whatever the metric's range."""
    return _evaluator(example, steps).score(replace(metric, range=(-math.inf, math.inf)))[0]


_score = cache(_score_anew)


class Broken(Skipped):
    """The metric raises, so it has no number."""


class MetricSubject(Subject[Metric]):
    """A metric with a model that it has a number for."""

    @property
    def look(self) -> str:
        return self.where("function")

    def on(self, example: Example, steps: int) -> Score | NotAvailable:
        """Return the score of a model; for a derived metric, the score of made-up scores, without any model."""
        metric = self.plugin
        if not metric.derived:
            return _score(metric, example, steps)
        names = [need.name for need in metric.needs if isinstance(need, Scored | BaselineScored)]
        row = {} if example.cls is WithoutAbilities else {name: Score(0.9, 100, 0.01) for name in names}
        try:
            return metric.from_scores(row, {name: Score(1.0, 100, 0.01) for name in names})
        except NotAvailable as reason:
            return reason

    @cached_property
    def example(self) -> Example:
        """The first model that the metric has a number for: a Gaussian VAE, or else one of the suite's variants."""
        reasons = []
        own = [name for name in VARIANTS if VARIANTS.entry(name).distribution == OURS]
        for example in (PLAIN, Example(GaussianVAE, "logistic"), *(Example(VARIANTS.load(name)) for name in own)):
            try:
                score = self.on(example, 20)
            except Unsuitable:
                continue
            if isinstance(score, Score):
                return example
            if score.retry and score.reason.startswith("the metric "):
                raise Broken(score.reason)
            reasons.append(f"{example}: {score.reason}")
        raise Skipped(f"it has a number for none of the suite's models ({reasons[0]})")


def says_what_it_measures(subject: MetricSubject) -> None:
    """It has a meaning, a unit, a direction or none, and a range."""
    m, look = subject.plugin, subject.look
    if not m.doc:
        raise Failed("it does not say what it measures", look, "Add a docstring: `bench info` shows it.")
    if not isinstance(m.unit, str) or m.direction not in ("higher", "lower", None):
        wrong = f"unit {m.unit!r}, direction {m.direction!r}"
        raise Failed(wrong, look, "Give a text for the unit, and 'higher', 'lower' or None for the direction.")
    if len(m.range) != 2 or not m.range[0] < m.range[1]:
        raise Failed(f"its range is {m.range}", look, "Give (lowest, highest).")
    if m.few not in ("unbiased", "anchored", None) and not callable(m.few):
        fix = "Give 'unbiased', 'anchored', a function of the Context, or None."
        raise Failed(f"few is {m.few!r}", look, fix)


def requests_can_be_compared(subject: MetricSubject) -> None:
    """Requests are frozen dataclasses, so that equal ones are resolved once."""
    for need in subject.plugin.needs:
        values = {f.name: getattr(need, f.name) for f in fields(need)} if is_dataclass(need) else {}
        if not is_dataclass(need) or type(need)(**values) != need or hash(type(need)(**values)) != hash(need):
            fix = "Decorate its class with @dataclass(frozen=True)."
            raise Failed(f"two requests like {need!r} are not equal", type(need).__qualname__, fix)


def gives_a_score(subject: MetricSubject) -> None:
    """For some model of the suite's own it gives a `Score` with a count and, if any, an error that isn't negative."""
    try:
        score = subject.on(subject.example, 20)
    except Broken as reason:
        raise Failed(str(reason), subject.look, "Return a bench.Score, or raise NotAvailable(why).") from None
    assert isinstance(score, Score)
    if score.n < 1 or (score.se is not None and score.se < 0):
        fix = "Let n count the samples behind the score, and se be at least 0 or None."
        raise Failed(f"n = {score.n}, se = {score.se}", subject.look, fix)
    if subject.example != PLAIN:
        raise Noted(f"checked on {subject.example}")


def has_a_reason_where_it_has_no_number(subject: MetricSubject) -> None:
    """For a model without abilities it gives `NotAvailable` with a reason: neither an exception nor 0."""
    score = subject.on(Example(WithoutAbilities), 0)
    if isinstance(score, Score):
        return
    if score.retry and "raised" in score.reason:
        fix = 'Write `raise NotAvailable("why")`, or request evidence that does so.'
        raise Failed(f"for a model without abilities {score.reason}", subject.look, fix)
    if not score.reason.strip():
        raise Failed("n/a without a reason", subject.look, 'Write NotAvailable("why").')


def stays_in_its_range(subject: MetricSubject) -> None:
    """Scores of models trained and untrained lie in the range that it states."""
    low, high = subject.plugin.range
    for steps in (0, 20, 400):
        score = subject.on(subject.example, steps)
        if isinstance(score, Score) and not low <= score.value <= high:
            fix = "Correct @metric(range=...), or the formula."
            raise Failed(f"{score.value:g} is outside of {low:g} to {high:g}", subject.look, fix)


def is_pure(subject: MetricSubject) -> None:
    """The same evidence gives the same number, is left as it was, and no random state outside of torch's is moved."""
    metric, look = subject.plugin, subject.look
    if metric.derived:
        first, second = subject.on(subject.example, 20), subject.on(subject.example, 20)
        if first != second:
            raise Failed(f"{first} and then {second}", look, "Compute it from the requested scores alone.")
        return
    judge = _evaluator(subject.example, 20)
    with torch.inference_mode(), seeded(0):
        evidence = [judge.get(need) for need in metric.needs]
    before, states = [t.clone() for t in _tensors(evidence)], random_states()
    numbers = []
    for seed in (1, 2):
        with torch.inference_mode(), torch.random.fork_rng([]):
            torch.manual_seed(seed)
            numbers.append(metric(*evidence).value)
    if not math.isclose(*numbers, rel_tol=1e-9, abs_tol=1e-12):
        wrong = f"the same evidence gave {numbers[0]:.9g} and then {numbers[1]:.9g}"
        raise Failed(wrong, look, f"Compute it from the arguments alone. {IN_CHUNKS}")
    if not all(torch.equal(a, b) for a, b in zip(before, _tensors(evidence), strict=True)):
        raise Failed("it changes the evidence, which other metrics read too", look, "Work on a copy.")
    if moved := moved_generators(states):
        raise Failed(f"it draws from the global generator of {', '.join(moved)}", look, IN_CHUNKS)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for item in value for t in _tensors(item)] if isinstance(value, tuple | list) else []


def is_the_same_each_time(subject: MetricSubject) -> None:
    """Scored again from the beginning, with other random states before, the number is the same."""
    if subject.plugin.derived:
        raise Skipped("it is computed from stored scores")
    first = subject.on(subject.example, 20)
    with seeded(77):
        second = _score_anew(subject.plugin, subject.example, 20)
    numbers = [score.value if isinstance(score, Score) else math.nan for score in (first, second)]
    if not math.isclose(*numbers, rel_tol=1e-6):
        raise Failed(f"{first} and then {second}", subject.look, IN_CHUNKS)


def its_direction_holds(subject: MetricSubject) -> None:
    """A model trained for 400 steps isn't worse than the same one untrained."""
    direction = subject.plugin.direction
    if direction not in ("higher", "lower"):
        raise Skipped("it has no direction")
    before, after = (subject.on(subject.example, steps) for steps in (0, 400))
    if not (isinstance(before, Score) and isinstance(after, Score)):
        raise Skipped("it has no number for the untrained model")
    gain = after.value - before.value if direction == "higher" else before.value - after.value
    if gain < -3 * math.hypot(before.se or 0.0, after.se or 0.0):
        raise Failed(
            f"its direction is {direction!r}, and {before.value:.4g} of an untrained model would be better than "
            f"{after.value:.4g} of a trained one",
            subject.look,
            "Turn the direction round; or give None if neither more nor less of it is better.",
        )


CHECKS = (
    says_what_it_measures, requests_can_be_compared, gives_a_score, has_a_reason_where_it_has_no_number,
    stays_in_its_range, is_pure, is_the_same_each_time, its_direction_holds,
)  # fmt: skip


def suite(metric: Metric, arguments: Mapping[str, Any]) -> list[Check]:
    """Return all checks of a metric, which takes no arguments."""
    if arguments:
        raise TypeError(f"a metric takes no arguments, not {', '.join(arguments)}")
    return bind(CHECKS, MetricSubject(metric, arguments))
