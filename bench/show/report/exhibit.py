"""Whom a figure shows: of each label the first seed that came out, since pictures aren't averaged."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from torch import Tensor

from bench.contracts.row import Row
from bench.plugins.unpublished import shown
from bench.results.store import Run
from bench.running.identity import data_of
from bench.running.loading import load
from bench.show.report.provenance import portable
from bench.show.views import Trained
from bench.tables.summary import Line
from bench.util.errors import BenchError, NotAvailable, NotHandedOver, StoreError, UnknownName, UsageError

T = TypeVar("T")
COLOURS = 8  #: of the style sheet; more labels have them again, dashed


@dataclass(frozen=True)
class Shown(Generic[T]):
    """A figure, or why there is none."""

    figure: T | None = None
    missing: str = ""


def attempt(make: Callable[..., T], *arguments: Any) -> Shown[T]:
    """What `make` gives; a model or a file that can't be asked costs its own figure, not the report."""
    try:
        return Shown(make(*arguments))
    except NotAvailable as missing:
        return Shown(missing=missing.reason)
    except NotHandedOver as error:  # by its name alone: where it lay is the machine's own affair
        return Shown(missing=f"its code isn't at hand: --plugin {shown(portable(error.address))} gives it")
    except UnknownName as error:
        return Shown(missing=f"{error.what}: it isn't installed")
    except UsageError as error:  # of a model that can't: the cause is the reason
        return Shown(missing=" ".join((error.cause or error.what).split()).rstrip("."))
    except BenchError as error:
        return Shown(missing=" ".join(f"{error.what}. {error.cause}".split()).rstrip("."))
    except OSError as error:  # whose text would tell a path of this machine
        return Shown(missing=f"{type(error).__name__}: {error.strerror or 'a file'}")
    except Exception as error:
        return Shown(missing=" ".join(f"{type(error).__name__}: {error}".split())[:300])


@dataclass
class Exhibit:
    """A label on a dataset, by the first of its seeds."""

    key: str  #: unique in the page, and no name: names are never ids
    label: str
    colour: str  #: classes of the style sheet: c0 to c7, or ca for what is held against others
    run: Run
    row: Row
    line: Line = field(repr=False)
    said: tuple[str, ...] = ()  #: while its model was loaded

    @property
    def seed(self) -> int:
        return self.row.seed

    @property
    def split(self) -> str:
        """Return the split that the row was scored on: 'test' or 'validation'."""
        return str(self.row.scoring.get("split", "test"))

    @cached_property
    def evidence(self) -> dict[str, Tensor]:
        return self.run.evidence(self.row.cell)

    def images(self, name: str) -> Tensor:
        """Images (N, C, H, W) uint8 that the cell keeps.

        Raises:
            NotAvailable: it keeps none.
        """
        if not self.evidence:
            raise NotAvailable("its evidence is missing or damaged")
        if (found := self.evidence.get(name)) is None:
            raise NotAvailable(f"the cell keeps no {name.replace('_', ' ')}")
        if found.ndim != 4 or str(found.dtype) != "torch.uint8" or not len(found):
            raise NotAvailable(f"its {name.replace('_', ' ')} are no images")
        return found

    def trained(self, plugins: Sequence[str] = ()) -> Trained:
        """The cell with its model, on the CPU.

        Raises:
            NotAvailable, BenchError: it can't be loaded.
        """
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                model = load(self.run.cells / self.row.cell, plugins)
            except StoreError:  # which would tell a path of this machine
                raise NotAvailable("its weights are missing or damaged, or its variant's code has changed") from None
        self.said = tuple(dict.fromkeys(str(w.message) for w in said if issubclass(w.category, UserWarning)))
        return Trained(self.run, self.row, model)


def exhibits(lines: Sequence[Line], whence: Mapping[int, Run], first: str) -> list[Exhibit]:
    """Those of `lines` that have a result and aren't sanity rows. `whence` knows each row's run by the row's id()."""
    shown = [line for line in lines if line.rows and not line.rows[0].sanity]
    times = Counter(line.label for line in shown)
    made: list[Exhibit] = []
    own = 0
    for i, line in enumerate(shown):
        row = min(line.rows, key=lambda r: r.seed)
        colour = "ca" if line.anchor else f"c{own % COLOURS}" + " second" * (own >= COLOURS)
        own += not line.anchor
        run = whence[id(row)]
        label = f"{line.label} ({_where(run, line)})" if times[line.label] > 1 else line.label
        made.append(Exhibit(f"{first}x{i}", label, colour, run, row, line))
    return made


def _where(run: Run, line: Line) -> str:
    """What tells equal labels apart."""
    return f"{run.path.resolve().name}, {line.steps} steps"


@dataclass
class Originals:
    """The data of rows as they lie here, each set loaded once, and only if it's what was scored."""

    data_root: str | None = None
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    def __call__(self, run: Run, row: Row) -> Any:
        """The row's `bench.Data`.

        Raises:
            NotAvailable: the dataset isn't at hand, or isn't the same.
            NotHandedOver: its code lies in a file.
        """
        request = run.request()
        scored = row.scoring.get("test") or row.data.get("test")
        how = (row.training.get("limit"), row.training.get("validation"), row.scoring.get("split"))
        key = (row.dataset, request.image_size, *how)
        if key not in self._known:
            try:
                self._known[key] = data_of(row, request, self.data_root)
            except NotHandedOver:
                raise
            except (BenchError, OSError):  # which would tell a path of this machine
                self._known[key] = None
        if (found := self._known[key]) is None:
            raise NotAvailable(f"{row.dataset} isn't at hand: `bench data` shows what is")
        if scored is not None and found.test.digest != scored:
            raise NotAvailable(f"{row.dataset} holds other images here than those that were scored")
        return found
