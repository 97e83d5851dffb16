"""The paragraph on methods that a paper needs for a table, written from its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bench.contracts.row import Row
from bench.util.wording import counted, listed, natural, seeds_in_words

if TYPE_CHECKING:
    from bench.tables.choices import Choice


def methods(rows: Iterable[Row], choices: Iterable[Choice] = ()) -> str:
    """Return a paragraph for each dataset: data, training, choice of settings, scoring, software, and failures.

    Values that differ between rows are given with their labels. The order of `rows` does not matter.

    Args:
        choices: those that `rows` are the winners of.
    """
    choices = sorted(choices, key=lambda choice: natural(choice.variant))
    rows = sorted(rows, key=lambda row: (natural(row.dataset), row.sanity, row.baseline, natural(row.label), row.seed))
    return "\n\n".join(
        _paragraph([r for r in rows if r.dataset == name], [c for c in choices if c.dataset == name])
        for name in dict.fromkeys(row.dataset for row in rows)
    )


def _paragraph(rows: Sequence[Row], choices: Sequence[Choice]) -> str:
    ok = [row for row in rows if row.status == "ok"]
    sentences = [_cells(rows)]
    if ok:
        trained = [row for row in ok if any(row.steps)]
        sentences += [_data(ok), _training(trained) if trained else "", _tuning(choices), _scoring(ok), _software(ok)]
    return " ".join(sentence for sentence in [*sentences, _failures(rows)] if sentence)


def _cells(rows: Sequence[Row]) -> str:
    own = list(dict.fromkeys(row.label for row in rows if not row.reference))
    references = list(dict.fromkeys(row.label for row in rows if row.reference))
    beside = f", with {listed(references)} for reference" if references and own else ""
    seeds = {row.label: sorted({r.seed for r in rows if r.label == row.label}) for row in rows}
    each = _each(rows, lambda r: seeds[r.label], seeds_in_words)
    return f"{rows[0].dataset}: {listed(own or references)}{beside}, {each}."


def _data(rows: Sequence[Row]) -> str:
    images = _each(rows, _of("data", "train_images"), lambda n: f"{n:,}")
    shape = _each(rows, lambda r: tuple(r.data.get("shape", ())), lambda s: " x ".join(map(str, s)))
    tested = _each(rows, lambda r: r.scored_images, lambda n: f"{n:,}")
    split = _each(rows, _of("scoring", "split"), str)
    digests = _each(rows, _of("data", "train"), lambda d: f"sha256 {d[:12]}")
    held = _each(rows, lambda r: r.validation_images, _held_out)
    beside = f", {held}" if any(r.validation_images for r in rows) else ""
    scored = f"; scored on {tested} of the {split or 'test'} split" if tested else ""
    return f"Trained on {images} images ({_joined(shape, digests)}){beside}{scored}." if images else ""


def _held_out(n: int) -> str:
    return f"{n:,} more held out for validation" if n else "none held out"


def _training(rows: Sequence[Row]) -> str:
    t = [
        _each(rows, lambda r: r.steps_text, lambda text: f"{text} steps"),
        _each(rows, _of("training", "batch_size"), lambda n: f"batches of {n}"),
        _each(rows, _of("training", "optimizer"), str.capitalize),
        _each(rows, _of("training", "lr"), lambda lr: f"learning rate {lr:g}"),
        _each(rows, _of("training", "precision"), str),
        _each(rows, lambda r: "losses compiled" if r.training.get("compile") else "", str),
        _each(rows, lambda r: "all seeds in one pass (stacked)" if r.stacked else "", str),
        _each(rows, lambda r: r.likelihood, lambda text: f"{text} likelihood"),
        _each(rows, _of("hyperparameters", "latent_dim"), lambda d: f"{d} latent dimensions"),
    ]
    return f"Protocol: {'; '.join(filter(None, t))}; the last step is scored, and no checkpoint is chosen."


def _tuning(choices: Sequence[Choice]) -> str:
    """Return which settings were chosen, by which metric, out of how many."""
    several = [choice for choice in choices if len(choice.settings) > 1]
    if not several:
        return ""
    found = [f"{c.winner.label if c.winner else f'no {c.variant}'} out of {len(c.settings)}" for c in several]
    single = "; variants with a single setting are untuned" if len(several) < len(choices) else ""
    by = [f"{c.metric} ({counted(c.seeds, 'seed')})" for c in several]
    if len(set(by)) == 1:
        return f"Settings chosen by mean validation {by[0]}: {listed(found)}{single}."
    each = listed(f"{text} by {how}" for text, how in zip(found, by, strict=True))
    return f"Settings chosen by means on validation images: {each}{single}."


def _scoring(rows: Sequence[Row]) -> str:
    found = [
        _each(rows, _of("scoring", "samples"), "{:,} samples, decoder means".format),
        _each(rows, _of("scoring", "mixture"), "a mixture of {} Gaussians fitted on codes as second sampler".format),
        _each(rows, _weighed, lambda kn: "{:,} importance samples for each of {:,} images".format(*kn)),
    ]
    version = _each(rows, _of("scoring", "version"), lambda v: f"protocol version {v}")
    return f"Scoring: {'; '.join(filter(None, [*found, version]))}." if any(found) else ""


def _weighed(row: Row) -> tuple[int, int] | None:
    """Return the number of importance samples, and of the images that they are drawn for."""
    k, n = row.scoring.get("nll_samples"), row.scoring.get("nll_images")
    there = row.scored_images
    return (k, n if there is None else min(n, there)) if k and n else None


def _software(rows: Sequence[Row]) -> str:
    named = {"vaebench": "vaebench {}", "torch": "torch {}", "python": "Python {}", "device": "on {}"}
    found = [_each(rows, _of("provenance", key), text.format) for key, text in named.items()]
    threads = _each(rows, _of("provenance", "threads"), lambda n: counted(n, "thread") + " a cell")
    plugins = sorted({f"{r.plugin['distribution']} {r.plugin.get('version', '')}".strip() for r in rows if r.plugin})
    others = [text for text in plugins if not text.startswith("vaebench ")]
    beside = f"variants from {listed(others)}" if others else ""
    return f"Made with {_joined(*found, threads, beside)}."


def _failures(rows: Sequence[Row]) -> str:
    counts = Counter((row.label, row.status) for row in rows if row.status != "ok")
    if not counts:
        return "Every cell finished."
    return (
        "Without a result: "
        + listed(f"{counted(n, 'seed')} of {label} ({s})" for (label, s), n in counts.items())
        + "."
    )


def _each(rows: Sequence[Row], value: Callable[[Row], Any], text: Callable[[Any], str]) -> str:
    """Return the value that all rows have, or each value with its rows, the most common one first.

    'text' is true of all, 'text (only b)' and 'text (not b)' of some, 'text (b: other)' of all but b.
    """
    by_value: dict[Any, list[Row]] = {}
    without: list[Row] = []
    for row in rows:
        found = value(row)
        known = tuple(found) if isinstance(found, list) else found
        (without if known in (None, "", ()) else by_value.setdefault(known, [])).append(row)
    if not by_value:
        return ""
    first, *others = sorted(by_value, key=lambda v: (-len(by_value[v]), text(v)))
    if not others and len(without) > len(by_value[first]):
        return f"{text(first)} (only {_whose(by_value[first], rows)})"
    apart = [f"{_whose(by_value[v], rows)}: {text(v)}" for v in others]
    apart += [f"not {_whose(without, rows)}"] if without else []
    return f"{text(first)} ({', '.join(apart)})" if apart else text(first)


def _whose(some: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return the labels of some rows, with their seeds where other rows of that label aren't among them."""
    seeds: dict[str, list[int]] = {}
    for row in some:
        seeds.setdefault(row.label, []).append(row.seed)
    every = Counter(row.label for row in rows)
    whole = {label: len(of) == every[label] for label, of in seeds.items()}
    return listed(name if whole[name] else f"{name} {seeds_in_words(sorted(set(of)))}" for name, of in seeds.items())


def _of(part: str, key: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row, part).get(key)


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))
