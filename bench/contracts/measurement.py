"""The contract of a metric: a pure function of the evidence that it requests.

    @metric(Terms(), unit="nats/image", direction="higher")
    def elbo(terms: BoundTerms) -> Score:
        "E_q[log p(x|z)] - KL(q(z|x) || p(z)) ..."
        return Score.of(terms.log_likelihood - terms.rate)

The evaluator resolves the union of all requests, each once and only when needed. A score that doesn't exist is
`NotAvailable("why")`, raised by the metric or by a request: never 0, never NaN.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from bench.plugins.registry import Registry
from bench.util.errors import NotAvailable, NotScored
from bench.util.text import plain

if TYPE_CHECKING:
    from bench.contracts.dataset import Data
    from bench.contracts.protocol import Scoring
    from bench.contracts.variant import Variant

T = TypeVar("T")
Direction = Literal["higher", "lower"]
Few = Literal["unbiased", "anchored"] | Callable[[Any], int]


_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Note:
    """A caveat of a score: a sentence with the numbers in it kept apart, so that programs need not read prose.

    `text` names its values in braces. Notes of one kind and text are merged over seeds: each value becomes a range.

    >>> print(Note("expected bias from finite samples: {bias}", "finite_samples", {"bias": 0.05618}))
    expected bias from finite samples: 0.0562
    """

    text: str
    kind: str = ""  #: a short code, such as 'finite_samples'; '' for a sentence that nobody looks up
    values: Mapping[str, float] = field(default_factory=dict)
    warns: bool = False  #: the score may mislead: shown below every table, not only with --notes

    def __post_init__(self) -> None:
        if not self.text.isprintable():
            object.__setattr__(self, "text", plain(self.text))

    def __str__(self) -> str:
        return self.filled({name: number(value) for name, value in self.values.items()})

    def filled(self, words: Mapping[str, str]) -> str:
        """Return the text with `words` in place of the values' names."""
        return _FIELD.sub(lambda name: words.get(name[1], name[0]), self.text)


def number(value: float) -> str:
    """Return a number as sentences show it: whole ones with thousands separators, others with three digits."""
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.3g}"


Notes = str | Note | Iterable[str | Note]
"""The caveats of a score: a sentence, a note, or several of either; empty sentences are left out."""


def _notes(given: Notes) -> tuple[Note, ...]:
    several = (given,) if isinstance(given, str | Note) else given
    return tuple(Note(note) if isinstance(note, str) else note for note in several if note)


@dataclass(frozen=True, init=False)
class Score:
    """A finite number, the count `n` that limits it, its standard error if it has one, and its caveats.

    `n` is the size of the smallest set that is averaged over or compared: of 30 samples against 360 real images, 30; of
    10,000 against 360, 360. The images that a network was trained on are not counted; a note names them.
    """

    value: float
    n: int
    se: float | None
    notes: tuple[Note, ...]

    def __init__(self, value: float, n: int, se: float | None = None, notes: Notes = ()) -> None:
        if not math.isfinite(value := float(value)):
            raise NotAvailable(f"came out as {value}")
        if (n := int(n)) < 0 or (se or 0) < 0:
            raise ValueError(f"a score of n = {n} and a standard error of {se}")
        se = float(se) if se is not None and math.isfinite(se) else None
        vars(self).update(value=value, n=n, se=se, notes=_notes(notes))

    @classmethod
    def of(cls, values: Tensor, notes: Notes = ()) -> Score:
        """Return the mean over images of `values` (N,), with the standard error of that mean."""
        v = values.cpu().double()
        se = (v.std(correction=1) / math.sqrt(len(v))).item() if len(v) > 1 else None
        return cls(v.mean().item(), len(v), se, _notes(notes))

    def noted(self, *notes: Note | str | None) -> Score:
        """Return this score with further caveats."""
        return replace(self, notes=(*self.notes, *_notes(note for note in notes if note)))


class Context(ABC):
    """The model, the data, seeded noise and other requests, as a request uses them."""

    model: Variant
    data: Data
    scoring: Scoring
    device: torch.device
    cache: Path  #: a folder for files that later runs use again
    kept: Mapping[str, Tensor]  #: evidence from training that the final weights no longer show

    @abstractmethod
    def get(self, request: Request[T]) -> T:
        """Return the evidence of `request`, resolved once. Raises `NotAvailable` as the request did."""

    @abstractmethod
    def chunks(self, n: int, purpose: str) -> Iterator[slice]:
        """Yield slices over n images in fixed chunks; torch's default generator is seeded at each, by `purpose`.

        Model calls that draw noise use these slices, so that no batch size changes a score.
        """

    def alive(self) -> None:  # noqa: B027
        """Report that work goes on. Long loops call this now and then; it may stop them by an exception."""


