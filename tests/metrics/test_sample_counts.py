"""What the number of samples does to a score: nothing, or it's held against as many real images, or there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.measurement import METRICS, Context, Few, Metric, Request, Score
from bench.contracts.protocol import Scoring
from bench.contracts.variant import Spec
from bench.data import load
from bench.engine.evaluator import Evaluator
from bench.evidence import Generated, TestImages
from bench.metrics import coverage
from bench.metrics.classifier import halves
from bench.metrics.coverage import RealPoints, Shares
from bench.metrics.modes import enough, expected_divergence
from bench.metrics.networks import TrainedClassifier
from bench.running.submission import Outsider, Submission, submit
from bench.util.errors import NotAvailable
from bench.util.places import cache_dir
from tests.conftest import Bench, build
from tests.metrics.test_metrics import Bare, data_of, images, note

COSTLY = {"cas", "cas_augmented", "nll", "ess"}
DRAWS = {30: 12, 100: 8, 340: 4}  #: samples, and how often they are drawn


@cache
def digits_() -> Data:
    return load("digits", Path())


@cache
def pool() -> Tensor:
    """Real images that neither the feature network nor the test split has, in random order: (718, 1, 8, 8)."""
    source = digits_().source
    own = halves(len(source))[1]
    return source.take(own[torch.randperm(len(own), generator=torch.Generator().manual_seed(3))], "cpu")


@cache
def stored() -> dict[str, Metric]:
    every = {name: METRICS.load(name) for name in METRICS if name not in COSTLY}
    return {name: m for name, m in every.items() if not m.derived and not name.startswith(("fid", "kid"))}


def evaluator(samples: Tensor) -> Evaluator:
    d = digits_()
    spec = Spec(d.train.shape, d.classes, len(d.train), d.latent_dim, "bernoulli")
    return Evaluator(Outsider(spec, samples), d, Scoring(samples=len(samples)), cache_dir())


@cache
def of(n: int, draw: int = 0) -> dict[str, Score | NotAvailable]:
    """All scores of `n` of the real images."""
    where = torch.randperm(len(pool()), generator=torch.Generator().manual_seed(draw))[:n]
    judge = evaluator(pool()[where])
    return {name: judge.score(metric)[0] for name, metric in stored().items()}


# every metric of the catalogue


@pytest.mark.fault(
    42, "few samples are handed in", "n/a, or held against as many real images; `n` is the smallest set's"
)
@pytest.mark.parametrize("n", DRAWS)
def test_few_real_images_do_not_beat_many(n: int) -> None:
    """By three standard errors, in any merit; in what is called unbiased there is no difference either way."""
    whole = of(len(pool()))
    looked = []
    for name, metric in stored().items():
        full = whole[name]
        found = [s for draw in range(DRAWS[n]) if isinstance(s := of(n, draw)[name], Score)]
        if not isinstance(full, Score) or len(found) < DRAWS[n]:
            continue
        looked.append(name)
        values = [s.value for s in found]
        noise = 3 * math.hypot(stdev(values) / len(values) ** 0.5, full.se or 0.0) + 1e-9
        more = fmean(values) - full.value
        if metric.few == "unbiased":
            assert abs(more) <= noise, (name, more, noise)
        if metric.direction is not None:
            assert (more if metric.direction == "higher" else -more) <= noise, (name, more, noise)
    assert {"sharpness", "hfr", "precision", "density", "confidence"} <= set(looked)
    assert ("fd" in looked) is (n >= 320)
    assert "recall" not in looked


def test_each_metric_that_is_made_of_samples_says_what_few_do_to_it(digits: Data) -> None:
    judge = Evaluator(build("vae", digits), digits, Scoring(samples=1_300, codes=400), cache_dir())
    silent, made = [], set()
    for name, metric in stored().items():
        judge.score(metric)
        if judge._samples(metric) is not None:
            made.add(name)
            silent += [name] if metric.few is None else []
    assert not silent
    assert {"fd", "fd_gmm", "recall", "modes", "class_kl", "blur", "dcr_share", "kd"} <= made
    assert not made & {"elbo", "psnr", "linear_probe", "blur_rec", "fd_rec"}
    for name in ("fid", "fid_train", "fid_gmm", "kid", "label_accuracy", "cas", "cas_augmented"):
        assert METRICS.load(name).few is not None, name


def test_n_is_the_smallest_set_that_enters() -> None:
    test = len(digits_().test)
    for n in (30, 100, 718):
        counts = {name: s.n for name, s in of(n).items() if isinstance(s, Score)}
        assert len(counts) > 8
        samples_alone = {"confidence", "class_kl"}  # the second beside 1,437 training images
        expected = {name: n if name in samples_alone else min(n, test) for name in counts}
        assert counts == expected


@pytest.mark.parametrize("n", [30, 100, 359])
def test_recall_and_coverage_need_as_many_samples_as_test_images(n: int) -> None:
    for name in ("recall", "coverage"):
        found = of(n)[name]
        assert isinstance(found, NotAvailable)
        assert "needs 360 samples" in found.reason
        assert f"has {n}" in found.reason
        assert isinstance(of(360)[name], Score)


def test_what_moves_with_the_number_has_real_images_of_that_number_beside_it() -> None:
    def values(n: int, name: str) -> Mapping[str, float]:
        found = of(n)[name]
        assert isinstance(found, Score)
        assert note(found, "few_samples").values == {"n": n, "usual": 10_000}  # type: ignore[union-attr]
        return note(found, "real_images").values  # type: ignore[union-attr]

    for name in ("fd", "fd_train"):
        assert values(340, name).keys() == {"n", "floor"}
        assert values(340, name)["n"] == 340
        assert values(718, name).keys() == {"n", "floor", "bias"}
        assert values(718, name)["n"] == 360
    assert values(100, "class_kl") == {"floor": expected_divergence(10, 100)}


# the evaluator


@dataclass(frozen=True)
class Darkest(Request[Tensor]):
    """A request of a stranger's that asks for samples in turn."""

    def resolve(self, context: Context) -> Tensor:
        return context.get(Generated("prior")).flatten(1).double().amin(1)


