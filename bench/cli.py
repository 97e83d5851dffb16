"""The verbs of `bench`: parse, call, print. What they call is imported in them, so --help costs nothing.

Exit codes: 0 all cells ok or skipped; 1 a mistake of ours; 2 a request that can't be carried out; 3 finished with
cells that have no result; 4 a results folder that can't be used; 5 results that aren't what they should be; 6 a
--fail-if threshold; 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.errors import BenchError
from bench.options import Duration, Names, Seeds, Shard, read_config

if TYPE_CHECKING:
    from bench.row import Row

UNFINISHED, INTEGRITY, THRESHOLD, INTERRUPTED = 3, 5, 6, 130


STOPPED = "interrupted: every finished cell is on disk, and the same command does the rest"


def _config(ctx: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        ctx.default_map = {**(ctx.default_map or {}), **read_config(path)}
    return path


def _debug(_: click.Context, __: click.Parameter, on: bool) -> None:
    if on:
        os.environ["BENCH_DEBUG"] = "1"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  bench run                                            all variants on the embedded dataset
  bench run --variants vae,beta,vqvae --dataset fashion
  bench table results/monday --format md
  bench compare results/monday results/tuesday
  bench info vqvae""",
)
@click.version_option(package_name="vaebench", prog_name="bench")
@click.option("--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks (or BENCH_DEBUG=1).")
def cli() -> None:
    """Train variational autoencoders by one protocol, score them with one evaluator, compare them honestly."""


@cli.command(
    epilog="""\b
Examples:
  bench run --variants vae,beta,vqvae --dataset fashion --seeds 3
  bench run --variants "beta[beta=1|4|10],vae" --dataset mnist,fashion
  bench run --set beta.beta=10 --set '*.latent_dim=8' --backbone conv
  bench run --dataset folder:./my-images --image-size 64 --dry-run
  bench run --config results/monday/run.json --seeds 5

A run that was interrupted is finished by the same command; more variants, seeds or metrics extend it."""
)
@click.option("--variants", type=Names(), default=(), help="Names or selectors, by commas. All by default.")
@click.option("--dataset", "datasets", type=Names(), default=(), help="Names, folder:PATH or npz:PATH, by commas.")
@click.option("--seeds", type=Seeds(), default="1", help="3 means 0,1,2.  [default: 1]")
@click.option("--steps", type=int, help="Optimiser steps of a stage. By default the dataset's budget.")
@click.option("--epochs", type=float, help="The budget in passes over the training split, instead of --steps.")
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--set", multiple=True, metavar="VARIANT.NAME=VALUE", help="A hyperparameter; '*' is all variants.")
@click.option("--backbone", help="The networks of all variants that take one, such as mlp or conv.")
@click.option("--likelihood", help="p(x|z) for all variants. By default bernoulli for grey, logistic for colour.")
@click.option("--limit", type=int, help="Train on a random subset of this size; marked in every row.")
@click.option("--validation", type=int, default=0, help="Images to carve out of the training split.")
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
@click.option("--executor", help="Who runs the cells: local (the default), ray, ...")
@click.option("--address", help="The cluster of an executor that has one.")
@click.option("--gpus-per-cell", type=float, default=0.0, help="The share of a GPU that an executor reserves.")
@click.option("--in-process", is_flag=True, help="Without processes of their own, one by one: for debugging.")
@click.option(
    "--data-root", type=str, metavar="DIR", help="Where datasets lie; else BENCH_DATA, else the user's cache."
)
@click.option("--baseline/--no-baseline", default=True, help="Whether the untuned anchor joins.  [default: it does]")
@click.option("--metrics", type=Names(), default=(), help="Those alone; or all but some: --metrics=-fid,-fd.")
@click.option("--out", metavar="DIR", help="The run's folder. By default one under results/, named by the request.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=_config,
    help="Settings from a JSON or YAML file; what is typed beside it wins.",
)
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
    """Train and score variants; what is on disk already isn't done again."""
    from bench.executors.local import Local

    local = Local(settings["jobs"])
    ctx.call_on_close(local.close)
    if not (dry_run or settings["in_process"]):
        local.warm()  # while we load the same
    from bench import planning, runner
    from bench.console import Console, print_plan
    from bench.protocol import RunRequest
    from bench.threshold import Threshold

    request = RunRequest(**_settle(ctx, settings))
    if dry_run:
        plan = planning.plan(request)
        _print_json([cell.as_json() for cell in plan.cells]) if as_json else print_plan(plan)
        return 0
    thresholds = [Threshold.parse(text) for text in fail_if]
    stopped = 0
    with Console(quiet=quiet) as display:
        try:
            rows = runner.run(request, display, local)
        except runner.Interrupted as stop:
            rows, stopped = stop.rows, stop.exit_code
    _print_rows(rows, as_json, display.folder)
    if stopped:
        click.echo(STOPPED, err=True)
        return stopped
    if any(row.conflict for row in rows):
        return INTEGRITY
    if {row.status for row in rows} - {"ok", "skipped"}:
        return UNFINISHED
    crossed = [line for threshold in thresholds for line in threshold.crossed(rows)]
    for line in crossed:
        click.echo(line, err=True)
    return THRESHOLD if crossed else 0


