"""The command `bench run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.cli import completion
from bench.cli.options import Datasets, Duration, Seeds, Shard, is_of_a_run, names, read_config
from bench.cli.sections import Sectioned, examples
from bench.cli.verbs.common import (
    INTEGRITY,
    STOPPED,
    THRESHOLD,
    UNFINISHED,
    data_root,
    plugins,
    print_json,
    print_rows,
    say,
)

if TYPE_CHECKING:
    from bench.contracts.protocol import RunRequest
    from bench.contracts.row import Row


_PRECISION = click.Choice(["fp32", "bf16"])
_OF_A_RUN = "bench.config.of_a_run"  # key in a context's meta: a run wrote the file that --config names


class _Run(Sectioned):
    """The command, with hints for options that people type and that don't exist."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [name for param in self.params for name in param.opts]
            wanted = "--variants" if error.option_name in ("--model", "--models") else error.option_name
            error.possibilities = get_close_matches(wanted, known, cutoff=0.75)
            if not error.possibilities:
                error.message += " Set a hyperparameter by --set, for example --set beta.beta=10."
            raise


def _config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        settings = read_config(path)
        ctx.default_map = {**(ctx.default_map or {}), **settings}
        ctx.meta[_OF_A_RUN] = is_of_a_run(path, settings)
    return path


