"""The grid: variants with their hyperparameters, times datasets, times seeds; and each cell's identity."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench import data as datasets
from bench.contracts.dataset import Data, Progress
from bench.contracts.protocol import ENGINE, RunRequest, Scoring, Training, digest, seed_for
from bench.contracts.row import Row, Status
from bench.contracts.variant import VARIANTS, Spec, Stage, Variant, lay_out
from bench.engine.snapshot import seeded
from bench.engine.trainer import stage_steps
from bench.plugins import source
from bench.plugins.entry import Entry
from bench.plugins.hyperparameters import check, hyperparameters, selector, show
from bench.plugins.registry import OURS, Registry, default, defaults
from bench.plugins.unpublished import Live
from bench.util.errors import BenchError, PluginError, UnknownName, Unsuitable, UsageError
from bench.util.process import uncopied


@dataclass(frozen=True)
class Config:
    """A variant with its hyperparameters, as the request gives them."""

    name: str
    given: tuple[tuple[str, Any], ...] = ()
    baseline: bool = False
    sanity: bool = False

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any], *, baseline: bool = False, sanity: bool = False) -> Config:
        """Return the variant `name` with these hyperparameters, checked against its constructor.

        Raises:
            UsageError: a hyperparameter is unknown, or its value doesn't fit.
            PluginError: the variant can't be loaded.
        """
        given = check(name, VARIANTS.load(name), values)
        return cls(name, tuple(sorted(given.items())), baseline, sanity)

    @property
    def cls(self) -> type[Variant]:
        return VARIANTS.load(self.name)

    @property
    def label(self) -> str:
        """The name with the hyperparameters that differ from their defaults: `beta[beta=10]`."""
        known = hyperparameters(self.cls)
        changed = [f"{k}={show(v)}" for k, v in self.given if v != known[k].default]
        return f"{self.name}[{','.join(changed)}]" if changed else self.name

    def build(self, spec: Spec, seed: int = 0) -> Variant:
        """Build a fresh model on the CPU; its weights depend on `seed` alone, not on models built before.

        Raises:
            Unsuitable: the variant can't take this dataset.
            PluginError: its constructor raised.
        """
        with self._building(spec):
            return fresh(self.cls, spec, seed, **dict(self.given))

    def stages(self, model: Variant, spec: Spec) -> tuple[Stage, ...]:
        """Return the stages of a model that was built for `spec`.

        Raises:
            Unsuitable, PluginError: as `build`.
        """
        with self._building(spec):
            return model.stages()

    @contextmanager
    def _building(self, spec: Spec) -> Iterator[None]:
        try:
            with uncopied():
                yield
        except (BenchError, Unsuitable):
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"the variant {self.label} can't be built for images of {spec.shape}",
                cause=f"{type(error).__name__}: {error}",
            ) from error


Model = tuple[Config, Spec]


def fresh(cls: type[Variant], spec: Spec, seed: int = 0, **hyperparameters: Any) -> Variant:
    """Build a model as every cell gets it, on the CPU; exceptions of its constructor pass through."""
    with seeded(seed_for("init", seed), torch.device("cpu")):
        model = cls(spec, **hyperparameters)
    lay_out(model)
    return model


def expand(request: RunRequest, faults: dict[str, PluginError] | None = None) -> list[Config]:
    """Return the variants of a request with their grids multiplied out, the baseline last.

    `--backbone` and `*.` settings reach every variant that takes them; a variant's own `--set` wins over these, and
    a selector's bracket over both.

    Args:
        faults: errors of variants that are left out; variants that can't be loaded are added to it.

    Raises:
        UsageError: an unknown name, or a value that doesn't fit.
        PluginError: a variant can't be loaded, and `faults` is None.
    """
    wanted = _selectors(request)
    everywhere, own = _settings(request.set, {name for name, _ in wanted})
    broken = {} if faults is None else faults
    for name in dict.fromkeys(name for name, _ in wanted):
        try:
            if name not in broken:
                VARIANTS.load(name)
        except PluginError as error:
            if faults is None:
                raise
            broken[name] = error
    wanted = [(name, bracket) for name, bracket in wanted if name not in broken]
    configs: dict[Config, None] = {}
    for name, bracket in wanted:
        known = hyperparameters(VARIANTS.load(name))
        shared = {k: v for k, v in everywhere.items() if k in known}
        values = {**shared, **_backbone(request, name), **own.get(name, {}), **bracket}
        axes = [[(k, v) for v in (text.split("|") if isinstance(text, str) else [text])] for k, text in values.items()]
        for point in product(*axes):
            config = Config.of(name, dict(point), baseline=name == default("baseline"), sanity=name in sanity())
            configs[config] = None
    taken = {h for name, _ in wanted for h in hyperparameters(VARIANTS.load(name))}
    for key in everywhere.keys() - taken:
        raise UnknownName("hyperparameter of any variant in this run", key, taken)
    if request.backbone is not None:
        from bench.blocks.backbone import BACKBONES

        BACKBONES.load(request.backbone)
    return list(configs)


def _backbone(request: RunRequest, name: str) -> dict[str, Any]:
    """Return the request's backbone as a hyperparameter of a variant, if the variant takes it."""
    known = hyperparameters(VARIANTS.load(name)).get("backbone")
    if request.backbone is None or known is None:
        return {}
    try:
        return {"backbone": known.parse(request.backbone)}
    except UsageError:  # the variant chooses among networks of its own
        return {}


