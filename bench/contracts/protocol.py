"""What makes two rows comparable: how they were trained, and how they were scored. Each is hashed."""

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
    """The one JSON text of a document: sorted keys, no white space."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(document: Any) -> str:
    """sha256 of the canonical JSON text."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def seed_for(purpose: str, *parts: Any) -> int:
    """A 63-bit seed of its own for every purpose: no two streams share one, and no order of calls matters."""
    return int(digest([purpose, *parts])[:16], 16) >> 1


ENGINE = "1"
"""The version of the suite's own code that trained weights depend on: data order, initial weights, blocks, likelihoods,
trainer. Raised with each change of numbers; tests/engine/test_engine.py fails for one that forgets to."""

PRECISIONS = ("fp32", "bf16")  #: of the products of matrices in training; all else is fp32


@dataclass(frozen=True)
class Training:
    """How a row was trained, apart from variant, dataset and seed."""

    steps: int
    batch_size: int = 128
    optimizer: str = "adam"
    lr: float = 1e-3
    precision: str = "fp32"
    compile: bool = False
    limit: int | None = None
    validation: int = 0

    def document(self) -> dict[str, Any]:
        """As it's filed and compared."""
        return _filed(self, Training(self.steps), {"compile"})


@dataclass(frozen=True)
class Scoring:
    """How a row was scored. Model calls run on chunks of `chunk` images, each with noise of its own."""

    samples: int = 10_000
    codes: int = 10_000  #: training codes that the mixture sampler is fitted on
    mixture: int = 10  #: its components, of full covariance
    chunk: int = 200
    split: str = "test"  #: or `validation`: images that were carved out of the training split
    nll_samples: int = 100  #: importance samples an image
    nll_images: int = 1_000  #: of the scored split, drawn by a fixed seed
    inception_precision: str = "fp32"  #: or `bf16`: of the Inception network's convolutions
    version: int = 2

    def document(self) -> dict[str, Any]:
        """As it's filed and compared."""
        return _filed(self, Scoring(), {"inception_precision"})


def _filed(protocol: Training | Scoring, plain: Training | Scoring, later: set[str]) -> dict[str, Any]:
    """All settings; those that came later only where they aren't as everything was before."""
    return {k: v for k, v in asdict(protocol).items() if k not in later or v != getattr(plain, k)}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two protocols differ, with both values."""
    return {key: (a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


ONCE = ("out", "in_process", "fail_fast", "retry_failed", "force", "shard", "logger", "profile")
"""Settings that aren't repeated by `--config run.json`."""

HOW = (
    *ONCE, "device", "jobs", "threads", "executor", "address", "gpus_per_cell", "timeout", "stall", "checkpoint",
    "data_root",
)  # fmt: skip
"""Settings that say how cells are run, and not what they are."""


@dataclass(frozen=True)
class RunRequest:
    """All that a run is asked for: `run.json` holds it, and `bench run --config run.json` repeats it."""

    variants: tuple[str, ...] = ()  #: selectors; () is all that are installed
    datasets: tuple[str, ...] = ()  #: () is the default one
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None  #: None: the dataset's own budget
    epochs: float | None = None  #: instead of steps
    batch_size: int = 128
    set: tuple[str, ...] = ()  #: 'beta.beta=10', '*.latent_dim=8'
    backbone: str | None = None  #: for all variants that take one
    likelihood: str | None = None
    precision: str = "fp32"
    compile: bool = False  #: losses by torch.compile
    stack_seeds: bool = False  #: all seeds of a variant in one pass
    limit: int | None = None
    validation: int = 0
    eval_split: str | None = None  #: test or validation; None: validation for grids over hyperparameters, else test
    nll_samples: int = Scoring.nll_samples
    nll_images: int = Scoring.nll_images
    inception_precision: str = Scoring.inception_precision
    image_size: int | None = None
    device: str = "auto"
    jobs: int = 1  #: cells at once, each in a process of its own
    threads: int | None = None  #: CPU threads of a cell; None: the cores divided by jobs
    executor: str | None = None  #: who runs the cells' processes; None: this machine
    address: str | None = None  #: of the executor's cluster
    gpus_per_cell: float = 0.0  #: what of a GPU the executor reserves for a cell
    in_process: bool = False  #: no processes of their own: for debugging
    timeout: float | None = None  #: seconds that a cell may take
    stall: float = 1800.0  #: seconds without a step or a score after which a cell counts as hung
    checkpoint: float = 60.0  #: seconds between checkpoints
    fail_fast: bool = False
    retry_failed: bool = False
    force: bool = False
    profile: bool = False  #: whether some steps of each cell are traced
    shard: tuple[int, int] | None = None  #: (i, n): the i-th of n parts of the cells
    data_root: str | None = None
    baseline: bool = True
    sanity: bool = True  #: whether rows join that show what no model, or a trivial one, comes to
    metrics: tuple[str, ...] = ()  #: () is the default ones; ('-fid',) all but that; ('+nll',) that besides; ('all',)
    logger: tuple[str, ...] = ()  #: who else hears what the runner says: names in the group bench.loggers
    out: str | None = None  #: the run's folder; None: a new one under results/

    @property
    def scoring(self) -> Scoring:
        """How its cells are scored."""
        return Scoring(
            split=self.eval_split or "test",
            nll_samples=self.nll_samples,
            nll_images=self.nll_images,
            inception_precision=self.inception_precision,
        )

    def lasting(self) -> RunRequest:
        """What a later run should repeat: without what was meant for this once, or for this machine's place in it."""
        plain = RunRequest()
        return replace(self, **{name: getattr(plain, name) for name in ONCE})

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RunRequest:
        """The request that a `run.json` or a hand-written config holds; a single name may stand for a list of one.

        Raises:
            UsageError: an unknown key, or a newer schema.
        """
        schema = document.get("schema", 1)
        if type(schema) is not int:
            raise UsageError(f"this configuration's schema is {schema!r:.40}, and no number", fix="Leave it out.")
        if schema > SCHEMA:
            raise UsageError(
                f"this configuration has schema {schema}, and this version reads up to {SCHEMA}",
                fix="Upgrade vaebench, or remove the fields that it doesn't know.",
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
