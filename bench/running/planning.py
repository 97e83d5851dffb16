"""What a request comes to, before anything is trained: checked settings, data, cells, and the time they'll take."""

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

from bench import data as datasets
from bench.contracts.dataset import Data
from bench.contracts.events import Listener, Preparing
from bench.contracts.executor import EXECUTORS
from bench.contracts.logger import LOGGERS
from bench.contracts.measurement import METRICS, Metric
from bench.contracts.naming import called, own
from bench.contracts.protocol import HOW, PRECISIONS, RunRequest, digest
from bench.contracts.row import Row
from bench.contracts.variant import Spec
from bench.engine.trainer import probe, why_not_together
from bench.plugins.registry import default
from bench.plugins.unpublished import hand_over
from bench.results.garbage import bytes_in_words
from bench.results.store import Run
from bench.running.grid import Cell, Config, blank, cell, expand, slug, spec_of, tuned
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

    row: Row  #: as it would stand in the table if nothing came of it
    state: State  #: 'ended': it failed before, in a way that would repeat itself
    parameters: int = 0
    cell: Cell | None = None  #: None where the variant is broken

    @property
    def name(self) -> str:
        return self.row.cell

    @property
    def todo(self) -> Cell:
        """What is to be trained or scored."""
        assert self.cell is not None
        return self.cell

    @property
    def part(self) -> str:
        """The same for cells that are trained in one pass, and for no others."""
        return self.cell.together[0].name if self.cell is not None else self.name

    def as_json(self) -> dict[str, Any]:
        row = self.row
        return {
            "name": row.cell,
            "label": row.label,
            "dataset": row.dataset,
            "seed": row.seed,
            "steps": row.steps,
            "parameters": self.parameters,
            "state": self.state,
            "reason": row.reason,
        }


@dataclass(frozen=True)
class Plan:
    """What a request comes to, before anything is trained."""

    request: RunRequest
    folder: Path
    cells: tuple[PlannedCell, ...]
    metrics: Mapping[str, Metric]
    device: torch.device
    notes: tuple[str, ...] = ()
    alone: Mapping[str, str] = field(default_factory=dict)  #: kinds of cells whose seeds can't be stacked, and why


def device_of(name: str) -> torch.device:
    """The device that `--device` names; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: it isn't there.
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
    """Whether a device has arithmetic in bf16, rather than an emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported())  # torch's other test is content with avx512
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_metrics(names: tuple[str, ...], dead: Container[str] = ()) -> dict[str, Metric]:
    """The default metrics; with '+name' that besides, without '-name'; or those named; or 'all'.

    None of the `dead`, which nobody can import. They come in reading order, and are scored in it: what several request
    takes its time where the foremost of them stands.

    Raises:
        UnknownName
    """
    for name in names:
        if name != ALL:
            METRICS.entry(name.lstrip("+-"))
    wanted = [n for n in names if not n.startswith(("+", "-")) and n != ALL]
    if wanted:
        if lost := [n for n in wanted if n in dead]:
            raise PluginError(f"the metric {lost[0]!r} brings the process down that imports it")
        wanted += [n.removeprefix("+") for n in names if n.startswith("+")]
        return in_reading_order({METRICS.key(n): METRICS.load(n) for n in wanted if f"-{n}" not in names})
    found = {}
    for name in (n for n in METRICS if f"-{n}" not in names and n not in dead):
        try:
            loaded = METRICS.load(name)
            if loaded.default or ALL in names or f"+{name}" in names:
                found[name] = loaded
        except PluginError as error:  # a broken plugin breaks the runs that ask for it
            warnings.warn(f"left out: {error.what} ({error.cause})", stacklevel=2)
    return in_reading_order(found)


