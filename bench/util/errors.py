"""The family of errors. Each says what happened, its usual cause, and the way out; the CLI prints nothing else.

    BenchError                  exit code 1
    ├── UsageError              2   the request can't be understood or carried out
    │   ├── UnknownName             a variant, dataset, metric or hyperparameter that doesn't exist
    │   └── IncomparableRows        rows of different protocols were to be compared
    ├── PluginError             2   a plugin can't be loaded, or is no plugin of its kind
    │   └── NotHandedOver           code in a file that the user has to name in the same command
    ├── DataError               2   a dataset is missing, damaged or inconsistent
    └── StoreError              4   the results folder can't be used
        ├── Damaged                 a file or folder in it is not what was written there
        └── IntegrityError      5   results differ from what they should be

Three more are no mistakes: each becomes a row, or an empty cell of the table, with its reason:

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
        """The whole message on one line, for a row's reason."""
        parts = (" ".join(part.split()).rstrip(".") for part in (self.what, self.cause, self.fix) if part)
        return ". ".join(parts)[:500]

    @property
    def brief(self) -> str:
        """The message for a place with room for one line."""
        return self.what


class UsageError(BenchError):
    """The request can't be understood or carried out."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that doesn't exist; the message has the closest names."""

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
    """A plugin can't be loaded, or is no plugin of its kind."""

    exit_code = 2


class NotHandedOver(PluginError):
    """Code in a file that the user hasn't named: an `address` in results is never run by itself."""

    def __init__(self, what: str, address: str, *, cause: str = "", fix: str = "") -> None:
        super().__init__(what, cause=cause, fix=fix)
        self.address = address

    @property
    def brief(self) -> str:
        return self.line  # which names the option that helps


class DataError(BenchError):
    """A dataset is missing, damaged, or inconsistent."""

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
    """Results differ from what they should be: damaged, not reproduced, or two of one cell that differ."""

    exit_code = 5


class Unsuitable(Exception):
    """The reason why a variant can't take this dataset, raised by its constructor. The cell is `skipped`."""


class Diverged(Exception):
    """A loss became non-finite at `step` (counted from 1); `last` is the last finite one."""

    def __init__(self, step: int, last: float | None) -> None:
        self.step, self.last = step, last
        finite = "no step had a finite one" if last is None else f"the last finite loss was {last:.6g}"
        super().__init__(f"non-finite loss at step {step:,}; {finite}")


class NotAvailable(Exception):
    """The reason why a score doesn't exist for this model or dataset; with `retry`, another try may find one."""

    def __init__(self, reason: str, *, retry: bool = False) -> None:
        super().__init__(plain(reason) if isinstance(reason, str) else reason)
        self.retry = retry

    @property
    def reason(self) -> str:
        return str(self)


class NotScored(NotAvailable):
    """Nobody has computed this score."""
