"""Simple classifiers on the codes, compared with the same on pixels, on PCA, and on an encoder before training."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.images import Images, to_float
from bench.contracts.likelihood import Likelihood
from bench.contracts.measurement import Context, Note, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.contracts.variant import Variant
from bench.engine.snapshot import seeded
from bench.evidence import Codes, positions
from bench.metrics.cache import remembered
from bench.util.errors import NotAvailable

VERSION = 1  #: of both classifiers and of PCA: another number makes cached references void
LABELS = 1_000
TESTED = 2_000  #: images behind the cheap probes: those whose codes every cell keeps
NEIGHBOURS = 10
ITERATIONS = 200  #: of L-BFGS, at most: more change no accuracy that matters here
FITTED = 10_000  #: training images that PCA is fitted on

Probe = Literal["linear", "knn"]


class Labelled(NamedTuple):
    """Representations (n, d) and class indices (n,) to learn from, and those to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def linear(data: Labelled) -> Tensor:
    """Return which answers of a multinomial logistic regression are right: (n,) bool.

    L2-regularised with C = 1 (scikit-learn), on dimensions standardised by the training images.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, std = data.x.mean(0), data.x.std(0)
    scale = torch.where(std > 0, std, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1.0, max_iter=ITERATIONS).fit(((data.x - mean) / scale).numpy(), data.y.numpy())
        return torch.as_tensor(model.predict(((data.test_x - mean) / scale).numpy())) == data.test_y


def neighbours(data: Labelled) -> Tensor:
    """Return which answers of the 10 nearest training images, Euclidean and one vote each, are right: (n,) bool."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(NEIGHBOURS, algorithm="brute").fit(data.x.numpy(), data.y.numpy())
    return torch.as_tensor(model.predict(data.test_x.numpy())) == data.test_y


PROBES: dict[Probe, Callable[[Labelled], Tensor]] = {"linear": linear, "knn": neighbours}


def tested(labels: int | None) -> int | None:
    """Return the number of test images for so many labels: all (None) for all."""
    return None if labels is None else TESTED


@dataclass(frozen=True)
class Labels(Request[tuple[Tensor, Tensor]]):
    """Class indices of `n` training images (all: None) and of the test images. n/a if they can't teach anything."""

    n: int | None

    def resolve(self, context: Context) -> tuple[Tensor, Tensor]:
        train, test = context.data.train, context.data.test
        if not (train.labelled and test.labelled):
            raise NotAvailable("needs class labels")
        y = train.labels(positions(train, self.n), "cpu")
        if len(y) < NEIGHBOURS:
            raise NotAvailable(f"needs {NEIGHBOURS} labelled training images: there are {len(y)}")
        if bool((y == y[0]).all()):
            raise NotAvailable("needs two classes")
        return y, test.labels(positions(test, tested(self.n)), "cpu")


@dataclass(frozen=True)
class UnlabelledCodes(Request[Tensor]):
    """Codes of `n` images of a split (all: None) that no label has entered: (n, d) float32."""

    split: Literal["train", "test"]
    n: int | None = None

    def resolve(self, context: Context) -> Tensor:
        if context.model.uses_labels:
            raise NotAvailable("labels enter it: a probe of its codes would read them")
        codes = context.get(Codes(self.split, self.n)).codes
        if not bool(codes.isfinite().all()):
            raise NotAvailable("its codes aren't finite")
        return codes


@dataclass(frozen=True)
class ProbedCodes(Request[Labelled]):
    """Codes with `labels` labels (all: None) to learn from, and those of test images."""

    labels: int | None

    def resolve(self, context: Context) -> Labelled:
        y, test_y = context.get(Labels(self.labels))
        x = context.get(UnlabelledCodes("train", self.labels))
        return Labelled(x, y, context.get(UnlabelledCodes("test", tested(self.labels))), test_y)


