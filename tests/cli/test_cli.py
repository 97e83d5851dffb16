"""The command line: parsing, exit codes, messages of one screen, and what it doesn't import. The runner is a stub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from bench.cli import cli
from bench.cli.options import Seeds, read_config
from bench.contracts.dataset import DATASETS
from bench.contracts.events import RunEnded, RunStarted
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.contracts.variant import VARIANTS
from bench.running.runner import Interrupted
from bench.util.errors import DataError, StoreError
from tests.conftest import Bench
from tests.example_rows import failed, row

pytestmark = pytest.mark.usefixtures("warm_servers")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[RunRequest]:
    """The requests that reach the runner, which finishes one row of each."""
    return stub(monkeypatch, [row(scores={"elbo": -100.5})])


def stub(monkeypatch: pytest.MonkeyPatch, outcome: Iterable[Row] | BaseException) -> list[RunRequest]:
    seen: list[RunRequest] = []

    def run(request: RunRequest, listener: Any, _: object) -> list[Row]:
        seen.append(request)
        listener(RunStarted(1, 10, "results/stub"))
        if isinstance(outcome, BaseException):
            raise outcome
        listener(RunEnded("results/stub", (), 1.0))
        return list(outcome)

    monkeypatch.setattr("bench.running.runner.run", run)
    monkeypatch.setattr("bench.running.executors.local.Local.warm", lambda self: None)
    return seen


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **env}
    )


# what isn't imported


LIGHT = (
    ["--help"],
    ["--version"],
    ["run", "-h"],
    ["run", "--stepz", "3"],
    ["list"],
    ["list", "--json"],
    ["COMPLETE", "bench ", "1"],
    ["COMPLETE", "bench run --v", "2"],
)
HEAVY = ("torch", "pandas", "numpy", "scipy", "sklearn", "PIL", "bench.contracts.measurement")

LOADED = f"""
import json, os, sys
from bench.cli import main
for argv in {LIGHT!r}:
    if argv[0] == "COMPLETE":
        os.environ.update(_BENCH_COMPLETE="bash_complete", COMP_WORDS=argv[1], COMP_CWORD=argv[2])
    try:
        main(argv)
    except SystemExit:  # of a completion
        pass
    print("LOADED", json.dumps([m for m in {HEAVY!r} if m in sys.modules]))
