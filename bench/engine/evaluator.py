"""The one evaluator: resolves what metrics request, each piece once, and lets each say its number or why not."""

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
from bench.engine.snapshot import seeded
from bench.engine.trainer import device_of
from bench.evidence import Generated
from bench.util.errors import NotAvailable

T = TypeVar("T")


class Evaluator(Context):
    """A trained model beside its data.

    Args:
        model: in eval mode, on the device where it'll be asked.
        scoring: the protocol: sample counts, chunk size.
        cache: a folder for reference statistics and feature networks.
        kept: what the cell keeps in `evidence.safetensors`.
        alive: called at every chunk; what it raises ends the scoring.
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
        self._asked: dict[Request[Any], set[Request[Any]]] = {}  # by each request, while it was resolved
        self._resolving: list[Request[Any]] = []

    def get(self, request: Request[T]) -> T:
        if self._resolving:
            self._asked[self._resolving[-1]].add(request)
        if request not in self._known:
            self._asked[request] = set()
            self._resolving.append(request)
            try:
                self._known[request] = request.resolve(self)
            except Exception as reason:  # a request that failed isn't tried again by each metric that asks
                self._known[request] = reason
            finally:
                self._resolving.pop()
        found = self._known[request]
        if isinstance(found, Exception):
            raise found
        known: T = found
        return known

    def alive(self) -> None:
        self.on_chunk()

    def chunks(self, n: int, purpose: str) -> Iterator[slice]:
        for i, start in enumerate(range(0, n, self.scoring.chunk)):
            self.alive()
            _seed(seed_for("score", purpose, i), self.device)
            yield slice(start, min(start + self.scoring.chunk, n))

    def keep(self, requests: tuple[Request[Any], ...]) -> dict[str, Tensor]:
        """What these requests keep on disk as evidence; those that aren't available keep nothing."""
        kept: dict[str, Tensor] = {}
        with torch.inference_mode(), seeded(0, self.device):
            for request in requests:
                try:
                    kept |= request.keep(self.get(request))
                except NotAvailable:
                    continue
                except Exception as error:
                    warnings.warn(f"no evidence of {request}: {type(error).__name__}: {error}", stacklevel=2)
        return kept

    def predict(self, metric: Metric) -> float | None:
        """The seconds that a metric says it'll take; None where it doesn't say, or has all its evidence, or none."""
        if metric.predicted is None or all(need in self._known for need in metric.needs):
            return None
        with torch.inference_mode(), seeded(0, self.device):
            try:
                seconds = float(metric.predicted(self))
            except NotAvailable:
                return None
            except Exception as error:
                warnings.warn(f"how long it takes isn't known: {type(error).__name__}: {error}", stacklevel=2)
                return None
        return seconds if math.isfinite(seconds) and seconds >= 0 else None

    def score(self, metric: Metric) -> tuple[Score | NotAvailable, float]:
        """The metric's score or the reason why there is none, and the seconds that it took.

        A metric that raises, or returns no score, costs its own number and nothing else.
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
        found, ahead = set[Request[Any]](), list(metric.needs)
        while ahead:
            if (request := ahead.pop()) not in found:
                found.add(request)
                ahead += self._asked.get(request, ())
        return min((len(self._known[r]) for r in found if isinstance(r, Generated)), default=None)


def _sound(score: object, metric: Metric) -> Score:
    """A score as its metric declares it; anything else is a mistake of the metric."""
    if not isinstance(score, Score):
        raise NotAvailable(f"the metric returned {type(score).__name__}, not a Score", retry=True)
    low, high = metric.range
    off = 1e-9 * max(1.0, abs(score.value))  # rounding
    if not low - off <= score.value <= high + off:
        raise NotAvailable(f"came out as {score.value:g}, outside of its range: {low:g} to {high:g}", retry=True)
    return score


def _seed(seed: int, device: torch.device) -> None:
    """`torch.manual_seed`, for the generators that a model on `device` draws from: its notes for others take time."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        accelerator = torch.get_device_module(device)
        getattr(accelerator, "manual_seed_all", accelerator.manual_seed)(seed)


def keepers(metrics: Mapping[str, Metric]) -> tuple[Request[Any], ...]:
    """What the metrics request that is worth keeping on disk."""
    requests = dict.fromkeys(need for metric in metrics.values() for need in metric.needs)
    return tuple(r for r in requests if type(r).keep is not Request.keep)