def made(few: Few | None, *needs: Request[Any]) -> Metric:
    return Metric(lambda *found: Score(0.5, 1, notes="own"), needs, "", None, (0, 1), few=few)


@pytest.mark.parametrize(
    ("few", "says"),
    [(None, ["", "few_samples"]), ("unbiased", [""])],
)
def test_a_metric_that_says_nothing_is_scored_and_that_is_noted(few: Few | None, says: list[str]) -> None:
    found, _ = evaluator(pool()[:30]).score(made(few, Darkest()))
    assert isinstance(found, Score)
    assert found.value == 0.5
    assert [n.kind for n in found.notes] == says
    alone, _ = evaluator(pool()[:30]).score(made(few, TestImages()))
    assert alone == Score(0.5, 1, notes="own")


def test_with_as_many_samples_as_models_are_asked_for_nothing_is_noted() -> None:
    many = pool()[torch.arange(Scoring.samples) % len(pool())]
    for few in (None, "anchored", lambda context: Scoring.samples):
        assert evaluator(many).score(made(few, Darkest()))[0] == Score(0.5, 1, notes="own")


def test_a_metric_gets_no_fewer_samples_than_it_needs() -> None:
    needing = made(lambda context: len(context.data.test), Darkest())
    found, _ = evaluator(pool()[:30]).score(needing)
    assert isinstance(found, NotAvailable)
    assert not found.retry
    assert "needs 360 samples and has 30: draw more" in found.reason
    assert isinstance(evaluator(pool()[:360]).score(needing)[0], Score)


# single rules