class Request(ABC, Generic[T]):
    """A piece of evidence. Subclass as a frozen dataclass: equal requests are resolved once."""

    @abstractmethod
    def resolve(self, context: Context) -> T:
        """Return the evidence, computed under `torch.inference_mode` with the model in eval mode."""

    def keep(self, value: T) -> dict[str, Tensor]:
        """Return the tensors of the value that are stored in `evidence.safetensors`, by name. None by default."""
        return {}


@dataclass(frozen=True)
class Scored(Request[Score]):
    """Another score of the same row. A metric that requests one is computed in the tables, and never stored."""

    name: str

    def resolve(self, context: Context) -> Score:
        raise NotAvailable("computed in the tables")


@dataclass(frozen=True)
class BaselineScored(Request[Score]):
    """A score of the baseline's row on the same dataset and seed. Computed in the tables, like `Scored`."""

    name: str

    def resolve(self, context: Context) -> Score:
        raise NotAvailable("computed in the tables")


@dataclass(frozen=True)
class Metric:
    """A column of the table: a pure function of evidence, with the unit, direction and range of its values."""

    function: Callable[..., Score]
    needs: tuple[Request[Any], ...]
    unit: str
    direction: Direction | None  #: None: neither is better; never marked
    range: tuple[float, float]
    default: bool = True  #: False: costly, computed only by `--metrics +NAME`
    predicted: Callable[[Any], float] | None = None  #: expected seconds in a `Context`
    per_image: Callable[[Mapping[str, Tensor]], Tensor] | None = None  #: values (N,) from a cell's stored evidence
    told: Callable[[float], str] | None = None  #: a sentence about a value, for the notes; '' for none
    redraws: bool = False  #: its standard error is over other draws of the samples alone
    few: Few | None = None  #: the effect of few samples; None: unknown, or not a metric of samples

    @property
    def doc(self) -> str:
        return (self.function.__doc__ or "").strip()

    @property
    def derived(self) -> bool:
        """True for a metric that tables compute from stored scores."""
        return any(isinstance(need, Scored | BaselineScored) for need in self.needs)

    def __call__(self, *evidence: Any) -> Score:
        return self.function(*evidence)

    def from_scores(
        self, row: Mapping[str, Score | NotAvailable], baseline: Mapping[str, Score | NotAvailable] | None
    ) -> Score:
        """Return the score of a derived metric. `row` and `baseline` hold stored scores by name.

        Raises:
            NotAvailable: a score that it needs is missing; the reason is passed on.
        """
        evidence = []
        for need in self.needs:
            if not isinstance(need, Scored | BaselineScored):
                raise TypeError(f"a derived metric cannot also request {need}")
            of_baseline = isinstance(need, BaselineScored)
            scores = baseline if of_baseline else row
            if scores is None:
                raise NotAvailable("no baseline in this run")
            score = scores.get(need.name, NotScored("not scored"))
            if isinstance(score, NotAvailable):
                whose = "the baseline's " if of_baseline else ""
                raise type(score)(f"{whose}{need.name}: {score.reason}")
            evidence.append(score)
        return self.function(*evidence)


def metric(
    *needs: Request[Any],
    unit: str,
    direction: Direction | None = None,
    range: tuple[float, float] = (-math.inf, math.inf),
    default: bool = True,
    predicted: Callable[[Any], float] | None = None,
    per_image: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
    told: Callable[[float], str] | None = None,
    redraws: bool = False,
    few: Few | None = None,
) -> Callable[[Callable[..., Score]], Metric]:
    """Return a decorator that makes a metric of a pure function of the evidence in `needs`, in that order.

    Args:
        unit: of the values, as tables show it.
        direction: which values are better; None for a metric that only describes a model.
        range: of possible values; a value outside is an error of the metric.
        default: False for a costly metric, computed only by `--metrics +NAME`.
        predicted: returns the expected seconds, from a small piece of the work in a `Context`; it requests no evidence
            that the metric does not need.
        per_image: for a mean over test images: returns its values (N,) from a cell's stored evidence, by name, so that
            comparisons pair two cells over images, too.
        told: returns a sentence about a value that needs no column beside it, such as 'samples as sharp as real images
            blurred by 1.3 px'; '' for none.
        redraws: standard errors are over other draws of samples, of the same model against the same references;
            comparisons separate them from the noise of training.
        few: the effect of few samples on the value, on average over draws: 'unbiased' for none; 'anchored' if they move
            it and a note has the value of as many real images; or a function of the `Context` that returns the least
            number, below which the score is n/a. Without it, a note warns where there are fewer samples than usual.
    """
    return lambda function: Metric(
        function, needs, unit, direction, range, default, predicted, per_image, told, redraws, few
    )


def _is_metric(obj: object) -> str | None:
    return None if isinstance(obj, Metric) else "not a bench.Metric (made by @bench.metric)"


METRICS: Registry[Metric] = Registry("bench.metrics", "metric", _is_metric)
