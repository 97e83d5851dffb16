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
from bench.contracts.dataset import Data
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
    """A variant with its hyperparameters, as asked for."""

    name: str
    given: tuple[tuple[str, Any], ...] = ()
    baseline: bool = False
    sanity: bool = False

    @property
    def cls(self) -> type[Variant]:
        return VARIANTS.load(self.name)

    @property
    def label(self) -> str:
        """The name with what differs from its defaults: `beta[beta=10]`."""
        known = hyperparameters(self.cls)
        changed = [f"{k}={show(v)}" for k, v in self.given if v != known[k].default]
        return f"{self.name}[{','.join(changed)}]" if changed else self.name

    def build(self, spec: Spec, seed: int = 0) -> Variant:
        """A fresh model on the CPU; the weights depend on `seed` alone, not on what was built before.

        Raises:
            Unsuitable: the variant can't take this dataset.
            PluginError: its constructor raised.
        """
        with self._building(spec):
            return fresh(self.cls, spec, seed, **dict(self.given))

    def stages(self, model: Variant, spec: Spec) -> tuple[Stage, ...]:
        """The stages of a model that was built for `spec`.

        Raises:
            Unsuitable, PluginError: as there.
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


def fresh(cls: type[Variant], spec: Spec, seed: int = 0, **hyperparameters: Any) -> Variant:
    """A model as every cell gets it, on the CPU; raises what its constructor raises."""
    with seeded(seed_for("init", seed), torch.device("cpu")):
        model = cls(spec, **hyperparameters)
    lay_out(model)
    return model


def expand(request: RunRequest, faults: dict[str, PluginError] | None = None) -> list[Config]:
    """The variants of a request, grids multiplied out, with the baseline last.

    `--backbone` and `*.` settings reach every variant that takes them; a variant's own `--set` is stronger, and a
    selector's bracket the strongest.

    Args:
        faults: variants that are known not to work are left out; those that can't be loaded are added.

    Raises:
        UsageError: an unknown name, or a value that doesn't fit.
        PluginError: a variant can't be loaded, and there is no `faults` to note it in.
    """
    wanted = _selectors(request)
    everywhere, own = _settings(request.set, {name for name, _ in wanted})
    if faults is not None:
        wanted = [(name, bracket) for name, bracket in wanted if _loads(name, faults)]
    taken: set[str] = set()
    configs: dict[Config, None] = {}
    for name, bracket in wanted:
        cls = VARIANTS.load(name)
        known = hyperparameters(cls)
        lifted = {k: v for k, v in everywhere.items() if k in known}
        taken |= lifted.keys()
        if request.backbone is not None and "backbone" in known:
            taken.add("backbone")
            try:
                lifted["backbone"] = known["backbone"].parse(request.backbone)
            except UsageError:  # it has networks of its own
                lifted.pop("backbone", None)
        values = {**lifted, **own.get(name, {}), **bracket}
        axes = [[(k, v) for v in (text.split("|") if isinstance(text, str) else [text])] for k, text in values.items()]
        for point in product(*axes):
            checked = check(name, cls, dict(point))
            given = tuple(sorted((k, v) for k, v in checked.items()))
            configs[Config(name, given, name == default("baseline"), name in sanity())] = None
    for key in everywhere.keys() - taken:
        every = {h for name, _ in wanted for h in hyperparameters(VARIANTS.load(name))}
        raise UnknownName("hyperparameter of any variant in this run", key, every)
    if request.backbone is not None:
        from bench.blocks.backbone import BACKBONES

        BACKBONES.load(request.backbone)
    return list(configs)


def words(request: RunRequest) -> Iterator[str]:
    """Yield all that may name a plugin in a request, such as './mine.py:Mine': what its user hands over with it.

    Raises:
        UsageError: brackets that don't match, or what is no dataset.
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
    texts = request.variants or tuple(n for n in VARIANTS if n != default("baseline") and n not in sanity())
    wanted: list[tuple[str, dict[str, Any]]] = []
    places: dict[str, str] = {}
    for text, bracket in map(selector, texts):
        entry = VARIANTS.entry(text)
        name, place = VARIANTS.key(entry), entry.value
        if places.setdefault(name, place) != place:
            raise UsageError(
                f"two variants in this run would be called {name!r}",
                cause=f"{places[name]} and {place}.",
                fix="Rename one of the files, or run them apart.",
            )
        wanted.append((name, dict(bracket)))
    baseline = default("baseline") if request.baseline else None
    if baseline is not None and baseline not in {name for name, _ in wanted} and baseline in VARIANTS:
        wanted.append((baseline, {}))
    if request.sanity:
        wanted += [(name, {}) for name in sanity() if name in VARIANTS and name not in {n for n, _ in wanted}]
    return wanted


