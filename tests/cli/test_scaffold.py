"""What authors of plugins are given: scaffolds, examples and a tutorial, each used as a stranger would, by pip."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli import scaffold
from bench.testing import check
from bench.util.errors import StoreError, UsageError
from tests.conftest import Bench, once

ROOT = Path(__file__).parents[2]
Outside = Callable[..., "subprocess.CompletedProcess[str]"]
SHORT = ("--steps", "20", "--threads", "1", "--quiet", "--no-baseline", "--no-sanity")


def on_one_core() -> None:
    """Tests run side by side: a cell that takes all cores for its threads would wait for them most of the time."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getppid() % len(cores)]})


def environment(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """An environment of its own, in which what is installed here is installed too; a call runs its Python."""
    python = home / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(home / "venv", symlinks=True)
        (site,) = (home / "venv" / "lib").glob("python*/site-packages")
        (site / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")

    def run(*arguments: str, cwd: Path = home, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "BENCH_OFFLINE": "1", "COLUMNS": "100",
               "BENCH_CACHE": str(home / "cache")}  # fmt: skip
        command = [sys.executable, "-m", "pip", "--python", str(python)] if arguments[0] == "pip" else [str(python)]
        rest = arguments[1:] if arguments[0] == "pip" else arguments
        done = subprocess.run(
            [*command, *rest], cwd=cwd, env=env, capture_output=True, text=True, check=False, preexec_fn=on_one_core
        )
        assert code is None or done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run


PIP = ("pip", "install", "--quiet", "--no-index", "--no-build-isolation", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outside]:
    """An environment with the examples, and a package of each kind as `bench new` writes it."""

    def make(home: Path) -> None:
        shutil.copytree(ROOT / "docs" / "examples", home / "examples")
        packages = ["./examples"]
        for kind in ("variant", "dataset", "metric"):
            packages += ["--editable", str(scaffold.new(kind, f"my-{kind}", home / kind))]  # type: ignore[arg-type]
        environment(home)(*PIP, *packages)

    home = once(tmp_path_factory, "outside", make)
    return home, environment(home)


together = pytest.mark.xdist_group("outside")  # so that nobody waits for the environment


@together
def test_all_of_them_run_beside_the_built_ins(outside: tuple[Path, Outside]) -> None:
    home, run = outside
    names = ("--variants", "vae,iwae,my-variant", "--dataset", "bars,my-dataset")
    options = ("--metrics", "elbo,effective_dimensions,my-metric", *SHORT, "--in-process", "--json")
    done = run("-m", "bench.cli", "run", *names, *options, "--out", str(home / "run"))
    rows = json.loads(done.stdout)
    assert [(row["dataset"], row["label"], row["status"]) for row in rows] == [
        (dataset, label, "ok") for dataset in ("bars", "my-dataset") for label in ("vae", "iwae", "my-variant")
    ]
    for row in rows:
        assert all("value" in row["scores"][name] for name in ("elbo", "effective_dimensions", "my-metric"))
    assert {row["plugin"]["distribution"] for row in rows} == {"vaebench", "vaebench-examples", "vaebench-my-variant"}


@together
def test_the_tests_that_come_with_a_package_pass_as_it_stands(outside: tuple[Path, Outside]) -> None:
    home, run = outside
    folders = [str(home / kind) for kind in ("variant", "dataset", "metric")]
    done = run("-m", "pytest", "-v", "-p", "no:cacheprovider", *folders)
    assert " passed" in done.stdout
    assert re.search(r"-kl_is_not_negative\] (PASSED|SKIPPED)", done.stdout)


@pytest.mark.parametrize("address", ["iwae.py:IWAE", "bars.py:Bars", "effective_dimensions.py:effective_dimensions"])
def test_the_examples_keep_their_contracts(address: str) -> None:
    report = check(f"{ROOT / 'docs' / 'examples'}/{address}")
    assert [outcome for outcome in report.outcomes if outcome.status == "failed"] == []


@together
def test_strangers_are_listed_with_where_they_come_from(outside: tuple[Path, Outside]) -> None:
    _, run = outside
    listed = {one["name"]: one for one in json.loads(run("-m", "bench.cli", "list", "--json").stdout)}
    assert listed["iwae"]["distribution"] == "vaebench-examples"
    assert listed["my-metric"]["address"] == "vaebench_my_metric:my_metric"
    assert listed["my-metric"]["version"] == "0.1.0"
    assert listed["my-metric"]["origin"].startswith("file://")
    assert listed["my-metric"]["origin"].endswith("/metric")


def code_lines(text: str) -> int:
    """Lines of code: not blank, no comment, no docstring, no import."""
    text = re.sub(r'"""(.|\n)*?"""', "", text)
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    return sum(not re.match(r"(from|import) ", line) for line in lines)


def test_a_new_objective_takes_at_most_15_lines_and_two_of_toml() -> None:
    tutorial = blocks("python")[0]
    iwae = (ROOT / "docs" / "examples" / "iwae.py").read_text()
    assert code_lines(tutorial) <= 15
    assert code_lines(iwae) <= 15
    toml = (ROOT / "bench" / "cli" / "templates" / "all" / "pyproject.toml.in").read_text()
    assert len(re.search(r"\[project.entry-points(.|\n)*?\n\n", toml)[0].strip().splitlines()) == 2  # type: ignore[index]


@pytest.mark.parametrize(("page", "name"), [("README.md", "Capacity"), ("docs/contract.md", "Adversarial")])
def test_the_classes_of_other_pages_keep_the_contract(page: str, name: str, tmp_path: Path) -> None:
    (text,) = (block for block in blocks("python", page) if f"class {name}" in block)
    (tmp_path / "mine.py").write_text(text)
    report = check(f"{tmp_path / 'mine.py'}:{name}")
    assert [outcome for outcome in report.outcomes if outcome.status == "failed"] == []


def blocks(language: str, page: str = "docs/variants.md") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def quick(command: str) -> list[str]:
    """Return the arguments of a command of the tutorial, with fewer steps, processes and repeated checks."""
    more = {"run": ["--steps", "20"], "check": []}  # the last --steps counts
    program, verb, *arguments = shlex.split(command)
    assert program == "bench"
    if "results/first" in arguments:
        more["run"].append("--in-process")
    if "free-bits" in arguments:
        more["check"] = ["--only", "hyperparameters_are_declared"]  # the same class passed all checks by its file
    return [verb, *arguments, *more.get(verb, [])]


def test_the_tutorial_is_true(tmp_path: Path) -> None:
    """All its commands run in an environment of its own; its class replaces the scaffold's."""
    run = environment(tmp_path)
    module, test_file = blocks("python")
    (tmp_path / "mine.py").write_text(module)
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 9
    (new,) = (command for command in commands if command.startswith("bench new "))
    (install,) = (command for command in commands if command.startswith("pip install "))
    run("-m", "bench.cli", *quick(new))
    package = tmp_path / "vaebench-free-bits"
    (package / "vaebench_free_bits.py").write_text(module)
    (package / "tests" / "test_vaebench_free_bits.py").write_text(test_file)
    run(*PIP, *shlex.split(install)[2:])
    others = [quick(command) for command in commands if command not in (new, install)]
    done = run("-c", f"import sys; from bench.cli import main; sys.exit(max(main(a) for a in {others!r}))")
    assert "free-bits" in done.stdout
    assert (tmp_path / "results" / "second" / "table.csv").is_file()
    rows = (tmp_path / "results" / "first" / "table.csv").read_text()
    assert "FreeBits@mine.py[floor=0.5]" in rows


# `bench new`


@pytest.mark.parametrize("name", ["vae", "Mine", "../x", "a b", "", "-rf", "x" * 41, "été", "__init__"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        scaffold.new("variant", name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="already exists"):
        scaffold.new("variant", "mine", tmp_path / "there")


def test_new_says_what_to_do_next(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = bench("new", "metric", "class")
    assert code == 0
    assert "bench check class" in out
    text = Path("vaebench-class/vaebench_class.py").read_text()
    compile(text, "it", "exec")
    assert "def class_(" in text, "a keyword can't be a function's name"
    assert "$" not in text + Path("vaebench-class/pyproject.toml").read_text()
