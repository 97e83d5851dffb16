"""Rows made by hand, and metrics registered for a test: what the tables' tests are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from bench.contracts.measurement import BaselineScored, Metric, Score, Scored, metric
from bench.contracts.row import Row
from bench.tables.columns import Layout
from bench.util.errors import NotAvailable, PluginError, UnknownName

TRAINING = {"steps": 4690, "batch_size": 128, "optimizer": "adam", "lr": 1e-3, "limit": None, "validation": 0}
SCORING = {"samples": 10_000, "chunk": 200, "version": 1}
DATA = {"train": "aaaa", "test": "bbbb", "shape": [1, 28, 28]}


@metric(unit="nats/image", direction="higher")
def bound() -> Score:
    """A lower bound."""
    raise AssertionError


@metric(unit="nats/image", direction="lower")
def loss() -> Score:
    """A loss."""
    raise AssertionError


@metric(unit="nats/image")
def rate() -> Score:
    """A metric without a direction."""
    raise AssertionError


@metric(Scored("loss"), BaselineScored("loss"), unit="ratio", direction="lower")
def loss_ratio(own: Score, baseline: Score) -> Score:
    """The loss as a share of the baseline's."""
    return Score(own.value / baseline.value, own.n)


@dataclass
class FakeRegistry:
    """Metrics by name, in this order; those in `broken` can't be imported."""

    metrics: dict[str, Metric]
    broken: set[str] = field(default_factory=set)

    def __iter__(self) -> Any:
        return iter([*self.metrics, *sorted(self.broken)])

    def __contains__(self, name: str) -> bool:
        return name in self.metrics or name in self.broken

    def load(self, name: str) -> Metric:
        if name in self.broken:
            raise PluginError(f"the metric {name!r} can't be imported")
        if name not in self.metrics:
            raise UnknownName("metric", name, self.metrics)
        return self.metrics[name]


def register(monkeypatch: pytest.MonkeyPatch, *broken: str, **metrics: Metric) -> None:
    """Make `metrics` the only ones there are, and 'gan' the baseline; no columns are declared."""
    monkeypatch.setattr("bench.tables.columns.METRICS", FakeRegistry(metrics, set(broken)))
    declare(monkeypatch, Layout())


def declare(monkeypatch: pytest.MonkeyPatch, layout: Layout, **roles: str) -> None:
    """Make `layout` the registered one, 'gan' the baseline, and other roles those given."""
    names = {"baseline": "gan", "columns": "tests", **roles}
    for module in ("columns", "below"):
        monkeypatch.setattr(f"bench.tables.{module}.default", names.get)
    monkeypatch.setattr("bench.tables.columns._declared", lambda _: layout)


def row(label: str = "vae", seed: int = 0, dataset: str = "fashion", **changes: Any) -> Row:
    """An ok row; numbers and texts in `scores` stand for scores and reasons."""
    scores = {
        name: Score(float(v), 100, 0.5) if isinstance(v, int | float) else NotAvailable(v) if isinstance(v, str) else v
        for name, v in changes.pop("scores", {}).items()
    }
    variant = label.partition("[")[0]
    values: dict[str, Any] = {
        "hyperparameters": {"backbone": "mlp", "latent_dim": 20},
        "likelihood": "bernoulli",
        "steps": (4690,),
        "training": TRAINING,
        "scoring": SCORING,
        "data": DATA,
        "costs": {"parameters": 1000.0, "train_seconds": 12.5},
        "plugin": {"distribution": "vaebench", "version": "0.1.0", "source": "cafe"},
        "cell": f"{variant}-{dataset}-{seed}",
    }
    return Row(variant, label, dataset, seed, **{"status": "ok", **values, **changes}, scores=scores)


def failed(
    label: str = "vae", seed: int = 0, status: Any = "diverged", reason: str = "non-finite", **changes: Any
) -> Row:
    """A row without scores."""
    return row(label, seed, status=status, reason=reason, scoring={}, **changes)


def many(seeds: int = 1, variants: Callable[[str], bool] = lambda _: True) -> list[Row]:
    """Nine variants with all first-party kinds of scores and reasons, by made-up numbers."""
    rows = []
    none = "deterministic encoder: its code has no posterior, so there is no bound and no rate"
    names = ["vae", "conv", "beta", "beta[beta=10,latent_dim=8]", "cvae", "vqvae", "wae", "ae", "gan"]
    for i, label in enumerate(n for n in names if variants(n)):
        for seed in range(seeds):
            x = i + seed / 7
            variant = label.partition("[")[0]
            bounded, coded = variant in ("vae", "conv", "beta", "cvae", "vqvae"), variant != "gan"
            no = none if coded else "it has no codes: a GAN samples only"
            only = lambda value, ok, why: value if ok else why  # noqa: E731
            scores: dict[str, Any] = {
                "elbo": only(-236.41 - x, bounded, no),
                "distortion": only(222.1 + x, coded, no),
                "bce": only(222.1 + x, coded, no),
                "bce_excess": only(32.24 + x, coded, no),
                "kl": only(14.3 - x, bounded, no),
                "elbo_given_y": only(-230.2, variant == "cvae", "it isn't conditional"),
                "mmd": only(0.0123 * (1 + x), coded, no),
                "mmd_floor": only(0.0011, coded, no),
                "rate_uniform": only(271.7, variant == "vqvae", "its codes aren't discrete"),
                "perplexity": only(120.4, variant == "vqvae", "its codes aren't discrete"),
                "live_codes": only(0.98, variant == "vqvae", "its codes aren't discrete"),
                "fid": "the Inception weights aren't cached and can't be downloaded",
                "fid_gmm": "the Inception weights aren't cached and can't be downloaded",
                "fd": 12.5 + 3 * x,
                "fd_train": 12.1 + 3 * x,
                "fd_gmm": only(9.5 + x, coded and variant != "vqvae", no if not coded else "its codes are discrete"),
                "confidence": 0.84 - x / 50,
                "modes": 10,
                "sharpness": 0.42 + x / 30,
                "sharpness_rec": only(0.41 + x / 30, coded and variant != "vqvae", no),
                "noise": 0.21 + x / 40,
            }
            net = "conv" if variant in ("conv", "vqvae", "gan") else "mlp"
            hyper = {"backbone": net, "latent_dim": 20} if variant not in ("vqvae", "gan") else {"latent_dim": None}
            extra = {"steps": (4690, 4690)} if variant == "vqvae" else {}
            changes = {
                "hyperparameters": hyper,
                "uses_labels": variant == "cvae",
                "baseline": variant == "gan",
                **extra,
            }
            if label == "ae" and seed == 1:
                rows.append(
                    failed(
                        label,
                        seed,
                        reason="non-finite loss at step 120; the last finite loss was 203.4",
                        **changes,
                    )
                )
            else:
                rows.append(row(label, seed, scores=scores, **changes))
    return rows
