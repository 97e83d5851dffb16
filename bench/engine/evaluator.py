"""The one evaluator: resolves the requests of metrics, each once, and computes each metric's score or n/a."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench.contracts.dataset import Data
from bench.contracts.measurement import Context, Metric, Note, Request, Score
from bench.contracts.protocol import Scoring, seed_for
from bench.contracts.variant import Variant
from bench.engine.snapshot import seed_torch, seeded
from bench.engine.trainer import device_of
from bench.evidence import Generated
from bench.util.errors import NotAvailable

T = TypeVar("T")


class Evaluator(Context):
    """A trained model and its data.

    Args:
        model: on the device where it is to be evaluated.
        scoring: the protocol: sample counts, chunk size.
        cache: a folder for reference statistics and feature networks.
        alive: called at every chunk; an exception in it ends the scoring.
        kept: the evidence in the cell's `evidence.safetensors`.
    """

    def __init__(
        self,
        model: Variant,
        data: Data,
        scoring: Scoring,
        cache: Path,
        alive: Callable[[], None] = lambda: None,
        *,
        kept: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.data, self.scoring, self.cache = model.eval(), data, scoring, cache
        self.on_chunk, self.kept = alive, kept or {}
        self.device = device_of(model)
        self._known: dict[Request[Any], Any] = {}
        self._asked: dict[Request[Any], set[Request[Any]]] = {}  # the requests that each request made itself
        self._resolving: list[Request[Any]] = []

    def get(self, request: Request[T]) -> T:
        if self._resolving:
            self._asked[self._resolving[-1]].add(request)
        if request not in self._known:
            self._asked[request] = set()
            self._resolving.append(request)
            try:
                self._known[request] = request.resolve(self)
            except Exception as reason:  # kept too, so that it isn't tried again for each metric
                self._known[request] = reason
            finally:
                self._resolving.pop()
        known = self._known[request]
        if isinstance(known, Exception):
            raise known
        resolved: T = known
        return resolved

    def alive(self) -> None:
        self.on_chunk()

    def chunks(self, n: int, purpose: str) -> Iterator[slice]:
        for i, start in enumerate(range(0, n, self.scoring.chunk)):
            self.alive()
            seed_torch(seed_for("score", purpose, i), self.device)
            yield slice(start, min(start + self.scoring.chunk, n))

    def keep(self, requests: tuple[Request[Any], ...]) -> dict[str, Tensor]:
        """Return the evidence that these requests keep on disk; unavailable requests keep nothing."""
        evidence: dict[str, Tensor] = {}
        with torch.inference_mode(), seeded(0, self.device):
            for request in requests:
                try:
                    evidence |= request.keep(self.get(request))
                except NotAvailable:
                    continue
                except Exception as error:
                    warnings.warn(f"no evidence of {request}: {type(error).__name__}: {error}", stacklevel=2)
        return evidence

    def predict(self, metric: Metric) -> float | None:
        """Return the seconds that a metric predicts for itself; None without one, or if the evidence is there."""
        if metric.predicted is None or all(need in self._known for need in metric.needs):
            return None
        with torch.inference_mode(), seeded(0, self.device):
            try:
                seconds = float(metric.predicted(self))
            except NotAvailable:
                return None
            except Exception as error:
                warnings.warn(f"the time of a metric can't be predicted: {type(error).__name__}: {error}", stacklevel=2)
                return None
        return seconds if math.isfinite(seconds) and seconds >= 0 else None

    def score(self, metric: Metric) -> tuple[Score | NotAvailable, float]:
        """Return the metric's score, or the reason why there is none, and the seconds that it took.

        A metric that raises, or returns something else than a score, is n/a; other metrics are not affected.
        """
        began = time.perf_counter()
        with torch.inference_mode(), seeded(0, self.device):
            try:
                evidence = [self.get(need) for need in metric.needs]
                caveat = self._few(metric)
                score: Score | NotAvailable = _sound(metric(*evidence), metric).noted(caveat)
            except NotAvailable as reason:
                score = reason
            except (Exception, SystemExit) as error:
                score = NotAvailable(f"the metric raised {type(error).__name__}: {error}", retry=True)
        return score, time.perf_counter() - began

    def _few(self, metric: Metric) -> Note | None:
        """Return the caveat about the number of samples behind a metric; None where that number does not matter.

        Raises:
            NotAvailable: there are fewer than the metric needs.
        """
        n = self._samples(metric)
        if n is None or metric.few == "unbiased":
            return None
        if callable(metric.few):
            if n < (least := metric.few(self)):
                raise NotAvailable(
                    f"needs {least:,} samples and has {n:,}: draw more (its value depends on their number)"
                )
            return None
        if n >= Scoring.samples:
            return None
        effect = "fewer samples move this metric" if metric.few else "the metric does not say whether fewer move it"
        text = f"from {{n}} samples instead of {{usual}}: {effect}"
        return Note(text, "few_samples", {"n": n, "usual": Scoring.samples})

    def _samples(self, metric: Metric) -> int | None:
        """Return the number of samples behind a metric's resolved evidence; None where it needs no samples."""
        requests, ahead = set[Request[Any]](), list(metric.needs)
        while ahead:
            if (request := ahead.pop()) not in requests:
                requests.add(request)
                ahead += self._asked.get(request, ())
        return min((len(self._known[r]) for r in requests if isinstance(r, Generated)), default=None)


def _sound(score: object, metric: Metric) -> Score:
    """Return `score` if it is one and lies in the range that its metric declares.

    Raises:
        NotAvailable: otherwise, which is a mistake of the metric.
    """
    if not isinstance(score, Score):
        raise NotAvailable(f"the metric returned {type(score).__name__}, not a Score", retry=True)
    low, high = metric.range
    off = 1e-9 * max(1.0, abs(score.value))  # rounding
    if not low - off <= score.value <= high + off:
        raise NotAvailable(
            f"the value {score.value:g} is outside of the metric's range, {low:g} to {high:g}", retry=True
        )
    return score


def keepers(metrics: Mapping[str, Metric]) -> tuple[Request[Any], ...]:
    """Return the metrics' requests whose evidence is kept on disk."""
    requests = dict.fromkeys(need for metric in metrics.values() for need in metric.needs)
    return tuple(r for r in requests if type(r).keep is not Request.keep)
