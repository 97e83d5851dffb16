"""The plan of a request: checked settings, data, cells and the time ahead, before anything is trained."""

from __future__ import annotations

import json
import math
import platform
import re
import shutil
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from bench.contracts.dataset import Data
from bench.contracts.events import Listener, Preparing
from bench.contracts.executor import EXECUTORS
from bench.contracts.logger import LOGGERS
from bench.contracts.measurement import METRICS, Metric
from bench.contracts.naming import called, own
from bench.contracts.protocol import HOW, PRECISIONS, RunRequest, digest
from bench.contracts.row import Row
from bench.engine.trainer import probe, why_not_together
from bench.plugins.registry import default
from bench.plugins.unpublished import hand_over
from bench.results.garbage import bytes_in_words
from bench.results.store import Run
from bench.running.grid import Cell, Config, Model, cell, expand, load_data, slug, spec_of, tuned, unscored_row
from bench.running.moved import distinct, earlier, placed
from bench.tables.columns import Column, reading_order
from bench.util.durable import write_file
from bench.util.errors import BenchError, PluginError, UnknownName, UsageError
from bench.util.text import is_plain, plain
from bench.util.wording import listed

ALL = "all"  #: in the place of metrics' names
EVERY = "every variant"  #: in the place of a kind of cells
State = Literal["new", "done", "ended", "skipped", "broken"]


@dataclass(frozen=True)
class PlannedCell:
    """A cell as `--dry-run` shows it."""

    row: Row  #: as the table shows it if the cell gets no result
    state: State  #: 'ended': it failed before, in a way that another try would repeat
    parameters: int = 0
    cell: Cell | None = None  #: None where the variant is broken

    @property
    def name(self) -> str:
        return self.row.cell

    @property
    def todo(self) -> Cell:
        """The cell to be trained or scored."""
        assert self.cell is not None
        return self.cell

    @property
    def part(self) -> str:
        """The name of the first cell that is trained in one pass with this one."""
        return self.cell.together[0].name if self.cell is not None else self.name

    @property
    def work(self) -> int:
        """How long its training takes, to compare with others': parameters times steps."""
        return self.parameters * sum(self.row.steps)

    def as_json(self) -> dict[str, Any]:
        row = {name: getattr(self.row, name) for name in ("label", "dataset", "seed", "steps")}
        end = {"parameters": self.parameters, "state": self.state, "reason": self.row.reason}
        return {"name": self.name, **row, **end}


@dataclass(frozen=True)
class Plan:
    """The settled cells of a request, before anything is trained."""

    request: RunRequest
    folder: Path
    cells: tuple[PlannedCell, ...]
    metrics: Mapping[str, Metric]
    device: torch.device
    notes: tuple[str, ...] = ()
    alone: Mapping[str, str] = field(default_factory=dict)  #: kinds of cells whose seeds can't be stacked, and why


# settings


def device_of(name: str) -> torch.device:
    """Return the device that `--device` names; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: this machine doesn't have it.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if there[d]))
    kind = name.split(":")[0]
    if kind not in there:
        raise UsageError(f"no device called {name!r}", cause="Known: auto, cpu, cuda, mps.")
    if not there[kind]:
        raise UsageError(
            f"this machine has no {kind.upper()} device that torch can use",
            cause="There is none, its driver is missing, or this torch was built without it.",
            fix=f"Use --device cpu, or --device auto (here: {device_of('auto')}).",
        )
    return torch.device(name)


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device has bf16 arithmetic, rather than an emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported())  # torch's other test is content with avx512
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_metrics(names: tuple[str, ...], dead: Container[str] = ()) -> dict[str, Metric]:
    """Return the metrics that `names` choose, in the order of a table's columns, which is that of scoring.

    Args:
        names: metrics; '+name' and '-name' add to the default set and remove from it; 'all' is every metric.
        dead: metrics whose import ends the process.

    Raises:
        UnknownName: no such metric.
        PluginError: a metric can't be imported.
    """
    for name in names:
        if name != ALL:
            METRICS.entry(name.lstrip("+-"))
    named = [n for n in names if not n.startswith(("+", "-")) and n != ALL]
    added = [n.removeprefix("+") for n in names if n.startswith("+")]
    removed = {n.removeprefix("-") for n in names if n.startswith("-")}
    if named:
        wanted = [n for n in (*named, *added) if n not in removed]
        for name in wanted:
            if name in dead:
                raise PluginError(f"importing the metric {name!r} crashes the process")
        return in_reading_order({METRICS.key(n): METRICS.load(n) for n in wanted})
    chosen = {}
    for name in (n for n in METRICS if n not in removed and n not in dead):
        try:
            loaded = METRICS.load(name)
            if loaded.default or ALL in names or name in added:
                chosen[name] = loaded
        except PluginError as error:  # only runs that name a broken plugin fail
            warnings.warn(f"left out: {error.what} ({error.cause})", stacklevel=2)
    return in_reading_order(chosen)


def in_reading_order(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return metrics in the order of a table's columns."""
    shown = reading_order([Column(name, m.unit, m.direction, m) for name, m in metrics.items()])
    return {column.name: metrics[column.name] for column in shown}


