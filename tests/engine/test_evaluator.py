"""The one evaluator: each request once, no label leaks, no batch size in a score, reasons instead of blanks."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import Context, NotAvailable, Request, Score, Spec, Variant, api
from bench.contracts.dataset import Data
from bench.contracts.measurement import METRICS, BaselineScored, Metric, Scored, metric
from bench.contracts.protocol import Scoring
from bench.engine.evaluator import Evaluator, keepers
from bench.evidence import (
    KEPT,
    Codes,
    Generated,
    LogLikelihood,
    MixtureCodes,
    Reconstructions,
    SampledLabels,
    Terms,
    TheSpec,
)
from tests.conftest import build, trained

SMALL = Scoring(samples=400, codes=400)


@pytest.fixture
def evaluate(digits: Data, tmp_path: Path) -> Callable[..., Evaluator]:
    def make(selector: str = "vae", steps: int = 0, scoring: Scoring = SMALL) -> Evaluator:
        model = trained(selector, digits, steps) if steps else build(selector, digits)
        return Evaluator(model, digits, scoring, tmp_path)

    return make


def test_a_request_is_resolved_once_even_when_it_has_no_answer(evaluate: Callable[..., Evaluator]) -> None:
    calls = []

    @dataclass(frozen=True)
    class Ask(Request[int]):
        available: bool

        def resolve(self, context: Context) -> int:
            calls.append(self.available)
            if not self.available:
                raise NotAvailable("never")
            return 7

    evaluator = evaluate()
    assert [evaluator.get(Ask(True)) for _ in range(3)] == [7, 7, 7]
    for _ in range(3):
        with pytest.raises(NotAvailable, match="never"):
            evaluator.get(Ask(False))
    assert calls == [True, False]


def test_the_elbo_is_a_known_one(digits: Data, tmp_path: Path) -> None:
    """A decoder that always says p = 1/2 and a posterior that is the prior: ELBO = -64 ln 2, for every image."""

    class Half(Variant):
        def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            zeros = torch.zeros_like(x)
            return self.spec.make_likelihood().log_prob(x, zeros), torch.zeros(len(x), 3)

        def __init__(self) -> None:
            super().__init__(Spec((1, 8, 8), 10, 1437, 8))
            self.weight = torch.nn.Parameter(torch.zeros(()))

    terms = Evaluator(Half(), digits, SMALL, tmp_path).get(Terms())
    elbo = terms.log_likelihood - terms.rate
    assert elbo.shape == (360,)
    torch.testing.assert_close(elbo, torch.full_like(elbo, -64 * math.log(2)), rtol=1e-6, atol=0)


def test_no_test_label_reaches_the_bound(digits: Data, tmp_path: Path) -> None:
    seen = []

    class Spy(Variant):
        def elbo_terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(y)
            return x.flatten(1).sum(1), x.flatten(1).sum(1)

    model = Spy(Spec((1, 8, 8), 10, 1437, 8))
    model.weight = torch.nn.Parameter(torch.zeros(()))
    Evaluator(model, digits, SMALL, tmp_path).get(Terms())
    assert set(torch.cat(seen).tolist()) == {-1}


@pytest.mark.parametrize("selector", ["vae", "conv", "cvae", "vqvae"])
def test_scores_do_not_depend_on_how_many_images_are_asked_at_once(selector: str, digits: Data, tmp_path: Path) -> None:
    """Noise belongs to fixed chunks of images; what is deterministic is the same at any batch size."""
    model = trained(selector, digits, 30)
    whole = Evaluator(model, digits, SMALL, tmp_path).get(Terms())
    again = Evaluator(model, digits, SMALL, tmp_path)
    again.get(Codes("test"))  # other work before it draws nothing from its noise
    again.get(Generated("prior"))
    assert torch.equal(whole.rate, again.get(Terms()).rate)
    assert torch.equal(whole.log_likelihood, again.get(Terms()).log_likelihood)
    for chunk in (7, 64, 1000):
        parts = Evaluator(model, digits, replace(SMALL, chunk=chunk), tmp_path)
        codes = Evaluator(model, digits, SMALL, tmp_path).get(Codes("test")).codes
        torch.testing.assert_close(parts.get(Codes("test")).codes, codes, rtol=1e-4, atol=1e-5)
        if selector != "cvae":  # its rate depends on the draw, by the class posterior
            torch.testing.assert_close(parts.get(Terms()).rate, whole.rate, rtol=1e-4, atol=1e-4)
        redraw = parts.get(Terms()).log_likelihood.mean() - whole.log_likelihood.mean()
        assert abs(redraw) < 0.5  # another draw of z, not another scale


def test_the_last_chunk_counts_by_its_images(evaluate: Callable[..., Evaluator]) -> None:
    """360 images in chunks of 200: a mean of chunk means would weigh the last 160 too much."""
    values = evaluate().get(LogLikelihood())
    assert len(values) == 360
    assert Score.of(values).value == pytest.approx(values.mean().item())
    assert Score.of(values).se == pytest.approx((values.std() / math.sqrt(360)).item())


def test_samples_are_reproducible_and_as_many_as_asked(evaluate: Callable[..., Evaluator]) -> None:
    a, b = (evaluate("vae", 5).get(Generated("prior")) for _ in range(2))
    assert a.shape == (400, 1, 8, 8)
    assert a.dtype == torch.uint8
    assert torch.equal(a, b)
    assert len(a.flatten(1).unique(dim=0)) > 390  # chunks don't share their noise


def test_sampled_labels_follow_the_training_split(evaluate: Callable[..., Evaluator], digits: Data) -> None:
    labels = evaluate(scoring=replace(SMALL, samples=20_000)).get(SampledLabels())
    share = labels.bincount(minlength=10) / 20_000
    expected = digits.train.labels().bincount(minlength=10) / len(digits.train)
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)


def test_a_mixture_of_gaussian_codes_returns_their_moments(digits: Data, tmp_path: Path) -> None:
    class Known(Variant):
        def __init__(self) -> None:
            super().__init__(Spec((1, 8, 8), 10, 1437, 2))
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def encode(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.stack([3 + 2 * torch.randn(len(x)), -1 + 0.5 * torch.randn(len(x))], 1)

        def decode(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.zeros(len(z), 1, 8, 8)

    scoring = Scoring(samples=20_000, codes=1_400, mixture=2)
    codes = Evaluator(Known(), digits, scoring, tmp_path).get(MixtureCodes())
    torch.testing.assert_close(codes.mean(0), torch.tensor([3.0, -1.0]), atol=0.25, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.tensor([2.0, 0.5]), atol=0.15, rtol=0)


def test_discrete_codes_have_no_mixture(evaluate: Callable[..., Evaluator]) -> None:
    with pytest.raises(NotAvailable, match="discrete"):
        evaluate("vqvae").get(Generated("gmm"))


def test_samples_out_of_range_are_no_images(digits: Data, tmp_path: Path) -> None:
    class Wild(Variant):
        def sample(self, y: Tensor, temperature: float = 1.0) -> Tensor:
            return torch.full((len(y), 1, 8, 8), 1.5)

    model = Wild(Spec((1, 8, 8), 10, 1437, 2))
    model.weight = torch.nn.Parameter(torch.zeros(()))
    with pytest.raises(NotAvailable, match=r"\[0, 1\]"):
        Evaluator(model, digits, SMALL, tmp_path).get(Generated("prior"))


def fake(**methods: Callable[..., Any]) -> Variant:
    """A variant of these methods alone."""
    model: Variant = type("Fake", (Variant,), methods)(Spec((1, 8, 8), 10, 1437, 2))
    model.weight = torch.nn.Parameter(torch.zeros(()))
    return model


@pytest.mark.parametrize("shape", [(1, 7, 8), (3, 8, 8), (8, 8), ()])
def test_images_of_another_shape_are_not_scored(shape: tuple[int, ...], digits: Data, tmp_path: Path) -> None:
    model = fake(
        sample=lambda self, y, temperature=1.0: torch.zeros(len(y), *shape),
        encode=lambda self, x, y: torch.randn(len(x), 2),
        decode=lambda self, z, y: torch.zeros(len(z), *shape),
    )
    evaluator = Evaluator(model, digits, SMALL, tmp_path)
    for what in (Generated("prior"), Generated("gmm"), Reconstructions()):
        with pytest.raises(NotAvailable, match=r"are \(200.*\), and should be \(200, 1, 8, 8\)"):
            evaluator.get(what)


def test_as_many_images_and_codes_as_were_asked_for(digits: Data, tmp_path: Path) -> None:
    model = fake(
        sample=lambda self, y, temperature=1.0: torch.zeros(5, 1, 8, 8), encode=lambda self, x, y: torch.zeros(5, 2)
    )
    evaluator = Evaluator(model, digits, SMALL, tmp_path)
    with pytest.raises(NotAvailable, match=r"are \(5, 1, 8, 8\), and should be"):
        evaluator.get(Generated("prior"))
    with pytest.raises(NotAvailable, match="10 codes of 360 images"):
        evaluator.get(Codes("test"))


@pytest.mark.parametrize(("value", "there"), [(1.0 + 1e-6, True), (-1e-6, True), (1.01, False), (-0.01, False)])
def test_rounding_beyond_white_and_black_is_forgiven(value: float, there: bool, digits: Data, tmp_path: Path) -> None:
    model = fake(sample=lambda self, y, temperature=1.0: torch.full((len(y), 1, 8, 8), value))
    with nullcontext() if there else pytest.raises(NotAvailable, match=r"\[0, 1\]"):
        assert set(Evaluator(model, digits, SMALL, tmp_path).get(Generated("prior")).unique().tolist()) <= {0, 255}


@pytest.mark.parametrize(("log_px", "rate"), [((), ()), ((1,), ()), ((), None), (None, ())], ids=str)
def test_a_bound_is_of_each_image(
    log_px: tuple[int, ...] | None, rate: tuple[int, ...] | None, digits: Data, tmp_path: Path
) -> None:
    """(B, 1) and (B,) would broadcast to (B, B), and a mean over the batch would count once a chunk."""

    def terms(self: Variant, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(()) if more is None else torch.zeros(len(x), *more) for more in (log_px, rate))

    evaluator = Evaluator(fake(elbo_terms=terms), digits, SMALL, tmp_path)
    fine = log_px == () and rate == ()
    with nullcontext() if fine else pytest.raises(NotAvailable, match="of B images"):
        assert evaluator.get(Terms()).rate.shape == (360,)


def test_a_score_out_of_its_range_is_none(evaluate: Callable[..., Evaluator]) -> None:
    for value, fine in ((1.0 + 1e-12, True), (1.1, False), (-0.1, False)):
        score, _ = evaluate().score(Metric(lambda v=value: Score(v, 1), (), "", None, (0, 1)))
        assert isinstance(score, Score) is fine
        if isinstance(score, NotAvailable):
            assert "outside of the metric's range, 0 to 1" in score.reason
    for wrong in ({"n": -5}, {"n": 5, "se": -2.0}):
        with pytest.raises(ValueError, match="a score of n ="):
            Score(7, **wrong)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda: 1.5, "returned float"),
        (lambda: "good", "returned str"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: Score(math.nan, 1), "nan"),
    ],
)
def test_a_bad_metric_costs_its_own_number(
    evaluate: Callable[..., Evaluator], function: Callable[[], Score], reason: str
) -> None:
    score, _ = evaluate().score(Metric(function, (), "", None, (0, 1)))
    assert isinstance(score, NotAvailable)
    assert reason in score.reason


def test_a_model_that_lacks_an_ability_says_why(evaluate: Callable[..., Evaluator]) -> None:
    @metric(Terms(), unit="nats")
    def bound(terms: object) -> Score:
        return Score(0.0, 1)

    for selector, reason in (("ae", "deterministic encoder"), ("wae", "deterministic encoder"), ("gan", "implicit")):
        score, _ = evaluate(selector).score(bound)
        assert isinstance(score, NotAvailable)
        assert reason in score.reason


def test_evidence_is_what_design_promises(evaluate: Callable[..., Evaluator]) -> None:
    kept = evaluate("vae", 5).keep(KEPT)
    assert kept["rate"].shape == kept["distortion"].shape == (360,)
    assert kept["codes"].shape == (360, 8)
    assert kept["labels"].shape == (360,)
    assert kept["samples"].shape == (256, 1, 8, 8)
    assert kept["reconstructions"].shape == (256, 1, 8, 8)
    assert set(evaluate("gan").keep(KEPT)) == {"samples"}


def test_a_metric_may_keep_evidence_of_its_own(evaluate: Callable[..., Evaluator]) -> None:
    @dataclass(frozen=True)
    class Norms(Request[Tensor]):
        def resolve(self, context: Context) -> Tensor:
            return context.get(Codes("test")).codes.norm(dim=1)

        def keep(self, value: Tensor) -> dict[str, Tensor]:
            return {"norms": value}

    norms = Metric(lambda n, t: Score.of(n), (Norms(), TheSpec()), "", None, (0, math.inf))
    assert keepers({"norms": norms, "again": norms}) == (Norms(),)
    assert evaluate().keep(keepers({"norms": norms}))["norms"].shape == (360,)


def test_a_derived_metric_passes_on_what_is_missing() -> None:
    ratio = Metric(
        lambda a, b: Score(a.value / b.value, 1), (Scored("s"), BaselineScored("s")), "", None, (0, math.inf)
    )
    assert ratio.derived
    assert ratio.from_scores({"s": Score(3, 1)}, {"s": Score(2, 1)}).value == 1.5
    with pytest.raises(NotAvailable, match="no baseline"):
        ratio.from_scores({"s": Score(3, 1)}, None)
    with pytest.raises(NotAvailable, match="the baseline's s: blurred"):
        ratio.from_scores({"s": Score(3, 1)}, {"s": NotAvailable("blurred")})


SPOILS = """
from bench import Score, metric
from bench.evidence import Terms

