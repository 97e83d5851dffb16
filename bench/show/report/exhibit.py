"""Exhibits: the cell that stands for each label, its first finished seed, since pictures can't be averaged."""

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
from bench.show.views import TrainedCell
from bench.tables.summary import VariantLine
from bench.util.errors import BenchError, NotAvailable, NotHandedOver, StoreError, UnknownName, UsageError

T = TypeVar("T")
COLOURS = 8  #: colours of the style sheet; further labels have the same colours with dashed lines


@dataclass(frozen=True)
class Shown(Generic[T]):
    """A figure, or the reason why there is none."""

    figure: T | None = None
    missing: str = ""


def attempt(make: Callable[..., T], *arguments: Any) -> Shown[T]:
    """Return what `make` returns; an error becomes the reason of one missing figure, and the report goes on."""
    try:
        return Shown(make(*arguments))
    except NotAvailable as missing:
        return Shown(missing=missing.reason)
    except NotHandedOver as error:  # without its folder: a report names no paths of this machine
        return Shown(missing=f"its code isn't at hand: add --plugin {shown(portable(error.address))}")
    except UnknownName as error:
        return Shown(missing=f"{error.what}: it isn't installed")
    except UsageError as error:  # a model lacks an ability: the cause is the reason
        return Shown(missing=" ".join((error.cause or error.what).split()).rstrip("."))
    except BenchError as error:
        return Shown(missing=" ".join(f"{error.what}. {error.cause}".split()).rstrip("."))
    except OSError as error:  # without its text, which has a path of this machine
        return Shown(missing=f"{type(error).__name__}: {error.strerror or 'a file'}")
    except Exception as error:
        return Shown(missing=" ".join(f"{type(error).__name__}: {error}".split())[:300])


@dataclass
class Exhibit:
    """A label on a dataset, by the first of its seeds."""

    key: str  #: unique in the page; names of plugins never become ids
    label: str
    colour: str  #: classes of the style sheet: c0 to c7, or ca for the baseline and reference rows
    run: Run
    row: Row
    line: VariantLine = field(repr=False)
    warnings: tuple[str, ...] = ()  #: given while the model was loaded

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
        """Return images (N, C, H, W) uint8 that the cell keeps.

        Raises:
            NotAvailable: the cell keeps none.
        """
        if not self.evidence:
            raise NotAvailable("its evidence is missing or damaged")
        if (images := self.evidence.get(name)) is None:
            raise NotAvailable(f"the cell keeps no {name.replace('_', ' ')}")
        if images.ndim != 4 or str(images.dtype) != "torch.uint8" or not len(images):
            raise NotAvailable(f"its {name.replace('_', ' ')} are no images")
        return images

    def trained(self, plugins: Sequence[str] = ()) -> TrainedCell:
        """Return the cell with its model, on the CPU.

        Raises:
            NotAvailable, BenchError: the model can't be loaded.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model = load(self.run.cells / self.row.cell, plugins)
            except StoreError:  # without its text, which has a path of this machine
                raise NotAvailable("its weights are missing or damaged, or its variant's code has changed") from None
        self.warnings = tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
        return TrainedCell(self.run, self.row, model)


def exhibits(lines: Sequence[VariantLine], whence: Mapping[int, Run], first: str) -> list[Exhibit]:
    """Return an exhibit for each line with a result, but for sanity rows; `whence` maps the id() of a row to its run.

    Labels that occur in several runs get the run's name and steps.
    """
    kept = [line for line in lines if line.rows and not line.rows[0].sanity]
    times = Counter(line.label for line in kept)
    found: list[Exhibit] = []
    own = 0
    for i, line in enumerate(kept):
        row = min(line.rows, key=lambda r: r.seed)
        colour = "ca" if line.reference else f"c{own % COLOURS}" + " second" * (own >= COLOURS)
        own += not line.reference
        run = whence[id(row)]
        where = f" ({run.path.resolve().name}, {line.steps} steps)" if times[line.label] > 1 else ""
        found.append(Exhibit(f"{first}x{i}", f"{line.label}{where}", colour, run, row, line))
    return found


@dataclass
class Originals:
    """The datasets of rows on this machine, loaded once each; only datasets with the images of the scores are given."""

    data_root: str | None = None
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    def __call__(self, run: Run, row: Row) -> Any:
        """Return the row's `bench.Data`.

        Raises:
            NotAvailable: this machine doesn't have the dataset, or has other images.
            NotHandedOver: the dataset's code is in a file that wasn't given by --plugin.
        """
        request = run.request()
        scored = row.scoring.get("test") or row.data.get("test")
        subset = (row.training.get("limit"), row.training.get("validation"), row.scoring.get("split"))
        key = (row.dataset, request.image_size, *subset)
        if key not in self._known:
            try:
                self._known[key] = data_of(row, request, self.data_root)
            except NotHandedOver:
                raise
            except (BenchError, OSError):  # without its text, which has a path of this machine
                self._known[key] = None
        if (data := self._known[key]) is None:
            raise NotAvailable(f"{row.dataset} isn't at hand: `bench data` lists the datasets of this machine")
        if scored is not None and data.test.digest != scored:
            raise NotAvailable(f"{row.dataset} has other images here than those that were scored")
        return data
