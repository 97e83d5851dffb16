"""Probes, PSNR and anomaly scores: against scikit-learn, torchmetrics, loops and closed forms."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.contracts.abilities import Bound
from bench.contracts.dataset import Data
from bench.contracts.images import Images
from bench.contracts.likelihood import likelihood
from bench.contracts.measurement import METRICS, Metric, Note, Score
from bench.contracts.protocol import Scoring
from bench.contracts.variant import Variant
from bench.engine.evaluator import Evaluator
from bench.evidence import BoundTerms, Codes, Reconstructions
from bench.metrics import anomaly, probing, reconstruction
from bench.metrics.probing import Labelled
from bench.util.errors import NotAvailable
from tests.conftest import build, trained
from tests.metrics.test_metrics import Bare, data_of, images, kinds, note


def score(metric: Metric, where: Bare) -> Score:
    return metric(*(where.get(need) for need in metric.needs))


def blobs(n: int, m: int, k: int = 3, d: int = 4, spread: float = 0.1, seed: int = 0) -> Labelled:
    """k classes of n + m points around centres of their own."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n + m) % k
    x = 3 * torch.eye(k, d)[y] + spread * torch.randn(n + m, d, generator=generator)
    return Labelled(x[:n], y[:n], x[n:], y[n:])


# --- probes ---


def test_separate_classes_are_told_apart_and_noise_is_guessing() -> None:
    for probe in (probing.linear, probing.neighbours):
        assert bool(probe(blobs(90, 60)).all())
        x, asked, y, answers = torch.randn(300, 4), torch.randn(900, 4), torch.arange(300) % 3, torch.arange(900) % 3
        assert probe(Labelled(x, y, asked, answers)).double().mean().item() == pytest.approx(1 / 3, abs=0.06)


def test_the_linear_probe_sees_standardised_dimensions() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    task = blobs(120, 400, spread=2.0)
    right = probing.linear(task)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(task.x, task.y)
    reference = torch.as_tensor(model.predict(task.test_x.numpy())) == task.test_y
    assert (right == reference).double().mean().item() > 0.995  # N - 1 against N in the scale
    scale, shift = torch.tensor([1e-3, 1.0, 50.0, 1e3]), torch.tensor([5.0, -1.0, 0.0, 9.0])
    moved = Labelled(task.x * scale + shift, task.y, task.test_x * scale + shift, task.test_y)
    assert (probing.linear(moved) == right).double().mean().item() > 0.995
    assert 0.5 < right.double().mean().item() < 0.95


def test_a_constant_dimension_is_no_division_by_zero() -> None:
    task = blobs(90, 60)
    padded = Labelled(*(torch.cat([v, torch.full((len(v), 1), 7.0)], 1) if v.ndim == 2 else v for v in task))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bool(probing.linear(padded).all())


def test_neighbours_equal_a_loop() -> None:
    task = blobs(60, 50, spread=2.0)
    expected = []
    for x, y in zip(task.test_x, task.test_y, strict=True):
        nearest = (task.x - x).square().sum(1).argsort()[:10]
        expected.append(torch.bincount(task.y[nearest], minlength=3).argmax() == y)
    assert torch.equal(probing.neighbours(task), torch.stack(expected))


class Pixels(nn.Module):
    """The code is the image."""

    uses_labels = False

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)


class Silent(nn.Module):
    uses_labels = False


class Few(Pixels):
    """The code is a linear map of the image into three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def striped(n: int, k: int = 3, seed: int = 0) -> Images:
    """Images of k classes: one bright row each, in noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % k
    x = torch.randint(0, 160, (n, 1, 6, 6), generator=generator)
    x[torch.arange(n), 0, y] += 45
    return images(x.clamp(max=255).to(torch.uint8), y, tuple("abcdef"[:k]))


def probed(model: nn.Module, tmp_path: Path, train: Images | None = None, test: Images | None = None) -> Bare:
    return Bare(model=model, data=data_of(train or striped(400), test or striped(300, seed=1)), cache=tmp_path)


def said(found: Score, kind: str) -> float:
    """Return the accuracy that the note of a kind has."""
    return note(found, kind).values["accuracy"] / 100  # type: ignore[union-attr]


