"""The command line: a group of verbs (`bench/verbs/`), exit codes, and errors on one screen.

Exit codes: 0 all cells ok or skipped; 1 a mistake of ours; 2 a request that can't be carried out; 3 finished with
cells that have no result; 4 a results folder that can't be used; 5 results or plugins that aren't what they should
be; 6 a --fail-if threshold; 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from bench.errors import BenchError
from bench.verbs import data, pareto, plugins, results, run, score, upkeep
from bench.verbs.common import INTERRUPTED, STOPPED


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


for verb in (
    run.run, score.score, plugins.list_, plugins.info, plugins.check, plugins.new, results.table, results.compare,
    pareto.pareto, data.data, upkeep.explain, upkeep.verify, upkeep.gc, upkeep.merge,
):  # fmt: skip
    cli.add_command(verb)


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
