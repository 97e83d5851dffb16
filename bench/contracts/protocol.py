"""The protocols of training and scoring, which make rows comparable, and the request of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_origin, get_type_hints

from bench.plugins.hyperparameters import convert
from bench.util.durable import SCHEMA
from bench.util.errors import UnknownName, UsageError


def canonical(document: Any) -> str:
    """Return the unique JSON text of a document: sorted keys, no white space."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(document: Any) -> str:
    """Return the sha256 of the canonical JSON text."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def seed_for(purpose: str, *parts: Any) -> int:
    """Return a 63-bit seed that depends on purpose and parts alone, so that the order of calls does not matter."""
    return int(digest([purpose, *parts])[:16], 16) >> 1


ENGINE = "1"
"""The version of the suite's own code that trained weights depend on: data order, initial weights, blocks, likelihoods,
trainer. Raise it with each change of numbers; tests/engine/test_engine.py fails otherwise."""

PRECISIONS = ("fp32", "bf16")  #: of matrix products in training; the rest is fp32


@dataclass(frozen=True)
class Training:
    """The settings of a row's training, apart from variant, dataset and seed."""

    steps: int
    batch_size: int = 128
    optimizer: str = "adam"
    lr: float = 1e-3
    precision: str = "fp32"
    compile: bool = False
    limit: int | None = None
    validation: int = 0

    def document(self) -> dict[str, Any]:
        """Return the settings as they are stored and compared."""
        return _without_new_defaults(self, Training(self.steps), {"compile"})


@dataclass(frozen=True)
class Scoring:
    """The settings of a row's scoring. Model calls run on chunks of `chunk` images, each with its own noise."""

    samples: int = 10_000
    codes: int = 10_000  #: training codes for the fit of the mixture sampler
    mixture: int = 10  #: components of the mixture, with full covariance
    chunk: int = 200
    split: str = "test"  #: or `validation`
    nll_samples: int = 100  #: importance samples per image
    nll_images: int = 1_000  #: of the scored split, drawn by a fixed seed
    inception_precision: str = "fp32"  #: or `bf16`: of the Inception network's convolutions
    version: int = 2

    def document(self) -> dict[str, Any]:
        """Return the settings as they are stored and compared."""
        return _without_new_defaults(self, Scoring(), {"inception_precision"})


def _without_new_defaults(protocol: Training | Scoring, plain: Training | Scoring, new: set[str]) -> dict[str, Any]:
    """Return all settings but the `new` ones at their default, which equal older documents without them."""
    return {k: v for k, v in asdict(protocol).items() if k not in new or v != getattr(plain, k)}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two protocols differ, with both values."""
    return {key: (a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


ONCE = ("out", "in_process", "fail_fast", "retry_failed", "force", "shard", "logger", "profile")
"""Settings that `--config run.json` does not repeat."""

HOW = (
    *ONCE, "device", "jobs", "threads", "executor", "address", "gpus_per_cell", "timeout", "stall", "checkpoint",
    "data_root",
)  # fmt: skip
"""Settings that change how cells are run, but not their identity."""


@dataclass(frozen=True)
class RunRequest:
    """The request of a run. `run.json` holds it, and `bench run --config run.json` repeats it."""

    variants: tuple[str, ...] = ()  #: selectors; (): all installed ones
    datasets: tuple[str, ...] = ()  #: (): the default one
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None  #: None: the dataset's own budget
    epochs: float | None = None  #: instead of steps
    batch_size: int = 128
    set: tuple[str, ...] = ()  #: 'beta.beta=10', '*.latent_dim=8'
    backbone: str | None = None  #: for all variants that accept one
    likelihood: str | None = None
    precision: str = "fp32"
    compile: bool = False  #: compile losses by torch.compile
    stack_seeds: bool = False  #: train all seeds of a variant together
    limit: int | None = None
    validation: int = 0
    eval_split: str | None = None  #: test or validation; None: validation for grids over hyperparameters, else test
    nll_samples: int = Scoring.nll_samples
    nll_images: int = Scoring.nll_images
    inception_precision: str = Scoring.inception_precision
    image_size: int | None = None
    device: str = "auto"
    jobs: int = 1  #: number of cells at once, each in its own process
    threads: int | None = None  #: CPU threads of a cell; None: the cores divided by jobs
    executor: str | None = None  #: None: this machine
    address: str | None = None  #: of the executor's cluster
    gpus_per_cell: float = 0.0  #: share of a GPU that the executor reserves for a cell
    in_process: bool = False  #: run cells in this process, for debugging
    timeout: float | None = None  #: maximum seconds of a cell
    stall: float = 1800.0  #: seconds without a step or a score after which a cell counts as hung
    checkpoint: float = 60.0  #: seconds between checkpoints
    fail_fast: bool = False
    retry_failed: bool = False
    force: bool = False
    profile: bool = False  #: trace some steps of each cell
    shard: tuple[int, int] | None = None  #: (i, n): the i-th of n parts of the cells
    data_root: str | None = None
    baseline: bool = True
    sanity: bool = True  #: add the reference rows
    metrics: tuple[str, ...] = ()  #: (): the default ones; ('-fid',) all but that; ('+nll',) that besides; ('all',)
    logger: tuple[str, ...] = ()  #: names in the group bench.loggers
    out: str | None = None  #: the run's folder; None: a new one under results/

    @property
    def scoring(self) -> Scoring:
        """The scoring protocol of its cells."""
        return Scoring(
            split=self.eval_split or "test",
            nll_samples=self.nll_samples,
            nll_images=self.nll_images,
            inception_precision=self.inception_precision,
        )

    def lasting(self) -> RunRequest:
        """Return the request without the settings in `ONCE`, for a later run to repeat."""
        plain = RunRequest()
        return replace(self, **{name: getattr(plain, name) for name in ONCE})

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RunRequest:
        """Return the request in a `run.json` or a hand-written config, where a name may stand for a list of one.

        Raises:
            UsageError: an unknown key, or a newer schema.
        """
        schema = document.get("schema", 1)
        if type(schema) is not int:
            raise UsageError(f"the schema of this configuration is {schema!r:.40}, not a number", fix="Remove it.")
        if schema > SCHEMA:
            raise UsageError(
                f"this configuration has schema {schema}, and this version reads up to {SCHEMA}",
                fix="Upgrade vaebench, or remove the newer fields.",
            )
        kinds = get_type_hints(cls)
        values: dict[str, Any] = {}
        for key, value in document.items():
            name = {"dataset": "datasets", "variant": "variants", "metric": "metrics"}.get(key, key).replace("-", "_")
            if key == "schema":
                continue
            if name not in kinds:
                raise UnknownName("setting of a run", key, kinds)
            if name == "seeds" and type(value) is int:
                value = tuple(range(value))
            elif get_origin(kinds[name]) is tuple and isinstance(value, str):
                value = (value,)
            try:
                values[name] = convert(kinds[name], value)
            except ValueError:
                raise UsageError(f"{key}: {value!r} is of the wrong type", cause=f"It takes {kinds[name]}.") from None
        return cls(**values)