LEAST: dict[str, int | None] = {
    "steps": 1, "epochs": None, "batch_size": 2, "jobs": 1, "threads": 1, "timeout": None, "stall": None,
    "checkpoint": 0, "gpus_per_cell": 0, "limit": 1, "validation": 0, "nll_samples": 1, "nll_images": 1,
    "image_size": 4,
}  # fmt: skip
"""The least value of each number in a request; None: any number above 0."""


def validate(request: RunRequest) -> None:
    """Raise UsageError for a number of a request that is out of range, or a name that no table could show."""
    for name, texts in (("dataset", request.datasets), ("variants", request.variants), ("set", request.set)):
        for text in texts:
            check_plain(f"--{name}", text)
    for precision in (request.precision, request.inception_precision):
        if precision not in PRECISIONS:
            raise UnknownName("precision", precision, PRECISIONS)
    if request.steps is not None and request.epochs is not None:
        raise UsageError("--steps and --epochs both set the budget", fix="Give one of them.")
    for name, least in LEAST.items():
        value = getattr(request, name)
        if value is not None and (value < least if least is not None else not 0 < value < math.inf):
            bound = f"at least {least}" if least is not None else "more than 0"
            raise UsageError(f"--{name.replace('_', '-')} {value} is out of range", cause=f"It must be {bound}.")
    if request.shard is not None and not 1 <= request.shard[0] <= request.shard[1]:
        number, of = request.shard
        raise UsageError(f"--shard {number}/{of} doesn't exist", fix="For example: --shard 1/8, to --shard 8/8.")
    if request.executor is not None:
        EXECUTORS.entry(request.executor)
    for logger in request.logger:
        LOGGERS.entry(logger)
    if request.address is not None and request.executor in (None, default("executor")):
        raise UsageError(f"--address {request.address} has no use without a cluster's --executor")
    if not request.seeds or min(request.seeds) < 0 or len(set(request.seeds)) < len(request.seeds):
        raise UsageError(
            f"--seeds {','.join(map(str, request.seeds)) or '(none)'} isn't a list of different whole numbers from 0",
            fix="For example: --seeds 3 (that is 0,1,2), or --seeds 0,7,11.",
        )


def check_plain(option: str, text: str) -> None:
    """Raise UsageError for a name with letters that no table could show."""
    if not is_plain(text):
        raise UsageError(
            f"{option} {plain(text)} has letters that can't be shown",
            cause="Line ends, escape codes and marks that turn the direction of text would garble a terminal.",
            fix="Rename the file or folder, or make a link with a plain name to it: ln -s OLD NEW",
        )


# the run's folder


def default_folder(request: RunRequest) -> Path:
    """Return the folder without --out: requests that differ only in variants, seeds or metrics share one."""
    key = _shared(request)
    names = "-".join(re.sub(r"[^a-z0-9_]+", "", re.split(r"[\[:]", text.lower())[0]) for text in key.datasets)
    special = key != RunRequest(datasets=key.datasets) or any(set("[:") & set(text) for text in key.datasets)
    return Path("results") / (f"{names[:60]}-{digest(asdict(key))[:8]}" if special else names[:60])


