"""Looking after results: `bench explain`, `verify`, `gc`, `merge`."""

from __future__ import annotations

import click

from bench.cli import completion
from bench.cli.verbs.common import UNFINISHED, plugins, print_json, say
from bench.cli.verbs.common import data_root as _root


@click.command(
    epilog="""\b
Examples:
  bench explain results/monday/cells/vae-digits-s0-0123456789ab
  bench explain results/monday/beta --json"""
)
@click.argument("cell", shell_complete=completion.cells)
@plugins()
@_root
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
def explain(cell: str, data_root: str | None, as_json: bool) -> None:
    """Show what a cell is named after, and its state.

    That is, what its identity is made of, and whether a run would use it as it is.

    CELL is a cell's folder, or a run's folder with the beginning of a cell's name.
    """
    from bench.results.locate import one
    from bench.show import console
    from bench.upkeep.explain import explain as explained
    from bench.upkeep.explain import print_explanation

    found = explained(*one(cell), data_root)
    print_json(found.to_json()) if as_json else print_explanation(found, console.out())


@click.command(
    epilog="""\b
Examples:
  bench verify results/monday
  bench verify results/monday/cells/vae-digits-s0-0123456789ab --retrain
  bench verify results/reference --only-sums"""
)
@click.argument("paths", nargs=-1, required=True, metavar="CELL|RUN...", shell_complete=completion.cells)
@click.option("--only-sums", is_flag=True, help="Only whether the files are as they were made.")
@click.option("--retrain", is_flag=True, help="Train each cell again too, and compare the weights to the bit.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=1e-6, show_default=True, help="Relative; 0 is to the bit."
)
@plugins()
@_root
def verify(paths: tuple[str, ...], only_sums: bool, retrain: bool, tolerance: float, data_root: str | None) -> int:
    """Check finished cells: their files, and their scores.

    Scores are computed again. One line each.

    On the machine that made them scores come out exactly; elsewhere, or with other threads, they are rounded
    otherwise, which the tolerance allows for. Exits with 5 if anything differs, with 3 if something couldn't be
    checked here.
    """
    from bench.show.progress import working
    from bench.upkeep.verify import Verifier, finished
    from bench.util.errors import IntegrityError, UsageError

    if only_sums and retrain:
        raise UsageError("--only-sums trains nothing", fix="Give --only-sums or --retrain.")
    check = Verifier(only_sums, retrain, tolerance, data_root)
    found = []
    for run, name in [cell for path in paths for cell in finished(path)]:
        with working() as tell:
            found.append(check(run, name, tell))
        say(found[-1].line)
    if wrong := sum(bool(finding.wrong) for finding in found):
        raise IntegrityError(
            f"{wrong} of {len(found)} cell{'' if len(found) == 1 else 's'} aren't what they should be",
            fix="The same `bench run` makes anew what is damaged; `bench explain` shows what a cell is made of.",
        )
    return UNFINISHED if any(finding.unchecked for finding in found) else 0


@click.command(epilog="\b\nExamples:\n  bench gc results/monday --dry-run\n  bench gc results/*")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
def gc(runs: tuple[str, ...], dry_run: bool) -> None:
    """Remove what broken-off attempts left behind.

    Results, failures and the checkpoints of unfinished cells stay; cells that a living process is at aren't touched.
    """
    from bench.results.garbage import bytes_in_words, collect
    from bench.results.locate import opened

    total = count = 0
    for run in [opened(path) for path in runs]:
        for removed in collect(run, dry_run=dry_run):
            say(f"{removed.path}  {bytes_in_words(removed.size)}")
            total, count = total + removed.size, count + 1
    done = "would be removed" if dry_run else "removed"
    say(f"{count} thing{'' if count == 1 else 's'} {done}, {bytes_in_words(total)}")


@click.command(
    epilog="""\b
Examples:
  bench merge results/all results/shard-1 results/shard-2
  bench merge results/all results/shard-*"""
)
@click.argument("out", metavar="OUT", shell_complete=completion.runs)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
def merge(out: str, runs: tuple[str, ...]) -> None:
    """Join runs, such as the shards of one.

    They come into the run at OUT, which may exist.

    Of equal results one is kept. One with other weights is kept under different/, and the exit code is 5. The runs
    that are joined aren't changed.
    """
    from bench.upkeep.merge import merge as join
    from bench.util.errors import IntegrityError

    merged = join(out, runs)
    say(f"{out}: {merged.cells} cells, {merged.scores} scores and {merged.failures} failures are new")
    for line in merged.wrong:
        say(line)
    if merged.wrong:
        raise IntegrityError("not all of the joined results are what they should be", cause="Those above.")
