"""Sharpness, spectra and equivalent blur against closed forms, scipy, and real images blurred or made noisy."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from bench.contracts.dataset import Data
from bench.contracts.images import Images, to_uint8
from bench.contracts.measurement import METRICS, Metric, Score
from bench.engine.evaluator import Evaluator
from bench.engine.sharpness import laplacian_variance
from bench.evidence import Generated, Reconstructions, positions
from bench.metrics import blur, sharpness, spectrum
from bench.metrics.blur import blurred, calibrate, equivalent, smooth
from bench.metrics.reconstruction import IMAGES
from bench.metrics.sharpness import Pairs, PerImage, contrast, noise_sigma, normalised
from bench.util.errors import NotAvailable
from tests.metrics.test_metrics import Bare, data_of, kinds, note

RATIOS = ("sharpness", "hfr", "noise")


def normalised_sharpness(pixels: Tensor) -> Tensor:
    return normalised(laplacian_variance(pixels), contrast(pixels))


def high_frequencies(pixels: Tensor) -> Tensor:
    return spectrum.high_frequency_ratio(spectrum.spectrum(pixels))


def uint8(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def noisy(pixels: Tensor, sigma: float) -> Tensor:
    draws = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    return to_uint8((pixels.float() / 255 + sigma * draws).clamp(0, 1))


def scored(
    metric: str | Metric,
    real: Tensor,
    samples: Tensor | None = None,
    reconstructed: Tensor | None = None,
    *,
    training: Tensor | None = None,
    redrawn: bool = False,
    planted: dict[Any, Any] | None = None,
) -> Score:
    """A metric of planted samples against `real` test images, in the way of the evaluator."""
    test = Images(real, redrawn=redrawn)
    data = data_of(Images(real if training is None else training), test)
    found: dict[Any, Any] = {Generated("prior"): samples, Reconstructions(IMAGES): reconstructed}
    context = Bare(model=nn.Identity(), data=data, planted=found | (planted or {}))
    wanted = METRICS.load(metric) if isinstance(metric, str) else metric
    return wanted(*(context.get(need) for need in wanted.needs))


@pytest.fixture(scope="module")
def photos(fashion: Data) -> Tensor:
    """2,000 real images."""
    return fashion.test.take(positions(fashion.test, 2_000))


@pytest.fixture(scope="module")
def calibrated(photos: Tensor) -> dict[Any, Any]:
    return {blur.Calibration(): calibrate(photos[:1_000])}


# --- closed forms of the Laplacian ---


def test_laplacian_variance_of_known_images() -> None:
    ramp = (10 * torch.arange(12)).expand(12, 12)
    impulse = torch.zeros(12, 12)
    impulse[6, 6] = 255
    board = 255 * ((torch.arange(12)[:, None] + torch.arange(12)) % 2)
    pixels = torch.stack([torch.full((12, 12), 77), ramp, impulse.long(), board]).to(torch.uint8)[:, None]
    expected = torch.tensor([0, 0, 20 / 100, 16], dtype=torch.float64)
    torch.testing.assert_close(laplacian_variance(pixels), expected, atol=1e-12, rtol=0)


def test_laplacian_equals_a_loop_on_an_oblong_image() -> None:
    pixels = uint8(3, 1, 5, 7)
    x = (pixels[:, 0].double() / 255).numpy()
    for image, found in zip(x, laplacian_variance(pixels).tolist(), strict=True):
        response = [
            image[i - 1, j] + image[i + 1, j] + image[i, j - 1] + image[i, j + 1] - 4 * image[i, j]
            for i in range(1, 4)
            for j in range(1, 6)
        ]
        assert found == pytest.approx(np.var(response), rel=1e-12)


def test_laplacian_variance_of_noise_and_contrast() -> None:
    noise = uint8(40, 1, 64, 64)
    level_variance = (256**2 - 1) / 12 / 255**2
    assert laplacian_variance(noise).mean().item() == pytest.approx(20 * level_variance, rel=0.02)
    half = noise // 2 * 2
    torch.testing.assert_close(laplacian_variance(half // 2), laplacian_variance(half) / 4)


def test_pixels_from_minus_one_to_one_would_be_four_times_as_sharp() -> None:
    """Peers' values on [-1, 1] and ours on [0, 1] differ by that alone."""
    pixels = uint8(4, 1, 9, 9)
    x = 2 * (pixels[:, 0].double() / 255) - 1
    other = nn.functional.conv2d(x[:, None], torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]]).double())
    torch.testing.assert_close(other.flatten(1).var(1, correction=0), 4 * laplacian_variance(pixels))


