"""The command line: the commands of `bench/cli/verbs/`, their exit codes, and errors on one screen.

Exit codes: 0 all cells are ok or skipped; 1 an error of the suite or of a plugin; 2 the request can't be carried out;
3 finished, but some cells have no result; 4 a results folder, or a file in it, can't be used; 5 a result or a plugin
failed its checks; 6 a --fail-if threshold was crossed; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from bench.cli.options import Names
from bench.cli.sections import SectionedGroup, examples
from bench.cli.verbs.common import INTERRUPTED, STOPPED
from bench.cli.verbs.data import data
from bench.cli.verbs.pareto import pareto
from bench.cli.verbs.pictures import encode, interpolate, latent, reconstruct, sample, traverse
from bench.cli.verbs.plugins import check, info, list_, new
from bench.cli.verbs.report import report
from bench.cli.verbs.results import compare, table
from bench.cli.verbs.run import run
from bench.cli.verbs.score import score
from bench.cli.verbs.upkeep import gc, merge, verify
from bench.util.errors import BenchError
from bench.util.text import plain


def _debug(_: click.Context, __: click.Parameter, on: bool) -> None:
    if on:
        os.environ["BENCH_DEBUG"] = "1"


@click.group(
    cls=SectionedGroup,
    renamed={"explain": "verify --why"},
    sections={
        "Train and score": (run, score, data),
        "Look at results": (table, compare, report, pareto),
        "Look at a trained model": (sample, reconstruct, interpolate, traverse, latent, encode),
        "Use and write plugins": (list_, info, check, new),
        "Look after results folders": (verify, merge, gc),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "run                                            all variants on the embedded dataset",
        "run --variants vae,beta,vqvae --dataset fashion",
        "table results/monday --format md",
        "compare results/monday results/tuesday",
        "info vqvae",
    ),
)
@click.version_option(package_name="vaebench", prog_name="bench")
@click.option("--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks (or BENCH_DEBUG=1).")
def cli() -> None:
    """Train variational autoencoders, score them all in the same way, and compare them with statistics."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; print an error as at most one screen of text."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a letter that the terminal lacks must not stop the program
    try:
        code = cli.main(args=argv, prog_name="bench", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 1
    except click.ClickException as error:
        vars(error)["message"] = plain(error.message, lines=True)
        error.show()
        if "extra argument" in error.format_message() and _takes_names(error):
            click.echo("Separate the names of a list by commas, without spaces: --variants vae,beta", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"\n{STOPPED}", err=True)
        return INTERRUPTED
    except Exception as error:
        return _report(error)


def _takes_names(error: click.ClickException) -> bool:
    context = getattr(error, "ctx", None)
    return context is not None and any(isinstance(option.type, Names) for option in context.command.params)


def _report(error: Exception) -> int:
    """Print an exception as an error message, with its traceback under --debug; return the exit code."""
    from bench.show.console import print_error

    if os.environ.get("BENCH_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exc()
    if not isinstance(error, BenchError):
        first = (str(error).splitlines() or [""])[0][:500]
        error = BenchError(
            f"unexpected {type(error).__name__}: {first}",
            cause="This is a bug in the suite or in a plugin.",
            fix="bench --debug ... shows where; the log of a cell is in the cell's folder.",
        )
    print_error(error)
    return error.exit_code
