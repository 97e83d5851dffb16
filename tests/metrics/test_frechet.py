"""Fréchet distances against closed forms and other packages; Inception's weights without a network."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import save_image

from bench.contracts.dataset import DATASETS, Data
from bench.contracts.images import Images, to_uint8
from bench.contracts.measurement import Score
from bench.contracts.protocol import RunRequest, Scoring
from bench.evidence import Generated, Reconstructions
from bench.metrics import frechet, inception, kernel
from bench.metrics.classifier import Classifier, halves, predict
from bench.metrics.gaussians import FeatureGaussian, expected_bias, frechet_distance, influence
from bench.metrics.inception import InceptionFeatures, InceptionGaussian, InceptionWeights, Weights, find_weights
from bench.metrics.networks import FeatureNetwork, Predicted, Predictions, TrainedClassifier, unseen
from bench.running.planning import plan
from bench.util.errors import DataError, NotAvailable, UsageError
from tests.metrics.test_metrics import Bare, kinds, note

D = torch.float64


def gaussian(mean: Tensor, cov: Tensor) -> FeatureGaussian:
    return FeatureGaussian(mean.to(D), cov.to(D), 1_000)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, dtype=D)).Q


def features(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated, skewed, and with two that are always 0: like a ReLU network's."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(1), dtype=D) / d**0.5
    f = (torch.randn(n, d, generator=generator, dtype=D) @ mix).relu() + 0.1 * seed
    f[:, :2] = 0
    return f


# --- the distance ---


def test_a_shift_of_the_mean() -> None:
    eye, zero = torch.eye(2_048), torch.zeros(2_048)
    assert frechet_distance(gaussian(zero, eye), gaussian(zero + 1, eye)) == pytest.approx(2_048, rel=1e-12)


def test_covariances_that_commute_in_any_basis() -> None:
    a, b, shift, q = torch.rand(12, dtype=D), torch.rand(12, dtype=D), torch.randn(12, dtype=D), rotation(12)
    expected = (shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()).item()
    zero = torch.zeros(12, dtype=D)
    plain = frechet_distance(gaussian(zero, a.diag()), gaussian(shift, b.diag()))
    turned = frechet_distance(gaussian(zero, q @ a.diag() @ q.T), gaussian(q @ shift, q @ b.diag() @ q.T))
    assert plain == pytest.approx(expected, rel=1e-10)
    assert turned == pytest.approx(expected, rel=1e-9)


def nuclear(x: Tensor, y: Tensor) -> float:
    """The distance by tr (A B)^(1/2) = |X Y^T|_*, X and Y centred: exact with fewer rows than columns, too."""
    a, b = ((f - f.mean(0)) / (len(f) - 1) ** 0.5 for f in (x, y))
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap)


@pytest.mark.parametrize(("n", "m"), [(300, 200), (10, 12), (10, 200)])
def test_two_forms_of_the_trace_agree(n: int, m: int) -> None:
    x, y = features(n, 16), features(m, 16, seed=1)
    assert nuclear(x, x) == pytest.approx(0, abs=1e-9)
    own = frechet_distance(FeatureGaussian.of(x), FeatureGaussian.of(y))
    assert own == pytest.approx(nuclear(x, y), rel=1e-9 if n > 16 else 1e-6)


def test_symmetry_scale_and_translation() -> None:
    x, y = features(300, 16), features(200, 16, seed=1)
    there = frechet_distance(FeatureGaussian.of(x), FeatureGaussian.of(y))
    assert frechet_distance(FeatureGaussian.of(y), FeatureGaussian.of(x)) == pytest.approx(there, rel=1e-10)
    assert frechet_distance(FeatureGaussian.of(x + 7), FeatureGaussian.of(y + 7)) == pytest.approx(there, rel=1e-10)
    assert frechet_distance(FeatureGaussian.of(3 * x), FeatureGaussian.of(3 * y)) == pytest.approx(9 * there, rel=1e-10)


@pytest.mark.parametrize(("n", "first", "tolerance"), [(300, 2, 1e-9), (300, 0, 1e-6), (10, 0, 1e-5)])
def test_the_distance_to_itself_is_zero(n: int, first: int, tolerance: float) -> None:
    g = FeatureGaussian.of(features(n, 16)[:, first:])  # the first two never light up
    assert frechet_distance(g, g) == pytest.approx(0, abs=tolerance)


def test_statistics_are_those_of_numpy() -> None:
    f = features(50, 6).float() + 1e3
    g = FeatureGaussian.of(f)
    np.testing.assert_allclose(g.mean, f.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(g.cov, np.cov(f.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-12)
    assert g.n == 50


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_it_agrees_with_pytorch_fid() -> None:
    from pytorch_fid.fid_score import calculate_frechet_distance

    x, y = features(500, 20), features(400, 20, seed=1)
    x[:, -10:], y[:, -10:] = 0, 0
    a, b = FeatureGaussian.of(x), FeatureGaussian.of(y)
    theirs = calculate_frechet_distance(a.mean.numpy(), a.cov.numpy(), b.mean.numpy(), b.cov.numpy())
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-8)


class Flat(nn.Module):
    """An image is its own feature vector."""

    num_features = 24

    def forward(self, x: Tensor) -> Tensor:
        return x.double().flatten(1)


def test_it_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

    x, y = torch.rand(200, 3, 4, 2), torch.rand(300, 3, 4, 2).square()
    x.flatten(1)[:, -10:], y.flatten(1)[:, -10:] = 0, 0
    other = FrechetInceptionDistance(feature=Flat(), normalize=True)
    other.update(x, real=True)
    other.update(y, real=False)
    theirs = _compute_fid(*(s for f in (x, y) for s in (f.double().flatten(1).mean(0), f.double().flatten(1).T.cov())))
    assert other.compute().item() == pytest.approx(float(theirs), rel=1e-6)  # it rounds to single precision
    own = frechet_distance(FeatureGaussian.of(x.flatten(1)), FeatureGaussian.of(y.flatten(1)))
    assert own == pytest.approx(float(theirs), rel=1e-8)


# --- finite samples ---


def test_expected_bias_of_isotropic_features_has_its_closed_form() -> None:
    """Both of N draws from N(0, I_d): 2 d / N + d (d + 1) / (2 (N - 1)); half of it against an exact reference."""
    d, n = 64, 2_000
    law = gaussian(torch.zeros(d), torch.eye(d))
    both = 2 * d / n + d * (d + 1) / (2 * (n - 1))
    assert both == pytest.approx(1.1045, abs=1e-4)
    assert expected_bias(law, n, n) == pytest.approx(both, rel=1e-12)
    assert expected_bias(law, n, None) == pytest.approx(both / 2, rel=1e-12)
    assert expected_bias(law, None, None) == 0
    generator = torch.Generator().manual_seed(0)
    sets = [[FeatureGaussian.of(torch.randn(n, d, generator=generator, dtype=D)) for _ in range(2)] for _ in range(40)]
    found = torch.tensor([frechet_distance(*pair) for pair in sets], dtype=D)
    assert abs(found.mean().item() - both) < 3 * found.std().item() / 40**0.5


@pytest.mark.parametrize(("n", "m"), [(500, 500), (400, 1_200), (500, None)])
def test_finite_samples_of_one_law_have_the_expected_bias(n: int, m: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    root = (torch.rand(16, generator=generator, dtype=D) + 0.05).diag()
    root[0] = 0  # a feature that never lights up
    law = gaussian(torch.zeros(16), root @ root)

    def drawn(count: int | None) -> FeatureGaussian:
        return law if count is None else FeatureGaussian.of(torch.randn(count, 16, generator=generator, dtype=D) @ root)

    found = torch.tensor([frechet_distance(drawn(n), drawn(m)) for _ in range(200)])
    expected = expected_bias(law, n, m)
    assert abs(found.mean().item() - expected) < 3 * found.std().item() / 200**0.5 + 0.01 * expected


def drawn(n: int, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """Skewed features: (n, 16), the first of them always 0."""
    mix = torch.randn(16, 16, generator=torch.Generator().manual_seed(1), dtype=D) / 4
    found = scale * (torch.randn(n, 16, generator=generator, dtype=D) @ mix).relu()
    return torch.cat([torch.zeros(n, 1, dtype=D), found[:, 1:]], 1)


@pytest.mark.parametrize("scale", [1.5, 0.7])
def test_the_standard_error_is_the_spread_over_redraws(scale: float) -> None:
    """Of 300 draws of the samples; and it's that of a jackknife."""
    generator = torch.Generator().manual_seed(0)
    reference = FeatureGaussian.of(drawn(2_000, generator))
    found, errors = [], []
    for _ in range(300):
        x = drawn(1_000, generator, scale)
        found.append(frechet_distance(FeatureGaussian.of(x), reference))
        errors.append(Score.of(influence(x, reference)).se)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.12)  # type: ignore[arg-type]
    assert np.std(errors) < 0.1 * np.mean(errors)  # type: ignore[arg-type]
    groups = [FeatureGaussian.of(x[torch.arange(1_000) % 100 != g]) for g in range(100)]
    left = torch.tensor([frechet_distance(g, reference) for g in groups])
    assert errors[-1] == pytest.approx((99 * left.var(correction=0)).sqrt().item(), rel=0.15)