def _shared(request: RunRequest) -> RunRequest:
    """Return the part of a request that is equal for all requests of one folder."""
    plain, scored = RunRequest(), ("metrics", "nll_samples", "nll_images", "inception_precision")
    free = (*HOW, *scored, "variants", "seeds", "baseline", "sanity")
    names = tuple(map(called, request.datasets))
    return replace(request, datasets=names, **{name: getattr(plain, name) for name in free})


def _folder(request: RunRequest, loaded: Sequence[Data], configs: Sequence[Config]) -> Path:
    """Return the run's folder: without --out, one that holds results of the same images under another name, if any."""
    folder = Path(request.out) if request.out else default_folder(request)
    if request.out or folder.exists() or not any(own(data.name) for data in loaded):
        return folder
    like = replace(_shared(request), datasets=())

    def comparable(run: Run) -> bool:
        try:
            return replace(_shared(run.request()), datasets=()) == like
        except BenchError:  # it's damaged, or of a newer version
            return False

    def first_cells() -> Iterator[Cell]:
        for data, config in product(loaded, configs):
            with suppress(PluginError):
                first = cell(config, data, request.seeds[0], request)
                yield from (first, replace(first, stacked=request.seeds))

    runs = (Run(path.parent) for path in sorted(folder.parent.glob("*/run.json")))
    run = earlier(filter(comparable, runs), first_cells())
    return folder if run is None else run.path


# the plan


def plan(
    request: RunRequest,
    listener: Listener = lambda _: None,
    broken: Mapping[str, str] | None = None,
    dead: Container[str] = (),
    alone: Mapping[str, str] | None = None,
    tried: Callable[[Sequence[Model]], Mapping[Model, str]] = lambda _: {},
) -> Plan:
    """Check a request and settle its cells. Downloads missing data; trains nothing, writes no result.

    Args:
        broken: variants whose import ends a process, with how; they aren't imported.
        dead: metrics whose import ends a process.
        alone: kinds of cells whose seeds can't be stacked, and why; None: try it out, where it matters.
        tried: returns, of models that are about to be built, those whose constructor ends a process, with how.

    Raises:
        UsageError, DataError
        PluginError: none of the variants works.
        StoreError: the run's folder can't be read.
    """
    validate(request)
    device = device_of(request.device)
    if request.inception_precision == "bf16" and not computes_bf16(device):
        raise UsageError(
            f"--inception-precision bf16 has no use on this machine's {device.type}",
            cause="It has no arithmetic in bf16; an emulation takes several times as long as fp32.",
            fix="Leave it out, or score where a GPU or a CPU has bf16 (avx512_bf16, AMX).",
        )
    metrics = choose_metrics(request.metrics, dead)
    faults = {name: PluginError(f"the variant {name!r} {how}") for name, how in (broken or {}).items()}
    configs = expand(request, faults)
    if faults and all(config.baseline or config.sanity for config in configs):
        raise next(iter(faults.values()))
    several = tuned(configs)
    if not request.datasets:
        request = replace(request, datasets=(default("dataset") or "",))
    if several and request.eval_split is None and not _scored_on_test_before(request, several):
        request = replace(request, eval_split="validation")
    loaded, renamed = distinct(
        [
            load_data(text, request, download=True, on_progress=lambda *at: listener(Preparing(*at)))
            for text in dict.fromkeys(request.datasets)
        ]
    )
    names = {data.name for data in loaded}
    request = replace(request, datasets=tuple(text for text in request.datasets if called(text) in names))
    folder = _folder(request, loaded, configs)
    harmful = tried([(config, spec_of(data, request)) for data in loaded for config in configs])
    planner = _CellPlanner(request, Run(folder), device, faults, harmful, alone)
    cells = [planned for data in loaded for planned in planner.plan(data, configs)]
    if faults and all(c.state == "broken" or c.row.reference for c in cells):
        raise next(iter(faults.values()))
    cells = cells if request.shard is None else _share(cells, *request.shard)
    notes = [*_split_notes(request, loaded, folder, several), *renamed, *(n for data in loaded for n in data.notes)]
    if not request.out and folder != default_folder(request):
        notes.append(f"goes on in {folder}, which has results of these images under another name")
    notes += [f"the seeds of {kind} are trained one by one: {why}" for kind, why in planner.alone.items()]
    if request.precision == "bf16" and not computes_bf16(device):
        notes.append(f"no bf16 arithmetic on this {device.type}: it's emulated, several times slower than fp32")
    need = space([c for c in cells if c.state == "new"], request.jobs)
    free = shutil.disk_usage(next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())).free
    if need > free:
        need_text, free_text = bytes_in_words(need), bytes_in_words(free)
        notes.append(f"needs about {need_text} of disk, only {free_text} is free: free some space")
    return Plan(request, folder, tuple(cells), metrics, device, tuple(notes), planner.alone)