@pytest.mark.parametrize("metric", [probing.linear_probe, probing.knn])
def test_codes_that_are_the_pixels_score_as_pixels(metric: Metric, tmp_path: Path) -> None:
    found = score(metric, probed(Pixels(), tmp_path))
    assert said(found, "probe_pixels") == pytest.approx(found.value, abs=5e-4)
    assert "probe_pca" not in kinds(found)  # of as many dimensions they'd be the pixels once more
    assert found.n == 300
    assert found.se == pytest.approx(math.sqrt(found.value * (1 - found.value) / 299))


def test_the_references_are_pca_and_the_encoder_as_it_was(tmp_path: Path) -> None:
    from sklearn.decomposition import PCA

    model = Few()
    where = probed(model, tmp_path)
    with torch.no_grad():
        model.layer.weight[:, :] = torch.eye(6).repeat_interleave(6, 1)[:3]  # "trained": it reads the three rows
    task, found = where.get(probing.ProbedCodes(1_000)), score(probing.linear_probe, where)
    assert found.value > 0.8 > said(found, "probe_untrained")
    x, asked = (where.get(Codes(split)).codes for split in ("train", "test"))
    assert torch.equal(model.layer.weight[0, :6], torch.ones(6))  # it's the copy that was initialised anew
    flat = [probing.flat(where, s, None) for s in (where.data.train, where.data.test)]
    pca = PCA(3, svd_solver="full").fit(flat[0])
    parts = [torch.as_tensor(pca.transform(f)) for f in flat]
    expected = probing.linear(Labelled(parts[0], task.y, parts[1], task.test_y)).double().mean().item()
    assert said(found, "probe_pca") == pytest.approx(expected, abs=0.0071)  # two of 300 images
    assert x.shape[1] == asked.shape[1] == 3


def test_principal_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    x = 5 + torch.randn(200, 6) * torch.tensor([3.0, 0.1, 1.0, 2.0, 0.5, 0.2])
    mean, directions = probing.components(x, 3)
    reference = PCA(3, svd_solver="full").fit(x.double())
    torch.testing.assert_close(mean, torch.as_tensor(reference.mean_).float())
    overlap = (torch.as_tensor(reference.components_).float() @ directions).abs()
    torch.testing.assert_close(overlap, torch.eye(3), atol=1e-4, rtol=0)


def test_the_references_of_a_dataset_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = score(probing.knn, probed(Few(), tmp_path))
    monkeypatch.setattr(probing, "components", None)  # it would be called
    again = score(probing.knn, probed(Few(), tmp_path))
    assert said(again, "probe_pca") == said(first, "probe_pca")
    other = probed(Few(), tmp_path, train=striped(400, seed=5))
    with pytest.raises(TypeError):
        score(probing.knn, other)