@click.command(
    cls=_Run,
    sections={
        "variants": "What to train",
        "limit": "Data",
        "steps": "Training",
        "metrics": "Scores",
        "device": "Machine",
        "timeout": "Interruptions and failures",
        "out": "Output",
    },
    epilog=examples(
        "run --variants vae,beta,vqvae --dataset fashion --seeds 3",
        'run --variants "beta[beta=1|4|10],vae" --dataset mnist,fashion',
        "run --set beta.beta=10 --set '*.latent_dim=8' --backbone conv",
        "run --dataset folder:./my-images --image-size 64 --dry-run",
        "run --config results/monday/run.json --seeds 5",
        then="The same command finishes a run that was interrupted. More variants, seeds or metrics extend it.",
    ),
)
@names(
    "--variants",
    completion.variants,
    "Comma-separated variants, settings in brackets: vae,beta[beta=1|4].  [default: all]",
)
@click.option(
    "--dataset",
    "datasets",
    type=Datasets(),
    default=(),
    help="Comma-separated datasets: names, folder:PATH or npz:PATH.  [default: the embedded one]",
    shell_complete=completion.datasets,
)
@click.option(
    "--seeds", type=Seeds(), default="1", help="Number of seeds (3 means 0,1,2) or a list: 0,7.  [default: 1]"
)
@click.option(
    "--set", multiple=True, metavar="VARIANT.NAME=VALUE", help="Set a hyperparameter; * means all variants. Repeatable."
)
@click.option(
    "--backbone",
    help="Networks of all variants that accept a backbone: mlp, conv, ...",
    shell_complete=completion.backbones,
)
@click.option(
    "--likelihood", help="Pixel likelihood p(x|z) of all variants.  [default: bernoulli for grey, logistic for colour]"
)
@click.option(
    "--baseline/--no-baseline", default=True, help="Add the baseline, which is not ranked.  [default: baseline]"
)
@click.option(
    "--sanity/--no-sanity",
    default=True,
    help="Add the reference rows: real images, mean image, PPCA.  [default: sanity]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=_config,
    help="Read settings from a JSON or YAML file; options on the command line take precedence.",
)
@plugins()
@click.option("--limit", type=int, metavar="N", help="Train on a random subset of N images; every row says so.")
@click.option(
    "--validation",
    type=int,
    default=0,
    metavar="N",
    help="Hold out N training images for validation.  [default: if validation images are scored, a sixth, or the "
    "dataset's own validation split; else none]",
)
@click.option("--image-size", type=int, metavar="PIXELS", help="Resize the images of a folder to this side length.")
@data_root
@click.option("--steps", type=int, metavar="N", help="Optimiser steps of each stage.  [default: the dataset's budget]")
@click.option("--epochs", type=float, metavar="N", help="Passes over the training split, instead of --steps.")
@click.option("--batch-size", type=int, default=128, show_default=True, metavar="N", help="Images in a training batch.")
@click.option(
    "--precision", type=_PRECISION, default="fp32", show_default=True, help="Precision of matrix products in training."
)
@click.option("--compile", is_flag=True, help="Compile the losses with torch.compile; on a GPU with CUDA graphs.")
@click.option("--stack-seeds", is_flag=True, help="Train all seeds of a variant in one pass; faster on a GPU.")
@names(
    "--metrics",
    completion.metrics,
    "Comma-separated metrics. +NAME and -NAME add to or remove from the default set, as in "
    '--metrics=+linear_probe,-fid; "all" computes every metric.',
)
@click.option(
    "--eval-split",
    type=click.Choice(["test", "validation"]),
    help="Split that is scored.  [default: validation if a variant has several settings, else test]",
)
@click.option(
    "--nll-samples",
    type=int,
    default=100,
    show_default=True,
    metavar="N",
    help="Importance samples per image for `nll`.",
)
@click.option(
    "--nll-images", type=int, default=1_000, show_default=True, metavar="N", help="Images that `nll` is computed on."
)
@click.option(
    "--inception-precision",
    type=_PRECISION,
    default="fp32",
    show_default=True,
    help="Precision of the network of FID and KID; bf16 rows are comparable only with each other.",
)
@click.option(
    "--fail-if",
    multiple=True,
    metavar="[LABEL:]METRIC<VALUE",
    help="Exit with code 6 if a row's METRIC is below (<) or above (>) VALUE. Repeatable.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option(
    "--jobs", type=int, default=1, show_default=True, metavar="N", help="Cells at once, each in its own process."
)
@click.option("--threads", type=int, metavar="N", help="CPU threads of each cell.  [default: cores / --jobs]")
@click.option(
    "--executor",
    help="Plugin that starts the cells' processes: ray, ...  [default: local]",
    shell_complete=completion.executors,
)
@click.option("--address", help="Address of the executor's cluster, for example Ray's head node.")
@click.option(
    "--gpus-per-cell", type=float, default=0.0, metavar="SHARE", help="GPUs that an executor reserves for each cell."
)
@click.option("--shard", type=Shard(), metavar="I/N", help="Run only the I-th of N parts of the cells, for job arrays.")
@click.option("--in-process", is_flag=True, help="Run the cells one by one in this process, for debugging.")
@click.option("--timeout", type=Duration(), help="Stop a cell after this time (90s, 30m, 12h) and save a checkpoint.")
@click.option(
    "--stall",
    type=Duration(),
    default=1800.0,
    help="Treat a cell as hung after this long without progress.  [default: 30m]",
)
@click.option("--checkpoint", type=Duration(), default=60.0, help="Time between checkpoints.  [default: 60s]")
@click.option("--fail-fast", is_flag=True, help="Stop at the first cell that fails.")
@click.option("--retry-failed", is_flag=True, help="Run again the cells that failed or diverged.")
@click.option("--force", is_flag=True, help="Train and score again the cells that have results already.")
@click.option("--out", metavar="DIR", help="Folder of the run.  [default: one in results/, named by the request]")
@names(
    "--logger",
    completion.loggers,
    "Comma-separated loggers that also write into the run's folder: tensorboard, mlflow, ...",
)
@click.option(
    "--profile", is_flag=True, help="Trace some steps of each cell that is trained, and show where time goes."
)
@click.option("--dry-run", is_flag=True, help="Show what would be done; train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON to stdout, and nothing else there.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
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

    A cell (variant, dataset and seed) that has results in the run's folder is not trained again.
    """
    from bench.running.executors.local import Local

    local = Local(settings["jobs"])
    ctx.call_on_close(local.close)
    if not (dry_run or settings["in_process"]):
        local.warm()  # a process that imports torch while this one does
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
    """Allow code in the files that the request names to run; a `run.json` allows none, only the command line does."""
    from bench.plugins.unpublished import hand_over
    from bench.running.grid import words

    if ctx.meta.get(_OF_A_RUN):
        read = {f.name for f in fields(request) if ctx.get_parameter_source(f.name) is ParameterSource.DEFAULT_MAP}
        request = type(request)(**{name: value for name, value in vars(request).items() if name not in read})
    hand_over(words(request))


def _settle(ctx: click.Context, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `RunRequest`; a typed --steps also replaces the configuration's epochs, and vice versa."""
    typed = {n for n in ("steps", "epochs") if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE}
    if len(typed) == 1:
        settings[({"steps", "epochs"} - typed).pop()] = None
    from bench.contracts.protocol import RunRequest

    known = {f.name for f in fields(RunRequest)}
    return {name: value for name, value in settings.items() if name in known}