class _CellPlanner:
    """Settles the cells of variants on a dataset."""

    def __init__(
        self,
        request: RunRequest,
        store: Run,
        device: torch.device,
        faults: dict[str, PluginError],  # of variants that can't be loaded; those that can't be built are added
        harmful: Mapping[Model, str],  # models whose constructor ends a process, with how
        alone: Mapping[str, str] | None,  # as for `plan`
    ) -> None:
        self.request, self.store, self.device = request, store, device
        self.faults, self.harmful = faults, harmful
        self.try_stacking, self.alone = alone is None, dict(alone or {})
        self.known = store.by_identity() if any(own(called(text)) for text in request.datasets) else {}

    def plan(self, data: Data, configs: Sequence[Config]) -> Iterator[PlannedCell]:
        for config in configs:
            try:
                if how := self.harmful.get((config, spec_of(data, self.request))):
                    raise PluginError(f"the variant {config.label} {how}")
                first = cell(config, data, self.request.seeds[0], self.request)
            except PluginError as error:
                self.faults[config.name] = error
                yield from self._broken(config.name, config.label, data, error)
            else:
                yield from self._seeds(first)
        built = {config.name for config in configs}
        for name in self.faults.keys() - built:
            yield from self._broken(name, name, data, self.faults[name])

    def _broken(self, name: str, label: str, data: Data, error: PluginError) -> Iterator[PlannedCell]:
        for seed in self.request.seeds:
            folder = slug(f"{label}-{data.name}-s{seed}", digest([label, data.name, seed, "broken"]))
            yield PlannedCell(Row(name, label, data.name, seed, "failed", error.line, cell=folder), "broken")

    def _seeds(self, first: Cell) -> Iterator[PlannedCell]:
        seeds = self.request.seeds[:1] if first.config.sanity else self.request.seeds  # whose training has no noise
        if self.request.stack_seeds and len(seeds) > 1 and not first.unsuitable:
            kind = f"{first.config.label} on {first.data.name}"
            if self.try_stacking:
                few = torch.arange(min(len(first.data.train), 4 * first.training.batch_size))
                images = first.data.train.subset(few).to(self.device)
                build = lambda seed: first.config.build(first.spec, seed).to(self.device)  # noqa: E731
                if why := why_not_together(build, images, first.training):
                    self.alone[kind] = why
            if not {kind, EVERY} & self.alone.keys():
                first = replace(first, stacked=seeds)
        for seed in seeds:
            yield self._planned(placed(replace(first, seed=seed), self.store, self.known))

    def _planned(self, c: Cell) -> PlannedCell:
        state: State = "new"
        self.store.refuse_links(c.name)
        flaw = self.store.flaw(c.name)
        if c.unsuitable:
            state = "skipped"
        elif self.request.force:
            state = "new"
        elif self.store.is_done(c.name) and not flaw:
            state = "done"
        elif not self.request.retry_failed and self.store.has_ended(c.name):
            state = "ended"
        row = unscored_row(c, "skipped" if c.unsuitable else "failed", c.unsuitable or flaw)
        return PlannedCell(row, state, c.parameters, c)