@pytest.mark.parametrize("frequency", [math.pi / 2, 2 * math.pi / 3])
def test_laplacian_variance_of_a_wave(frequency: float) -> None:
    """A^2 (2 cos w - 2)^2 / 2 over whole periods; these need no rounding."""
    wave = 127 + 100 * torch.cos(frequency * torch.arange(62)).expand(1, 1, 62, 62)
    expected = (100 / 255) ** 2 * (2 * math.cos(frequency) - 2) ** 2 / 2
    assert laplacian_variance(wave.round().to(torch.uint8)).item() == pytest.approx(expected, rel=1e-12)


def test_colour_is_seen_as_luma() -> None:
    grey = uint8(10, 1, 8, 8)
    colour, red = grey.expand(-1, 3, -1, -1), torch.cat([grey, torch.zeros_like(grey), torch.zeros_like(grey)], 1)
    for measure in (laplacian_variance, contrast, high_frequencies, noise_sigma):
        torch.testing.assert_close(measure(colour), measure(grey))
    torch.testing.assert_close(laplacian_variance(red), 0.299**2 * laplacian_variance(grey))
    torch.testing.assert_close(normalised_sharpness(red), normalised_sharpness(grey))
    assert scored("blur", blurred(colour, 0.5), blurred(colour, 0.5)).value == 0


def test_noise_estimate_finds_the_noise_of_a_smooth_image() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.3, 0.7, 64).expand(20, 1, 64, 64)
    for sigma in (0.02, 0.05, 0.1):
        pixels = to_uint8(ramp + sigma * torch.randn(ramp.shape))
        assert noise_sigma(pixels).mean().item() == pytest.approx(sigma, rel=0.03)


# --- spectra ---


@pytest.mark.parametrize(("height", "width"), [(28, 28), (8, 8), (9, 12), (15, 7), (3, 3)])
def test_power_sums_to_the_mean_square(height: int, width: int) -> None:
    x = torch.rand(6, height, width, dtype=torch.float64)
    full = torch.fft.fft2(x).abs().square() / (height * width) ** 2
    torch.testing.assert_close(spectrum.power(x).sum((1, 2)), full.sum((1, 2)), rtol=1e-12, atol=0)
    radial = spectrum.radial(x)
    torch.testing.assert_close(radial.sum(1), x.square().mean((1, 2)), rtol=1e-12, atol=0)
    torch.testing.assert_close(radial[:, 0], x.mean((1, 2)).square(), rtol=1e-12, atol=1e-15)  # the mean, alone


def test_all_twenty_rings_of_28x28() -> None:
    """DC in ring 0, nothing dropped: as np.bincount counts the full spectrum's frequencies by their radius."""
    frequencies = np.fft.fftfreq(28, 1 / 28).round()
    radius = np.hypot(frequencies[:, None], frequencies).astype(int).ravel()
    x = torch.rand(1, 28, 28, dtype=torch.float64)
    full = (np.abs(np.fft.fft2(x[0].numpy())) ** 2).ravel() / 28**4
    expected = np.bincount(radius, full)
    assert len(expected) == 20
    np.testing.assert_allclose(spectrum.radial(x)[0].numpy(), expected, rtol=1e-12)
    assert np.bincount(radius)[0] == 1


@pytest.mark.parametrize(("height", "width"), [(28, 28), (10, 10), (30, 18), (7, 9), (64, 64)])
def test_high_frequencies_begin_at_a_quarter_cycle(height: int, width: int) -> None:
    """Whatever the side: the rings from the cut on are those frequencies, and no others."""
    pixels = uint8(3, 1, height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    full = np.abs(np.fft.fft2(pixels[:, 0].numpy() / 255.0)) ** 2
    expected = full[:, radius >= 0.25 - 1e-9].sum(1) / full[:, radius > 0].sum(1)
    np.testing.assert_allclose(high_frequencies(pixels).numpy(), expected, rtol=1e-12)


def test_white_noise_has_the_share_of_frequencies() -> None:
    share = (np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)) >= 0.25).sum() / (64 * 64 - 1)
    assert share == pytest.approx(0.8066, abs=5e-4)
    assert high_frequencies(uint8(40, 1, 64, 64)).mean().item() == pytest.approx(share, rel=0.01)


