"""What a shell offers behind TAB, by the protocol of each shell; and that it's offered without anything heavy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from bench.cli import cli
from bench.plugins.registry import Registry


def offered(*words: str) -> list[str]:
    """What is offered for the last word."""
    items = ShellComplete(cli, {}, "bench", "_BENCH_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [item.value for item in items if item.type == "plain"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs under results/, of which one has a table and two cells."""
    home = tmp_path / "results"
    for name in ("monday", "monkey", "other"):
        (home / name / "cells").mkdir(parents=True)
    for name in ("monday", "monkey"):
        (home / name / "run.json").write_text("{}")
    (home / "monday" / "table.csv").write_text('label,seed\nvae,0\nvae,1\n"beta[beta=1,latent_dim=8]",0\n')
    for cell in ("vae-digits-s0-ab", "vae-digits-s1-cd"):
        (home / "monday" / "cells" / cell).mkdir()
    monkeypatch.chdir(tmp_path)
    return home


def test_verbs_are_offered() -> None:
    assert {"sample", "table"} <= set(offered(""))


@pytest.mark.parametrize(
    ("words", "group"),
    [
        (("run", "--variants", ""), "bench.variants"),
        (("run", "--dataset", ""), "bench.datasets"),
        (("run", "--metrics", ""), "bench.metrics"),
        (("table", "x", "--metrics", ""), "bench.metrics"),
        (("run", "--logger", ""), "bench.loggers"),
        (("run", "--backbone", ""), "bench.backbones"),
        (("run", "--executor", ""), "bench.executors"),
        (("data", "fetch", ""), "bench.datasets"),
    ],
)
def test_all_that_is_installed_is_offered(words: tuple[str, ...], group: str) -> None:
    assert offered(*words) == list(Registry[object](group, "plugin"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--variants", "vq"), ["vqvae"]),
        (("run", "--variants", "vae,vq"), ["vae,vqvae"]),
        (("run", "--variants", "vae,va"), []),  # it's there already
        (("run", "--variants", "beta[beta=1,"), []),
        (("run", "--variants", "beta[beta=1],vq"), ["beta[beta=1],vqvae"]),
        (("run", "--metrics", "+ps"), ["+psnr"]),
        (("run", "--metrics", "+psnr,-fid_g"), ["+psnr,-fid_gmm"]),
        (("info", "fash"), ["fashion"]),
    ],
)
def test_the_last_of_a_list_is_completed(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("table", "mon"), ["results/monday", "results/monkey"]),
        (("table", "results/mond"), ["results/monday"]),
        (("compare", "results/monday", "results/monk"), ["results/monkey"]),
        (("table", "results/o"), []),  # no run: the shell's own folders
        (("sample", "results/monday:"), ["results/monday:vae", "results/monday:beta[beta=1,latent_dim=8]"]),
        (("sample", "results/monday/vae-digits-s1"), ["results/monday/cells/vae-digits-s1-cd"]),
        (("verify", "results/monday/cells/"), [f"results/monday/cells/vae-digits-{x}" for x in ("s0-ab", "s1-cd")]),
        (("sample", "results/monday", "--variant", "b"), ["beta[beta=1,latent_dim=8]"]),
        (("compare", "results/monday", "--between", "vae,b"), ["vae,beta[beta=1,latent_dim=8]"]),
        (("sample", "results/monkey:"), []),  # it has no table yet
    ],
)
def test_runs_cells_and_labels_are_completed(results: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


def test_where_there_is_no_run_folders_are_the_shells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (item,) = ShellComplete(cli, {}, "bench", "_BENCH_COMPLETE").get_completions(["table"], "no/such")
    assert (item.value, item.type) == ("no/such", "dir")


def test_a_broken_table_offers_nothing(results: Path) -> None:
    (results / "monday" / "table.csv").write_bytes(b"\xff\xfe\x00broken")
    assert offered("sample", "results/monday:") == []


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from click.shell_completion import ShellComplete; from bench.cli import cli\n"
        "complete = ShellComplete(cli, {}, 'bench', '_BENCH_COMPLETE').get_completions\n"
        "for words in (['run', '--variants'], ['run', '--metrics'], ['table'], ['sample'], ['info'], ['report']):\n"
        "    complete(words, 'v')\n"
        "print([m for m in ('torch', 'pandas', 'numpy', 'sklearn', 'rich', 'PIL', 'yaml') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_bash_itself_completes(results: Path) -> None:
    """The activation line of docs/pictures.md, and the function that it defines, in a real bash."""
    bash, bench = shutil.which("bash"), Path(sys.executable).with_name("bench")
    if bash is None or not bench.exists():
        pytest.skip("no bash, or no `bench` beside this Python")
    script = (
        'eval "$(_BENCH_COMPLETE=bash_source bench)"\n'
        'COMP_WORDS=(bench table results/mond); COMP_CWORD=2; _bench_completion bench; echo "${COMPREPLY[@]}"'
    )
    path = f"{bench.parent}{os.pathsep}{os.environ['PATH']}"
    out = subprocess.run([bash, "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert out.stdout.strip() == "results/monday", out.stderr
