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
from bench.util.errors import NotAvailable
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
"""How the caveats of a score are given: as a sentence, a note, or several of either; empty sentences are left out."""


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
    """What a request may use: the model, the data, seeded noise, and other requests."""

    model: Variant
    data: Data
    scoring: Scoring
    device: torch.device
    cache: Path  #: a folder for what is worth keeping between runs
    kept: Mapping[str, Tensor]  #: evidence of the training that its weights don't show any more

    @abstractmethod
    def get(self, request: Request[T]) -> T:
        """What `request` asks for, resolved once. Raises `NotAvailable` as the request did."""

    @abstractmethod
    def chunks(self, n: int, purpose: str) -> Iterator[slice]:
        """Slices over n images in fixed chunks; torch's default generator is seeded anew at each, by `purpose`.

        Model calls that draw noise go through these, so that no batch size changes a score.
        """

    def alive(self) -> None:  # noqa: B027
        """Say that work goes on: long loops of their own call it now and then, and it may end them."""


class Request(ABC, Generic[T]):
    """A piece of evidence. Subclass as a frozen dataclass: equal requests are resolved once."""

    @abstractmethod
    def resolve(self, context: Context) -> T:
        """Compute it. Runs under `torch.inference_mode` with the model in eval mode."""

    def keep(self, value: T) -> dict[str, Tensor]:
        """What of the resolved value is worth keeping in `evidence.safetensors`, by name. Nothing by default."""
        return {}


@dataclass(frozen=True)
class Scored(Request[Score]):
    """Another score of the same row. A metric that requests it is made in the tables, and never stored."""

    name: str

    def resolve(self, context: Context) -> Score:
        raise NotAvailable("made in the tables")


@dataclass(frozen=True)
class BaselineScored(Request[Score]):
    """A score of the baseline's row on the same dataset and seed. Made in the tables, like `Scored`."""

    name: str

    def resolve(self, context: Context) -> Score:
        raise NotAvailable("made in the tables")


@dataclass(frozen=True)
class Metric:
    """One column of the table: a pure function, what it requests, and what its numbers mean."""

    function: Callable[..., Score]
    needs: tuple[Request[Any], ...]
    unit: str
    direction: Direction | None  #: None: a coordinate, not a merit; never marked
    range: tuple[float, float]
    default: bool = True  #: False: too costly to be computed unasked; `--metrics +NAME` asks for it
    predicted: Callable[[Any], float] | None = None  #: seconds that it'll take in a `Context`, told before it begins
    per_image: Callable[[Mapping[str, Tensor]], Tensor] | None = None  #: values (N,) out of what a cell keeps, by name
    told: Callable[[float], str] | None = None  #: a few plain words about a value, for the summary; '' says nothing
    redraws: bool = False  #: its standard error is what other draws of the samples would change, and nothing else
    few: Few | None = None  #: what few samples do to its value; None: it doesn't say, or isn't of samples

    @property
    def doc(self) -> str:
        return (self.function.__doc__ or "").strip()

    @property
    def derived(self) -> bool:
        """Made in the tables from stored scores."""
        return any(isinstance(need, Scored | BaselineScored) for need in self.needs)

    def __call__(self, *evidence: Any) -> Score:
        return self.function(*evidence)

    def from_scores(
        self, row: Mapping[str, Score | NotAvailable], baseline: Mapping[str, Score | NotAvailable] | None
    ) -> Score:
        """A derived metric's score. `row` and `baseline` hold stored scores by name.

        Raises:
            NotAvailable: what it needs is missing; the reason is passed on.
        """
        evidence = []
        for need in self.needs:
            if not isinstance(need, Scored | BaselineScored):
                raise TypeError(f"a derived metric can't also request {need}")
            of_baseline = isinstance(need, BaselineScored)
            scores = baseline if of_baseline else row
            if scores is None:
                raise NotAvailable("no baseline in this run")
            found = scores.get(need.name, NotAvailable("not scored"))
            if isinstance(found, NotAvailable):
                whose = "the baseline's " if of_baseline else ""
                raise NotAvailable(f"{whose}{need.name}: {found.reason}")
            evidence.append(found)
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
    """Make a metric of a pure function of the evidence that `needs` ask for, in that order.

    `predicted`, for what may take minutes, says how many seconds from a small piece of the work; it draws no evidence
    besides. `per_image`, for a mean over test images, makes its values out of the evidence that a cell keeps, by name:
    two cells' scores are then paired over images too. `told` puts a value into words that stand alone, like 'samples as
    sharp as real images blurred by 1.3 px', for people who won't read columns; '' where there is nothing to say.
    `redraws` says that standard errors are over other draws of samples, of the same model against the same references:
    a comparison then tells them from training's noise.

    `few` says what few samples do to the value, on average over their draws: nothing ('unbiased'); or they move it, and
    the note has what real images, or samples of their law, come to at that same number ('anchored'); or it needs as
    many as a function of the `Context` returns, and is n/a below that number. A metric of samples that doesn't say is
    scored, and its note tells that it doesn't wherever there are fewer than models are asked for.
    """
    return lambda function: Metric(
        function, needs, unit, direction, range, default, predicted, per_image, told, redraws, few
    )


def _is_metric(obj: object) -> str | None:
    return None if isinstance(obj, Metric) else "not a bench.Metric (made by @bench.metric)"


METRICS: Registry[Metric] = Registry("bench.metrics", "metric", _is_metric)