def in_reading_order(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics in the order of a table's columns."""
    shown = reading_order([Column(name, m.unit, m.direction, m) for name, m in metrics.items()])
    return {column.name: metrics[column.name] for column in shown}


def default_folder(request: RunRequest) -> Path:
    """Where results lie if nobody says: requests that differ in variants, seeds or metrics alone share a folder."""
    key = _shared(request)
    names = "-".join(re.sub(r"[^a-z0-9_]+", "", re.split(r"[\[:]", text.lower())[0]) for text in key.datasets)
    own = key != RunRequest(datasets=key.datasets) or any(set("[:") & set(text) for text in key.datasets)
    return Path("results") / (f"{names[:60]}-{digest(asdict(key))[:8]}" if own else names[:60])


def _shared(request: RunRequest) -> RunRequest:
    """A request as others have it that go into the same folder: without variants, seeds, metrics and how it's run."""
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
    runs = [Run(path.parent) for path in sorted(folder.parent.glob("*/run.json"))]
    found = earlier((run for run in runs if _like(run, like)), _firsts(request, loaded, configs))
    return folder if found is None else found.path


def _like(run: Run, like: RunRequest) -> bool:
    try:
        return replace(_shared(run.request()), datasets=()) == like
    except BenchError:  # it's damaged, or of a newer version
        return False


def _firsts(request: RunRequest, loaded: Sequence[Data], configs: Sequence[Config]) -> Iterator[Cell]:
    """The first seed's cell of each variant, alone and stacked."""
    for data, config in product(loaded, configs):
        with suppress(PluginError):
            first = cell(config, data, request.seeds[0], request)
            yield from (first, replace(first, stacked=request.seeds))


def validate(request: RunRequest) -> None:
    """Check the numbers of a request, and the letters in its names.

    Raises:
        UsageError
    """
    for name, texts in (("dataset", request.datasets), ("variants", request.variants), ("set", request.set)):
        for text in texts:
            check_plain(f"--{name}", text)
    for precision in (request.precision, request.inception_precision):
        if precision not in PRECISIONS:
            raise UnknownName("precision", precision, PRECISIONS)
    if request.steps is not None and request.epochs is not None:
        raise UsageError("--steps and --epochs both set the budget", fix="Give one of them.")
    for name, value, least in (
        ("steps", request.steps, 1),
        ("epochs", request.epochs, None),
        ("batch-size", request.batch_size, 2),
        ("jobs", request.jobs, 1),
        ("threads", request.threads, 1),
        ("timeout", request.timeout, None),
        ("stall", request.stall, None),
        ("checkpoint", request.checkpoint, 0),
        ("gpus-per-cell", request.gpus_per_cell, 0),
        ("limit", request.limit, 1),
        ("validation", request.validation, 0),
        ("nll-samples", request.nll_samples, 1),
        ("nll-images", request.nll_images, 1),
        ("image-size", request.image_size, 4),
    ):
        if value is not None and (value < least if least is not None else not 0 < value < math.inf):
            bound = f"at least {least}" if least is not None else "more than 0"
            raise UsageError(f"--{name} {value} is out of range", cause=f"It must be {bound}.")
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


def check_plain(what: str, text: str) -> None:
    """Refuse a name that no table could show as it is.

    Raises:
        UsageError: the way out.
    """
    if not is_plain(text):
        raise UsageError(
            f"{what} {plain(text)} has letters that can't be shown",
            cause="A terminal obeys them, or nobody sees them: line ends, escapes, what turns the direction of text.",
            fix="Rename the file or folder, or make a link with a plain name to it: ln -s OLD NEW",
        )


def plan(
    request: RunRequest,
    listener: Listener = lambda _: None,
    broken: Mapping[str, str] | None = None,
    dead: Container[str] = (),
    alone: Mapping[str, str] | None = None,
    tried: Callable[[Sequence[tuple[Config, Spec]]], Mapping[tuple[Config, Spec], str]] = lambda _: {},
) -> Plan:
    """Check a request and settle its cells. Fetches data that is missing; trains nothing, writes no result.

    Args:
        broken: variants that are known to bring a process down, and how; they aren't imported.
        dead: metrics of that kind.
        alone: kinds of cells whose seeds can't be stacked, and why; by default that is tried out, where it matters.
        tried: tells of models, before they are built here, which bring a process down, and how.

    Raises:
        UsageError, DataError
        PluginError: no variant that was asked for works.
        StoreError: the folder that it would go to can't be read.
    """

    def fetching(path: str, done: int, total: int) -> None:
        listener(Preparing(path, done, total))

    validate(request)
    device = device_of(request.device)
    if request.inception_precision == "bf16" and not computes_bf16(device):
        raise UsageError(
            f"--inception-precision bf16 has no use on this machine's {device.type}",
            cause="It has no arithmetic in bf16: what emulates it takes several times as long as fp32.",
            fix="Leave it out, or score where a GPU or a CPU has it (avx512_bf16, AMX).",
        )
    metrics = choose_metrics(request.metrics, dead)
    faults = {name: PluginError(f"the variant {name!r} {how}") for name, how in (broken or {}).items()}
    configs = expand(request, faults)
    if faults and all(config.baseline or config.sanity for config in configs):
        raise next(iter(faults.values()))
    if not request.datasets:
        request = replace(request, datasets=(default("dataset") or "",))
    several = tuned(configs)
    if several and request.eval_split is None and not _on_test_before(request, several):
        request = replace(request, eval_split="validation")
    root = datasets.data_root(request.data_root)
    loaded = [
        datasets.load(
            name,
            root,
            limit=request.limit,
            validation=request.validation,
            split=request.scoring.split,
            image_size=request.image_size,
            on_progress=fetching,
        )
        for name in dict.fromkeys(request.datasets)
    ]
    loaded, renamed = distinct(loaded)
    request = replace(request, datasets=tuple(n for n in request.datasets if called(n) in {d.name for d in loaded}))
    folder = _folder(request, loaded, configs)
    store = Run(folder)
    known = store.by_identity() if any(own(data.name) for data in loaded) else {}
    found = dict(alone or {})
    cells: list[PlannedCell] = []
    harmful = tried([(config, spec_of(data, request)) for data in loaded for config in configs])
    for data in loaded:
        for config in configs:
            try:
                if how := harmful.get((config, spec_of(data, request))):
                    raise PluginError(f"the variant {config.label} {how}")
                first = cell(config, data, request.seeds[0], request)
            except PluginError as error:
                faults[config.name] = error
                cells += [_broken(config.name, config.label, data.name, seed, error) for seed in request.seeds]
                continue
            seeds = request.seeds[:1] if config.sanity else request.seeds  # training doesn't vary them
            if request.stack_seeds and len(seeds) > 1 and not first.unsuitable:
                if alone is None:
                    found |= _why_alone(first, device)
                if not {_kind(first), EVERY} & found.keys():
                    first = replace(first, stacked=seeds)
            cells += [_planned(placed(replace(first, seed=seed), store, known), store, request) for seed in seeds]
        for name in faults.keys() - {config.name for config in configs}:
            cells += [_broken(name, name, data.name, seed, faults[name]) for seed in request.seeds]
    if faults and all(c.state == "broken" or c.row.anchor for c in cells):
        raise next(iter(faults.values()))
    cells = cells if request.shard is None else _share(cells, *request.shard)
    if request.scoring.split == "test":
        notes = [_on_test(several)] if several else []
    else:
        notes = [_on_validation(loaded, folder, bool(several))]
    if len(request.seeds) == 1:
        notes.append("one seed shows no spread: a difference between two rows may be chance (--seeds 3 tells)")
    notes += [*renamed, *(note for data in loaded for note in data.notes)]
    if not request.out and folder != default_folder(request):
        notes.append(f"goes on in {folder}, which has results of these images under another name")
    notes += [f"the seeds of {kind} are trained one by one: {why}" for kind, why in found.items()]
    if request.precision == "bf16" and not computes_bf16(device):
        notes.append(f"no bf16 arithmetic on this {device.type}: it's emulated, several times slower than fp32")
    need = space([c for c in cells if c.state == "new"], request.jobs)
    free = shutil.disk_usage(next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())).free
    if need > free:
        notes.append(
            f"about {bytes_in_words(need)} to be written, and {bytes_in_words(free)} free: make room meanwhile"
        )
    return Plan(request, folder, tuple(cells), metrics, device, tuple(notes), found)


