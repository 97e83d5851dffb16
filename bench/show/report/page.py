"""The page: everything in one HTML file, with a policy that loads and runs nothing from outside of the file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.contracts.row import UNKNOWN, Row
from bench.plugins.registry import Registry
from bench.results.store import Run
from bench.show.progress import duration
from bench.show.report.chapter import chapter, described
from bench.show.report.exhibit import Originals
from bench.show.report.failures import APART, Failure, failures, gathered, missing
from bench.show.report.provenance import origin, settings
from bench.tables.summary import summary
from bench.util.durable import write_file, writing
from bench.util.text import plain

REPORT = "report.html"


def write(
    runs: Sequence[Run],
    path: Path,
    *,
    metrics: Sequence[str] = (),
    data_root: str | None = None,
    plugins: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Write the report of `runs` into one file. Equal runs give equal bytes.

    Args:
        metrics: the columns of the first table, as `bench.tables.columns.chosen` takes them; a second one has all.
        plugins: plugins of the cells that aren't installed, as `bench.load` takes them.
        say: is called with what is being done.

    Raises:
        UnknownName: there is no such metric.
        UsageError, PluginError: a plugin can't be loaded.
        StoreError: the file can't be written.
    """
    anything = Registry[Any]("", "plugin")
    for text in plugins:
        anything.load(anything.take(text))
    rows: list[Row] = []
    run_of: dict[int, Run] = {}
    failed: list[Failure] = []
    origins = []
    for run in runs:
        of_run, broken = gathered(run)
        rows += of_run
        run_of |= {id(row): run for row in of_run}
        failed += [*failures(run, of_run), *broken, *missing(run, of_run, broken)]
        origins.append(origin(run))
    known = [row for row in rows if row.dataset != UNKNOWN]
    originals, tables = Originals(data_root), zip(summary(known, metrics), summary(known, ("all",)), strict=True)
    chapters = [
        chapter(f"d{i}", table, full, [row for row in known if row.dataset == table.dataset],
                run_of, originals, plugins, say)
        for i, (table, full) in enumerate(tables)
    ]  # fmt: skip
    say("writing")
    html = rendered(
        names=[o.name for o in origins],
        chapters=chapters,
        failures=failed,
        begun=bool(rows or failed),
        origins=origins,
        settings=settings(rows),
        facts=_facts(rows, failed),
    )
    with writing(path.parent):
        write_file(path, plain(html, lines=True))  # logs and file names may have control characters


def _facts(rows: Sequence[Row], failed: Sequence[Failure]) -> dict[str, str]:
    """Return the facts below the title: cells, datasets, time and machines."""
    ok = [row for row in rows if row.status == "ok"]
    seconds = sum(row.costs.get("train_seconds", 0.0) for row in ok)
    ended = max((str(row.provenance.get("ended", "")) for row in rows), default="")
    machines = dict.fromkeys(
        f"{row.provenance.get('device_name') or row.provenance.get('device', '')}, torch {row.provenance.get('torch')}"
        for row in ok
        if row.provenance.get("torch")
    )
    apart = sum(failure.cells for failure in failed if failure.status in APART)
    facts = {
        "cells": f"{len(ok)} of {len(rows) + apart} finished",
        "datasets": ", ".join(dict.fromkeys(row.dataset for row in rows if row.dataset != UNKNOWN)),
        "training": duration(seconds) if seconds else "",
        "on": "; ".join(machines),
        "finished": f"{ended[:16].replace('T', ' ')} UTC" if ended else "",
    }
    return {name: value for name, value in facts.items() if value}


def rendered(**context: Any) -> str:
    """Return the page with its style and its script, which the policy allows by their hashes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    home = files("bench.show.report") / "page"
    style, script = ((home / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(
        loader=PackageLoader("bench.show.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"described": described}
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hashed(style)}'; script-src '{_hashed(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("page.html").render(style=style, script=script, policy=policy, **context)


def _hashed(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
