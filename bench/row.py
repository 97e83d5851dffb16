"""A row: what was run, how it was trained and scored, what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.errors import NotAvailable
from bench.measurement import Score
from bench.text import settle

Status = Literal[
    "ok",
    "skipped",  # the variant can't take the dataset
    "diverged",  # a loss became non-finite
    "failed",  # it raised, or its process died
    "oom",  # out of memory
    "timeout",  # longer than --timeout
    "stalled",  # no step, no score for longer than --stall
    "killed",  # killed from outside, again and again
    "interrupted",  # stopped by the user: the same command goes on from its checkpoint
]


@dataclass(frozen=True)
class Row:
    """One cell's line in the table."""

    variant: str  #: the registered name
    label: str  #: the name with what differs from its defaults: `beta[beta=10]`
    dataset: str
    seed: int
    status: Status
    reason: str = ""  #: why, where the status isn't `ok`
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  #: all of them, resolved
    likelihood: str = ""
    uses_labels: bool = False
    baseline: bool = False  #: the anchor that joined the run by itself
    sanity: bool = False  #: what no model, or a trivial one, comes to; joined the run by itself
    steps: tuple[int, ...] = ()  #: of each stage
    stacked: tuple[int, ...] = ()  #: the seeds that were trained in one pass, if they were
    plugin: Mapping[str, str] = field(default_factory=dict)  #: distribution, version, source digest
    parts: Mapping[str, Any] = field(default_factory=dict)  #: the same of plugins that hyperparameters name
    engine: str = ""  #: digest of the suite's own source that weights depend on
    data: Mapping[str, Any] = field(default_factory=dict)  #: digests, sizes, limit, validation
    training: Mapping[str, Any] = field(default_factory=dict)  #: the training protocol
    scoring: Mapping[str, Any] = field(default_factory=dict)  #: the scoring protocol; empty before scoring
    scores: Mapping[str, Score | NotAvailable] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)  #: parameters, seconds, images_per_second, peak_mib, ...
    seconds: Mapping[str, float] = field(default_factory=dict)  #: what each score took; shared evidence at the first
    provenance: Mapping[str, Any] = field(default_factory=dict)  #: versions, machine, device, threads, times
    cell: str = ""  #: name of its folder

    def __post_init__(self) -> None:
        settle(self)

    @property
    def conflict(self) -> bool:
        """Whether another attempt at this cell gave another result."""
        return self.status == "ok" and bool(self.reason)

    @property
    def anchor(self) -> bool:
        """Whether it's there to hold others against: never marked, and in nobody's ranking."""
        return self.baseline or self.sanity

    @property
    def block(self) -> tuple[Any, ...]:
        """What must be equal for two rows' scores to be ranked against each other: one block of the table."""
        if self.sanity:
            return self.dataset, "sanity"
        latent_dim = self.hyperparameters.get("latent_dim")
        return (self.dataset, self.networks, latent_dim, self.likelihood, self.uses_labels, self.baseline)

    @property
    def networks(self) -> str:
        """Its backbone, and what stands in for a part of it; '' where it has networks of its own."""
        h = self.hyperparameters
        own = [f"{h[part]} as {part}" for part in ("encoder", "decoder") if isinstance(h.get(part), str)]
        return ", ".join([h.get("backbone") or "", *own])