@dataclass(frozen=True)
class References(Request[tuple[Note, ...]]):
    """Notes of the same probe's accuracy on other representations of the same images.

    Raw pixels and PCA of as many dimensions are computed once and kept; the encoder before training is this one with
    its layers initialised anew.
    """

    probe: Probe
    labels: int | None

    def resolve(self, context: Context) -> tuple[Note, ...]:
        d = context.get(ProbedCodes(self.labels)).x.shape[1]
        notes = [self._note("raw pixels", "probe_pixels", self._known(context, "pixels", self._pixels))]
        if d < math.prod(context.data.train.shape):
            accuracy = self._known(context, f"pca{d}", partial(self._pca, d=d))
            notes.append(self._note(f"{d} principal components", "probe_pca", accuracy))
        with suppress(NotAvailable):
            before = self._accuracy(context, *context.get(UntrainedCodes(self.labels)))
            notes.append(self._note("its encoder before training", "probe_untrained", before))
        return tuple(notes)

    @staticmethod
    def _note(what: str, kind: str, accuracy: float) -> Note:
        return Note(f"the same probe on {what}: {{accuracy}} %", kind, {"accuracy": 100 * accuracy})

    def _known(self, context: Context, name: str, compute: Callable[[Context], float]) -> float:
        train, test = context.data.train, context.data.test
        about = f"{self.probe}-v{VERSION}-{name}-{self.labels or 'all'}"
        path = context.cache / "probes" / f"{about}-{train.digest[:16]}-{test.digest[:16]}.safetensors"

        def accuracy() -> Tensor:
            context.alive()
            return torch.tensor(compute(context), dtype=torch.float64)

        return remembered(path, "accuracy", accuracy).item()

    def _accuracy(self, context: Context, x: Tensor, test_x: Tensor) -> float:
        y, test_y = context.get(Labels(self.labels))
        return PROBES[self.probe](Labelled(x, y, test_x, test_y)).double().mean().item()

    def _flat(self, context: Context) -> tuple[Tensor, Tensor]:
        data = context.data
        return flat(context, data.train, self.labels), flat(context, data.test, tested(self.labels))

    def _pixels(self, context: Context) -> float:
        return self._accuracy(context, *self._flat(context))

    def _pca(self, context: Context, d: int) -> float:
        mean, directions = components(flat(context, context.data.train, FITTED), d)
        return self._accuracy(context, *((x - mean) @ directions for x in self._flat(context)))


@dataclass(frozen=True)
class UntrainedCodes(Request[tuple[Tensor, Tensor]]):
    """`UnlabelledCodes` of the encoder before training: training codes (n, d) and test codes, float32."""

    labels: int | None

    def resolve(self, context: Context) -> tuple[Tensor, Tensor]:
        model = require(untrained(context.model, context.device), abilities.Encodes)

        def codes(images: Images, n: int | None) -> Tensor:
            parts, where = [], positions(images, n)
            for part in context.chunks(len(where), "untrained-codes"):
                x, y = images.take(where[part], context.device), images.labels(where[part], context.device)
                parts.append(model.encode(to_float(x), y).float().cpu())
            return torch.cat(parts)

        return codes(context.data.train, self.labels), codes(context.data.test, tested(self.labels))


def flat(context: Context, images: Images, n: int | None) -> Tensor:
    """Return the pixels of `n` images, those at `positions`: (n, D) float32 in [0, 1], on the CPU."""
    where = positions(images, n)
    parts = [images.take(where[part], "cpu") for part in context.chunks(len(where), "pixels")]
    return to_float(torch.cat(parts)).flatten(1)


def components(x: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the `d` leading principal directions (D, d) of x (N, D)."""
    mean = x.double().mean(0)
    centred = x.double() - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return mean.float(), vectors.flip(1)[:, :d].float()


def untrained(model: Variant, device: torch.device) -> Variant:
    """Return a copy of `model` whose layers are initialised anew, by a fixed seed; NotAvailable if one can't be."""
    with torch.inference_mode(False), torch.no_grad():
        fresh = copy.deepcopy(model).to("cpu")
        pixels = {id(m) for part in fresh.modules() if isinstance(part, Likelihood) for m in part.modules()}
        with seeded(seed_for("untrained") % 2**32, torch.device("cpu")):
            for layer in fresh.modules():
                weights = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
                if id(layer) in pixels or not weights:
                    continue
                if not callable(reset := getattr(layer, "reset_parameters", None)):
                    raise NotAvailable(f"{type(layer).__name__} can't be initialised anew")
                reset()
        return fresh.to(device).eval()


_probe = partial(metric, unit="share right", direction="higher", range=(0, 1))


@_probe(ProbedCodes(LABELS), References("linear", LABELS))
def linear_probe(codes: Labelled, references: tuple[Note, ...]) -> Score:
    """Accuracy on 2,000 test images of a logistic regression that learns from the codes of 1,000 labelled ones.

    Posterior means, standardised; L2 with C = 1. Notes have the same on raw pixels, on as many principal components,
    and on the codes of the encoder before training. The error is over test images, not over which labels are known.
    """
    return Score.of(linear(codes), references)


@_probe(ProbedCodes(None), References("linear", None), default=False)
def linear_probe_all(codes: Labelled, references: tuple[Note, ...]) -> Score:
    """`linear_probe` with all training labels, on all test images. Half a minute, the first time on a dataset."""
    return Score.of(linear(codes), references)


@_probe(ProbedCodes(LABELS), References("knn", LABELS))
def knn(codes: Labelled, references: tuple[Note, ...]) -> Score:
    """Accuracy on 2,000 test images of a vote among the 10 nearest of 1,000 labelled codes.

    Euclidean distance between posterior means as they are: it shows what is near in the latent space, `linear_probe`
    what can be read off it. Notes as there.
    """
    return Score.of(neighbours(codes), references)


@_probe(ProbedCodes(None), References("knn", None), default=False)
def knn_all(codes: Labelled, references: tuple[Note, ...]) -> Score:
    """`knn` with all training labels, on all test images."""
    return Score.of(neighbours(codes), references)