def _kind(c: Cell) -> str:
    return f"{c.config.label} on {c.data.name}"


def _why_alone(c: Cell, device: torch.device) -> dict[str, str]:
    """The kind of a cell, if its seeds can't be trained in one pass, and why."""
    few = c.data.train.subset(torch.arange(min(len(c.data.train), 4 * c.training.batch_size))).to(device)
    why = why_not_together(lambda seed: c.config.build(c.spec, seed).to(device), few, c.training)
    return {_kind(c): why} if why else {}


def _on_test_before(request: RunRequest, several: Mapping[str, Sequence[str]]) -> bool:
    """Whether the run's folder holds these very settings, scored on the test split: then they aren't made anew."""
    store = Run(Path(request.out) if request.out else default_folder(request))
    if not store.exists() or (before := store.request()).eval_split is not None:
        return False
    try:
        there = {config.label for config in expand(before, {})}
    except BenchError:  # a plugin isn't there any more
        return False
    return all(there.issuperset(labels) for labels in several.values())


def _on_test(several: Mapping[str, Sequence[str]]) -> str:
    """What it means that settings of one variant are scored on test images."""
    counted = ", ".join(f"{len(labels)} settings of {name}" for name, labels in several.items())
    return (
        f"{counted} scored on the test split: to choose among them there is to choose on it, and the chosen looks "
        "better than it is (--eval-split validation)"
    )


