"""Whether a dataset's feature network may be shipped: do others rank sets of images as it does?

    python benchmarks/feature_networks.py mnist fashion

Real images are blurred, made noisy, mixed with others' and robbed of classes, each at several strengths. Their `fd` to
the test split must rise with the strength, and the shipped network must rank all sets as networks of other seeds do. A
fixed random one shows what training is for. Data is looked for in BENCH_DATA; trained networks are kept in --cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import click
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from bench.contracts.dataset import DATASETS, Splits
from bench.contracts.images import Images, to_float, to_uint8
from bench.metrics.classifier import Classifier, accuracy, halves, predict, train
from bench.metrics.gaussians import FeatureGaussian, frechet_distance
from bench.metrics.networks import find, save
from bench.metrics.shelf import SHIPPED

#: What is done to real images, and how strongly.
STRENGTHS = {
    "blur": (0.5, 1, 2, 4),  # sigma, pixels
    "noise": (0.05, 0.1, 0.25, 0.5, 0.75),  # the share of uniform noise
    "salt and pepper": (0.02, 0.1, 0.2, 0.3),  # the share of pixels
    "blends": (0.1, 0.25, 0.5),  # the share of another image in each
    "strangers": (0.05, 0.25, 0.5, 0.75),  # the share of images turned upside down and inverted
    "classes lost": (1, 3, 5),
}


def disturbed(kind: str, strength: float, images: Images) -> Tensor:
    """Real images made worse: (N, C, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    x = to_float(images.take(torch.arange(len(images)), "cpu"))
    if kind == "blur" and strength:
        side = 2 * min(round(3 * strength), min(x.shape[2:]) - 1) + 1
        x = gaussian_blur(x, [side, side], strength)
    elif kind == "noise":
        x = (1 - strength) * x + strength * torch.rand(x.shape, generator=generator)
    elif kind == "salt and pepper":
        hit = torch.rand(x.shape, generator=generator) < strength
        x = torch.where(hit, torch.randint(2, x.shape, generator=generator), x)
    elif kind == "blends":
        x = (1 - strength) * x + strength * x[torch.randperm(len(x), generator=generator)]
    elif kind == "strangers":
        x[: round(strength * len(x))] = 1 - x[: round(strength * len(x))].flip(2)
    elif kind == "classes lost":
        x = x[images.labels() >= strength]
    return to_uint8(x)


def untrained(images: Images) -> Classifier:
    """A random network whose normalisations and scale have seen `images`, as those of a trained one have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Classifier(images.shape, len(images.classes)).train()
    own = images.subset(halves(len(images))[0])
    some = to_float(own.take(torch.arange(min(len(own), 10_000))))
    network.mean.copy_(some.mean((0, 2, 3))[:, None, None])
    network.std.copy_(some.std((0, 2, 3))[:, None, None].clamp_min(1e-3))
    with torch.no_grad():
        for part in torch.split(torch.arange(5_000), 100):
            network(own.take(part))
    spread = predict(network, own.subset(torch.arange(5_000)), "cpu")[0].std(0)
    network.scale.copy_(spread.clamp_min(0.01 * spread.mean().item()))
    return network.eval().requires_grad_(False)


def networks(splits: Splits, cache: Path) -> dict[str, Classifier]:
    """The shipped network, two more that were trained from other seeds, and a random one."""
    shipped = find(splits.train, SHIPPED)
    if shipped is None:
        raise click.ClickException("no network is shipped for these images: see train_networks.py")
    found = {"shipped": shipped.network}
    for replicate in (1, 2):
        folder = cache / f"replicate-{replicate}"
        trained = find(splits.train, folder)
        if trained is None:
            folder.mkdir(parents=True, exist_ok=True)
            network = train(splits.train, replicate=replicate)
            save(network, folder, splits.train, accuracy(network, splits.test))
            trained = find(splits.train, folder)
        assert trained is not None
        found[f"seed {replicate}"] = trained.network
    return found | {"random": untrained(splits.train)}


def distances(network: Classifier, sets: dict[str, Tensor], reference: Images) -> list[float]:
    """`fd` of each set to `reference`."""
    to = FeatureGaussian.of(predict(network, reference, "cpu")[0])
    return [frechet_distance(FeatureGaussian.of(predict(network, pixels, "cpu")[0]), to) for pixels in sets.values()]


def disturbances(images: Images, kinds: Iterable[str] = STRENGTHS) -> dict[str, Tensor]:
    """Sets of pixels by what was done to `images`: nothing, and each kind at each strength."""
    found = {"real": disturbed("real", 0, images)}
    return found | {f"{kind} {s:g}": disturbed(kind, s, images) for kind in kinds for s in STRENGTHS[kind]}


def not_rising(values: Sequence[float], kinds: Iterable[str] = STRENGTHS) -> list[str]:
    """The kinds with whose strength these distances of `disturbances` don't rise."""
    real, *rest = values
    steps = {kind: [real, *(rest.pop(0) for _ in STRENGTHS[kind])] for kind in kinds}
    return [kind for kind, found in steps.items() if any(a >= b for a, b in pairwise(found))]


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--images", default=3_000, show_default=True, help="Real images in each set.")
@click.option("--cache", default="feature-networks", type=click.Path(path_type=Path), show_default=True)
def main(names: tuple[str, ...], images: int, cache: Path) -> None:
    """Print a table for each dataset in NAMES."""
    for name in names:
        splits = DATASETS.load(name)().load(Path(os.environ.get("BENCH_DATA", ".")))
        real = splits.train.subset(halves(len(splits.train))[1][:images])
        sets = disturbances(real)
        found = {key: distances(n, sets, splits.test) for key, n in networks(splits, cache / name).items()}

        click.echo(f"\n{name}, {images:,} images in a set\n\n| set | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
        for i, label in enumerate(sets):
            click.echo(f"| {label} | {' | '.join(f'{values[i]:.3g}' for values in found.values())} |")
        own = found["shipped"]
        click.echo("\n| beside the shipped one | Spearman | Kendall |\n|---|---|---|")
        for key, values in found.items():
            if key != "shipped":
                spearman, kendall = spearmanr(own, values).statistic, kendalltau(own, values).statistic
                click.echo(f"| {key} | {spearman:.3f} | {kendall:.3f} |")
        for key, values in found.items():
            for kind in not_rising(values):
                click.echo(f"{key}: not monotone in {kind}")


if __name__ == "__main__":
    main()
