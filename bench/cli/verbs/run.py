"""The command `bench run`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.cli import completion
from bench.cli.options import Datasets, Duration, Seeds, Shard, flag, is_of_a_run, names, option, read_config
from bench.cli.sections import Sectioned, examples, section
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


_PRECISION, _SPLIT = click.Choice(["fp32", "bf16"]), click.Choice(["test", "validation"])
_OF_A_RUN = "bench.config.of_a_run"  # key in a context's meta: a run wrote the file that --config names


class _Run(Sectioned):
    """The command, with hints for options that people type and that don't exist."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            close = get_close_matches(error.option_name, [o for p in self.params for o in p.opts], cutoff=0.75)
            hint = ""
            if error.option_name in ("--model", "--models"):
                hint = " Did you mean '--variants'?"
            elif not close:
                hint = " Set a hyperparameter by --set, for example --set beta.beta=10."
            raise click.NoSuchOption(error.option_name, error.message + hint, close, ctx) from None


def _config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        settings = read_config(path)
        ctx.default_map = {**(ctx.default_map or {}), **settings}
        ctx.meta[_OF_A_RUN] = is_of_a_run(path, settings)
    return path


@click.command(
    cls=_Run,
    epilog=examples(
        "run --variants vae,beta,vqvae --dataset fashion --seeds 3",
        'run --variants "beta[beta=1|4|10],vae" --dataset mnist,fashion',
        "run --set beta.beta=10 --set '*.latent_dim=8' --backbone conv",
        "run --dataset folder:./my-images --image-size 64 --dry-run",
        "run --config results/monday/run.json --seeds 5",
        then="The same command finishes a run that was interrupted. More variants, seeds or metrics extend it.",
    ),
)
@section(
    "What to train",
    names("--variants", completion.variants, "Comma-separated variants: vae,beta[beta=1|4].  [default: all]"),
    click.option(
        "--dataset",
        "datasets",
        type=Datasets(),
        default=(),
        help="Comma-separated datasets: names, folder:PATH or npz:PATH.  [default: the embedded one]",
        shell_complete=completion.datasets,
    ),
    option("--seeds", "Number of seeds (3 means 0,1,2), or a comma-separated list.", Seeds(), "1"),
    option(
        "--set",
        "Set a hyperparameter of VARIANT or, by *, of all. Repeatable.",
        multiple=True,
        metavar="VARIANT.NAME=VALUE",
    ),
    option("--backbone", "Networks of all variants that accept one: mlp, ...", shell_complete=completion.backbones),
    option("--likelihood", "Pixel likelihood p(x|z).  [default: bernoulli for grey images, logistic for colour]"),
    option("--baseline/--no-baseline", "Add the baseline, which is not ranked.", default=True),
    option("--sanity/--no-sanity", "Add the reference rows: real images, mean image, PPCA.", default=True),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        callback=_config,
        help="Read settings from a JSON or YAML file; options on the command line take precedence.",
    ),
    plugins(),
)
@section(
    "Data",
    option("--limit", "Train on a random subset of N images; every row says so.", int, metavar="N"),
    click.option(
        "--validation",
        type=int,
        default=0,
        metavar="N",
        help="Hold out N training images for validation.  [default: if validation images are scored, a sixth, or the "
        "dataset's own validation split; else none]",
    ),
    option("--image-size", "Resize the images of a folder to N x N pixels.", int, metavar="N"),
    data_root,
)
@section(
    "Training",
    option("--steps", "Optimiser steps of each stage.  [default: the dataset's budget]", int, metavar="N"),
    option("--epochs", "Passes over the training split, instead of --steps.", float, metavar="N"),
    option("--batch-size", "Images in a training batch.", int, 128, metavar="N"),
    option("--precision", "Precision of matrix products in training.", _PRECISION, "fp32"),
    flag("--compile", "Compile the losses with torch.compile; on a GPU with CUDA graphs."),
    flag("--stack-seeds", "Train all seeds of a variant in one pass; faster on a GPU."),
)
@section(
    "Scores",
    names(
        "--metrics",
        completion.metrics,
        "Comma-separated metrics. +NAME and -NAME add to or remove from the default set, as in "
        '--metrics=+linear_probe,-fid; "all" computes every metric.',
    ),
    option("--eval-split", "Split that is scored.  [default: validation for grids over settings, else test]", _SPLIT),
    option("--nll-samples", "Importance samples per image for `nll`.", int, 100, metavar="N"),
    option("--nll-images", "Images that `nll` is computed on.", int, 1_000, metavar="N"),
    option("--inception-precision", "Precision of the network of FID and KID.", _PRECISION, "fp32"),
    option(
        "--fail-if",
        "Exit with code 6 if a row's METRIC is below (<) or above (>) VALUE. Repeatable.",
        multiple=True,
        metavar="[LABEL:]METRIC<VALUE",
    ),
)
@section(
    "Machine",
    option("--device", "auto, cpu, cuda or mps.", default="auto"),
    option("--jobs", "Cells at once, each in its own process.", int, 1, metavar="N"),
    option("--threads", "CPU threads of each cell.  [default: cores / --jobs]", int, metavar="N"),
    option(
        "--executor", "Plugin that starts processes: ray, ...  [default: local]", shell_complete=completion.executors
    ),
    option("--address", "Address of the executor's cluster, for example Ray's head node."),
    option("--gpus-per-cell", "GPUs that an executor reserves for each cell.", float, 0.0, metavar="SHARE"),
    option("--shard", "Run only the I-th of N parts of the cells, for job arrays.", Shard(), metavar="I/N"),
    flag("--in-process", "Run the cells one by one in this process, for debugging."),
)
@section(
    "Interruptions and failures",
    option("--timeout", "Stop a cell after this time (90s, 30m, 12h) and save a checkpoint.", Duration()),
    option("--stall", "Treat a cell as hung after this long without progress.", Duration(), "30m"),
    option("--checkpoint", "Time between checkpoints.", Duration(), "60s"),
    flag("--fail-fast", "Stop at the first cell that fails."),
    flag("--retry-failed", "Run again the cells that failed or diverged."),
    flag("--force", "Train and score again the cells that have results already."),
)
@section(
    "Output",
    option("--out", "Folder of the run.  [default: one in results/, named by the request]", metavar="DIR"),
    names("--logger", completion.loggers, "Comma-separated loggers: tensorboard, mlflow, ..."),
    flag("--profile", "Trace some steps of each cell that is trained, and show where time goes."),
    flag("--report", "Write the HTML report at the end; in a terminal, open it in a browser."),
    flag("--dry-run", "Show what would be done; train nothing."),
    flag("--json", "Print the rows as JSON to stdout, and nothing else there.", "as_json"),
    flag("--quiet", "Show no progress."),
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    config: Path | None,
    report: bool,
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
    if report:
        _write_report(Path(display.folder), request.data_root)
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


def _write_report(folder: Path, data_root: str | None) -> None:
    from bench.results.store import Run
    from bench.show.progress import working
    from bench.show.report.page import REPORT, write

    path = folder / REPORT
    with working() as say:
        write([Run(folder)], path, data_root=data_root, say=say)
    click.echo(f"report in {path}", err=True)
    if sys.stdout.isatty():
        click.launch(str(path))


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