def words(request: RunRequest) -> Iterator[str]:
    """Yield all texts of a request that may name a plugin, such as './mine.py:Mine'.

    Raises:
        UsageError: brackets that don't match, or a malformed dataset.
    """
    for name, bracket in map(selector, request.variants):
        yield name
        for value in bracket.values():
            yield from value.split("|")
    for text in request.set:
        yield from text.partition("=")[2].strip().split("|")
    for text in request.datasets:
        yield from datasets.words(text)
    yield from (name.lstrip("+-") for name in request.metrics)
    yield from filter(None, (request.backbone, request.executor, *request.logger))


def _selectors(request: RunRequest) -> list[tuple[str, dict[str, Any]]]:
    """Return the variants of a request by name, the baseline and reference rows too, with their brackets."""
    texts = request.variants or tuple(n for n in VARIANTS if n != default("baseline") and n not in sanity())
    wanted: list[tuple[str, dict[str, Any]]] = []
    addresses: dict[str, str] = {}
    for text, bracket in map(selector, texts):
        entry = VARIANTS.entry(text)
        name = VARIANTS.key(entry)
        if addresses.setdefault(name, entry.value) != entry.value:
            raise UsageError(
                f"two variants in this run would be called {name!r}",
                cause=f"{addresses[name]} and {entry.value}.",
                fix="Rename one of the files, or run them apart.",
            )
        wanted.append((name, dict(bracket)))
    joining = [default("baseline")] if request.baseline else []
    joining += sanity() if request.sanity else ()
    named = {name for name, _ in wanted}
    return wanted + [(name, {}) for name in joining if name and name in VARIANTS and name not in named]


def sanity() -> tuple[str, ...]:
    """Return the variants behind the reference rows: real images, and trivial models."""
    return tuple(name for role, name in sorted(defaults().items()) if role.startswith("sanity"))


def tuned(configs: Iterable[Config]) -> dict[str, list[str]]:
    """Return the labels of each variant that comes in several settings, without baseline and reference rows."""
    labels: dict[str, dict[str, None]] = {}
    for config in configs:
        if not (config.baseline or config.sanity):
            labels.setdefault(config.name, {})[config.label] = None
    return {name: list(several) for name, several in labels.items() if len(several) > 1}


def selected(request: RunRequest) -> list[str]:
    """Return the names of all variants of a request, those of the baseline and the reference rows too."""
    return list(dict.fromkeys(name for name, _ in _selectors(request)))