def _settle(ctx: click.Context, settings: dict[str, Any]) -> dict[str, Any]:
    """Typed settings win over a configuration's: --steps also over its epochs, --epochs over its steps."""
    typed = {n for n in ("steps", "epochs") if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE}
    if len(typed) == 1:
        settings[({"steps", "epochs"} - typed).pop()] = None
    from bench.protocol import RunRequest

    known = {f.name for f in fields(RunRequest)}
    return {name: value for name, value in settings.items() if name in known}


def _print_rows(rows: Sequence[Row], as_json: bool, folder: str = "") -> None:
    from bench import console, tables

    if as_json:
        _print_json(tables.records(rows))
    else:
        console.summary(rows, folder)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


@cli.command("list")
@click.option("--check", is_flag=True, help="Load each, in a process of its own.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON array.")
def list_(check: bool, as_json: bool) -> int:
    """Show the installed variants, datasets, metrics and backbones, with what is known to be wrong with them.

    Nothing is imported, unless by --check; then the exit code is 2 if one can't be used.
    """
    from bench import catalogue, console

    found = catalogue.checked() if check else catalogue.listed()
    _print_json([asdict(one) for one in found]) if as_json else catalogue.print_list(found, console.out())
    return 2 if check and any(one.problem for one in found) else 0


@cli.command(
    epilog="""\b
Examples:
  bench check beta
  bench check ./mine.py:MyVAE --set gamma=10
  bench check fashion
  bench check folder:./my-images --only splits_are_disjoint"""
)
@click.argument("name")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A hyperparameter, or an option.")
@click.option("--only", type=Names(), default=(), help="Those checks alone, by commas.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def check(name: str, given: tuple[str, ...], only: tuple[str, ...], as_json: bool) -> int:
    """Check whether a variant, dataset or metric keeps its contract. Exits with 5 if it doesn't.

    NAME is one that is installed, or in a file: ./mine.py:MyVAE.
    """
    from bench import conformance

    reports = conformance.run(name, given, only, quiet=as_json)
    if as_json:
        _print_json([report.to_json() for report in reports])
    return 0 if all(report.ok for report in reports) else INTEGRITY


@cli.command(epilog="\b\nExamples:\n  bench new variant free-bits\n  bench new metric my-metric --out ../my-metric")
@click.argument("kind", type=click.Choice(["variant", "dataset", "metric"]))
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="The package's folder.  [default: ./vaebench-NAME]")
def new(kind: Any, name: str, out: Path | None) -> None:
    """Write a package with a plugin that works as it stands: change it into yours."""
    from bench import scaffold

    home = scaffold.new(kind, name, out)
    click.echo(f"{home}: a {kind} that works as it stands. From here:\n")
    click.echo(f"  pip install -e '{home}[test]'\n  bench check {name}\n  pytest {home}")


