"""What simple classifiers read off the codes, beside what they read off pixels, PCA and an encoder before training."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench.contracts import abilities
from bench.contracts.abilities import require
from bench.contracts.images import Images, to_float
from bench.contracts.likelihood import Likelihood
from bench.contracts.measurement import Context, Request, Score, metric
from bench.contracts.protocol import seed_for
from bench.contracts.variant import Variant
from bench.engine.snapshot import seeded
from bench.evidence import Codes, positions
from bench.metrics.cache import remembered_tensors
from bench.util.errors import NotAvailable

VERSION = 1  #: of both classifiers and of PCA: another number makes cached references void
LABELS = 1_000
TESTED = 2_000  #: images behind the cheap probes: those whose codes every cell keeps
NEIGHBOURS = 10
ITERATIONS = 200  #: of L-BFGS, at most: more move no accuracy that matters here
FITTED = 10_000  #: training images that PCA is fitted on

Probe = Literal["linear", "knn"]


class Task(NamedTuple):
    """Representations (n, d) and class indices (n,) to learn from and to be asked about."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def linear(task: Task) -> Tensor:
    """Which answers of a multinomial logistic regression are right: (n,) bool.

    L2-regularised with C = 1 (scikit-learn), on dimensions standardised by the training images.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, std = task.x.mean(0), task.x.std(0)
    scale = torch.where(std > 0, std, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1.0, max_iter=ITERATIONS).fit(((task.x - mean) / scale).numpy(), task.y.numpy())
        return torch.as_tensor(model.predict(((task.test_x - mean) / scale).numpy())) == task.test_y


def neighbours(task: Task) -> Tensor:
    """Which answers of the 10 nearest training images, Euclidean and one vote each, are right: (n,) bool."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(NEIGHBOURS, algorithm="brute").fit(task.x.numpy(), task.y.numpy())
    return torch.as_tensor(model.predict(task.test_x.numpy())) == task.test_y


PROBES: dict[Probe, Callable[[Task], Tensor]] = {"linear": linear, "knn": neighbours}


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
class Labels(Request[tuple[Tensor, Tensor]]):
    """Class indices of `n` training images (all: None), and of the test images that are asked about.

    n/a where nothing can be learned from them.
    """

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


def tested(labels: int | None) -> int | None:
    """How many test images are asked about after so many labels: all after all."""
    return None if labels is None else TESTED


@dataclass(frozen=True)
class ProbedCodes(Request[Task]):
    """Codes with `labels` labels (all: None) to learn from, and those of test images."""

    labels: int | None

    def resolve(self, context: Context) -> Task:
        y, test_y = context.get(Labels(self.labels))
        x = context.get(UnlabelledCodes("train", self.labels))
        return Task(x, y, context.get(UnlabelledCodes("test", tested(self.labels))), test_y)


@dataclass(frozen=True)
class Beside(Request[str]):
    """What the same probe comes to on other representations of the same images, in words.

    Raw pixels and PCA of as many dimensions are computed once and kept; the encoder before training is this one with
    its layers initialised anew.
    """

    probe: Probe
    labels: int | None

    def resolve(self, context: Context) -> str:
        task = context.get(ProbedCodes(self.labels))
        d = task.x.shape[1]
        said = [f"on raw pixels {self._kept(context, 'pixels', lambda: self._pixels(context)):.1%}"]
        if d < math.prod(context.data.train.shape):
            said.append(
                f"on {d} principal components {self._kept(context, f'pca{d}', lambda: self._pca(context, d)):.1%}"
            )
        with suppress(NotAvailable):
            before = self._accuracy(context, *context.get(UntrainedCodes(self.labels)))
            said.append(f"on its encoder before training {before:.1%}")
        return "; ".join(said)

    def _kept(self, context: Context, name: str, compute: Callable[[], float]) -> float:
        train, test = context.data.train, context.data.test
        about = f"{self.probe}-v{VERSION}-{name}-{self.labels or 'all'}"
        path = context.cache / "probes" / f"{about}-{train.digest[:16]}-{test.digest[:16]}.safetensors"

        def accuracy() -> dict[str, Tensor]:
            context.alive()
            return {"accuracy": torch.tensor(compute(), dtype=torch.float64)}

        return remembered_tensors(path, accuracy, "accuracy")["accuracy"].item()

    def _accuracy(self, context: Context, x: Tensor, test_x: Tensor) -> float:
        y, test_y = context.get(Labels(self.labels))
        return PROBES[self.probe](Task(x, y, test_x, test_y)).double().mean().item()

    def _splits(self, context: Context) -> tuple[tuple[Images, int | None], tuple[Images, int | None]]:
        return (context.data.train, self.labels), (context.data.test, tested(self.labels))

    def _pixels(self, context: Context) -> float:
        return self._accuracy(context, *(flat(context, images, n) for images, n in self._splits(context)))

    def _pca(self, context: Context, d: int) -> float:
        mean, directions = components(flat(context, context.data.train, FITTED), d)
        x, test_x = ((flat(context, images, n) - mean) @ directions for images, n in self._splits(context))
        return self._accuracy(context, x, test_x)