def _settings(texts: tuple[str, ...], names: set[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the `--set` values for all variants (`*.`), and those of each variant."""
    everywhere: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        variant, dot, key = target.strip().rpartition(".")
        if not equals or not dot or not key or not value.strip():
            raise UsageError(
                f"--set {text!r} isn't VARIANT.NAME=VALUE",
                fix="For example: --set beta.beta=10, or --set '*.latent_dim=8' for all that take it.",
            )
        matches = [n for n in names if variant in (n, n.partition("@")[0])]
        if variant == "*":
            everywhere[key] = value.strip()
        elif len(matches) == 1:
            own.setdefault(matches[0], {})[key] = value.strip()
        else:
            raise UnknownName("variant in this run", variant, {*names, "*"})
    return everywhere, own


@dataclass(frozen=True)
class Cell:
    """One variant on one dataset with one seed, and all that its result depends on."""

    config: Config
    data: Data
    spec: Spec
    seed: int
    training: Training
    hyperparameters: Mapping[str, Any]
    steps: tuple[int, ...]  #: of each stage
    parameters: int
    unsuitable: str = ""  #: why it will be skipped
    scoring: Scoring = field(default_factory=Scoring)
    stacked: tuple[int, ...] = ()  #: the seeds that are trained in one pass, its own among them; () for one seed alone
    at: str = ""  #: its folder, where that was named when the same images had another name

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that the weights depend on, except the machine and its threads; hashed into the cell's name."""
        return {
            "variant": self.config.name,
            "plugin": unversioned(plugin_of(self.config.name)),
            **({"parts": parts} if (parts := {k: unversioned(p) for k, p in parts_of(self.config).items()}) else {}),
            "engine": ENGINE,
            "hyperparameters": {k: list(v) if isinstance(v, tuple) else v for k, v in self.hyperparameters.items()},
            "likelihood": self.spec.likelihood,
            "train": self.data.train.digest,
            "seed": self.seed,
            "training": self.training.document(),
            **({"stacked": list(self.stacked)} if self.stacked else {}),
        }

    @property
    def together(self) -> tuple[Cell, ...]:
        """The cells that are trained in one pass, in the order of `stacked`; this cell alone without a stack."""
        return tuple(self if seed == self.seed else replace(self, seed=seed, at="") for seed in self.stacked) or (self,)

    @cached_property
    def name(self) -> str:
        """Its folder's name: readable, safe on any file system, and one for each identity."""
        return self.at or slug(f"{self.config.label}-{self.data.name}-s{self.seed}", digest(self.identity))

    def in_folder(self, name: str) -> Cell:
        """Return this cell in the folder `name`, if that ends with the cell's own digest; else as it is."""
        return replace(self, at=name) if name.rpartition("-")[2] == digest(self.identity)[:12] else self


def slug(text: str, identity: str) -> str:
    """Return a readable name for a folder, safe whatever `text` holds; `identity` is a hexadecimal digest."""
    return f"{re.sub(r'[^a-z0-9._=-]+', '_', text.lower()).strip('._-')[:80]}-{identity[:12]}"


def unscored_row(c: Cell, status: Status, reason: str = "") -> Row:
    """Return a cell's row without scores."""
    return Row(
        variant=c.config.name,
        label=c.config.label,
        dataset=c.data.name,
        seed=c.seed,
        status=status,
        reason=reason,
        hyperparameters=dict(c.hyperparameters),
        likelihood=c.spec.likelihood,
        uses_labels=c.config.cls.uses_labels,
        baseline=c.config.baseline,
        sanity=c.config.sanity,
        steps=c.steps,
        stacked=c.stacked,
        plugin=plugin_of(c.config.name),
        parts=parts_of(c.config),
        engine=ENGINE,
        data=describe(c.data),
        training=c.training.document(),
        cell=c.name,
    )


def describe(data: Data) -> dict[str, Any]:
    """Return what a row tells of its data: sizes, and digests of both splits."""
    return {
        "shape": list(data.train.shape),
        "classes": data.classes,
        "latent_dim": data.latent_dim,
        "train": data.train.digest,
        "test": data.test.digest,
        "train_images": len(data.train),
        "test_images": len(data.test),
    }


def cell(config: Config, data: Data, seed: int, request: RunRequest) -> Cell:
    """Return a cell with everything about it settled; its model is built once.

    Raises:
        UsageError: no such likelihood.
        PluginError: the variant can't be built.
    """
    spec = spec_of(data, request)
    steps = request.steps or data.steps
    if request.epochs is not None:
        steps = max(1, -int(-request.epochs * len(data.train) // request.batch_size))
    training = Training(
        steps,
        request.batch_size,
        precision=request.precision,
        compile=request.compile,
        limit=data.limit,
        validation=data.validation,
    )
    values = {name: h.default for name, h in hyperparameters(config.cls).items()} | dict(config.given)
    spec.make_likelihood()  # a wrong name is the user's mistake, not the variant's
    try:
        model = config.build(spec)
        stages = config.stages(model, spec)
    except Unsuitable as reason:
        return Cell(config, data, spec, seed, training, values, (), 0, str(reason), request.scoring)
    for name, value in values.items():
        if value is None:
            settled = [getattr(model, n, None) for n in (name, f"{name}_")]
            values[name] = next((s for s in settled if isinstance(s, int | float | str | tuple)), None)
    parameters = sum(p.numel() for p in model.parameters())
    planned = stage_steps(stages, steps)
    return Cell(config, data, spec, seed, training, values, planned, parameters, scoring=request.scoring)


def spec_of(data: Data, request: RunRequest) -> Spec:
    """Return the spec that variants are built for on a dataset."""
    return Spec(data.train.shape, data.classes, len(data.train), data.latent_dim, request.likelihood or data.likelihood)


def load_data(text: str, request: RunRequest, *, download: bool = False, on_progress: Progress | None = None) -> Data:
    """Load the dataset that `text` names, with the request's limit, validation images, split and image size.

    Raises:
        UsageError, DataError: as `bench.data.load`.
    """
    return datasets.load(
        text,
        datasets.data_root(request.data_root),
        limit=request.limit,
        validation=request.validation,
        split=request.scoring.split,
        image_size=request.image_size,
        download=download,
        on_progress=on_progress,
    )


def plugin_of(name: str) -> dict[str, str]:
    """Return the distribution that a variant comes from, its version, and a digest of its source."""
    cls: Any = VARIANTS.load(name)
    return _plugin(VARIANTS.entry(name), cls)


def parts_of(config: Config) -> dict[str, dict[str, str]]:
    """Return the plugins that hyperparameters name, without the suite's own, which belong to its engine."""
    parts = {}
    for name, h in hyperparameters(config.cls).items():
        value = dict(config.given).get(name, h.default)
        if h.group is not None and value is not None:
            registry = Registry[Any](h.group, name)
            if (entry := registry.entry(value)).distribution != OURS:
                parts[name] = _plugin(entry, registry.load(value))
    return parts


@cache
def _plugin(entry: Entry, obj: Hashable) -> dict[str, str]:
    return {"distribution": entry.distribution, "version": entry.version, "source": _source(entry, obj)}


def _source(entry: Entry, obj: Any) -> str:
    """Return a digest of the files that define an object and its bases, and of what these import of their packages.

    A class without a file, as in a notebook, counts as a new one each time it is handed over: its cells are never
    reused.

    Raises:
        UsageError: the source of an installed plugin can't be read.
    """
    files: dict[Path, None] = {}
    stamp = ""
    for cls in getattr(obj, "__mro__", (obj,)):
        module = getattr(cls, "__module__", "")
        engine = module.partition(".")[0] == "bench" and not module.startswith(f"{VARIANTS.group}.")
        if engine or module.partition(".")[0] in ("torch", "builtins", "abc", "typing"):
            continue  # `ENGINE` stands for the suite's own code
        if (file := source.file_of(cls)) is not None:
            files |= dict.fromkeys(source.closure(file))
        elif isinstance(entry, Live):
            stamp = entry.stamp
        else:
            raise UsageError(
                f"the source of {entry.name} can't be read, and a result is named after it",
                cause=f"No Python file defines {getattr(cls, '__qualname__', cls)}.",
                fix="Put it into a file.",
            )
    return source.digest(files, stamp)


def unversioned(plugin: Mapping[str, str]) -> dict[str, str]:
    """Return a plugin's description without its version: a new release with the same code gives the same weights."""
    return {name: value for name, value in plugin.items() if name != "version"}