def _on_validation(loaded: Sequence[Data], folder: Path, several: bool) -> str:
    """That nothing is scored on test images, why, and what does it."""
    several_sets = len(loaded) > 1
    images = ", ".join(f"{len(data.test):,}{f' of {data.name}' if several_sets else ''}" for data in loaded)
    have = [data.name for data in loaded if data.own_validation]
    held = "which the dataset has as a split of its own" if have else "held out of the training split"
    if have and len(have) < len(loaded):
        held = f"held out of the training split, and of {listed(have)} a split of its own"
    why = "; this is a grid over hyperparameters" if several else ""
    then = f"`bench table {folder} --select val:{default('headline')}` scores the best settings on the test split"
    return f"scored on {images} validation images, {held}{why}: {then}"


def space(cells: Sequence[PlannedCell], jobs: int) -> int:
    """Bytes that these cells will take on disk, roughly: weights and evidence, and two checkpoints of those under way.

    A checkpoint has weights and Adam's two moments; 2,000 codes and 512 images are the most of the evidence.
    """
    sizes = [4 * c.parameters + 2_000 * 4 * 64 + 512 * math.prod(c.row.data.get("shape", (1,))) for c in cells]
    checkpoints = sorted((12 * c.parameters for c in cells), reverse=True)
    return int(sum(sizes) + 2 * sum(checkpoints[:jobs]))


def _planned(c: Cell, store: Run, request: RunRequest) -> PlannedCell:
    state: State = "new"
    store.refuse_links(c.name)
    flaw = store.flaw(c.name)
    if c.unsuitable:
        state = "skipped"
    elif store.is_done(c.name) and not flaw and not request.force:
        state = "done"
    elif not request.force and not request.retry_failed and store.has_ended(c.name):
        state = "ended"
    return PlannedCell(blank(c, "skipped" if c.unsuitable else "failed", c.unsuitable or flaw), state, c.parameters, c)


def _broken(name: str, label: str, dataset: str, seed: int, error: PluginError) -> PlannedCell:
    reason = error.line
    folder = slug(f"{label}-{dataset}-s{seed}", digest([label, dataset, seed, "broken"]))
    return PlannedCell(Row(name, label, dataset, seed, "failed", reason, cell=folder), "broken")


def _share(cells: list[PlannedCell], number: int, of: int) -> list[PlannedCell]:
    """Shard `number` (from 1) `of` so many: the longest cells are dealt out first, so that all take about as long."""
    by_length = sorted(cells, key=lambda c: (-c.parameters * sum(c.row.steps), c.name))
    parts = list(dict.fromkeys(c.part for c in by_length))[number - 1 :: of]
    return [c for c in cells if c.part in parts]


def estimate(plan: Plan) -> float:
    """Seconds of training to come, from a few steps of each kind of cell on the device that will run it."""
    seconds: dict[tuple[str, str], float] = {}
    total = 0.0
    for planned in plan.cells:
        if planned.state == "new" and any(planned.row.steps):
            c = planned.todo
            key = (c.config.label, c.data.name)
            if key not in seconds:
                images = c.data.train.to(plan.device)
                build = lambda c=c: c.config.build(c.spec).to(plan.device)  # noqa: E731
                seconds[key] = probe(build, images, c.training)
            total += 0.0 if math.isnan(seconds[key]) else seconds[key]
    return total


def duration(seconds: float) -> str:
    """A length of time, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def answer(request: Mapping[str, Any], threads: int, answer: str, handed: Sequence[str]) -> None:
    """Write the estimate for a request to a file: asked of a child, so that no variant harms its parent.

    Args:
        handed: the addresses of code that were handed over to the parent.
    """
    hand_over(handed)
    torch.set_num_threads(threads)
    write_file(Path(answer), str(estimate(plan(RunRequest.from_json(request), alone={}))))


def answer_alone(
    request: Mapping[str, Any],
    threads: int,
    answer: str,
    handed: Sequence[str],
    broken: Mapping[str, str],
    dead: Sequence[str],
) -> None:
    """Likewise the kinds of cells whose seeds can't be stacked, as JSON."""
    hand_over(handed)
    torch.set_num_threads(threads)
    found = plan(RunRequest.from_json(request), broken=broken, dead=dead).alone
    write_file(Path(answer), json.dumps(dict(found)))