"""


def test_light_commands_import_nothing_heavy() -> None:
    lines = python(LOADED).stdout.splitlines()
    heavy = [json.loads(line[7:]) for line in lines if line.startswith("LOADED ")]
    assert heavy == [[]] * len(LIGHT)
    assert {"plain,run", "plain,verify", "plain,--variants", "plain,--validation"} <= set(lines)


# help


def commands(group: click.Group = cli, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        elif not command.hidden:
            yield (*before, name)


@pytest.mark.parametrize("words", [(), *commands()], ids=lambda words: " ".join(words) or "bench")
def test_help_is_complete(bench: Bench, words: tuple[str, ...]) -> None:
    """Each command has a first sentence and help for all options; examples are of the command itself."""
    code, out, _ = bench(*words, "-h")
    assert (code, out) == (0, bench(*words, "--help")[1])
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert (command.help or "").split("\n\n")[0].endswith(".")
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []
    if words[:1] != ("data",):
        assert f"Examples:\n    bench {' '.join(words)}".rstrip() in out


def test_help_of_run_lists_its_options_by_section(bench: Bench) -> None:
    out = bench("run", "--help")[1]
    sections = re.findall(r"^(\w.*):$(?:\n  +.*)*?\n  (--[\w-]+)", out, re.MULTILINE)
    assert len(sections) == 7
    assert sections[0] == ("What to train", "--variants")
    assert all(f"  {option}" in out for param in cli.commands["run"].params for option in param.opts[:1])


def test_help_lists_every_command_once_by_section(bench: Bench) -> None:
    listed = re.findall(r"^  (\w+) +[A-Z]", bench("--help")[1], re.MULTILINE)
    assert sorted(listed) == sorted(name for name, command in cli.commands.items() if not command.hidden)


def test_version(bench: Bench) -> None:
    from importlib.metadata import version

    code, out, _ = bench("--version")
    assert (code, out.split()[-1]) == (0, version("vaebench"))


@pytest.mark.parametrize(
    ("argv", "guess"),
    [
        (["rum"], "run"),
        (["run", "--stepz", "3"], "--steps"),
        (["run", "--variant", "vae"], "--variants"),
        (["run", "--model", "vae"], "--variants"),
        (["run", "--models", "vae"], "--variants"),
        (["run", "--seed", "3"], "--seeds"),
        (["run", "--datasets", "mnist"], "--dataset"),
        (["run", "--beta", "4"], "--set"),
        (["run", "vae", "beta"], "--variants vae,beta"),
    ],
)
def test_a_typing_mistake_is_answered_with_the_closest(bench: Bench, argv: list[str], guess: str) -> None:
    code, _, err = bench(*argv)
    assert code == 2
    assert guess in err


# bench run: what reaches the runner


def test_defaults_are_those_of_a_request(bench: Bench, requests: list[RunRequest]) -> None:
    assert bench("run")[0] == 0
    assert requests == [RunRequest()]


def test_all_options_reach_the_request(bench: Bench, requests: list[RunRequest]) -> None:
    bench(
        *("run", "--variants", "beta[beta=1|4,latent_dim=8],vae", "--dataset", "mnist,fashion", "--seeds", "0,7"),
        *("--steps", 10, "--batch-size", 64, "--set", "beta.beta=10", "--set", "*.latent_dim=8", "--backbone", "conv"),
        *("--likelihood", "gaussian", "--limit", 100, "--validation", 5, "--image-size", 32, "--device", "cpu"),
        *("--data-root", "/data", "--no-baseline", "--metrics", "elbo,-fid", "--out", "results/x", "--threads", 3),
        *("--timeout", "90m", "--stall", "10m", "--checkpoint", "5s", "--fail-fast", "--retry-failed", "--force"),
        *("--shard", "2/8", "--executor", "ray", "--address", "auto", "--gpus-per-cell", 0.25, "--in-process"),
    )
    assert requests == [
        RunRequest(
            variants=("beta[beta=1|4,latent_dim=8]", "vae"),
            datasets=("mnist", "fashion"),
            seeds=(0, 7),
            steps=10,
            batch_size=64,
            set=("beta.beta=10", "*.latent_dim=8"),
            backbone="conv",
            likelihood="gaussian",
            limit=100,
            validation=5,
            image_size=32,
            device="cpu",
            data_root="/data",
            baseline=False,
            metrics=("elbo", "-fid"),
            out="results/x",
            threads=3,
            timeout=5400.0,
            stall=600.0,
            checkpoint=5.0,
            fail_fast=True,
            retry_failed=True,
            force=True,
            shard=(2, 8),
            executor="ray",
            address="auto",
            gpus_per_cell=0.25,
            in_process=True,
        )
    ]


@pytest.mark.parametrize(("typed", "seeds"), [("1", (0,)), ("3", (0, 1, 2)), ("7,", None), ("0,2,9", (0, 2, 9))])
def test_seeds(typed: str, seeds: tuple[int, ...] | None) -> None:
    if seeds is None:
        with pytest.raises(Exception, match="--seeds 7,"):
            Seeds().convert(typed, None, None)
    else:
        assert Seeds().convert(typed, None, None) == seeds


@pytest.mark.parametrize("typed", ["0", "-1", "x", "1.5", ""])
def test_bad_seeds_are_refused_on_one_screen(bench: Bench, requests: list[RunRequest], typed: str) -> None:
    code, out, err = bench("run", f"--seeds={typed}")
    assert (code, out, requests) == (2, "", [])
    assert "--seeds 3" in err
    assert "Traceback" not in err


# configurations


def config(tmp_path: Path, text: str, name: str = "run.yml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_runs_own_request_repeats_it(bench: Bench, requests: list[RunRequest], tmp_path: Path) -> None:
    before = RunRequest(variants=("beta[beta=1,latent_dim=8]",), seeds=(3,), epochs=1.5, set=("a.b=1",), baseline=False)
    bench("run", "--config", config(tmp_path, json.dumps(before.to_json()), "run.json"))
    assert requests == [before]


def test_a_hand_written_configuration(bench: Bench, requests: list[RunRequest], tmp_path: Path) -> None:
    text = "variants: beta[beta=1|4],vae\ndataset: fashion\nseeds: 3\nbatch-size: 64\nset: {beta.beta: 10}\n"
    bench("run", "--config", config(tmp_path, text))
    wanted = RunRequest(("beta[beta=1|4]", "vae"), ("fashion",), (0, 1, 2), batch_size=64, set=("beta.beta=10",))
    assert requests == [wanted]


def test_what_is_typed_wins_over_the_configuration(bench: Bench, requests: list[RunRequest], tmp_path: Path) -> None:
    path = config(tmp_path, "variants: [vae, ae]\nepochs: 5\nseeds: [4, 5]\nbaseline: false\n")
    bench("run", "--steps", 20, "--config", path, "--seeds", 2, "--baseline")
    (request,) = requests
    assert (request.variants, request.steps, request.epochs) == (("vae", "ae"), 20, None)
    assert (request.seeds, request.baseline) == ((0, 1), True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variant: [vae]\nstep: 5\n", "Did you mean 'steps'"),
        ("schema: 99\n", "schema 99"),
        ("steps: many\n", "steps"),
        ("- vae\n", "holds no settings"),
        ("{", "can't be read as JSON or YAML"),
    ],
)
def test_a_bad_configuration_is_refused(
    bench: Bench, requests: list[RunRequest], tmp_path: Path, text: str, message: str
) -> None:
    code, out, err = bench("run", "--config", config(tmp_path, text))
    assert (code, out, requests) == (2, "", [])
    assert message in err
    assert len(err.splitlines()) < 12


def test_a_missing_configuration_is_refused(bench: Bench, tmp_path: Path) -> None:
    code, _, err = bench("run", "--config", tmp_path / "none.yml")
    assert code == 2
    assert "none.yml" in err


def test_a_configuration_can_run_no_code(tmp_path: Path) -> None:
    path = config(tmp_path, f"variants: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(Exception, match="can't be read"):
        read_config(path)
    assert not (tmp_path / "made").exists()


# outcomes


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["ok"], 0),
        (["ok", "skipped"], 0),
        (["ok", "failed"], 3),
        (["diverged"], 3),
        (["ok", "timeout"], 3),
        (["ok", "stalled"], 3),
    ],
)
def test_exit_codes(bench: Bench, monkeypatch: pytest.MonkeyPatch, statuses: list[Any], code: int) -> None:
    stub(monkeypatch, [row("a") if s == "ok" else failed(f"b{i}", status=s) for i, s in enumerate(statuses)])
    assert bench("run")[0] == code


def test_a_result_that_does_not_repeat_is_an_exit_code(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, [row("a"), replace(row("b"), reason="not deterministic: ...")])
    assert bench("run")[0] == 5


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_run_that_was_stopped_shows_what_it_has(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    stub(monkeypatch, Interrupted(number, [row("vae", scores={"elbo": -100.5}), failed("b", status="interrupted")]))
    found, out, err = bench("run")
    assert found == code
    assert "100.5" in out
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("texts", "code", "says"),
    [
        (["elbo<-110"], 0, ""),
        (["elbo<-100"], 6, "seed 0: elbo -100.5 is below -100"),
        (["vae:elbo<-100", "elbo>-90"], 6, "below -100"),
        (["elbo>-101"], 6, "above -101"),
        (["beta:elbo<-100"], 6, "no row is called 'beta'"),
        (["vae:kl>3"], 6, "seed 0: kl is n/a"),
        (["elbo=3"], 2, "[LABEL:]METRIC<VALUE"),
        (["elbow<3"], 2, "Did you mean 'elbo'"),
    ],
)
def test_a_threshold_is_an_exit_code(
    bench: Bench, requests: list[RunRequest], texts: list[str], code: int, says: str
) -> None:
    found, _, err = bench("run", *(part for text in texts for part in ("--fail-if", text)))
    assert (found, says in err) == (code, True)


@pytest.mark.fault(0, "--shard 3/2 and other bad settings", "one screen; exit 2")
@pytest.mark.parametrize(
    ("option", "text"),
    [("--timeout", "soon"), ("--timeout", "0"), ("--stall", "-1"), ("--shard", "3/2"), ("--shard", "0/2"),
     ("--shard", "2"), ("--threads", "0"), ("--executor", "rey"), ("--gpus-per-cell", "-1")],
)  # fmt: skip
def test_bad_settings_of_how_to_run_are_refused_on_one_screen(
    bench: Bench, tmp_path: Path, option: str, text: str
) -> None:
    code, _, err = bench("run", "--in-process", option, text, "--out", tmp_path / "x")
    assert code == 2
    assert len(err.splitlines()) < 8
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [(StoreError("full"), 4), (DataError("damaged", cause="why", fix="how"), 2), (KeyboardInterrupt(), 130)],
    ids=lambda x: type(x).__name__,
)
def test_errors_are_a_message_and_an_exit_code(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    stub(monkeypatch, error)
    found, out, err = bench("run")
    assert (found, out) == (code, "")
    assert "Traceback" not in err
    assert (str(error).splitlines() or ["interrupted"])[0] in err


def test_an_unexpected_exception_is_one_screen_and_a_traceback_only_on_demand(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, ZeroDivisionError("oh\nno"))
    code, out, err = bench("run")
    assert (code, out) == (1, "")
    assert "unexpected ZeroDivisionError: oh" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) < 10
    monkeypatch.setenv("BENCH_DEBUG", "1")
    assert "Traceback" in bench("run")[2]


def test_debug_is_an_option_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, ZeroDivisionError("oh"))
    monkeypatch.setenv("BENCH_DEBUG", "0")
    assert "Traceback" not in bench("run")[2]
    assert "Traceback" in bench("--debug", "run")[2]


def test_zero_steps_is_refused_by_the_real_runner(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench("run", "--steps", 0, "--out", tmp_path / "x")
    assert (code, out) == (2, "")
    assert "--steps 0" in err
    assert not (tmp_path / "x").exists()


def test_an_unknown_variant_is_answered_with_the_closest(bench: Bench, tmp_path: Path) -> None:
    code, _, err = bench("run", "--variants", "vqvea", "--out", tmp_path / "x")
    assert code == 2
    assert "Did you mean 'vqvae'" in err


@pytest.mark.fault(0, "stdout is closed (| head)", "no traceback")
def test_a_reader_that_went_away_is_no_error() -> None:
    code = "from bench.cli import main; import sys; sys.exit(main(['list', '--json']))"
    made = subprocess.run(
        f'"{sys.executable}" -c "{code}" | head -c 5', shell=True, capture_output=True, text=True, check=False
    )
    assert made.stderr == ""


# what goes where


def test_json_is_all_there_is_on_stdout(bench: Bench, requests: list[RunRequest]) -> None:
    code, out, err = bench("run", "--json")
    (document,) = json.loads(out)
    assert (code, document["label"], document["scores"]["elbo"]["value"]) == (0, "vae", -100.5)
    assert "results/stub" in err


def test_the_summary_goes_to_stdout_and_progress_to_stderr(bench: Bench, requests: list[RunRequest]) -> None:
    _, out, err = bench("run")
    assert "−100.50" in out
    assert "results/stub" in out
    assert "to train" in err
    assert "to train" not in out


def test_quiet_is_quiet(bench: Bench, requests: list[RunRequest]) -> None:
    _, out, err = bench("run", "--quiet")
    assert err == ""
    assert "results/stub" in out


def test_a_dry_run_shows_the_plan_and_trains_nothing(bench: Bench, requests: list[RunRequest], tmp_path: Path) -> None:
    code, out, _ = bench("run", "--dry-run", "--variants", "vae", "--seeds", 2, "--steps", 30, "--out", tmp_path / "x")
    assert (code, requests) == (0, [])
    assert "vae" in out
    assert "0,1" in out
    assert not (tmp_path / "x").exists()


# list and info


def test_list_has_every_kind_with_its_distribution(bench: Bench) -> None:
    from importlib.metadata import entry_points

    documents = json.loads(bench("list", "--json")[1])
    for kind in ("variant", "dataset", "metric", "backbone", "executor", "logger"):
        wanted = {(p.name, p.value) for p in entry_points(group=f"bench.{kind}s")}
        assert {(d["name"], d["address"]) for d in documents if d["kind"] == kind} == wanted
    assert all(d["distribution"] and d["version"] for d in documents)
    out = bench("list")[1]
    assert all(d["name"] in out for d in documents)


def test_list_says_what_each_is_and_marks_the_defaults(bench: Bench) -> None:
    documents = {(d["kind"], d["name"]): d for d in json.loads(bench("list", "--json")[1])}
    ours = {key: d for key, d in documents.items() if d["distribution"] == "vaebench"}
    assert [key for key, d in ours.items() if not d["about"]] == []
    assert documents["dataset", "mnist"]["about"] == DATASETS.load("mnist").title
    assert documents["variant", "vae"]["about"] in (VARIANTS.load("vae").__doc__ or "")
    out = bench("list")[1]
    assert "vaebench" not in out
    (baseline,) = (line for line in out.splitlines() if "[baseline]" in line)
    assert baseline.split()[0] == "gan"
    assert out.index("metrics\n") < out.index("  bound\n") < out.index("    elbo ") < out.index("  distance\n")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vqvae", ["variant", "commitment", "0.25", "vaebench"]),
        ("folder", ["dataset", "image_size"]),
        ("elbo", ["metric", "nats/image", "higher is better"]),
        ("kl", ["metric", "not ranked", "by default"]),
        ("conv", ["variant", "backbone", "warmup"]),
        ("mlp", ["backbone"]),
        ("ray", ["executor", "cluster"]),
        ("mlflow", ["logger"]),
    ],
)
def test_info_of_every_kind(bench: Bench, name: str, wanted: list[str]) -> None:
    code, out, _ = bench("info", name)
    assert code == 0
    assert [w for w in wanted if w not in out] == []


def test_info_of_a_name_that_two_kinds_share_shows_both(bench: Bench) -> None:
    out = bench("info", "conv")[1].splitlines()
    assert [line.split() for line in out if line.startswith("conv  ")] == [["conv", "variant"], ["conv", "backbone"]]


def test_info_of_nothing_answers_with_the_closest(bench: Bench) -> None:
    code, _, err = bench("info", "vqvea")
    assert code == 2
    assert "Did you mean 'vqvae'" in err


# table, compare, data


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Row]]:
    """Runs by path, in the place of folders."""
    runs: dict[str, list[Row]] = {}
    monkeypatch.setattr("bench.results.store.Run.rows", lambda self: runs[str(self.path)])
    return runs


def test_table_joins_runs(bench: Bench, stored: dict[str, list[Row]]) -> None:
    stored |= {"a": [row("vae", scores={"elbo": -1.5})], "b": [row("beta", scores={"elbo": -2.5})]}
    out = bench("table", "a", "b")[1]
    assert "−1.50*" in out
    assert "−2.50" in out
    assert [d["label"] for d in json.loads(bench("table", "a", "b", "--json")[1])] == ["vae", "beta"]


def test_a_table_as_json_is_read_like_its_run(
    bench: Bench, stored: dict[str, list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored |= {"a": [row(scores={"elbo": -2.5})], "b": [row(scores={"elbo": -1.5})]}
    path = Path("a.json")
    path.write_text(bench("table", "a", "--json")[1], encoding="utf-8")
    for rest in ((), ("--json",), ("--format", "csv"), ("--methods",)):
        code, out, err = bench("table", path, *rest)
        assert (code, out.replace("a.json", "a"), err) == bench("table", "a", *rest)
    assert "+1.0" in bench("compare", path, "b")[1]
    path.write_text("[")
    code, _, err = bench("table", path)
    assert (code, "a.json" in err) == (4, True)


@pytest.mark.parametrize(("form", "mark"), [("md", "**−1.50**"), ("csv", ",-1.5,"), ("latex", r"\textbf{$-$1.50}")])
def test_table_formats(bench: Bench, stored: dict[str, list[Row]], form: str, mark: str) -> None:
    stored["a"] = [row("vae", scores={"elbo": -1.5}), row("beta", scores={"elbo": -2.5})]
    assert mark in bench("table", "a", "--format", form)[1]


def test_compare_prints_differences_and_refuses_other_protocols(bench: Bench, stored: dict[str, list[Row]]) -> None:
    stored |= {"a": [row(scores={"elbo": -2.5})], "b": [row(scores={"elbo": -1.5})], "c": [row(training={"steps": 7})]}
    assert "+1.0" in bench("compare", "a", "b")[1]
    (found,) = [d for d in json.loads(bench("compare", "a", "b", "--json")[1])["differences"] if d["metric"] == "elbo"]
    assert (found["difference"], found["mark"]) == (1.0, "~")
    code, out, err = bench("compare", "a", "c")
    assert (code, out) == (2, "")
    assert "training.steps: 4690 in a, 7 in b" in err


@pytest.mark.parametrize(
    ("texts", "code", "says"),
    [
        (["elbo<-0.5"], 6, "vae · fashion: elbo -1 is below -0.5"),
        (["elbo<-1.5"], 0, ""),
        (["modes<-5%"], 6, "--fail-if: no pair has modes"),
        (["elbo<-5%"], 2, "%"),
        (["elbo<-0.5nat"], 2, "METRIC<VALUE"),
    ],
)
def test_a_difference_may_fail_a_comparison(
    bench: Bench, stored: dict[str, list[Row]], texts: list[str], code: int, says: str
) -> None:
    stored |= {"a": [row(scores={"elbo": -1.5})], "b": [row(scores={"elbo": -2.5})]}
    found, _, err = bench("compare", "a", "b", *(part for text in texts for part in ("--fail-if", text)))
    assert (found, says in err) == (code, True)


def test_compare_takes_two_runs_or_two_labels_of_one(bench: Bench, stored: dict[str, list[Row]]) -> None:
    stored["a"] = [row("vae", scores={"elbo": -1.5}), row("beta", scores={"elbo": -2.5})]
    assert "beta − vae" in bench("compare", "a", "--between", "vae,beta")[1]
    for arguments in (["a"], ["a", "a", "--between", "vae,beta"], ["a", "--between", "vae"]):
        code, _, err = bench("compare", *arguments)
        assert (code, "--between vae,beta" in err) == (2, True)


def test_columns_of_a_table_are_chosen_by_name(bench: Bench, stored: dict[str, list[Row]]) -> None:
    stored["a"] = [row("vae", scores={"elbo": -1.5, "kl": 7.5})]
    assert "kl" not in bench("table", "a", "--metrics", "elbo")[1].split()
    assert "kl" in bench("table", "a", "--metrics", "elbo,kl")[1].split()
    code, _, err = bench("table", "a", "--metrics", "elbow")
    assert (code, "Did you mean 'elbo'" in err) == (2, True)


def test_a_folder_that_is_no_run_is_a_store_error(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench("table", tmp_path)
    assert (code, out) == (4, "")
    assert "isn't a run" in err
    (tmp_path / "table.json").write_text("[]")
    code, out, err = bench("pareto", tmp_path)
    assert (code, out) == (4, "")
    assert str(tmp_path / "table.json") in " ".join(err.split())


def test_what_needs_a_run_says_who_takes_a_table(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("[]")
    code, out, err = bench("report", tmp_path / "table.json")
    assert (code, out) == (4, "")
    assert "a file, not a run's folder" in err
    assert "enough for `bench table`, `compare` and `pareto` only" in err


def test_data_status_shows_what_is_missing(bench: Bench, tmp_path: Path) -> None:
    code, out, _ = bench("data", "status", "mnist", "digits", "--data-root", tmp_path)
    assert code == 0
    states = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:3]}
    assert states == {"mnist": "missing", "digits": "ready"}


def test_data_fetch_of_an_embedded_dataset_needs_nothing(bench: Bench, tmp_path: Path) -> None:
    code, out, _ = bench("data", "fetch", "digits", "--data-root", tmp_path)
    assert code == 0
    assert out.startswith("digits: complete")


def test_data_fetch_of_an_unknown_name_fetches_nothing(bench: Bench, tmp_path: Path) -> None:
    code, _, err = bench("data", "fetch", "digits", "mnits", "--data-root", tmp_path)
    assert code == 2
    assert "mnist" in err