@cli.command(epilog="\b\nExamples:\n  bench info vqvae\n  bench info fashion\n  bench info fd")
@click.argument("name")
def info(name: str) -> None:
    """Show what a variant, dataset, metric or backbone is, and its hyperparameters."""
    from bench import catalogue, console

    for found in catalogue.describe(name):
        catalogue.print_description(found, console.out())


def _rows(paths: Sequence[str]) -> list[Row]:
    from bench.store import Run

    return [row for path in paths for row in Run(Path(path)).rows()]


@cli.command(epilog="\b\nExamples:\n  bench table results/monday\n  bench table results/a results/b --format latex")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--format", "form", type=click.Choice(["md", "csv", "latex"]), help="Text for other programs.")
@click.option("--json", "as_json", is_flag=True, help="The rows as one JSON array.")
def table(runs: tuple[str, ...], form: Any, as_json: bool) -> None:
    """Show the table of one run or several, over seeds."""
    rows = _rows(runs)
    if form is None:
        _print_rows(rows, as_json)
    else:
        from bench.render import render

        click.echo(render(rows, form), nl=False)


@cli.command(epilog="\b\nExamples:\n  bench compare results/monday results/tuesday")
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="The differences as JSON.")
def compare(a: str, b: str, as_json: bool) -> None:
    """Show what differs from run A to run B, and in which direction.

    Rows are paired by label, dataset and seed. Rows made under different conditions are refused.
    """
    from bench import console
    from bench.compare import compare as pair

    found = pair(_rows([a]), _rows([b]))
    _print_json(found.to_json()) if as_json else console.comparison(found)


@cli.group(epilog="\b\nExamples:\n  bench data status\n  bench data fetch mnist fashion")
def data() -> None:
    """Bring datasets to this machine, or see what is there."""


_root = click.option("--data-root", metavar="DIR", help="Where datasets lie; else BENCH_DATA, else the user's cache.")


def _take(_: click.Context, __: click.Parameter, addresses: tuple[str, ...]) -> None:
    from bench import unpublished
    from bench.errors import UsageError

    for address in addresses:
        if unpublished.take(address) is None:
            raise UsageError(f"--plugin {address} is no file's", fix="For example: --plugin ./mine.py:Mine")


_plugins = click.option(
    "--plugin",
    multiple=True,
    expose_value=False,
    callback=_take,
    metavar="FILE.py:NAME",
    help="Code that cells were trained with and that isn't installed: results never name code to be run.",
)


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_root
def fetch(names: tuple[str, ...], data_root: str | None) -> None:
    """Download what is missing, checked by size and sha256."""
    from bench import data as datasets
    from bench.progress import downloads

    root = datasets.data_root(data_root)
    wanted = [(name, datasets.parse(name)) for name in names]
    for name, dataset in wanted:
        with downloads() as on_progress:
            files = datasets.fetch(dataset, root, on_progress)
        click.echo(f"{name}: {f'{len(files)} files fetched into' if files else 'all there, in'} {root}")


@data.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@_root
def status(names: tuple[str, ...], data_root: str | None) -> None:
    """Show which datasets are there."""
    from bench import console
    from bench import data as datasets

    console.print_data(names, datasets.data_root(data_root))


@cli.command(
    epilog="""\b
Examples:
  bench explain results/monday/cells/vae-digits-s0-0123456789ab
  bench explain results/monday/beta --json"""
)
@click.argument("cell")
@_plugins
@_root
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
def explain(cell: str, data_root: str | None, as_json: bool) -> None:
    """Show what a cell's identity is made of, its state, and whether a run would use it as it is.

    CELL is a cell's folder, or a run's folder with the beginning of a cell's name.
    """
    from bench import console
    from bench.explain import explain as explained
    from bench.explain import print_explanation
    from bench.locate import one

    found = explained(*one(cell), data_root)
    _print_json(found.to_json()) if as_json else print_explanation(found, console.out())


