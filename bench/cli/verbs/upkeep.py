"""Looking after results: `bench verify`, `gc`, `merge`."""

from __future__ import annotations

import click

from bench.cli import completion
from bench.cli.verbs.common import UNFINISHED, plugins, print_json, say
from bench.cli.verbs.common import data_root as _root


@click.command(
    epilog="""\b
Examples:
  bench verify results/monday
  bench verify results/monday/cells/vae-digits-s0-0123456789ab --retrain
  bench verify results/reference --only-sums
  bench verify --why results/monday/beta"""
)
@click.argument("paths", nargs=-1, required=True, metavar="CELL|RUN...", shell_complete=completion.cells)
@click.option("--only-sums", is_flag=True, help="Compare files with their checksums; compute no score.")
@click.option("--retrain", is_flag=True, help="Also train each cell again and compare the weights bit by bit.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-6,
    show_default=True,
    help="Largest relative difference between a stored score and the recomputed one; 0 allows none.",
)
@click.option(
    "--why",
    is_flag=True,
    help="Check nothing: show what one cell is named after, its state, and whether a run would reuse it.",
)
@click.option("--json", "as_json", is_flag=True, help="With --why: print a JSON object.")
@plugins()
@_root
def verify(
    paths: tuple[str, ...],
    only_sums: bool,
    retrain: bool,
    tolerance: float,
    why: bool,
    as_json: bool,
    data_root: str | None,
) -> int:
    """Check finished cells: their files, and their scores.

    Compares files with their checksums, computes the scores again, and prints one line for each cell.

    On the machine that computed them scores come out exactly equal. Other machines and other numbers of threads round
    differently, within --tolerance. The exit code is 5 if a cell differs, and 3 if one could not be checked here.
    """
    from bench.show.progress import working
    from bench.upkeep.verify import Verifier, finished
    from bench.util.errors import IntegrityError, UsageError

    if why:
        return _explain(paths, data_root, as_json)
    if as_json:
        raise UsageError("--json needs --why", fix="Leave out --json, or add --why.")
    if only_sums and retrain:
        raise UsageError("--only-sums trains nothing", fix="Give --only-sums or --retrain, not both.")
    check = Verifier(only_sums, retrain, tolerance, data_root)
    findings = []
    for run, name in [cell for path in paths for cell in finished(path)]:
        with working() as tell:
            findings.append(check(run, name, tell))
        say(findings[-1].line)
    if wrong := sum(bool(finding.wrong) for finding in findings):
        raise IntegrityError(
            f"{wrong} of {len(findings)} cell{'' if len(findings) == 1 else 's'} differ from what they should be",
            fix="The same `bench run` replaces what is damaged; `bench verify --why` shows what a cell is made of.",
        )
    return UNFINISHED if any(finding.unchecked for finding in findings) else 0


def _explain(paths: tuple[str, ...], data_root: str | None, as_json: bool) -> int:
    from bench.results.locate import one
    from bench.show import console
    from bench.upkeep.explain import explain, print_explanation
    from bench.util.errors import UsageError

    if len(paths) > 1:
        raise UsageError(f"--why explains one cell, not {len(paths)}", fix="Name one of them.")
    found = explain(*one(paths[0]), data_root)
    print_json(found.to_json()) if as_json else print_explanation(found, console.out())
    return 0


@click.command(epilog="\b\nExamples:\n  bench gc results/monday --dry-run\n  bench gc results/*")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
def gc(runs: tuple[str, ...], dry_run: bool) -> None:
    """Remove what broken-off attempts left behind.

    Keeps results, failures and the checkpoints of unfinished cells. Skips cells that a running process is training.
    """
    from bench.results.garbage import bytes_in_words, collect
    from bench.results.locate import opened

    total = count = 0
    for run in [opened(path) for path in runs]:
        for removed in collect(run, dry_run=dry_run):
            say(f"{removed.path}  {bytes_in_words(removed.size)}")
            total, count = total + removed.size, count + 1
    done = "would be removed" if dry_run else "removed"
    noun = "file or folder" if count == 1 else "files or folders"
    say(f"{count} {noun} {done}, {bytes_in_words(total)}")


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

    Copies the cells of RUNS into the run at OUT, which may exist. The RUNS themselves do not change.

    Of equal results one is kept. A result of the same cell with other weights is kept in the cell's different/, and
    the exit code is 5.
    """
    from bench.upkeep.merge import merge as join
    from bench.util.errors import IntegrityError

    merged = join(out, runs)
    say(f"{out}: {merged.cells} cells, {merged.scores} scores and {merged.failures} failures are new")
    for line in merged.wrong:
        say(line)
    if merged.wrong:
        raise IntegrityError("some of the joined results are damaged or differ", cause="The lines above name them.")
