"""`bench run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.cli import completion
from bench.cli.options import Datasets, Duration, Names, Seeds, Shard, is_of_a_run, read_config
from bench.cli.verbs.common import INTEGRITY, STOPPED, THRESHOLD, UNFINISHED, plugins, print_json, print_rows, say

if TYPE_CHECKING:
    from bench.contracts.protocol import RunRequest
    from bench.contracts.row import Row


_OF_A_RUN = "bench.config.of_a_run"  # whether --config names what a run wrote down itself


def _config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        settings = read_config(path)
        ctx.default_map = {**(ctx.default_map or {}), **settings}
        ctx.meta[_OF_A_RUN] = is_of_a_run(path, settings)
    return path


@click.command(
    epilog="""\b
Examples:
  bench run --variants vae,beta,vqvae --dataset fashion --seeds 3
  bench run --variants "beta[beta=1|4|10],vae" --dataset mnist,fashion
  bench run --set beta.beta=10 --set '*.latent_dim=8' --backbone conv
  bench run --dataset folder:./my-images --image-size 64 --dry-run
  bench run --config results/monday/run.json --seeds 5

A run that was interrupted is finished by the same command; more variants, seeds or metrics extend it."""
)
@click.option(
    "--variants",
    type=Names(),
    default=(),
    help="Names or selectors, by commas. All by default.",
    shell_complete=completion.variants,
)
@click.option(
    "--dataset",
    "datasets",
    type=Datasets(),
    default=(),
    help="Names, folder:PATH or npz:PATH, by commas.",
    shell_complete=completion.datasets,
)
@click.option("--seeds", type=Seeds(), default="1", help="3 means 0,1,2.  [default: 1]")
@click.option("--steps", type=int, help="Optimiser steps of a stage. By default the dataset's budget.")
@click.option("--epochs", type=float, help="The budget in passes over the training split, instead of --steps.")
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--set", multiple=True, metavar="VARIANT.NAME=VALUE", help="A hyperparameter; '*' is all variants.")
@click.option(
    "--backbone",
    help="The networks of all variants that take one, such as mlp or conv.",
    shell_complete=completion.backbones,
)
@click.option("--likelihood", help="p(x|z) for all variants. By default bernoulli for grey, logistic for colour.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the products of matrices in training; the rest of it is fp32.",
)
@click.option("--compile", is_flag=True, help="Compile losses by torch.compile; on a GPU with CUDA graphs.")
@click.option("--stack-seeds", is_flag=True, help="Train all seeds of a variant in one pass: for GPUs.")
@click.option("--limit", type=int, help="Train on a random subset of this size; marked in every row.")
@click.option(
    "--validation",
    type=int,
    default=0,
    help="Images to carve out of the training split.  [default: a sixth where they are scored, else none; of a "
    "validation split that a dataset has itself, all]",
)
@click.option("--image-size", type=int, help="Side to which the images of a folder are brought.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Cells at once, each in its own process.")
@click.option("--threads", type=int, help="CPU threads of a cell. By default the cores divided by --jobs.")
@click.option("--timeout", type=Duration(), help="Stop a cell after this long, with a checkpoint: 90s, 30m, 12h.")
@click.option(
    "--stall", type=Duration(), default=1800.0, help="A cell hangs if it's silent for so long.  [default: 30m]"
)
@click.option("--checkpoint", type=Duration(), default=60.0, help="How often to keep a checkpoint.  [default: 60s]")
@click.option("--fail-fast", is_flag=True, help="Stop at the first cell that fails.")
@click.option("--fail-if", multiple=True, metavar="[LABEL:]METRIC<VALUE", help="Exit with 6 if a row is so; or >.")
@click.option("--retry-failed", is_flag=True, help="Try cells again that failed or diverged.")
@click.option("--force", is_flag=True, help="Train and score anew what is there already.")
@click.option("--shard", type=Shard(), metavar="I/N", help="Only the I-th of N parts of the cells, for job arrays.")
@click.option(
    "--executor", help="Who runs the cells: local (the default), ray, ...", shell_complete=completion.executors
)
@click.option("--address", help="The cluster of an executor that has one.")
@click.option("--gpus-per-cell", type=float, default=0.0, help="The share of a GPU that an executor reserves.")
@click.option("--in-process", is_flag=True, help="Without processes of their own, one by one: for debugging.")
@click.option(
    "--data-root", type=str, metavar="DIR", help="Where datasets lie; else BENCH_DATA, else the user's cache."
)
@click.option("--baseline/--no-baseline", default=True, help="Whether the untuned anchor joins.  [default: it does]")
@click.option(
    "--sanity/--no-sanity", default=True, help="Whether real data and trivial models join.  [default: they do]"
)
@click.option(
    "--metrics",
    type=Names(),
    default=(),
    help="Those alone; or the default ones and more or fewer: --metrics=+linear_probe,-fid; or all.",
    shell_complete=completion.metrics,
)
@click.option(
    "--eval-split",
    type=click.Choice(["test", "validation"]),
    help="What is scored.  [default: validation for grids over hyperparameters, else test]",
)
@click.option("--nll-samples", type=int, default=100, show_default=True, help="Importance samples an image.")
@click.option("--nll-images", type=int, default=1_000, show_default=True, help="Images that `nll` is estimated on.")
@click.option(
    "--logger",
    type=Names(),
    default=(),
    help="Also log to: tensorboard, mlflow, ...; into the run's folder.",
    shell_complete=completion.loggers,
)
@click.option(
    "--inception-precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of FID's and KID's network: bf16 is another protocol, whose rows compare with each other alone.",
)
@click.option("--out", metavar="DIR", help="The run's folder. By default one under results/, named by the request.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=_config,
    help="Settings from a JSON or YAML file; what is typed beside it wins.",
)
@plugins()
@click.option("--profile", is_flag=True, help="Trace some steps of each cell that is trained; say where time went.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON to stdout, and nothing else there.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    config: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    fail_if: tuple[str, ...],
    **settings: Any,
) -> int:
    """Train and score variants.

    What is on disk already isn't done again.
    """
    from bench.running.executors.local import Local

    local = Local(settings["jobs"])
    ctx.call_on_close(local.close)
    if not (dry_run or settings["in_process"]):
        local.warm()  # while we load the same
    from bench.contracts.logger import logged
    from bench.contracts.protocol import RunRequest
    from bench.running import planning, runner
    from bench.show.console import print_plan
    from bench.show.progress import Console
    from bench.tables.threshold import Threshold

    request = RunRequest(**_settle(ctx, settings))
    _hand_over(ctx, request)
    if dry_run:
        plan = planning.plan(request)
        print_json([cell.as_json() for cell in plan.cells]) if as_json else print_plan(plan)
        return 0
    thresholds = [Threshold.parse(text) for text in fail_if]
    stopped = 0
    with Console(quiet=quiet) as display, logged(request.logger, display, display.warn) as listener:
        try:
            rows = runner.run(request, listener, local)
        except runner.Interrupted as stop:
            rows, stopped = stop.rows, stop.exit_code
    print_rows(rows, as_json, display.folder)
    if request.profile:
        _print_profiles(Path(display.folder), rows)
    if stopped:
        click.echo(STOPPED, err=True)
        return stopped
    if any(row.conflict for row in rows):
        return INTEGRITY
    if {row.status for row in rows} - {"ok", "skipped"}:
        return UNFINISHED
    crossed = [line for threshold in thresholds for line in threshold.crossed(rows)]
    for line in crossed:
        say(line, err=True)
    return THRESHOLD if crossed else 0


def _print_profiles(folder: Path, rows: Sequence[Row]) -> None:
    from bench.engine.profiling import printed, profiles
    from bench.show import console

    named = {row.cell: f"{row.label} {row.dataset} s{row.seed}" for row in rows}
    found = profiles(folder / "cells", list(named.items()))
    for one in found:
        for part in printed(one):
            console.err().print(part, soft_wrap=isinstance(part, str))
    if len(found) < len(rows):
        missing = f"{len(rows) - len(found)} of {len(rows)} cells have no profile"
        click.echo(f"{missing}: what isn't trained, or for too few steps, has none (--force trains anew)", err=True)


def _hand_over(ctx: click.Context, request: RunRequest) -> None:
    """Hand over the code that the request names; of what a run wrote down itself, what is typed beside it alone."""
    from bench.plugins.unpublished import hand_over
    from bench.running.grid import words

    if ctx.meta.get(_OF_A_RUN):
        read = {f.name for f in fields(request) if ctx.get_parameter_source(f.name) is ParameterSource.DEFAULT_MAP}
        request = type(request)(**{name: value for name, value in vars(request).items() if name not in read})
    hand_over(words(request))


def _settle(ctx: click.Context, settings: dict[str, Any]) -> dict[str, Any]:
    """Typed settings win over a configuration's: --steps also over its epochs, --epochs over its steps."""
    typed = {n for n in ("steps", "epochs") if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE}
    if len(typed) == 1:
        settings[({"steps", "epochs"} - typed).pop()] = None
    from bench.contracts.protocol import RunRequest

    known = {f.name for f in fields(RunRequest)}
    return {name: value for name, value in settings.items() if name in known}