def test_the_influence_of_gaussian_features_has_its_closed_form() -> None:
    """One feature, N(m, s^2) to N(0, 1): the distance m^2 + (s - 1)^2 varies by 4 m^2 s^2 / N + 2 s^2 (s - 1)^2 / N."""
    m, s, n = 0.8, 1.6, 200_000
    x = m + s * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=D)
    found = influence(x, gaussian(torch.zeros(1), torch.eye(1))).var().item()
    assert found == pytest.approx(4 * m**2 * s**2 + 2 * s**2 * (s - 1) ** 2, rel=0.02)


def test_what_does_not_vary_has_no_influence() -> None:
    reference = FeatureGaussian.of(features(100, 6))
    assert influence(torch.ones(50, 6), reference).abs().max() == 0
    assert bool(influence(features(4, 6), reference).isfinite().all())


def test_what_has_no_covariance() -> None:
    with pytest.raises(NotAvailable, match="there is 1"):
        FeatureGaussian.of(torch.zeros(1, 4))
    for odd in (float("nan"), float("inf")):
        with pytest.raises(NotAvailable, match="aren't finite"):
            FeatureGaussian.of(torch.tensor([[0.0, 1.0], [odd, 1.0]]))
    flat = FeatureGaussian.of(torch.full((9, 4), 3.0))
    assert frechet_distance(flat, flat) == 0