@metric(Terms(), unit="nats")
def aaa(terms):
    "It spoils the evidence that it's given."
    terms.log_likelihood.zero_()
    return Score.of(terms.rate)
"""


def test_a_strangers_metric_spoils_no_evidence_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It's scored last, whatever its name and its place."""
    monkeypatch.chdir(tmp_path)
    Path("spoils.py").write_text(SPOILS)
    small = {"steps": 2, "in_process": True, "threads": 1, "baseline": False, "sanity": False, "progress": False}
    spoilt = api.run(["vae"], metrics=("./spoils.py:aaa", "elbo", "bce"), out="a", **small)
    plain = api.run(["vae"], metrics=("elbo", "bce"), out="b", **small)
    assert spoilt["elbo"].item() == plain["elbo"].item() != 0
    assert spoilt["bce"].item() == plain["bce"].item()
    assert spoilt["aaa@spoils.py"].notna().all()


OF_THE_ENCODER = {"active_kl", "active_units", "kl", "knn", "linear_probe", "marginal_kl", "mmd", "mmd_floor"}
OF_THE_ENCODER |= {"mutual_information"}


@pytest.mark.parametrize("fault", [math.nan, math.inf])
def test_what_a_broken_decoder_touches_is_na_with_the_reason(
    fault: float, evaluate: Callable[..., Evaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pixel in each batch will do; numbers of the encoder alone stay what they are."""
    sound, broken = evaluate(), evaluate()
    decoded = broken.model.decoded

    def spoiled(z: Tensor, y: Tensor) -> Tensor:
        out = decoded(z, y)
        out[0, 0, 3, 3] = fault
        return out

    monkeypatch.setattr(broken.model, "decoded", spoiled)
    if math.isinf(fault):  # whose sigmoid is white
        monkeypatch.setattr(broken.model, "decode", spoiled)
    for name in METRICS:
        asked = METRICS.load(name)
        if not asked.default or asked.derived or name.startswith(("fid", "kid")):  # those need a download
            continue
        score = broken.score(asked)[0]
        if isinstance(score, Score):
            assert name in {*OF_THE_ENCODER, "beta_eff"}
            assert score == sound.score(asked)[0], name
        else:
            assert name not in OF_THE_ENCODER
            assert score.reason
            assert "the metric raised" not in score.reason, (name, score.reason)
