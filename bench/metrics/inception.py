"""Inception features exactly as the pytorch-fid package makes them, and the weights that this takes.

The weights lie where torch's hub keeps them. They're downloaded from the package's own address where they
can be, and checked before use.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts.images import Images, to_float
from bench.contracts.measurement import Context, Request
from bench.evidence import Generated, Reconstructions, TestImages
from bench.metrics.cache import known, remembered, remembered_tensors, statistics
from bench.metrics.gaussians import Gaussian
from bench.metrics.networks import unseen
from bench.util.durable import replacing
from bench.util.errors import NotAvailable
from bench.util.process import make_folder

DIMENSIONS = 2_048
BATCH = 50  #: pytorch-fid's own
BATCH_ON_CPU = 10  #: a fifth of the memory, and faster; no feature depends on its batch but by rounding
SMALLEST = 16  #: pixels a side
PUBLISHED = "6726825d"  #: how the sha256 of the published weights begins; it's in their file name, too
TIMEOUT = 15.0  #: seconds without an answer or a byte
TRIED = 10  #: images that are timed, to tell how long all of them will take

Source = Literal["test", "train", "prior", "gmm", "reconstructions"]

_failed: dict[str, str] = {}
"""Why an address gave nothing: a process asks each once."""


@dataclass(frozen=True)
class Weights:
    """A file of Inception weights and its sha256."""

    path: Path
    sha256: str

    @property
    def note(self) -> str:
        published = self.sha256.startswith(PUBLISHED)
        return (
            ""
            if published
            else f"not the published Inception weights, but {self.path.name} of sha256 {self.sha256[:8]}"
        )


def find_weights() -> Weights:
    """The weights in the hub's folder, downloaded first where they're missing.

    Raises:
        NotAvailable: they can't be had; says which file is missing, and where it may be put by hand.
    """
    from pytorch_fid import inception

    url = str(inception.FID_WEIGHTS_URL)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.exists():
        if os.environ.get("BENCH_OFFLINE", "0") not in ("", "0"):
            reason = "BENCH_OFFLINE forbids a download"
        else:
            reason = _failed.get(url) or _download(url, path)
        if reason:
            raise NotAvailable(
                f"no Inception weights ({reason}); put {path.name} into {_shown(path.parent)} by hand", retry=True
            )
    with path.open("rb") as file:
        return Weights(path, hashlib.file_digest(file, "sha256").hexdigest())


def _shown(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def _download(url: str, path: Path) -> str:
    """Bring `url` to `path`, whole and checked or not at all; the reason where it failed, else ""."""
    try:
        make_folder(path.parent)
        sha = hashlib.sha256()
        with replacing(path) as draft:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as source:
                while block := source.read(1 << 20):
                    sha.update(block)
                    draft.write(block)
            if not sha.hexdigest().startswith(PUBLISHED):
                raise ValueError(f"what came has sha256 {sha.hexdigest()[:8]}..., not {PUBLISHED}...")
    except (OSError, ValueError) as error:
        reason = error.reason if type(error) is urllib.error.URLError else error
        _failed[url] = f"the download failed: {reason}"
    return _failed.get(url, "")


@lru_cache(maxsize=1)
def build(weights: Weights, device: torch.device, dim: int = DIMENSIONS) -> nn.Module:
    """pytorch-fid's Inception with `weights`, in eval mode, up to the layer of `dim` channels.

    Raises:
        NotAvailable: the file holds something else.
    """
    from pytorch_fid.inception import InceptionV3

    try:
        # pytorch-fid reads the file by itself, and would run any pickle; what passes here holds tensors only
        torch.load(weights.path, map_location="cpu", weights_only=True)
        network: nn.Module = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[dim]])
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotAvailable(f"{weights.path} holds no Inception weights, delete it: {reason}", retry=True) from None
    return network.eval().to(device).to(memory_format=torch.channels_last)


def features(
    network: nn.Module,
    pixels: Tensor | Images,
    device: torch.device | str,
    alive: Callable[[], None] = lambda: None,
    precision: str = "fp32",
) -> Tensor:
    """Pooled features of uint8 images (N, C, H, W), C 1 or 3: (N, d) float32 on the CPU, d as `network` was built.

    A grey image is copied to three channels; the network resizes to 299 x 299 by itself. `alive` is called at every
    batch. With `precision` bf16 its convolutions compute in that (autocast).
    """
    found, kind = [], torch.device(device).type
    autocast = torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), autocast:
        for part in torch.split(torch.arange(len(pixels)), BATCH_ON_CPU if kind == "cpu" else BATCH):
            alive()
            block = pixels.take(part, device) if isinstance(pixels, Images) else pixels[part].to(device)
            maps = network(to_float(block).expand(-1, 3, -1, -1))[0]
            found.append(F.adaptive_avg_pool2d(maps.float(), 1).flatten(1).cpu())
    return torch.cat(found)


def usable(shape: tuple[int, int, int], test: int, samples: int) -> None:
    """Check image shape and counts.

    Raises:
        NotAvailable: a FID of these images would mean nothing.
    """
    channels, height, width = shape
    if min(height, width) < SMALLEST:
        raise NotAvailable(
            f"Inception features of {height} x {width} images mean nothing: {SMALLEST} x {SMALLEST} at least"
        )
    if channels not in (1, 3):
        raise NotAvailable(f"Inception takes grey or RGB images, not {channels} channels")
    for count, what in ((test, "test images"), (samples, "samples")):
        if count <= DIMENSIONS:
            raise NotAvailable(f"a covariance of {DIMENSIONS:,} features needs more than {count:,} {what}")


@dataclass(frozen=True)
class InceptionWeights(Request[Weights]):
    """The weights, once it's known that they're of use."""

    def resolve(self, context: Context) -> Weights:
        test = context.data.test
        usable(test.shape, len(test), context.scoring.samples)
        return find_weights()


def kept_at(context: Context, weights: Weights, images: Images, what: str = "") -> Path:
    """Where what is known of real images is kept."""
    what = what if context.scoring.inception_precision == "fp32" else f"{what}-{context.scoring.inception_precision}"
    return statistics(context, f"inception-{images.digest[:16]}-{weights.sha256[:16]}{what}")


@dataclass(frozen=True)
class Made(Request[set[Source]]):
    """Whose features have been made already: their time isn't told again by another metric."""

    def resolve(self, context: Context) -> set[Source]:
        return set()