# --- statistics on disk ---


def test_pytorch_fid_reads_what_is_written_and_the_reverse(tmp_path: Path) -> None:
    from pytorch_fid.fid_score import compute_statistics_of_path

    own, path = FeatureGaussian.of(features(50, 8)), tmp_path / "own.npz"
    own.to_npz(path)
    mu, sigma = compute_statistics_of_path(str(path), None, 50, 8, "cpu")
    np.testing.assert_array_equal(mu, own.mean.numpy())
    np.testing.assert_array_equal(sigma, own.cov.numpy())
    back = FeatureGaussian.from_npz(path)
    assert (back.n, frechet_distance(back, own)) == (50, frechet_distance(own, own))
    np.savez_compressed(tmp_path / "theirs.npz", mu=mu, sigma=sigma)
    theirs = FeatureGaussian.from_npz(tmp_path / "theirs.npz")
    assert theirs.n is None
    assert torch.equal(theirs.cov, own.cov)
    theirs.to_npz(path)
    assert FeatureGaussian.from_npz(path).n is None


@pytest.mark.parametrize(
    ("held", "what"),
    [
        ({"mu": np.zeros(3)}, "no statistics"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"aren't \(d,\) and \(d, d\)"),
        ({"mu": np.zeros((3, 1)), "sigma": np.eye(3)}, r"aren't \(d,\) and \(d, d\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "aren't finite"),
        ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "no covariance"),
        ({"mu": np.zeros(3), "sigma": -np.eye(3)}, "no covariance"),
        ({"mu": np.array([{}]), "sigma": np.eye(1)}, "no statistics"),
        (b"no archive", "no statistics"),
    ],
)
def test_a_file_that_holds_no_statistics(held: Any, what: str, tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    path.write_bytes(held) if isinstance(held, bytes) else np.savez(path, **held)
    with pytest.raises(DataError, match=what):
        FeatureGaussian.from_npz(path)
    with pytest.raises(NotAvailable, match=what):
        Bare().get(frechet.Statistics(path))


# --- fd ---


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    splits = DATASETS.load("digits")().load(Path())
    data = Data("digits", splits.train, splits.test, splits.train, latent_dim=8, steps=1, likelihood="bernoulli")
    return Bare(data=data, cache=tmp_path_factory.mktemp("cache"))


def score(context: Bare, metric: Any, samples: Tensor) -> Any:
    for sampler in ("prior", "gmm"):
        context.planted[Generated(sampler)] = samples  # type: ignore[arg-type]
    context.planted[Reconstructions(n=None)] = samples
    drawn = Predicted | InceptionGaussian | InceptionFeatures | frechet.Reference | kernel.InceptionDistance
    context.planted = {k: v for k, v in context.planted.items() if not isinstance(k, drawn)}
    return metric(*(context.get(need) for need in metric.needs))


def half_of_training(context: Bare) -> Tensor:
    """Real images that the classifier hasn't seen."""
    source: Images = context.data.source
    return source.take(halves(len(source))[1])


def test_fd_rises_with_blur_and_noise(digits: Bare) -> None:
    real = half_of_training(digits)
    blurred = nn.functional.avg_pool2d(real.float(), 3, 1, 1, count_include_pad=False).to(torch.uint8)
    torch.manual_seed(0)
    noisy = [(real + s * torch.randn(real.shape)).clamp(0, 255).to(torch.uint8) for s in (25.0, 60.0)]
    values = [score(digits, frechet.fd, x).value for x in (real, *noisy)]
    assert values == sorted(values)
    assert score(digits, frechet.fd, blurred).value > 2 * values[0]
    assert score(digits, frechet.fd_gmm, real).value == values[0]


def test_fd_names_its_network_and_the_distance_of_real_images(digits: Bare) -> None:
    found = score(digits, frechet.fd, half_of_training(digits))
    assert found.n == len(digits.data.test)
    trained = digits.get(FeatureNetwork())
    assert trained.name.startswith("fd-v1-")
    assert trained.name in note(found, "feature_network").text
    assert note(found, "feature_network").values == {"accuracy": 100 * trained.accuracy}
    floor = frechet_distance(digits.get(frechet.Reference("test")), digits.get(frechet.Reference("train")))
    assert note(found, "real_images").values["floor"] == floor
    bias = expected_bias(digits.get(frechet.Reference("test")), len(half_of_training(digits)), found.n)
    assert note(found, "finite_samples").values == {"bias": bias}
    drawn = predict(trained.network, half_of_training(digits), "cpu")[0]
    assert found.se == Score.of(influence(drawn, digits.get(frechet.Reference("test")))).se


def test_the_expected_bias_is_what_real_images_come_to(mnist: Data, tmp_path: Path) -> None:
    context = Bare(data=mnist, cache=tmp_path)
    split = mnist.test.take(torch.randperm(10_000, generator=torch.Generator().manual_seed(0)))
    features, _ = predict(context.get(FeatureNetwork()).network, split[:4_000], "cpu")
    a, b = FeatureGaussian.of(features[:2_000]), FeatureGaussian.of(features[2_000:])
    assert frechet_distance(a, b) == pytest.approx(expected_bias(a, 2_000, 2_000), rel=0.2)


def test_reconstructions_are_compared_with_their_own_images(digits: Bare) -> None:
    test = digits.data.test.take(torch.arange(len(digits.data.test)))
    assert score(digits, frechet.fd_rec, test).value == pytest.approx(0, abs=1e-6)
    assert score(digits, frechet.fd_rec, test // 2).value > 1


def test_copying_the_training_images_shows(digits: Bare) -> None:
    other = unseen(digits.data)
    copies = other.take(torch.arange(len(other)))
    assert score(digits, frechet.fd_train, copies).value == pytest.approx(0, abs=1e-6)
    assert score(digits, frechet.fd, copies).value > 0.5


def test_references_are_of_one_size(digits: Bare) -> None:
    sizes = {digits.get(frechet.Reference(split)).n for split in ("test", "train")}  # type: ignore[arg-type]
    assert sizes == {len(digits.data.test)}


def test_a_covariance_needs_five_images_a_feature(digits: Bare) -> None:
    with pytest.raises(NotAvailable, match="need 320 samples: there are 319"):
        score(digits, frechet.fd, half_of_training(digits)[:319])
    few = digits.data.test.subset(torch.arange(300))
    small = Bare(data=Data("d", few, few, digits.data.source, 8, 1, "bernoulli"), cache=digits.cache)
    with pytest.raises(NotAvailable, match="need 320 real images: there are 300"):
        score(small, frechet.fd, half_of_training(digits))


# --- Inception: the weights ---


class Server(HTTPServer):
    body = b"weights" * 1000
    status = 200
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{made.server_port}/some/pt_inception-2015-12-05-6726825d.pth"
    monkeypatch.setattr("pytorch_fid.inception.FID_WEIGHTS_URL", url)
    monkeypatch.setattr(inception, "_failed", {})
    monkeypatch.delenv("BENCH_OFFLINE", raising=False)
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """Where torch's hub keeps files: a folder of the test's own."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def test_weights_are_downloaded_checked_and_kept(server: Server, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = hashlib.sha256(server.body).hexdigest()
    monkeypatch.setattr(inception, "PUBLISHED", sha[:8])
    weights = find_weights()
    assert weights == Weights(hub / "pt_inception-2015-12-05-6726825d.pth", sha)
    assert weights.path.read_bytes() == server.body
    assert weights.note is None
    assert [p.name for p in hub.iterdir()] == [weights.path.name]
    assert find_weights() == weights
    assert server.asked == 1


def test_a_wrong_download_is_thrown_away(server: Server, hub: Path) -> None:
    with pytest.raises(NotAvailable, match="sha256"):
        find_weights()
    assert list(hub.iterdir()) == []


def test_a_failed_download_is_explained_and_not_repeated(server: Server, hub: Path) -> None:
    server.status = 404
    reasons = []
    for _ in range(3):
        with pytest.raises(NotAvailable) as caught:
            find_weights()
        reasons.append(caught.value.reason)
    assert len(set(reasons)) == 1
    assert "404" in reasons[0]
    assert "pt_inception-2015-12-05-6726825d.pth" in reasons[0]
    assert str(hub) in reasons[0]
    assert server.asked == 1


def test_offline_asks_nobody(server: Server, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_OFFLINE", "1")
    with pytest.raises(NotAvailable, match="BENCH_OFFLINE"):
        find_weights()
    assert server.asked == 0
    hub.mkdir(parents=True)
    (hub / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"by hand")
    by_hand = find_weights().note
    assert by_hand is not None
    assert (by_hand.kind, by_hand.warns) == ("inception_weights", True)


def test_a_file_that_holds_no_weights(hub: Path) -> None:
    hub.mkdir(parents=True)
    path = hub / "pt_inception-2015-12-05-6726825d.pth"
    for content in (b"no weights", b""):
        path.write_bytes(content)
        with pytest.raises(NotAvailable, match="holds no Inception weights"):
            inception.build(find_weights(), torch.device("cpu"))
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(NotAvailable, match="holds no Inception weights"):
        inception.build(find_weights(), torch.device("cpu"))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


def test_no_pickle_is_run(hub: Path) -> None:
    hub.mkdir(parents=True)
    path = hub / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(Harmful(), path)
    with pytest.raises(NotAvailable, match="holds no Inception weights"):
        inception.build(find_weights(), torch.device("cpu"))


# --- Inception: the features ---


@pytest.fixture
def stand_in(hub: Path) -> Path:
    """Random weights of Inception's shape, where the published ones would lie."""
    from torchvision.models import inception_v3

    hub.mkdir(parents=True)
    torch.manual_seed(0)
    random = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for module in random.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.2)  # keeps random activations from vanishing
    path = hub / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(random.state_dict(), path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_pytorch_fid(channels: int, stand_in: Path, tmp_path: Path) -> None:
    from pytorch_fid.fid_score import get_activations

    network = inception.build(find_weights(), torch.device("cpu"))
    pixels = torch.randint(0, 256, (4, channels, 28, 28), dtype=torch.uint8)
    files = [str(tmp_path / f"{i}.png") for i in range(4)]
    for file, image in zip(files, pixels, strict=True):
        save_image(image.float() / 255, file)
    theirs = get_activations(files, network, batch_size=4, num_workers=0)
    own = inception.features(network, pixels, "cpu")
    assert own.shape == (4, 2048)
    assert own.std(0).mean().item() > 0
    np.testing.assert_allclose(own.numpy(), theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_features_in_bf16_are_near_and_apart(stand_in: Path) -> None:
    network = inception.build(find_weights(), torch.device("cpu"), 64)
    pixels = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    exact = inception.features(network, pixels, "cpu")
    near = inception.features(network, pixels, "cpu", precision="bf16")
    assert exact.dtype == near.dtype == torch.float32
    error = float((near - exact).norm() / exact.norm())
    assert 2**-12 < error < 2**-5  # a bf16 has 8 bits


def test_bf16_is_a_scoring_protocol_of_its_own_and_fp32_is_filed_as_before() -> None:
    assert "inception_precision" not in Scoring().document()
    assert Scoring(inception_precision="bf16").document()["inception_precision"] == "bf16"
    assert RunRequest(inception_precision="bf16").scoring == Scoring(inception_precision="bf16")


def test_bf16_is_refused_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.running.planning.computes_bf16", lambda device: False)
    with pytest.raises(UsageError, match="--inception-precision bf16 has no use on this machine's cpu"):
        plan(RunRequest(device="cpu", inception_precision="bf16"))


def patterns(n: int, sigma: float) -> Tensor:
    """Grey images of smoothed noise: (n, 1, 28, 28) in [0, 1]."""
    noise = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(n))
    return gaussian_blur(noise, [13, 13], sigma).sub_(0.5).mul_(3 * sigma).add_(0.5).clamp_(0, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("dims", "n"),
    [
        (64, 24),
        pytest.param(192, 500, marks=pytest.mark.costly),
        pytest.param(2_048, 24, marks=pytest.mark.costly),
    ],
)
def test_fid_is_that_of_the_pytorch_fid_command_line(dims: int, n: int, stand_in: Path, tmp_path: Path) -> None:
    """On folders of PNGs: with fewer images than features within 1e-4 of the traces, else of the value itself.

    Colour files by torchvision and grey ones by Pillow are the same to it; its statistics may stand for a folder.
    """
    from pytorch_fid.fid_score import calculate_fid_given_paths, save_fid_stats

    sets, pixels = {"real": patterns(n, 0.6), "fake": patterns(n + 1, 1.2)}, {}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        pixels[name] = to_uint8(images)
        for i, image in enumerate(images):
            file = tmp_path / name / f"{i}.png"
            if i % 2:
                save_image(image, file)
            else:
                Image.fromarray(to_uint8(image)[0].numpy()).save(file)
    real, fake, statistics = (str(tmp_path / name) for name in ("real", "fake", "statistics.npz"))
    save_fid_stats([real, statistics], 50, "cpu", dims, 0)
    theirs = calculate_fid_given_paths([fake, statistics], 50, "cpu", dims, 0)

    network = inception.build(find_weights(), torch.device("cpu"), dims)
    a, b = (FeatureGaussian.of(inception.features(network, pixels[name], "cpu")) for name in ("real", "fake"))
    tolerance = 1e-4 * (theirs if n > dims else float(a.cov.trace() + b.cov.trace()))
    assert theirs > 10 * tolerance
    assert frechet_distance(b, a) == pytest.approx(theirs, abs=tolerance)
    assert frechet_distance(b, FeatureGaussian.from_npz(statistics)) == pytest.approx(theirs, abs=tolerance)


def test_the_quantiser_is_that_of_saved_images(tmp_path: Path) -> None:
    x = torch.rand(1, 1, 64, 64)
    save_image(x, tmp_path / "x.png")
    saved = torch.as_tensor(np.array(Image.open(tmp_path / "x.png").convert("L")))
    assert torch.equal(to_uint8(x)[0, 0], saved)
    assert 0.4 < ((x * 255).byte()[0, 0] != saved).double().mean().item() < 0.6  # truncated


def plain(n: int, shape: tuple[int, int, int] = (1, 28, 28)) -> Images:
    return Images(torch.randint(0, 256, (n, *shape), dtype=torch.uint8))


def test_what_has_no_fid(tmp_path: Path) -> None:
    inception.usable((1, 28, 28), 2_049, 2_049)
    with pytest.raises(NotAvailable, match="8 x 8"):
        inception.usable((1, 8, 8), 10_000, 10_000)
    with pytest.raises(NotAvailable, match="4 channels"):
        inception.usable((4, 28, 28), 10_000, 10_000)
    with pytest.raises(NotAvailable, match=r"more than 2,048 test images"):
        inception.usable((1, 28, 28), 2_048, 10_000)
    with pytest.raises(NotAvailable, match=r"more than 500 samples"):
        inception.usable((1, 28, 28), 10_000, 500)
    tiny = plain(20, (1, 8, 8))
    context = Bare(data=Data("d", tiny, tiny, tiny, 8, 1, "bernoulli"), cache=tmp_path)
    with pytest.raises(NotAvailable, match="8 x 8"):
        context.get(InceptionWeights())


def test_fid_by_stand_in_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way with a network of four features: the value, the caveat, and one pass over the test split."""
    seen: list[int] = []

    def corners(network: object, pixels: Tensor | Images, *_: object) -> Tensor:
        x = pixels.take(torch.arange(len(pixels))) if isinstance(pixels, Images) else pixels
        seen.append(len(x))
        return x[:, 0, :2, :2].flatten(1).float()

    test, samples = plain(60), plain(50).take(torch.arange(50))
    weights = Weights(tmp_path / "w.pth", "f" * 64)
    monkeypatch.setattr(inception, "features", corners)
    monkeypatch.setattr(inception, "build", lambda *_: None)
    data = Data("d", test, test, test, 8, 1, "bernoulli")
    first = Bare(data=data, cache=tmp_path, planted={InceptionWeights(): weights})
    found = score(first, frechet.fid, samples)
    x, y = (v[:, 0, :2, :2].flatten(1) for v in (samples, test.take(torch.arange(60))))
    assert found.value == pytest.approx(frechet_distance(FeatureGaussian.of(x), FeatureGaussian.of(y)), rel=1e-12)
    assert found.n == 50
    assert kinds(found) == {"inception_weights", "finite_samples"}
    assert score(first, kernel.kid, samples).value == pytest.approx(kernel.kernel_distance(x, y)[0], rel=1e-12)
    assert seen == [50, 60, 50]  # `score` forgets the samples, not the test split
    again = Bare(data=data, cache=tmp_path, planted={InceptionWeights(): weights})
    assert score(again, frechet.fid_gmm, samples).value == found.value
    to_training = score(again, frechet.fid_train, samples)
    assert seen == [50, 60, 50, 50, 50, 30]
    floor = frechet_distance(again.get(InceptionGaussian("train")), again.get(InceptionGaussian("test")))
    assert "real_images" not in kinds(to_training), "60 images are no measure of 50 samples"
    third = Bare(data=data, cache=tmp_path, planted={InceptionWeights(): weights})
    values = note(score(third, frechet.fid, samples), "real_images").values
    assert values["n"] == 30
    assert values["floor"] == pytest.approx(floor)
    assert score(third, frechet.fid_rec, test.take(torch.arange(60))).value == pytest.approx(0, abs=1e-6)
    third.get(InceptionGaussian("test")).to_npz(tmp_path / "test.npz")
    assert score(third, frechet.fid_to(tmp_path / "test.npz"), samples).value == found.value


def test_the_time_that_features_take_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second for ten images; none for what is in the cache."""
    clock = iter(range(100))
    monkeypatch.setattr(inception.time, "perf_counter", lambda: next(clock) / 10)
    monkeypatch.setattr(inception, "features", lambda *_, **__: torch.zeros(20, 4))
    monkeypatch.setattr(inception, "build", lambda *_: None)
    test = plain(20)
    weights = Weights(tmp_path / "w.pth", "f" * 64)
    context = Bare(data=Data("d", test, test, test, 8, 1, "bernoulli"), cache=tmp_path)
    context.planted[InceptionWeights()] = weights
    assert context.scoring.samples == 10_000
    assert frechet.fid.predicted is not None
    assert frechet.fid.predicted(context) == pytest.approx(10_020 / 10 / 10)
    context.get(InceptionFeatures("test"))
    assert frechet.fid.predicted(context) == pytest.approx(10_000 / 10 / 10)
    assert inception.seconds("test")(context) == 0


def test_fid_needs_more_images_than_features() -> None:
    few = FeatureGaussian(torch.zeros(4, dtype=D), torch.eye(4, dtype=D), 4)
    enough = FeatureGaussian(few.mean, few.cov, 5)
    published = Weights(Path("w.pth"), inception.PUBLISHED + "0" * 56)
    assert frechet.fid(published, enough, enough, None).value == pytest.approx(0, abs=1e-12)
    with pytest.raises(NotAvailable, match="4 features need 5 samples: there are 4"):
        frechet.fid(published, few, enough, None)
    with pytest.raises(NotAvailable, match="4 features need 5 test images: there are 4"):
        frechet.fid(published, enough, few, None)


def test_a_distance_that_rounding_brings_below_0_is_0() -> None:
    """Identical features of a singular covariance come to -1e-6 or so."""
    features = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)).repeat(1, 8)
    trained = TrainedClassifier(Classifier((1, 8, 8), 2), "fd-x", 0.9)
    assert 0 <= frechet.fd_rec(trained, Predictions(features, features), FeatureGaussian.of(features)).value < 1e-3