def sanity() -> tuple[str, ...]:
    """The variants that show what no model, or a trivial one, comes to."""
    return tuple(name for role, name in sorted(defaults().items()) if role.startswith("sanity"))


def tuned(configs: Iterable[Config]) -> dict[str, list[str]]:
    """The variants that come in several settings, however these were asked for, and their labels; anchors apart."""
    labels: dict[str, dict[str, None]] = {}
    for config in configs:
        if not (config.baseline or config.sanity):
            labels.setdefault(config.name, {})[config.label] = None
    return {name: list(found) for name, found in labels.items() if len(found) > 1}


def selected(request: RunRequest) -> list[str]:
    """The names of the variants that a request asks for, the baseline's among them."""
    return list(dict.fromkeys(name for name, _ in _selectors(request)))


def _loads(name: str, faults: dict[str, PluginError]) -> bool:
    if name not in faults:
        try:
            VARIANTS.load(name)
        except PluginError as error:
            faults[name] = error
    return name not in faults


def _settings(texts: tuple[str, ...], names: set[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
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
        if variant == "*":
            everywhere[key] = value.strip()
        elif len(found := {n for n in names if variant in (n, n.partition("@")[0])}) == 1:
            own.setdefault(found.pop(), {})[key] = value.strip()
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
    stacked: tuple[int, ...] = ()  #: the seeds that are trained in one pass, this one among them; () if it's alone
    at: str = ""  #: the folder that it has already, named when the same images were called otherwise

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What is hashed: all that the weights depend on, but for the machine and its threads."""
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
        """The cells that are trained in one pass, in the order of their seeds; this one if it's alone."""
        return tuple(self if seed == self.seed else replace(self, seed=seed, at="") for seed in self.stacked) or (self,)

    @cached_property
    def name(self) -> str:
        """Its folder: readable, safe on any file system, and one for each identity."""
        return self.at or slug(f"{self.config.label}-{self.data.name}-s{self.seed}", digest(self.identity))


def slug(text: str, identity: str) -> str:
    """A folder's name that people can read, safe wherever `text` comes from."""
    return f"{re.sub(r'[^a-z0-9._=-]+', '_', text.lower()).strip('._-')[:80]}-{identity[:12]}"


def blank(c: Cell, status: Status, reason: str = "") -> Row:
    """A cell's row before it has a score."""
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
        data={
            "shape": list(c.spec.shape),
            "classes": c.data.classes,
            "latent_dim": c.spec.latent_dim,
            "train": c.data.train.digest,
            "test": c.data.test.digest,
            "train_images": len(c.data.train),
            "test_images": len(c.data.test),
        },
        training=c.training.document(),
        cell=c.name,
    )


def cell(config: Config, data: Data, seed: int, request: RunRequest) -> Cell:
    """Settle everything about a cell, by building its model once."""
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
    spec.make_likelihood()  # a wrong one is the user's mistake, not the variant's
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


def plugin_of(name: str) -> dict[str, str]:
    """The distribution that a variant comes from, its version, and a digest of its source."""
    cls: Any = VARIANTS.load(name)
    return _plugin(VARIANTS.entry(name), cls)


def parts_of(config: Config) -> dict[str, dict[str, str]]:
    """The plugins that hyperparameters name, such as networks of the user's own; the suite's are part of its engine."""
    found = {}
    for name, h in hyperparameters(config.cls).items():
        value = dict(config.given).get(name, h.default)
        if h.group is not None and value is not None:
            registry = Registry[Any](h.group, name)
            if (entry := registry.entry(value)).distribution != OURS:
                found[name] = _plugin(entry, registry.load(value))
    return found


def _is_engine(module: str) -> bool:
    """Return whether a module is the suite's own, for which `ENGINE` stands, and holds no plugins."""
    return module.partition(".")[0] == "bench" and not module.startswith(f"{VARIANTS.group}.")


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
        if module.partition(".")[0] in ("torch", "builtins", "abc", "typing") or _is_engine(module):
            continue
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
    """Return what of a plugin's description its weights depend on: a new release with the same code changes none."""
    return {name: value for name, value in plugin.items() if name != "version"}
