"""What bf16 changes in Inception features, and in the distances that rest on them, beside fp32.

    python benchmarks/inception_precision.py --images 60                  # features alone, where bf16 is emulated
    python benchmarks/inception_precision.py --images 10000 --device cuda # FID as well

With the published weights where torch's hub has them, else with random ones of their shape: what those say of rounding
is an order of magnitude and no more.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from torch import Tensor

from bench.contracts.images import Images, to_uint8
from bench.metrics.gaussians import FeatureGaussian, frechet_distance
from bench.metrics.inception import DIMENSIONS, build, features, find_weights
from bench.util.errors import NotAvailable


def stand_in(folder: Path) -> None:
    """Random weights in the published ones' place."""
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    random = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for module in random.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.2)  # keeps random activations from vanishing
    home = folder / "checkpoints"
    home.mkdir(parents=True)
    torch.save(random.state_dict(), home / "pt_inception-2015-12-05-6726825d.pth")


def patterns(n: int, sigma: float) -> Tensor:
    """Grey images of smoothed noise: (n, 1, 28, 28) uint8."""
    from torchvision.transforms.functional import gaussian_blur

    noise = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(n))
    return to_uint8(gaussian_blur(noise, [13, 13], sigma).sub_(0.5).mul_(3 * sigma).add_(0.5).clamp_(0, 1))


@click.command()
@click.option("--images", default=60, show_default=True, help="Of each of two sets; FID takes more than 2,048.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(images: int, device: str, threads: int) -> None:
    """Print the error that bf16 brings."""
    torch.set_num_threads(threads)
    with TemporaryDirectory() as folder:
        try:
            weights = find_weights()
        except NotAvailable:
            torch.hub.set_dir(folder)
            stand_in(Path(folder))
            weights = find_weights()
        network = build(weights, torch.device(device))
    print(f"weights: {weights.note or 'the published ones'}; {images:,} images of each set on {device}")  # noqa: T201
    found: dict[str, list[Tensor]] = {}
    for precision in ("fp32", "bf16"):
        began = time.process_time(), time.perf_counter()
        sets = [Images(patterns(images + i, sigma)) for i, sigma in enumerate((0.6, 1.2))]
        found[precision] = [features(network, x, device, precision=precision).double() for x in sets]
        spent = time.process_time() - began[0], time.perf_counter() - began[1]
        print(f"{precision}: {spent[0]:.1f} CPU seconds, {spent[1]:.1f} s")  # noqa: T201
    for name, exact, near in zip(("sigma 0.6", "sigma 1.2"), found["fp32"], found["bf16"], strict=True):
        spread = (exact - exact.mean(0)).norm()
        of_norm, of_spread = ((near - exact).norm() / n for n in (exact.norm(), spread))
        shift = (near - exact).mean(0).norm() / exact.mean(0).norm()
        print(f"{name}: error {of_norm:.2%} of the features, {of_spread:.2%} of their spread, mean {shift:.2%}")  # noqa: T201
    if images > DIMENSIONS:
        for precision, (a, b) in found.items():
            print(f"FID in {precision}: {frechet_distance(FeatureGaussian.of(a), FeatureGaussian.of(b)):.4f}")  # noqa: T201
        own = frechet_distance(FeatureGaussian.of(found["fp32"][0]), FeatureGaussian.of(found["bf16"][0]))
        print(f"FID of the same images in bf16 to fp32: {own:.4f}")  # noqa: T201


if __name__ == "__main__":
    main()
