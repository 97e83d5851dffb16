"""Inception features exactly as the pytorch-fid package computes them.

The weights lie where torch's hub keeps them. If they are missing, they are downloaded from the package's own address,
and checked before use.
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
from bench.contracts.measurement import Context, Note, Request
from bench.evidence import Generated, Reconstructions, TestImages
from bench.metrics.cache import read_tensors, remembered, statistics
from bench.metrics.classifier import blocks
from bench.metrics.gaussians import FeatureGaussian
from bench.metrics.networks import unseen
from bench.util.durable import replacing
from bench.util.errors import NotAvailable
from bench.util.process import make_folder

DIMENSIONS = 2_048
BATCH = 50  #: pytorch-fid's own
BATCH_ON_CPU = 10  #: a fifth of the memory, and faster; features differ by rounding alone
SMALLEST = 16  #: pixels a side
PUBLISHED = "6726825d"  #: the sha256 of the published weights begins with it; their file name has it, too
TIMEOUT = 15.0  #: seconds without an answer or a byte
TIMED = 10  #: images whose time predicts that of all

Source = Literal["test", "train", "prior", "gmm", "reconstructions"]

_failed: dict[str, str] = {}
"""Why downloads failed, by address: a process tries each once."""


@dataclass(frozen=True)
class Weights:
    """A file of Inception weights and its sha256."""

    path: Path
    sha256: str

    @property
    def note(self) -> Note | None:
        """A warning if these are not the published weights."""
        if self.sha256.startswith(PUBLISHED):
            return None
        text = f"not the published Inception weights: {self.path.name} has the sha256 {self.sha256[:8]}..."
        return Note(text, "inception_weights", warns=True)


def find_weights() -> Weights:
    """Return the weights in the hub's folder, downloaded first if they are missing.

    Raises:
        NotAvailable: the download is forbidden or failed; says where to put the file by hand.
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
                f"no Inception weights ({reason}); put {path.name} into {_shown(path.parent)}", retry=True
            )
    with path.open("rb") as file:
        return Weights(path, hashlib.file_digest(file, "sha256").hexdigest())


def _shown(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def _download(url: str, path: Path) -> str:
    """Download `url` to `path`, whole and checked or not at all; return why it failed, or ""."""
    try:
        make_folder(path.parent)
        sha = hashlib.sha256()
        with replacing(path) as draft:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as source:
                while block := source.read(1 << 20):
                    sha.update(block)
                    draft.write(block)
            if not sha.hexdigest().startswith(PUBLISHED):
                raise ValueError(f"the file has the sha256 {sha.hexdigest()[:8]}... instead of {PUBLISHED}...")
    except (OSError, ValueError) as error:
        reason = error.reason if type(error) is urllib.error.URLError else error
        _failed[url] = f"the download failed: {reason}"
    return _failed.get(url, "")


@lru_cache(maxsize=1)
def build(weights: Weights, device: torch.device, dim: int = DIMENSIONS) -> nn.Module:
    """Return pytorch-fid's Inception, up to the layer of `dim` channels. Raises NotAvailable for any other file."""
    from pytorch_fid.inception import InceptionV3

    try:
        # pytorch-fid reads the file by itself, and would run any pickle: check first that it holds tensors only
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
    """Return pooled features of uint8 images (N, C, H, W), C 1 or 3: (N, d) float32 on the CPU.

    A grey image is copied to three channels; the network resizes to 299 x 299 by itself. `alive` is called at every
    batch. With `precision` bf16, convolutions compute in bf16 (autocast).
    """
    parts, kind = [], torch.device(device).type
    autocast = torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), autocast:
        for block in blocks(pixels, BATCH_ON_CPU if kind == "cpu" else BATCH, device):
            alive()
            maps = network(to_float(block).expand(-1, 3, -1, -1))[0]
            parts.append(F.adaptive_avg_pool2d(maps.float(), 1).flatten(1).cpu())
    return torch.cat(parts)