@dataclass(frozen=True)
class InceptionFeatures(Request[Tensor]):
    """Inception features of test images, of as many training images, of samples or reconstructions: (N, 2048) float32.

    Those of real images are kept between runs.
    """

    of: Source

    def resolve(self, context: Context) -> Tensor:
        found = self._find(context, context.get(InceptionWeights()))
        context.get(Made()).add(self.of)
        return found

    def _find(self, context: Context, weights: Weights) -> Tensor:
        if self.of == "reconstructions":
            return self._compute(context, weights, context.get(Reconstructions(n=None)))
        if self.of == "prior" or self.of == "gmm":
            return self._compute(context, weights, context.get(Generated(self.of)))
        images = context.get(TestImages()) if self.of == "test" else unseen(context.data)
        path = kept_at(context, weights, images, "-features")
        kept = remembered_tensors(path, lambda: {"features": self._compute(context, weights, images)}, "features")
        return kept["features"]

    @staticmethod
    def _compute(context: Context, weights: Weights, pixels: Tensor | Images) -> Tensor:
        network, precision = build(weights, context.device), context.scoring.inception_precision
        return features(network, pixels, context.device, context.alive, precision)


@dataclass(frozen=True)
class InceptionGaussian(Request[Gaussian]):
    """Mean and covariance of `InceptionFeatures`. Those of training images are kept between runs."""

    of: Source

    def resolve(self, context: Context) -> Gaussian:
        if self.of != "train":
            return Gaussian.of(context.get(InceptionFeatures(self.of)))
        path = kept_at(context, context.get(InceptionWeights()), unseen(context.data))
        return remembered(path, lambda: Gaussian.of(context.get(InceptionFeatures("train"))))


@dataclass(frozen=True)
class KnownTraining(Request["Gaussian | None"]):
    """`InceptionGaussian("train")` where an earlier scoring has left it in the cache; its features take minutes."""

    def resolve(self, context: Context) -> Gaussian | None:
        return known(kept_at(context, context.get(InceptionWeights()), unseen(context.data)))


def seconds(*sources: Source) -> Callable[[Context], float]:
    """What the features of `sources` will take, told from a few images' time. What is in the cache takes none."""

    def predicted(context: Context) -> float:
        weights, data = context.get(InceptionWeights()), context.data
        counts: dict[Source, int] = {"reconstructions": len(data.test)}
        splits: dict[Source, Images] = {"test": data.test, "train": unseen(data)}
        for split, real in splits.items():
            counts[split] = 0 if kept_at(context, weights, real, "-features").exists() else len(real)
        made = context.get(Made())
        counts |= dict.fromkeys(made, 0)
        images = sum(counts.get(source, context.scoring.samples) for source in sources)
        if not images:
            return 0.0
        network, some = build(weights, context.device), data.test.take(torch.arange(min(TRIED, len(data.test))))
        began = time.perf_counter()
        features(network, some, context.device, precision=context.scoring.inception_precision)
        return (time.perf_counter() - began) / len(some) * images

    return predicted