@dataclass(frozen=True)
class UntrainedCodes(Request[tuple[Tensor, Tensor]]):
    """What `UnlabelledCodes` gives before training: training codes (n, d) and test codes, float32."""

    labels: int | None

    def resolve(self, context: Context) -> tuple[Tensor, Tensor]:
        model = require(untrained(context.model, context.device), abilities.Encodes)

        def codes(images: Images, n: int | None) -> Tensor:
            found, where = [], positions(images, n)
            for part in context.chunks(len(where), "untrained-codes"):
                x, y = images.take(where[part], context.device), images.labels(where[part], context.device)
                found.append(model.encode(to_float(x), y).float().cpu())
            return torch.cat(found)

        return codes(context.data.train, self.labels), codes(context.data.test, tested(self.labels))


def flat(context: Context, images: Images, n: int | None) -> Tensor:
    """Pixels of `n` images in [0, 1], (n, D) float32 on the CPU, those at `positions`."""
    where = positions(images, n)
    parts = [images.take(where[part], "cpu") for part in context.chunks(len(where), "pixels")]
    return to_float(torch.cat(parts)).flatten(1)


def components(x: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the `d` leading principal directions (D, d) of x (N, D)."""
    mean = x.double().mean(0)
    centred = x.double() - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return mean.float(), vectors.flip(1)[:, :d].float()


def untrained(model: Variant, device: torch.device) -> Variant:
    """A copy of `model` whose layers are initialised anew, by a fixed seed.

    Raises:
        NotAvailable: something that an encoder may read has no `reset_parameters`.
    """
    with torch.inference_mode(False), torch.no_grad():
        fresh = copy.deepcopy(model).to("cpu")
        pixels = {id(m) for part in fresh.modules() if isinstance(part, Likelihood) for m in part.modules()}
        with seeded(seed_for("untrained") % 2**32, torch.device("cpu")):
            for layer in fresh.modules():
                if id(layer) in pixels or not _holds(layer):
                    continue
                if not callable(reset := getattr(layer, "reset_parameters", None)):
                    raise NotAvailable(f"{type(layer).__name__} can't be initialised anew")
                reset()
        return fresh.to(device).eval()


def _holds(layer: nn.Module) -> bool:
    return any(True for _ in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)))


@metric(ProbedCodes(LABELS), Beside("linear", LABELS), unit="share right", direction="higher", range=(0, 1))
def linear_probe(task: Task, beside: str) -> Score:
    """Accuracy on 2,000 test images of a logistic regression that learns from the codes of 1,000 labelled ones.

    Posterior means, standardised; L2 with C = 1. Beside it: the same on raw pixels, on as many principal components,
    and on the codes of the encoder before training. The error is over test images, not over which labels are known.
    """
    return Score.of(linear(task), beside)


@metric(ProbedCodes(None), Beside("linear", None), unit="share right", direction="higher", range=(0, 1), default=False)
def linear_probe_all(task: Task, beside: str) -> Score:
    """`linear_probe` with all training labels, on all test images. Half a minute, the first time on a dataset."""
    return Score.of(linear(task), beside)


@metric(ProbedCodes(LABELS), Beside("knn", LABELS), unit="share right", direction="higher", range=(0, 1))
def knn(task: Task, beside: str) -> Score:
    """Accuracy on 2,000 test images of a vote among the 10 nearest of 1,000 labelled codes.

    Euclidean distance between posterior means as they are: what is near in the latent space, where `linear_probe` asks
    what can be read off it. References as there.
    """
    return Score.of(neighbours(task), beside)


@metric(ProbedCodes(None), Beside("knn", None), unit="share right", direction="higher", range=(0, 1), default=False)
def knn_all(task: Task, beside: str) -> Score:
    """`knn` with all training labels, on all test images."""
    return Score.of(neighbours(task), beside)