def _scored_on_test_before(request: RunRequest, several: Mapping[str, Sequence[str]]) -> bool:
    """Return whether the run's folder holds these very settings, scored on the test split."""
    store = Run(Path(request.out) if request.out else default_folder(request))
    if not store.exists() or (before := store.request()).eval_split is not None:
        return False
    try:
        there = {config.label for config in expand(before, {})}
    except BenchError:  # a plugin was uninstalled
        return False
    return all(there.issuperset(labels) for labels in several.values())


def _split_notes(
    request: RunRequest, loaded: Sequence[Data], folder: Path, several: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield what the choice of split and seeds means for the scores."""
    counted = ", ".join(f"{len(labels)} settings of {name}" for name, labels in several.items())
    if request.scoring.split != "test":
        images = ", ".join(f"{len(d.test):,}{f' of {d.name}' if len(loaded) > 1 else ''}" for d in loaded)
        have = [data.name for data in loaded if data.own_validation]
        held = "which the dataset has as a split of its own" if have else "held out of the training split"
        if have and len(have) < len(loaded):
            held = f"held out of the training split, and of {listed(have)} a split of its own"
        why = "; this is a grid over hyperparameters" if several else ""
        then = f"`bench table {folder} --select val:{default('headline')}` scores the best settings on the test split"
        yield f"scored on {images} validation images, {held}{why}: {then}"
    elif several:
        yield (
            f"{counted} scored on the test split: choosing the best of them by a test score biases that score "
            "(--eval-split validation)"
        )
    if len(request.seeds) == 1:
        yield "one seed shows no spread: a difference between two rows may be chance (--seeds 3 tells)"


def space(cells: Sequence[PlannedCell], jobs: int) -> int:
    """Return roughly the bytes that cells take on disk: weights, evidence, two checkpoints of those under way.

    A checkpoint has weights and Adam's two moments; evidence holds at most 2,000 codes and 512 images.
    """
    sizes = [4 * c.parameters + 2_000 * 4 * 64 + 512 * math.prod(c.row.data.get("shape", (1,))) for c in cells]
    checkpoints = sorted((12 * c.parameters for c in cells), reverse=True)
    return int(sum(sizes) + 2 * sum(checkpoints[:jobs]))


def _share(cells: list[PlannedCell], number: int, of: int) -> list[PlannedCell]:
    """Return shard `number` (from 1) of `of`; the longest cells are dealt out first, so that shards take alike."""
    by_length = sorted(cells, key=lambda c: (-c.work, c.name))
    parts = list(dict.fromkeys(c.part for c in by_length))[number - 1 :: of]
    return [c for c in cells if c.part in parts]


def estimate(plan: Plan) -> dict[str, float]:
    """Return the seconds of training ahead by label, from a few steps of each kind of cell on the plan's device."""
    seconds: dict[tuple[str, str], float] = {}
    by_label: dict[str, float] = {}
    for planned in plan.cells:
        if planned.state == "new" and any(planned.row.steps):
            c = planned.todo
            key = (c.config.label, c.data.name)
            if key not in seconds:
                images = c.data.train.to(plan.device)
                build = lambda c=c: c.config.build(c.spec).to(plan.device)  # noqa: E731
                seconds[key] = probe(build, images, c.training)
            known = 0.0 if math.isnan(seconds[key]) else seconds[key]
            by_label[c.config.label] = by_label.get(c.config.label, 0.0) + known
    return by_label


def answer(
    question: Literal["estimate", "alone"],
    path: str,
    request: Mapping[str, Any],
    threads: int,
    handed: Sequence[str],
    **known: Any,
) -> None:
    """Plan a request in a child, which variants may harm, and write the answer to a file as JSON.

    Args:
        question: 'estimate': the seconds of training ahead by label; 'alone': `Plan.alone`.
        handed: addresses of code that the user handed over to the parent.
        known: what `plan` is to know: broken, dead, alone.
    """
    hand_over(handed)
    torch.set_num_threads(threads)
    planned = plan(RunRequest.from_json(request), **known)
    write_file(Path(path), json.dumps(estimate(planned) if question == "estimate" else dict(planned.alone)))