@pytest.mark.parametrize(
    ("shares", "train", "needed"),
    [
        ([100] * 10, 60_000, 500),  # a tenth of a tenth of them is five
        ([970, 30], 60_000, 1_667),
        ([9_990, 10], 60_000, 10_000),  # asked for, and a tenth of its share is one: it takes five of all
        ([99_995, 5], 60_000, 500 * 100_000 // 999_95 // 10 + 1),  # the second is never asked for
        ([970, 30], 900, 900),  # as many as real images are there
        ([970, 30], 300, 52),  # of which the second isn't asked for
    ],
)
def test_modes_needs_a_tenth_of_each_class_to_be_five(shares: list[int], train: int, needed: int) -> None:
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(shares)])
    test = images(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, ("a",) * len(shares))
    source = images(torch.zeros(train, 1, 1, 1, dtype=torch.uint8), torch.zeros(train, dtype=torch.int64), ("a",))
    assert enough(Bare(data=data_of(source, test))) == needed
    assert enough(Bare(data=data_of(source, Images(test.take(torch.arange(9)))))) == 0


def test_fewer_unseen_images_than_samples_are_no_measure_of_recall() -> None:
    ones = torch.ones(360, dtype=torch.float64)
    found = Shares(ones, ones, ones, ones)
    real = RealPoints(torch.zeros(360, 64), torch.zeros(360, 5), torch.full((4,), 0.875), drawn=100)
    trained = TrainedClassifier(None, "net", 0.9)  # type: ignore[arg-type]
    for name in Shares._fields:
        as_many, fewer = (
            note(coverage._score(name, found, r, trained, None), "real_images").values  # type: ignore[union-attr, arg-type]
            for r in (replace(real, drawn=360), real)
        )
        assert as_many == {"n": 360, "floor": 0.875}
        same = name in ("precision", "density")
        assert fewer == ({"n": 100, "floor": 0.875} if same else {"n": 100}), "of samples alone: the same for fewer"


class Held(Outsider):
    """A conditional model with a fixed set of samples, of which nobody knows the labels."""

    uses_labels = True
    lacks: dict[type, str] = {}  # noqa: RUF012

    def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
        return self.samples[torch.zeros_like(y)].float() / 255


def test_samples_that_were_not_asked_for_by_class_have_no_label_accuracy(digits: Data) -> None:
    many = pool()[torch.arange(Scoring.samples) % len(pool())]
    spec = Spec(digits.train.shape, digits.classes, len(digits.train), digits.latent_dim, "bernoulli")
    judge = Evaluator(Held(spec, many), digits, Scoring(), cache_dir())
    found, _ = judge.score(METRICS.load("label_accuracy"))
    assert isinstance(found, NotAvailable)
    assert "fixed set" in found.reason


# rows


@pytest.fixture
def file(tmp_path: Path) -> Callable[[int], Path]:
    def write(n: int) -> Path:
        np.savez(path := tmp_path / f"{n}.npz", samples=pool()[:n].numpy())
        return path

    return write


def test_a_row_says_how_many_samples_it_is_of(file: Callable[[int], Path], bench: Bench, tmp_path: Path) -> None:
    runs = {n: tmp_path / f"run{n}" for n in (400, 600)}
    for n, out in runs.items():
        row, _ = submit(Submission(file(n), "digits", name="mine", metrics=("fd", "kd"), out=out, device="cpu"))
        assert row.scoring["samples"] == n
        _, shown, _ = bench("table", out)
        assert f"{n} samples from a file" in shown
    _, out, err = bench("compare", *runs.values())
    assert "scoring.samples: 400 in a, 600 in b" in out + err


def test_few_samples_in_a_file_come_to_no_recall(file: Callable[[int], Path], tmp_path: Path) -> None:
    names = ("recall", "coverage", "sharpness", "precision")
    row, _ = submit(Submission(file(30), "digits", metrics=names, out=tmp_path / "run", device="cpu"))
    assert {name for name in names if isinstance(row.scores[name], NotAvailable)} == {"recall", "coverage"}
    assert all(s.n == 30 for s in row.scores.values() if isinstance(s, Score))