# --- blur ---


@pytest.mark.parametrize("sigma", [0.25, 0.7, 2.0])
def test_blur_multiplies_power_by_a_gaussian(sigma: float) -> None:
    """exp(-4 pi^2 sigma^2 r^2), on the mirrored image that the borders stand for."""
    x = torch.rand(4, 6, 10, dtype=torch.float64)

    def mirrored(image: Tensor) -> Tensor:
        tall = torch.cat([image, image.flip(1)], 1)
        return torch.cat([tall, tall.flip(2)], 2)

    r = torch.hypot(torch.fft.fftfreq(12, dtype=torch.float64)[:, None], torch.fft.rfftfreq(20, dtype=torch.float64))
    transfer = torch.exp(-4 * math.pi**2 * sigma**2 * r**2)
    before, after = spectrum.power(mirrored(x)), spectrum.power(mirrored(smooth(x, sigma)))
    torch.testing.assert_close(after, before * transfer, rtol=1e-9, atol=1e-16)


def test_blur_keeps_the_mean_and_adds_up() -> None:
    x = torch.rand(3, 1, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(smooth(x, 0.0), x)
    torch.testing.assert_close(smooth(x, 1.3).mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(smooth(smooth(x, 0.6), 0.8), smooth(x, 1.0))


def test_blur_is_scipys_where_a_sampled_kernel_is_fine() -> None:
    x = torch.rand(20, 24, dtype=torch.float64)
    for sigma in (1.0, 2.0):
        expected = gaussian_filter(x.numpy(), sigma, mode="reflect", truncate=8)
        np.testing.assert_allclose(smooth(x, sigma).numpy(), expected, atol=2e-3)


# --- on real images ---


def test_all_scores_fall_with_blur(photos: Tensor) -> None:
    """Sharpness up to four pixels; shares of high frequencies until the rounding to levels is what is left of them."""
    for measure, largest in ((laplacian_variance, 4.0), (normalised_sharpness, 4.0), (high_frequencies, 1.25)):
        sigmas = [s for s in blur.SIGMAS if s <= largest]
        found = [measure(blurred(photos[:500], s)).mean().item() for s in sigmas]
        assert all(a > b for a, b in pairwise(found)), measure


def test_blurred_images_get_their_blur_back(photos: Tensor, calibrated: dict[Any, Any]) -> None:
    """On other images than those that the curve is of, and off its knots."""
    for sigma in (0.1, 0.35, 0.7, 1.1, 1.9):
        soft = blurred(photos, sigma)
        score = scored("blur", photos[:1_000], soft[1_000:], planted=calibrated)
        assert score.value == pytest.approx(sigma, abs=0.05)
        assert score.se is not None
        assert 0 < score.se < 0.05
        paired = scored("blur_rec", photos, reconstructed=soft, planted=calibrated)
        assert paired.value == pytest.approx(sigma, abs=0.02)
        assert paired.n == 2_000


def test_blurred_digits_get_their_blur_back(mnist: Data) -> None:
    pixels = mnist.test.take(positions(mnist.test, 2_000))
    assert scored("blur", pixels[:1_000], blurred(pixels[1_000:], 0.7)).value == pytest.approx(0.7, abs=0.05)


def test_scipys_blur_is_read_off_as_well(photos: Tensor, calibrated: dict[Any, Any]) -> None:
    """An independent blur: sampled kernel, black beyond the borders."""
    x = (photos[1_000:, 0].float() / 255).numpy()
    other = gaussian_filter(x, (0, 0.7, 0.7), mode="constant")
    score = scored("blur", photos[:1_000], to_uint8(torch.from_numpy(other))[:, None], planted=calibrated)
    assert score.value == pytest.approx(0.7, abs=0.05)


def test_blur_is_blind_to_contrast_and_offset(photos: Tensor, calibrated: dict[Any, Any]) -> None:
    soft = blurred(photos[1_000:], 0.7)
    faint = to_uint8(0.3 + 0.5 * soft.float() / 255)
    full, low = (scored("blur", photos[:1_000], pixels, planted=calibrated).value for pixels in (soft, faint))
    assert low == pytest.approx(full, abs=0.02)
    half = scored("sharpness", photos[:1_000], faint).value
    assert half == pytest.approx(scored("sharpness", photos[:1_000], soft).value / 4, rel=0.02)


def test_gain_and_offset_change_no_normalised_score() -> None:
    """Exactly, on levels that need no rounding."""
    pixels = uint8(10, 1, 12, 12) // 4
    for measure in (normalised_sharpness, high_frequencies):
        torch.testing.assert_close(measure(3 * pixels + 17), measure(pixels), rtol=1e-12, atol=0)


def test_noise_is_no_sharpness(photos: Tensor, calibrated: dict[Any, Any]) -> None:
    """Blur hidden under noise looks as sharp as real images; the guard says so, and no blur is read off."""
    loud = noisy(photos, 0.1)
    assert scored("sharpness", photos, loud).value > 1.3
    assert scored("noise", photos, loud).value > 2
    with pytest.raises(NotAvailable, match="noisier than real images"):
        scored("blur", photos, loud, planted=calibrated)
    hidden = noisy(blurred(photos, 1.0), 0.02)  # less noise than real edges have, more than blurred ones
    assert scored("noise", photos, hidden).value < 1
    with pytest.raises(NotAvailable, match=r"such blur: noise is \d\d% of its sharpness"):
        scored("blur", photos, hidden, planted=calibrated)
    with pytest.raises(NotAvailable, match="noisier than real images"):
        scored("blur_rec", photos, reconstructed=loud, planted=calibrated)


@pytest.mark.parametrize("gain", [0.5, 0.25])
def test_faint_noise_is_no_sharpness_either(gain: float, photos: Tensor, calibrated: dict[Any, Any]) -> None:
    """The guard is as blind to contrast as what it guards: by absolute noise, each of these would pass."""

    def faint(pixels: Tensor) -> Tensor:
        return to_uint8(0.5 + gain * (pixels.float() / 255 - 0.5))

    real, fresh = photos[:1_000], photos[1_000:]
    blank = torch.full_like(fresh, 128)
    for soft, why in (
        (noisy(blank, 0.05), r"9[89]% of its sharpness"),  # nothing but noise
        (noisy(blurred(fresh, 2.0), 0.02), "noisier than real images"),
        (noisy(blurred(fresh, 0.7), 0.02), "noisier than real images"),
    ):
        assert scored("noise", real, faint(soft)).value < 1
        for name in ("blur", "blur_rec"):
            of = fresh if name == "blur_rec" else real
            with pytest.raises(NotAvailable, match=why):
                scored(name, of, faint(soft), faint(soft), planted=calibrated)
    for sigma in (0.7, 1.1):
        clean = scored("blur", real, faint(blurred(fresh, sigma)), planted=calibrated)
        assert clean.value == pytest.approx(sigma, abs=0.05)  # faint isn't noisy, nor is the rounding of faint images


def test_splits_that_differ_are_no_noise(mnist: Data) -> None:
    """At equal contrast, MNIST's training images are sharper than its test images: still, they're what's real."""
    training, test = (split.take(positions(split, 10_000)) for split in (mnist.train, mnist.test))
    assert sharpness.above(sharpness.ratio(normalised_sharpness(training), normalised_sharpness(test)))
    score = scored("blur", test, training, training=training[:2_000])
    assert (score.value, score.notes) == (0, ())


def test_real_training_images_set_the_scale_of_the_ratios(photos: Tensor, calibrated: dict[Any, Any]) -> None:
    """Half of the real images against the other half: within four standard errors of 1, and in the note."""
    for name in RATIOS:
        score = scored(name, photos[:1_000], photos[1_000:], training=photos[1_000:])
        assert score.se is not None
        assert abs(score.value - 1) < 4 * score.se < 0.2
        expected = {"n": 1_000, "floor": pytest.approx(score.value), "se": pytest.approx(score.se)}
        assert note(score, "real_images").values == expected  # type: ignore[union-attr]
    assert scored("blur", photos[:1_000], photos[1_000:], planted=calibrated).value < 0.15


def test_the_bootstrap_agrees_with_the_delta_method(photos: Tensor) -> None:
    """2,000 resamples of both sides: the same standard error, and percentiles where a normal law has them."""
    rng = np.random.default_rng(0)
    values, real = blurred(photos[1_000:], 0.5), photos[:1_000]
    for measure in (laplacian_variance, normalised_sharpness, high_frequencies, noise_sigma):
        a, b = measure(values).numpy(), measure(real).numpy()
        means = [x[rng.integers(0, len(x), (2_000, len(x)))].mean(1) for x in (a, b)]
        draws = means[0] / means[1]
        score = sharpness.ratio(torch.from_numpy(a), torch.from_numpy(b))
        assert score.se is not None
        assert score.se == pytest.approx(draws.std(), rel=0.1)
        low, high = np.percentile(draws, [2.5, 97.5])
        assert score.value - 1.96 * score.se == pytest.approx(low, abs=0.3 * score.se)
        assert score.value + 1.96 * score.se == pytest.approx(high, abs=0.3 * score.se)


def test_the_error_of_blur_is_the_spread_over_images(photos: Tensor, calibrated: dict[Any, Any]) -> None:
    soft, real = blurred(photos, 0.7), photos[:1_000]
    (curve,) = calibrated.values()
    reference = sharpness.ratio(normalised_sharpness(soft), normalised_sharpness(real))
    score = blur.equivalent_blur(curve, reference, Score(0.006, 2_000, 0.001))
    rng = np.random.default_rng(0)
    a, b = normalised_sharpness(soft).numpy(), normalised_sharpness(real).numpy()
    draws = [equivalent(curve, rng.choice(a, len(a)).mean() / rng.choice(b, len(b)).mean()) for _ in range(300)]
    assert score.se == pytest.approx(np.std(draws), rel=0.15)


# --- pairs ---


def test_pairs_have_the_error_that_pairing_leaves() -> None:
    """A constant ratio has none, however the images differ; else the simulated one."""
    torch.manual_seed(0)
    original = torch.rand(50, dtype=torch.float64) + 0.1
    exact = sharpness.paired_ratio(Pairs(0.3 * original, original))
    assert exact.value == pytest.approx(0.3)
    assert exact.se == pytest.approx(0, abs=1e-12)
    b = torch.rand(4_000, 100, dtype=torch.float64) + 0.1
    a = 0.3 * b + 0.1 * torch.rand(b.shape, dtype=torch.float64)
    scores = [sharpness.paired_ratio(Pairs(x, y)) for x, y in zip(a[:200], b[:200], strict=True)]
    simulated = (a.mean(1) / b.mean(1)).std().item()
    assert np.mean([s.se for s in scores if s.se is not None]) == pytest.approx(simulated, rel=0.05)
    assert sharpness.ratio(a[0], b[0]).se > 2 * simulated  # type: ignore[operator]


def test_reconstructions_stand_beside_their_own_originals() -> None:
    """A split that is longer than what is reconstructed, each original of its own sharpness."""
    pixels = uint8(2_500, 1, 6, 6)
    pixels = pixels // (1 + torch.arange(2_500)[:, None, None, None] % 7).to(torch.uint8)
    originals = pixels[positions(Images(pixels), IMAGES)]
    score = scored("sharpness_rec", pixels, reconstructed=originals)
    assert (score.value, score.n) == (1, 2_000)
    assert score.se == pytest.approx(0, abs=1e-12)


# --- ratios ---


def test_ratio_has_the_error_of_the_delta_method() -> None:
    torch.manual_seed(0)
    a, b = 2 + torch.randn(2_000, 400).double(), 4 + torch.randn(2_000, 900).double()
    simulated = (a.mean(1) / b.mean(1)).std().item()
    score = sharpness.ratio(a[0], b[0])
    assert score.value == pytest.approx(0.5, abs=0.1)
    assert score.se == pytest.approx(simulated, rel=0.15)


def test_the_real_images_are_as_sharp_as_themselves() -> None:
    pixels = uint8(30, 1, 8, 8)
    for name in RATIOS:
        assert scored(name, pixels, pixels).value == 1, name
    assert scored("sharpness", pixels, pixels // 2).value == pytest.approx(0.25, rel=0.05)
    assert scored("hfr", pixels, pixels // 2).value == pytest.approx(1, rel=0.01)


def test_what_is_kept_as_evidence() -> None:
    values = torch.rand(30).double()
    assert PerImage("laplacian", "prior").keep(values)["sharpness_prior"].shape == (30,)
    assert not PerImage("noise", "prior").keep(values)
    assert not PerImage("laplacian", "train").keep(values)
    kept = spectrum.Spectra("test").keep(spectrum.spectrum(uint8(30, 1, 8, 8)))
    assert kept["spectrum_test"].shape == (6,)


# --- what has no number ---


def test_flat_images_are_left_out_and_counted() -> None:
    pixels, flat = uint8(30, 1, 8, 8), torch.full((20, 1, 8, 8), 99, dtype=torch.uint8)
    flat[:10, 0, 0, 0] += 1  # one level in one pixel: rounding, and as sharp as anything by itself
    mixed = torch.cat([pixels, flat])
    score = scored("hfr", pixels, mixed)
    assert score.value == pytest.approx(1)
    assert score.n == 30
    assert note(score, "flat_images").values == {"flat": 20, "n": 50}  # type: ignore[union-attr]
    with pytest.raises(NotAvailable, match="all samples are flat"):
        scored("hfr", pixels, flat)
    with pytest.raises(NotAvailable, match="all real images are flat"):
        scored("hfr", flat, pixels)
    with pytest.raises(NotAvailable, match="needs 10 samples: there are 9 that aren't flat"):
        scored("hfr", pixels, torch.cat([pixels[:9], flat]))
    assert scored("sharpness", pixels, mixed).value == pytest.approx(0.6, rel=0.01)  # flat is as blurred as can be
    with pytest.raises(NotAvailable, match="all samples are flat"):
        scored("blur", pixels, flat)
    with pytest.raises(NotAvailable, match="real images: they are flat"):
        scored("blur", flat, pixels)
    with pytest.raises(NotAvailable, match="all reconstructions"):
        scored("blur_rec", pixels, reconstructed=flat[:1].expand_as(pixels))
    for name in ("sharpness", "noise"):
        with pytest.raises(NotAvailable, match="have none"):
            scored(name, flat[10:], pixels)
    with pytest.raises(NotAvailable, match="have none"):
        scored("sharpness_rec", flat[10:], reconstructed=pixels[:10])


def test_tiny_images_have_no_sharpness() -> None:
    pixels = uint8(9, 1, 2, 8)
    for name in (*RATIOS, "sharpness_rec", "blur", "blur_rec"):
        with pytest.raises(NotAvailable, match="3 x 3"):
            scored(name, pixels, pixels, pixels)


@pytest.mark.parametrize("count", [1, 9])
def test_few_images_have_no_ratio(count: int) -> None:
    """Their mean is anything, and of one there isn't even a standard error: on either side."""
    pixels = uint8(10, 1, 8, 8)
    few, every = pixels[:count], (*RATIOS, "blur")
    for name in every:
        assert scored(name, pixels, pixels).n == 10, name
        with pytest.raises(NotAvailable, match=f"needs 10 samples: there are {count}$"):
            scored(name, pixels, few)
        with pytest.raises(NotAvailable, match=f"needs 10 real images: there are {count}$"):
            scored(name, few, pixels)
    for name in ("sharpness_rec", "blur_rec"):
        assert scored(name, pixels, reconstructed=pixels).n == 10, name
        with pytest.raises(NotAvailable, match=f"needs 10 reconstructions: there are {count}$"):
            scored(name, few, reconstructed=few)


def test_noise_is_told_beyond_two_standard_errors_of_what_real_images_have() -> None:
    def around(mean: float, n: int) -> Tensor:
        return mean * (1 + 0.1 * (-1.0) ** torch.arange(n).double())

    def told(samples: Tensor, real: Tensor, training: Tensor) -> bool:
        return "noisier" in kinds(sharpness.noise(samples, real, training, False))

    assert told(around(1.03, 400), around(1, 400), around(1, 400))  # 1.03 ± .007
    assert not told(around(1.03, 400), around(1, 32), around(1, 400))  # 1.03 ± .019
    assert not told(around(1.03, 400), around(1, 400), around(1.03, 400))  # training images are, too
    assert not told(around(1.03, 400), around(1.03, 400), around(1, 400))
    assert not told(around(0.97, 400), around(1, 400), around(1, 400))


def test_samples_that_are_all_alike() -> None:
    real = uint8(50, 1, 8, 8)
    same = real[:1].expand_as(real)
    expected = (laplacian_variance(same[:1]) / laplacian_variance(real).mean()).item()
    assert scored("sharpness", real, same).value == pytest.approx(expected)


def test_sharper_than_real_images_is_no_negative_blur() -> None:
    curve = blur.BlurCurve(np.array([0, 1.0]), np.array([1, 0.1]), np.array([1, 0.2]))
    score = blur.equivalent_blur(curve, Score(1.5, 10, 0.01), Score(0.9, 10, 0.01))
    assert score.value == 0
    assert "sharper" in kinds(score)
    assert not blur.equivalent_blur(curve, Score(1.01, 10, 0.01), Score(0.9, 10, 0.01)).notes
    assert blur.equivalent_blur(curve, Score(1.1, 10, 0.01), Score(1.07, 10, 0.01)).notes
    assert not blur.equivalent_blur(curve, Score(1.1, 10, 0.01), Score(1.09, 10, 0.01)).notes, "noise makes it sharp"
    with pytest.raises(NotAvailable, match=r"noisier than real images of such blur: noise is 41%"):
        blur.equivalent_blur(curve, Score(0.9, 10, 0.01), Score(1.2, 10, 0.01))
    for unknown in ((Score(1, 1), Score(0.9, 10, 0.01)), (Score(1, 10, 0.01), Score(0.9, 1))):
        with pytest.raises(NotAvailable, match="no standard error"):
            blur.equivalent_blur(curve, *unknown)
    assert blur.equivalent_blur(curve, Score(0.9, 10, 0.01), Score(0.9, 10, 0.01)).value > 0
    with pytest.raises(NotAvailable, match=r"blurred by 1 px, where calibration ends"):
        blur.equivalent_blur(curve, Score(0.09, 10, 0.01), Score(0.1, 10, 0.01))


def test_calibration_ends_where_blur_stops_to_show() -> None:
    """Rounding to levels is all that is left of strong blur, and it is as sharp as any noise."""
    pixels = uint8(200, 1, 28, 28)
    assert calibrate(pixels, (0, 1, 1.001, 2)).sigma.tolist() == [0, 1]  # less than a tenth: could be anything
    curve = calibrate(pixels, (0, 0.5, 1, 2, 4, 8, 16))
    assert (np.diff(curve.sharpness) < 0).all()
    assert len(curve.sigma) < 7
    assert curve.sharpness[0] == 1
    assert curve.noise[0] == pytest.approx(1, rel=0.05)  # the images are noise
    middle = math.exp((math.log(curve.sharpness[1]) + math.log(curve.sharpness[2])) / 2)
    assert equivalent(curve, middle) == pytest.approx(math.sqrt((0.25 + 1) / 2))


def test_black_or_white_images_say_so() -> None:
    """Drawn pixels are noise, which decoder means can't have: no blur, and a caveat beside the ratios."""
    grey = uint8(40, 1, 8, 8)
    for real, redrawn in ((255 * (grey > 127).to(torch.uint8), False), (grey, True)):
        for name in RATIOS:
            assert "black_or_white" in kinds(scored(name, real, grey, redrawn=redrawn)), name
        assert "black_or_white" in kinds(scored("sharpness_rec", real, reconstructed=grey, redrawn=redrawn))
        for name in ("blur", "blur_rec"):
            with pytest.raises(NotAvailable, match="black or white"):
                scored(name, real, grey, grey, redrawn=redrawn)
    assert "black_or_white" not in kinds(scored("sharpness", grey, grey))


def test_drawn_pixels_are_drawn_alike_for_each_score(tmp_path: Any) -> None:
    """Whatever was asked before: each chunk of a redrawn split has its seed."""
    split = Images(uint8(40, 1, 8, 8), redrawn=True)

    def values(*first: PerImage) -> Tensor:
        context = Evaluator(nn.Identity(), data_of(split, split), Bare().scoring, tmp_path)  # type: ignore[arg-type]
        with torch.inference_mode():
            for request in first:
                context.get(request)
            torch.rand(len(first))
            return context.get(PerImage("laplacian", "test"))

    assert torch.equal(values(), values(PerImage("noise", "train")))


# --- against the anchor ---


def against(modes_reached: float = 1.0, no_blur: str = "", anchor: float = 0.8) -> Score:
    row = {"sharpness": Score(0.4, 100, 0.004)}
    baseline: dict[str, Score | NotAvailable] = {
        "sharpness": Score(anchor, 100, 0.008),
        "modes": Score(modes_reached, 100),
    }
    baseline["blur"] = NotAvailable(no_blur) if no_blur else Score(0.2, 100)
    return sharpness.sharpness_vs_gan.from_scores(row, baseline)


def test_sharpness_against_the_anchor() -> None:
    score = against()
    assert score.value == pytest.approx(0.5)
    assert score.se == pytest.approx(0.5 * math.hypot(0.01, 0.01))
    assert note(score, "baseline").values == {"ratio": 0.8}  # type: ignore[union-attr]
    assert sharpness.sharpness_vs_gan.derived


def test_an_unfit_anchor_says_why() -> None:
    with pytest.raises(NotAvailable, match="90% of the classes"):
        against(modes_reached=0.9)
    with pytest.raises(NotAvailable, match="the baseline's blur: it is noisier"):
        against(no_blur="it is noisier")
    with pytest.raises(NotAvailable, match="flat"):
        against(anchor=0.0)
    with pytest.raises(NotAvailable, match="needs class labels"):
        sharpness.sharpness_vs_gan.from_scores(
            {"sharpness": Score(1, 1)},
            {"sharpness": Score(1, 1), "modes": NotAvailable("needs class labels")},
        )


def test_an_anchor_is_held_to_the_noise_in_its_sharpness(photos: Tensor, calibrated: dict[Any, Any]) -> None:
    """Not to `noise`, which calls real images with a trace of noise noisy, and blurred ones with more of it not."""

    def anchored(pixels: Tensor) -> Score:
        baseline: dict[str, Score | NotAvailable] = {
            "modes": Score(1, 100),
            "sharpness": scored("sharpness", photos, pixels),
        }
        try:
            baseline["blur"] = scored("blur", photos, pixels, planted=calibrated)
        except NotAvailable as error:
            baseline["blur"] = error
        return sharpness.sharpness_vs_gan.from_scores({"sharpness": Score(1, 100)}, baseline)

    trace, hidden = noisy(photos, 2 / 255), noisy(blurred(photos, 1.0), 0.02)
    assert scored("noise", photos, trace).value > 1.05
    assert anchored(trace).value == pytest.approx(1, abs=0.01)
    assert scored("noise", photos, hidden).value < 1
    with pytest.raises(NotAvailable, match=r"\d\d% of its sharpness"):
        anchored(hidden)


# --- what is kept of real images ---


def _asks(data: Data, cache: Path) -> dict[str, Tensor]:
    context = Bare(model=nn.Identity(), data=data, cache=cache)
    found = {
        f"{measure} {of}": context.get(PerImage(measure, of))
        for measure in ("laplacian", "contrast", "noise", "normalised")
        for of in ("test", "train")
    }
    found |= {f"spectrum {of}": context.get(spectrum.Spectra(of)).power for of in ("test", "train")}
    return found | {"curve": torch.tensor(np.array(context.get(blur.Calibration())))}


def test_real_images_are_measured_once(fashion: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is kept of some images is never taken for that of others."""
    monkeypatch.setattr(sharpness, "TRAINING", 100)
    some = [Images(fashion.test.take(torch.arange(start, start + 300))) for start in (0, 300, 600)]
    first, second = data_of(some[0], some[1]), data_of(some[1], some[2])
    fresh = [_asks(data, Path("/dev/null/nowhere")) for data in (first, second)]
    for data, expected in zip((first, second), fresh, strict=True):
        for name, value in _asks(data, tmp_path).items():
            assert torch.equal(value.nan_to_num(-1), expected[name].nan_to_num(-1)), name
    for module in ("bench.engine.sharpness", "bench.metrics.sharpness"):
        monkeypatch.setattr(f"{module}.each", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(spectrum, "each", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(blur, "calibrate", lambda *_: pytest.fail("calibrated again"))
    for data, expected in zip((first, second), fresh, strict=True):
        for name, value in _asks(data, tmp_path).items():
            assert torch.equal(value.nan_to_num(-1), expected[name].nan_to_num(-1)), name


# --- in words ---


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("blur", 1.31, "samples as sharp as real images blurred by 1.3 px"),
        ("blur", 0.0, "samples as sharp as real images"),
        ("blur_rec", 0.8, "reconstructions as sharp as real images blurred by 0.8 px"),
        ("noise", 1.53, "samples 1.53 times as noisy as real images"),
        ("noise", 1.46, ""),  # one draw in thirty of ten real images against ten others
    ],
)
def test_scores_in_plain_words(name: str, value: float, words: str) -> None:
    told = METRICS.load(name).told
    assert told is not None
    assert told(value) == words


def test_no_score_of_sharpness_is_a_merit_by_itself() -> None:
    for name in (*RATIOS, "sharpness_rec", "sharpness_vs_gan", "blur", "blur_rec"):
        assert METRICS.load(name).direction is None, name