class Variants(Variant):
    """A layer, a likelihood with a learned scale, and what a subclass adds."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layer = nn.Sequential(nn.Linear(36, 3), nn.BatchNorm1d(3))
        self.pixels = likelihood("gaussian", (1, 6, 6))


def test_before_training_is_a_seed_of_its_own_and_leaves_the_model_alone() -> None:
    (model, other), cpu = (Variants(), Variants()), torch.device("cpu")
    with torch.no_grad():
        model.layer[1].running_mean.fill_(3)  # type: ignore[union-attr, operator]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.inference_mode():
        first, second = probing.untrained(model, cpu), probing.untrained(other, cpu)
    assert torch.equal(random, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for name in ("layer.0.weight", "layer.1.running_mean"):
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])
        assert not torch.equal(first.state_dict()[name], before[name])


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_what_cannot_be_initialised_anew_has_no_such_reference(kind: str, tmp_path: Path) -> None:
    class Loose(Few):
        def __init__(self) -> None:
            super().__init__()
            if kind == "buffer":
                self.register_buffer("codebook", torch.zeros(3))
            else:
                self.gain = nn.Parameter(torch.ones(3))

    found = score(probing.knn, probed(Loose(), tmp_path))
    assert "probe_untrained" not in kinds(found)
    assert "probe_pixels" in kinds(found)


def test_probes_need_labels_that_the_codes_have_not_seen(tmp_path: Path) -> None:
    def why(model: nn.Module, train: Images | None = None, test: Images | None = None) -> str:
        with pytest.raises(NotAvailable) as reason:
            score(probing.linear_probe, probed(model, tmp_path, train, test))
        return reason.value.reason

    class Given(Few):
        uses_labels = True

    class Broken(Few):
        def encode(self, x: Tensor, y: Tensor) -> Tensor:
            return super().encode(x, y) / 0 * 0

    bare = images(torch.zeros(50, 1, 6, 6, dtype=torch.uint8))
    assert "labels enter it" in why(Given())
    assert "needs class labels" in why(Few(), bare, bare)
    assert "two classes" in why(Few(), striped(40, k=1), striped(20, k=1))
    assert "10 labelled training images: there are 9" in why(Few(), striped(9))
    assert "aren't finite" in why(Broken())
    assert "doesn't map an image to a code" in why(Silent())


def test_one_test_image_is_right_or_wrong_without_an_error(tmp_path: Path) -> None:
    found = score(probing.knn, probed(Few(), tmp_path, test=striped(1)))
    assert (found.value in (0, 1), found.n, found.se) == (True, 1, None)


def test_pixels_of_real_garments(fashion: Data, tmp_path: Path) -> None:
    """Logistic regression on 1,000 of Fashion-MNIST's images: 79 % (scikit-learn's own documentation has 80)."""
    where = Bare(model=Pixels(), data=fashion, cache=tmp_path)
    pixels, *_ = where.get(probing.References("knn", 1_000))
    assert pixels.values["accuracy"] == pytest.approx(76.2, abs=0.5)


# --- PSNR ---


def psnr(decoded: Tensor, real: Tensor) -> Score:
    return reconstruction.psnr(decoded, images(real))


def test_psnr_is_that_of_torchmetrics() -> None:
    from torchmetrics.image import PeakSignalNoiseRatio

    torch.manual_seed(0)
    real = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8)
    near = (real.int() + torch.randint(-40, 40, real.shape)).clamp(0, 255).to(torch.uint8)
    near[7] = real[7]  # one is exact, and nothing is infinite
    expected = PeakSignalNoiseRatio(data_range=255.0)(near.double(), real.double()).item()
    assert psnr(near, real).value == pytest.approx(expected, abs=1e-5)


def test_psnr_of_one_level_everywhere() -> None:
    real = torch.randint(0, 200, (6, 1, 4, 4), dtype=torch.uint8)
    found = psnr(real + 5, real)
    assert found.value == pytest.approx(20 * math.log10(255 / 5))
    assert (found.n, found.se) == (6, pytest.approx(0))
    with pytest.raises(NotAvailable, match="exact"):
        psnr(real, real)


def test_its_error_is_that_of_many_test_splits() -> None:
    torch.manual_seed(0)
    real = torch.full((200, 1, 4, 4), 100, dtype=torch.uint8)
    errors = [(torch.rand(200, 1, 1, 1) * 60).to(torch.uint8).expand(-1, 1, 4, 4) for _ in range(300)]
    found = [psnr(real + e, real) for e in errors]
    spread = torch.tensor([s.value for s in found]).std().item()
    assert found[0].se == pytest.approx(spread, rel=0.15)


def test_it_compares_the_images_that_were_decoded() -> None:
    class Exact(Pixels):
        def decode(self, z: Tensor, y: Tensor) -> Tensor:
            return (z + 1 / 255).reshape(-1, 1, 6, 6)

    split = striped(2_500)  # positions draw 2,000 of them
    where = Bare(model=Exact(), data=data_of(split, split))
    assert score(reconstruction.psnr, where).value == pytest.approx(20 * math.log10(255))
    assert len(where.get(Reconstructions(2_000))) == 2_000
    with pytest.raises(NotAvailable, match="drawn anew"):
        reconstruction.psnr(torch.zeros(4, 1, 2, 2), Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), redrawn=True))


# --- anomalies ---


@pytest.mark.parametrize("levels", [5, 10_000])
def test_auroc_is_that_of_scikit_learn_with_and_without_ties(levels: int) -> None:
    from sklearn.metrics import roc_auc_score

    generator = torch.Generator().manual_seed(levels)
    out = torch.randint(levels // 5, levels + levels // 5, (70,), generator=generator)
    inside = torch.randint(0, levels, (190,), generator=generator)
    found = anomaly.auroc(out, inside)
    truth = [1] * 70 + [0] * 190
    assert found.value == pytest.approx(roc_auc_score(truth, [*out.tolist(), *inside.tolist()]), abs=1e-12)
    assert found.n == 70
    assert anomaly.auroc(inside, out).value == pytest.approx(1 - found.value)


def test_auroc_of_what_is_apart_alike_or_the_wrong_way_round() -> None:
    low, high = torch.arange(10.0), torch.arange(10.0) + 10
    assert (anomaly.auroc(high, low).value, anomaly.auroc(high, low).se) == (1, 0)
    assert anomaly.auroc(low, high).value == 0
    assert anomaly.auroc(torch.ones(19), torch.ones(14)).value == 0.5
    for few in ((9, 14), (14, 9), (14, 1), (14, 0)):
        with pytest.raises(NotAvailable, match=f"10 outliers and test images each: there are {min(few)}"):
            anomaly.auroc(*(torch.ones(n) for n in few))


def test_its_error_is_its_spread_and_its_mean_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(400, 200, generator=generator, dtype=torch.float64)
    found = [anomaly.auroc(1 + row[:60], row[60:]) for row in drawn]
    values, errors = (torch.tensor([getattr(s, name) for s in found]) for name in ("value", "se"))
    expected = 0.5 * (1 + math.erf(0.5))  # Phi(1 / sqrt 2)
    assert values.mean().item() == pytest.approx(expected, abs=3 * values.std().item() / 20)
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.1)


def ask(evaluator: Evaluator, *names: str) -> dict[str, Any]:
    return {name: evaluator.score(METRICS.load(name))[0] for name in names}


AUROCS = ("auroc_elbo", "auroc_distortion", "auroc_kl")


def test_inverted_digits_stand_out_and_the_same_digits_do_not(digits: Data, tmp_path: Path) -> None:
    test = digits.test.take(torch.arange(len(digits.test)))
    model = trained("vae", digits, 300)

    def scored(outliers: Images | None) -> dict[str, Any]:
        return ask(Evaluator(model, replace(digits, outliers=outliers), Scoring(), tmp_path), *AUROCS)

    other = scored(Images(255 - test))
    assert other["auroc_elbo"].value > 0.99
    assert other["auroc_distortion"].value > 0.99
    assert note(other["auroc_kl"], "trivial_scores").values["intensity"] == 1  # type: ignore[union-attr]
    same = scored(Images(test))
    for found in same.values():
        assert found.value == pytest.approx(0.5, abs=3 * found.se)
        assert note(found, "trivial_scores").values == {"intensity": 0.5, "png": 0.5}  # type: ignore[union-attr]
    assert {s.reason for s in scored(None).values()} == {"this dataset has no outliers"}
    assert all("the outliers are" in s.reason for s in scored(Images(test[:, :, :7])).values())


def test_signs_are_as_declared() -> None:
    def of(log_px: list[float], rate: list[float]) -> BoundTerms:
        return BoundTerms(torch.tensor(log_px).double().repeat(5), torch.tensor(rate).double().repeat(5))

    out, test = of([-9, -8], [1, 2]), of([-3, -2], [5, 6])  # -ELBO 10, 10 and 8, 8
    trivial = Note("trivial")
    assert anomaly.auroc_elbo(out, test, trivial).value == 1
    assert anomaly.auroc_distortion(out.log_likelihood, test.log_likelihood, trivial).value == 1
    assert anomaly.auroc_kl(out, test, trivial).value == 0  # shorter codes: it stays so


def test_an_autoencoder_has_a_distortion_alone(digits: Data, tmp_path: Path) -> None:
    test = digits.test.take(torch.arange(40))
    evaluator = Evaluator(build("ae", digits), replace(digits, outliers=Images(255 - test)), Scoring(), tmp_path)
    found = ask(evaluator, *AUROCS)
    assert isinstance(found["auroc_distortion"], Score)
    assert "deterministic" in found["auroc_elbo"].reason
    assert found["auroc_elbo"].reason == build("ae", digits).lacks[Bound]


def test_so_many_outliers_at_most() -> None:
    many = Images(torch.zeros(3_000, 1, 2, 2, dtype=torch.uint8))
    data = replace(data_of(many, many), outliers=many)
    assert len(Bare(data=data).get(anomaly.Outliers())) == 2_000


def test_the_size_of_a_png() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    pixels[1] = 9
    pixels[2] //= 64
    flat, coarse, noise = (anomaly.png_bytes(pixels)[i].item() for i in (1, 2, 0))
    assert flat < coarse < noise
    assert noise > 28 * 28
    colour = torch.cat([pixels[:1], torch.zeros_like(pixels[:1]), pixels[:1]], 1)
    assert anomaly.png_bytes(colour).item() > noise
    assert anomaly.png_bytes(colour[:, :2]).shape == (1,)
