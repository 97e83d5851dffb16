"""The command line: a group of verbs (`bench/cli/verbs/`), exit codes, and errors on one screen.

Exit codes: 0 all cells ok or skipped; 1 a mistake of ours; 2 a request that can't be carried out; 3 finished with
cells that have no result; 4 a results folder, or a file in it, that can't be used; 5 results or plugins that aren't
what they should be; 6 a --fail-if threshold; 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from bench.cli.verbs.common import INTERRUPTED, STOPPED
from bench.util.errors import BenchError
from bench.util.text import plain

VERBS = {
    "run": ("run:run", "Train and score variants."),
    "score": ("score:score", "Score samples of your own model."),
    "list": ("plugins:list_", "Show the installed variants, datasets and metrics."),
    "info": ("plugins:info", "Show what a plugin is, and its hyperparameters."),
    "check": ("plugins:check", "Check whether a plugin keeps its contract."),
    "new": ("plugins:new", "Write a package with a plugin of your own."),
    "table": ("results:table", "Show the table of one run or several, over seeds."),
    "compare": (
        "results:compare",
        "Show what differs from run A to run B, whether that is real, and in which direction.",
    ),
    "report": ("report:report", "Write one HTML file with the tables and the pictures of runs."),
    "pareto": ("pareto:pareto", "Show which labels trade rate for distortion best, and draw them."),
    "sample": ("pictures:sample", "Draw images from a trained model."),
    "reconstruct": ("pictures:reconstruct", "Show test images, what a model makes of their codes, and the error."),
    "interpolate": ("pictures:interpolate", "Decode the straight line between the codes of two test images."),
    "traverse": ("pictures:traverse", "Move the most active units of a test image's code, one at a time."),
    "latent": ("pictures:latent", "Show the codes of test images in a plane, coloured by class."),
    "encode": ("pictures:encode", "Write the codes of a split's images to an npz."),
    "data": ("data:data", "Bring datasets to this machine, or see what is there."),
    "verify": ("upkeep:verify", "Check finished cells: their files, and their scores."),
    "gc": ("upkeep:gc", "Remove what broken-off attempts left behind."),
    "merge": ("upkeep:merge", "Join runs, such as the shards of one."),
}
"""Each verb's command, as MODULE:NAME in `bench.cli.verbs`, and its help's first sentence."""


class _Verb(click.Command):
    """Stands for a verb whose module isn't imported yet."""

    def __init__(self, name: str) -> None:
        self.address, sentence = VERBS[name]
        super().__init__(name, help=sentence)

    def load(self) -> click.Command:
        module, _, name = self.address.partition(":")
        command: click.Command = getattr(import_module(f"bench.cli.verbs.{module}"), name)
        return command


class _Verbs(click.Group):
    """Imports a verb when it's called or completed, and none to list them."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "explain":
            raise click.UsageError("`bench explain CELL` is called `bench verify --why CELL` now.", ctx)
        name, verb, rest = super().resolve_command(ctx, args)
        return name, verb.load() if isinstance(verb, _Verb) else verb, rest


def _debug(_: click.Context, __: click.Parameter, on: bool) -> None:
    if on:
        os.environ["BENCH_DEBUG"] = "1"


@click.group(
    cls=_Verbs,
    commands={name: _Verb(name) for name in VERBS},
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
        vars(error)["message"] = plain(error.message, lines=True)
        error.show()
        if "extra argument" in error.format_message() and _takes_names(error):
            click.echo("Names in a list are separated by commas, without spaces: --variants vae,beta", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"\n{STOPPED}", err=True)
        return INTERRUPTED
    except Exception as error:
        return _report(error)


def _takes_names(error: click.ClickException) -> bool:
    from bench.cli.options import Names

    context = getattr(error, "ctx", None)
    return context is not None and any(isinstance(option.type, Names) for option in context.command.params)


def _report(error: Exception) -> int:
    from bench.show.console import print_error

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
            cause="That is a mistake in the suite or in a plugin.",
            fix="bench --debug ... shows where; a cell's own log is in its folder.",
        )
    )
    return 1
