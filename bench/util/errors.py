"""The family of errors. Each says what happened, its usual cause, and the way out; the CLI prints that alone.

    BenchError                  exit code 1
    ├── UsageError              2   the request can't be understood or carried out as written
    │   ├── UnknownName             a variant, dataset, metric or hyperparameter that doesn't exist
    │   └── IncomparableRows        rows of different protocols were asked to be compared
    ├── PluginError             2   an entry point can't be loaded or isn't what its group expects
    │   └── NotHandedOver           code in a file, which the user has to name in the same command
    ├── DataError               2   a dataset is missing, damaged or not what it claims to be
    └── StoreError              4   the results folder can't be used
        ├── Damaged                 a file or a folder in it isn't what was written there
        └── IntegrityError      5   results aren't what they should be

Three more are verdicts rather than mistakes, and become a row or a blank with its reason:

    Unsuitable                  a variant can't take this dataset: the cell is `skipped`
    Diverged                    a loss became non-finite: the cell is `diverged`
    NotAvailable                a score doesn't exist for this model: `n/a`
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from bench.util.text import plain


class BenchError(Exception):
    """`what` happened, the usual `cause`, and the `fix`."""

    exit_code = 1

    def __init__(self, what: str, *, cause: str = "", fix: str = "") -> None:
        self.what, self.cause, self.fix = (plain(str(text or ""), lines=True) for text in (what, cause, fix))
        super().__init__(self.what)

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.cause, self.fix) if line)

    @property
    def line(self) -> str:
        """All of it on one line, for a row's reason."""
        parts = (" ".join(part.split()).rstrip(".") for part in (self.what, self.cause, self.fix) if part)
        return ". ".join(parts)[:500]

    @property
    def brief(self) -> str:
        """Return what happened, for a place with room for one line."""
        return self.what


class UsageError(BenchError):
    """The request can't be understood or carried out as written."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that doesn't exist; answers with the closest right one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, fix: str = "") -> None:
        choices = sorted(known)
        close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
        guess = f"Did you mean {' or '.join(map(repr, close))}?" if close else ""
        super().__init__(
            f"no {kind} called {name!r}",
            cause=guess or (f"Known: {', '.join(choices)}" if choices else f"There is no {kind} here."),
            fix=fix or (f"Known: {', '.join(choices)}" if guess else ""),
        )


class IncomparableRows(UsageError):
    """Rows whose protocols differ; the message names the fields."""


class PluginError(BenchError):
    """An entry point can't be loaded, or isn't what its group expects."""

    exit_code = 2


class NotHandedOver(PluginError):
    """Code in the file at `address`, which the user hasn't named: results that name it don't have it run."""

    def __init__(self, what: str, address: str, *, cause: str = "", fix: str = "") -> None:
        super().__init__(what, cause=cause, fix=fix)
        self.address = address

    @property
    def brief(self) -> str:
        return self.line  # the flag to give is all that helps


class DataError(BenchError):
    """A dataset is missing, damaged, or not what it claims to be."""

    exit_code = 2


class StoreError(BenchError):
    """The results folder can't be used."""

    exit_code = 4


class Damaged(StoreError):
    """A file of a run is not what was written there.

    Args:
        why: continues a sentence that begins with the path: "is a link".
        fix: by default what helps with a file at this place in a run.
    """

    def __init__(self, path: Path | str, why: str, fix: str = "") -> None:
        super().__init__(f"{path} {why}", fix=fix or _repair(Path(path)))
        self.path, self.why = Path(path), why


def _repair(path: Path) -> str:
    if path.name == "run.json":
        return "Replace it by a file that contains only {}: the same `bench run` fills it again."
    if path.parent.name in ("done", "scores"):
        return "The same `bench run` moves it to damaged/ and makes it anew."
    return ""


class IntegrityError(StoreError):
    """Results aren't what they should be: damaged, not reproduced, or two of the same cell that differ."""

    exit_code = 5


class Unsuitable(Exception):
    """Raised by a variant's constructor: it can't take this dataset, and why. The cell is `skipped`."""


class Diverged(Exception):
    """A loss became non-finite at `step` (counted from 1); `last` is the last finite one."""

    def __init__(self, step: int, last: float | None) -> None:
        self.step, self.last = step, last
        finite = "no step had a finite one" if last is None else f"the last finite loss was {last:.6g}"
        super().__init__(f"non-finite loss at step {step:,}; {finite}")


class NotAvailable(Exception):
    """This score doesn't exist for this model or dataset, and why. `retry`: another try may have it."""

    def __init__(self, reason: str, *, retry: bool = False) -> None:
        super().__init__(plain(reason) if isinstance(reason, str) else reason)
        self.retry = retry

    @property
    def reason(self) -> str:
        return str(self)
