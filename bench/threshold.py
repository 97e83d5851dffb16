"""`--fail-if`: what a table must not show, for scripts and continuous integration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bench.columns import columns, scores
from bench.errors import UsageError
from bench.measurement import METRICS, Score
from bench.row import Row


@dataclass(frozen=True)
class Threshold:
    """`elbo<-110`, or `vae:fd>20` for the rows of one label."""

    label: str
    metric: str
    below: bool
    value: float

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """
        Raises:
            UsageError: it isn't written so, or there is no such metric.
        """
        found = re.fullmatch(r"(?:(?P<label>.+):)?(?P<metric>\w+)\s*(?P<sign>[<>])\s*(?P<value>[-+.\deE]+)", text)
        try:
            if found is None:
                raise ValueError(text)
            value = float(found["value"])
        except ValueError:
            raise UsageError(
                f"--fail-if {text!r} isn't [LABEL:]METRIC<VALUE or [LABEL:]METRIC>VALUE",
                fix="For example: --fail-if 'elbo<-110', or --fail-if 'vae:fd>20'.",
            ) from None
        METRICS.entry(found["metric"])
        return cls(found["label"] or "", found["metric"], found["sign"] == "<", value)

    def crossed(self, rows: Iterable[Row]) -> list[str]:
        """A line for each row on the wrong side, and for each that has no such score."""
        rows = [row for row in rows if self.label in ("", row.label) and not row.anchor and row.status == "ok"]
        lines = [] if rows else [f"--fail-if: no row is called {self.label!r}"]
        for row, by_name in zip(rows, scores(rows, columns(rows)), strict=True):
            found = by_name.get(self.metric)
            where = f"{row.label} · {row.dataset} · seed {row.seed}: {self.metric}"
            if isinstance(found, Score) and (found.value < self.value if self.below else found.value > self.value):
                lines.append(f"{where} {found.value:.6g} is {'below' if self.below else 'above'} {self.value:g}")
            elif not isinstance(found, Score) and self.label:
                lines.append(f"{where} is n/a: {found}")
        return lines