def usable(shape: tuple[int, int, int], test: int, samples: int) -> None:
    """Raise NotAvailable if a FID of so many images of this shape would mean nothing."""
    channels, height, width = shape
    if min(height, width) < SMALLEST:
        raise NotAvailable(
            f"Inception features of {height} x {width} images mean nothing: it takes {SMALLEST} x {SMALLEST} or more"
        )
    if channels not in (1, 3):
        raise NotAvailable(f"Inception takes grey or RGB images, not {channels} channels")
    for count, what in ((test, "test images"), (samples, "samples")):
        if count <= DIMENSIONS:
            raise NotAvailable(f"a covariance of {DIMENSIONS:,} features needs more than {count:,} {what}")


@dataclass(frozen=True)
class InceptionWeights(Request[Weights]):
    """The weights. n/a where a FID would mean nothing."""

    def resolve(self, context: Context) -> Weights:
        test = context.data.test
        usable(test.shape, len(test), context.scoring.samples)
        return find_weights()


@dataclass(frozen=True)
class Computed(Request[set[Source]]):
    """The sources whose features this cell has computed: no later metric predicts their time again."""

    def resolve(self, context: Context) -> set[Source]:
        return set()


@dataclass(frozen=True)
class InceptionFeatures(Request[Tensor]):
    """Inception features of test images, of as many training images, of samples or reconstructions: (N, 2048) float32.

    Those of real images are kept between runs.
    """

    of: Source

    def resolve(self, context: Context) -> Tensor:
        weights = context.get(InceptionWeights())
        if self.of == "reconstructions":
            values = self._compute(context, weights, context.get(Reconstructions(n=None)))
        elif self.of == "prior" or self.of == "gmm":
            values = self._compute(context, weights, context.get(Generated(self.of)))
        else:
            images = _split(context, self.of)
            path = features_path(context, weights, images)
            values = remembered(path, "features", lambda: self._compute(context, weights, images))
        context.get(Computed()).add(self.of)
        return values

    @staticmethod
    def _compute(context: Context, weights: Weights, pixels: Tensor | Images) -> Tensor:
        network, precision = build(weights, context.device), context.scoring.inception_precision
        return features(network, pixels, context.device, context.alive, precision)


def _split(context: Context, split: Literal["test", "train"]) -> Images:
    return context.get(TestImages()) if split == "test" else unseen(context.data)


def features_path(context: Context, weights: Weights, images: Images) -> Path:
    """Return the path of the features of real images."""
    precision = context.scoring.inception_precision
    suffix = "" if precision == "fp32" else f"-{precision}"
    return statistics(context, f"inception-{images.digest[:16]}-{weights.sha256[:16]}-features{suffix}")


@dataclass(frozen=True)
class InceptionGaussian(Request[FeatureGaussian]):
    """Mean and covariance of `InceptionFeatures`."""

    of: Source

    def resolve(self, context: Context) -> FeatureGaussian:
        return FeatureGaussian.of(context.get(InceptionFeatures(self.of)))


@dataclass(frozen=True)
class KnownTraining(Request["FeatureGaussian | None"]):
    """`InceptionGaussian("train")` if the cache has its features, which take minutes; else None."""

    def resolve(self, context: Context) -> FeatureGaussian | None:
        path = features_path(context, context.get(InceptionWeights()), unseen(context.data))
        return None if read_tensors(path, "features") is None else context.get(InceptionGaussian("train"))


def seconds(*sources: Source) -> Callable[[Context], float]:
    """Return a prediction of the time that features of `sources` take, from that of a few images."""

    def predicted(context: Context) -> float:
        weights, data = context.get(InceptionWeights()), context.data
        counts: dict[Source, int] = {"reconstructions": len(data.test)}
        for split in ("test", "train"):
            real = _split(context, split)
            counts[split] = 0 if features_path(context, weights, real).exists() else len(real)
        computed = context.get(Computed())
        counts |= dict.fromkeys(computed, 0)
        images = sum(counts.get(source, context.scoring.samples) for source in sources)
        if not images:
            return 0.0
        network, some = build(weights, context.device), data.test.take(torch.arange(min(TIMED, len(data.test))))
        began = time.perf_counter()
        features(network, some, context.device, precision=context.scoring.inception_precision)
        return (time.perf_counter() - began) / len(some) * images

    return predicted