@cli.command(
    epilog="""\b
Examples:
  bench verify results/monday
  bench verify results/monday/cells/vae-digits-s0-0123456789ab --retrain
  bench verify results/reference --only-sums"""
)
@click.argument("paths", nargs=-1, required=True, metavar="CELL|RUN...")
@click.option("--only-sums", is_flag=True, help="Only whether the files are as they were made.")
@click.option("--retrain", is_flag=True, help="Train each cell again too, and compare the weights to the bit.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=1e-6, show_default=True, help="Relative; 0 is to the bit."
)
@_plugins
@_root
def verify(paths: tuple[str, ...], only_sums: bool, retrain: bool, tolerance: float, data_root: str | None) -> int:
    """Check finished cells: their files, and their scores by computing them again. One line each.

    On the machine that made them scores come out exactly; elsewhere, or with other threads, they are rounded
    otherwise, which the tolerance allows for. Exits with 5 if anything differs, with 3 if something couldn't be
    checked here.
    """
    from bench.errors import IntegrityError, UsageError
    from bench.progress import working
    from bench.verify import Verifier, finished

    if only_sums and retrain:
        raise UsageError("--only-sums trains nothing", fix="Give --only-sums or --retrain.")
    check = Verifier(only_sums, retrain, tolerance, data_root)
    found = []
    for run, name in [cell for path in paths for cell in finished(path)]:
        with working() as say:
            found.append(check(run, name, say))
        click.echo(found[-1].line)
    if wrong := sum(bool(finding.wrong) for finding in found):
        raise IntegrityError(
            f"{wrong} of {len(found)} cell{'' if len(found) == 1 else 's'} aren't what they should be",
            fix="A damaged cell is made anew by `bench run --force`; `bench explain` shows what a cell is made of.",
        )
    return UNFINISHED if any(finding.unchecked for finding in found) else 0


@cli.command(epilog="\b\nExamples:\n  bench gc results/monday --dry-run\n  bench gc results/*")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
def gc(runs: tuple[str, ...], dry_run: bool) -> None:
    """Remove what broken-off attempts left behind.

    Results, failures and the checkpoints of unfinished cells stay; cells that a living process is at aren't touched.
    """
    from bench.gc import bytes_in_words, collect
    from bench.locate import opened

    total = count = 0
    for run in [opened(path) for path in runs]:
        for removed in collect(run, dry_run=dry_run):
            click.echo(f"{removed.path}  {bytes_in_words(removed.size)}")
            total, count = total + removed.size, count + 1
    done = "would be removed" if dry_run else "removed"
    click.echo(f"{count} thing{'' if count == 1 else 's'} {done}, {bytes_in_words(total)}")


@cli.command(
    epilog="""\b
Examples:
  bench merge results/all results/shard-1 results/shard-2
  bench merge results/all results/shard-*"""
)
@click.argument("out", metavar="OUT")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
def merge(out: str, runs: tuple[str, ...]) -> None:
    """Join runs, such as the shards of one, into the run at OUT, which may exist.

    Of equal results one is kept. One with other weights is kept under different/, and the exit code is 5. The runs
    that are joined aren't changed.
    """
    from bench.errors import IntegrityError
    from bench.merge import merge as join

    merged = join(out, runs)
    click.echo(f"{out}: {merged.cells} cells, {merged.scores} scores and {merged.failures} failures are new")
    for line in merged.wrong:
        click.echo(line)
    if merged.wrong:
        raise IntegrityError("not all of the joined results are what they should be", cause="Those above.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; every outcome is an exit code and at most one screen of message."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to stop
    try:
        code = cli.main(args=argv, prog_name="bench", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"\n{STOPPED}", err=True)
        return INTERRUPTED
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    from bench.console import print_error

    if os.environ.get("BENCH_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exc()
    if isinstance(error, BenchError):
        print_error(error)
        return error.exit_code
    first = (str(error).splitlines() or [""])[0][:500]
    print_error(
        BenchError(
            f"unexpected {type(error).__name__}: {first}",
            cause="That is a mistake in the suite or in a plugin. Finished cells are safe.",
            fix="bench --debug ... shows where; a cell's own log is in its folder.",
        )
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
