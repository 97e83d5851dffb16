"""A results folder is data: the code that it names is run by no verb and no function, unless the user names it too."""

from __future__ import annotations

import json
import shutil
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest

import bench as public
from bench import cli
from bench.api import load
from bench.contracts.protocol import RunRequest
from bench.contracts.variant import VARIANTS
from bench.plugins import unpublished
from bench.results.store import Run
from bench.running import runner
from bench.running.grid import expand, words
from bench.show.views import trained
from bench.upkeep.explain import explain
from bench.util.durable import SUMS, sha256, write_json
from bench.util.errors import NotHandedOver, UsageError
from tests.conftest import Bench

pytestmark = pytest.mark.usefixtures("warm_servers")

CODE = """
with open({mark!r}, "a") as file:
    file.write("imported ")
import torch
from torch import nn
from bench import Dataset, Images, Score, Splits, metric
from bench.blocks import Backbone, GaussianVAE

class Own(GaussianVAE):
    "A VAE."

class Enc(nn.Module):
    def __init__(self, shape, out):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], out))
    def forward(self, x):
        return self.net(x)

class Dec(nn.Module):
    def __init__(self, latent, shape):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(latent, shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape))
    def forward(self, z):
        return self.net(z)

class Nets(Backbone):
    encoder = staticmethod(lambda shape, out, **rest: Enc(shape, out))
    decoder = staticmethod(lambda latent, shape, **rest: Dec(latent, shape))

class Noise(Dataset):
    "Noise."
    def load(self, root):
        g = torch.Generator().manual_seed(0)
        make = lambda n: Images(torch.randint(256, (n, 1, 8, 8), generator=g, dtype=torch.uint8))
        return Splits(make(240), make(60))

class Log:
    def __call__(self, event): ...
    def close(self): ...

@metric(unit="", direction="higher")
def seven() -> Score:
    "Seven."
    return Score(7, 1)
"""
SEEDS = ("variant", "adopted", "encoder", "decoder", "backbone", "dataset", "score")  # what each seed's cell names
QUICK = ("--steps", 4, "--threads", 1, "--no-baseline", "--no-sanity", "--quiet", "--device", "cpu")
SETTINGS = {
    "steps": 4, "baseline": False, "sanity": False, "device": "cpu", "threads": 1, "in_process": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest run, scored on validation images so that settings can be chosen on them."""
    out = tmp_path_factory.mktemp("made") / "run"
    request = RunRequest(("vae",), ("digits",), tuple(range(len(SEEDS))), metrics=("elbo", "kl"), out=str(out))
    runner.run(replace(request, eval_split="validation", **SETTINGS))  # type: ignore[arg-type]
    return out


@pytest.fixture(autouse=True)
def _nothing_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpublished, "_adopted", {})
    monkeypatch.setattr(unpublished, "_handed", set())


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The address of an object in the file, which leaves `mark` when it's imported; `both_ways` has it relative too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "own.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    folder = Path("one") if getattr(request, "param", "") == "relative" else tmp_path / "one"
    return lambda name: f"{folder}/own.py:{name}"


both_ways = pytest.mark.parametrize("address", ["absolute", "relative"], indirect=True)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def planted(made: Path, tmp_path: Path, address: Callable[[str], str]) -> Path:
    """The run with addresses wherever a results folder can hold a name: a cell for each kind, and the request."""
    run = Run(shutil.copytree(made, tmp_path / "run"))
    for name in run.names():
        home = run.cells / name
        document = json.loads((home / "done" / "cell.json").read_text())
        kind = SEEDS[document["seed"]]
        if kind in ("encoder", "decoder", "backbone"):
            network = address({"encoder": "Enc", "decoder": "Dec", "backbone": "Nets"}[kind])
            document["hyperparameters"][kind] = network
            document["label"] = f"vae[{kind}={network}]"
        elif kind == "dataset":
            document["dataset"] = address("Noise")
        elif kind == "variant":
            document["variant"] = document["label"] = address("Own")
        elif kind == "adopted":
            document["variant"] = document["label"] = "Own@own.py"
        else:
            for path in (home / "scores").glob("*.json"):
                scored = json.loads(path.read_text())
                (told,) = (value for key, value in scored.items() if key == "scores")
                told[address("seven")] = told["elbo"]
                written = {key: value for key, value in scored.items() if key not in ("schema", "sum")}
                write_json(path, written, summed=True)
        (home / "done" / "cell.json").write_text(json.dumps(document))
        for folder in {path.parent for path in home.rglob(SUMS)}:
            files = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
            (folder / SUMS).write_text("".join(f"{sha256(folder / file)}  {file}\n" for file in files))
    document = json.loads((run.path / "run.json").read_text())
    document |= naming(address)
    (run.path / "run.json").write_text(json.dumps(document))
    return run.path


def naming(address: Callable[[str], str]) -> dict[str, object]:
    """Settings of a run that name code wherever they can."""
    return {
        "variants": [address("Own"), f"vae[encoder={address('Enc')}]", "vae"],
        "datasets": [address("Noise"), "digits"],
        "set": [f"vae.decoder={address('Dec')}|mlp"],
        "backbone": address("Nets"),
        "metrics": ["elbo", "kl", address("seven")],
        "logger": [address("Log")],
        "executor": address("Place"),
    }


# every verb

NONE: list[tuple[object, ...]] = []  # of a verb that reads no results folder
OF_A_CELL = [("RUN", "--cell-seed", seed, "--n", 4) for seed in range(len(SEEDS))]
ON_VALIDATION = ("--eval-split", "validation", "--metrics", "elbo,kl,bce")
VERBS: dict[str, list[tuple[object, ...]]] = {
    "run": [
        ("--config", "RUN/run.json", "--dry-run"),
        ("--config", "RUN/run.json", "--out", "RUN", *QUICK),
        ("--config", "COPY.json", "--dry-run"),
        ("--config", "RUN/settings.json", "--dry-run"),
        ("--variants", "vae", "--seeds", 3, *ON_VALIDATION, "--out", "RUN", *QUICK),
        ("--variants", "vae[hidden=8|9]", *ON_VALIDATION, "--out", "RUN", "--in-process", *QUICK),
        ("--variants", "vae", *ON_VALIDATION, "--out", "RUN", "--force", "--retry-failed", *QUICK),
    ],
    "score": [("samples.npz", "--dataset", "digits", "--out", "RUN", "--metrics", "fd")],
    "list": NONE,
    "info": NONE,
    "check": NONE,
    "new": NONE,
    "table": [
        ("RUN",),
        ("RUN", "--all", "--format", "md"),
        ("RUN", "--format", "latex"),
        ("RUN", "--costs"),
        ("RUN", "--methods"),
        ("RUN", "--with", "published"),
        ("RUN", "--json"),
        ("RUN", "--select", "val:elbo"),
        ("table.json",),
    ],
    "compare": [("RUN", "HONEST"), ("table.json", "RUN"), ("RUN", "--between", "vae,vae[encoder=own]")],
    "report": [("RUN",), ("RUN", "HONEST", "--out", "both.html")],
    "pareto": [("RUN",), ("table.json", "RUN", "--json")],
    "sample": OF_A_CELL,
    "reconstruct": OF_A_CELL,
    "interpolate": OF_A_CELL,
    "traverse": OF_A_CELL,
    "latent": OF_A_CELL,
    "encode": OF_A_CELL,
    "data fetch": NONE,
    "data status": NONE,
    "data clear": NONE,
    "verify": [("RUN",), ("RUN", "--retrain"), ("RUN", "--only-sums"), ("CELL", "--why"), ("CELL", "--why", "--json")],
    "gc": [("RUN",)],
    "merge": [("OUT", "RUN", "HONEST"), ("RUN", "HONEST")],
}
LOADING = {"sample", "reconstruct", "interpolate", "traverse", "latent", "encode", "verify"}


def verbs(command: click.Command, name: str = "") -> Iterator[str]:
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            yield from verbs(one, f"{name} {below}".strip())
    else:
        yield name


def test_every_verb_is_walked() -> None:
    """A new verb must say here what it reads of a results folder."""
    assert set(verbs(cli.cli)) == set(VERBS)


@pytest.mark.fault(30, "a results folder that names code, in whatever field, and every verb that reads one", "none run")
@pytest.mark.parametrize("verb", [name for name, calls in VERBS.items() if calls])
def test_no_verb_runs_what_a_folder_names(
    verb: str, planted: Path, made: Path, mark: Path, tmp_path: Path, bench: Bench, address: Callable[[str], str]
) -> None:
    Path("table.json").write_text(bench("table", planted, "--json")[1])
    assert address("seven") in Path("table.json").read_text()
    np.savez("samples.npz", samples=np.random.default_rng(0).integers(256, size=(64, 8, 8), dtype=np.uint8))
    (planted / "settings.json").write_text(json.dumps(naming(address)))
    shutil.copy(planted / "run.json", "COPY.json")
    cells = sorted(path.name for path in (planted / "cells").iterdir())
    told = ""
    for i, call in enumerate(VERBS[verb]):
        run = shutil.copytree(planted, tmp_path / f"copy{i}")
        places = {"RUN": str(run), "HONEST": str(made), "OUT": str(tmp_path / "out")}
        for cell in cells if "CELL" in call else cells[:1]:
            words = [_placed(str(word), places | {"CELL": str(run / "cells" / cell)}) for word in call]
            code, out, err = bench(*verb.split(), *words)
            assert not mark.exists(), f"bench {verb} {' '.join(words)} imported it"
            assert code in (0, 2, 3, 4, 5), err
            told += out + err
    if verb in LOADING:
        assert f"--plugin {address('Own')}" in told
        assert f"--plugin {address('Enc')}" in told


def _placed(word: str, places: dict[str, str]) -> str:
    head, slash, rest = word.partition("/")
    return f"{places[head]}{slash}{rest}" if head in places else word


# every function


def _load_each(run: Run) -> None:
    for cell in run.names():
        kind = SEEDS[json.loads((run.cells / cell / "done" / "cell.json").read_text())["seed"]]
        if kind in ("dataset", "score"):  # which are nothing to a model
            load(run.cells / cell)
        else:
            with pytest.raises(NotHandedOver, match="--plugin"):
                load(run.cells / cell)


def _run_again(run: Run) -> None:
    public.run("vae", "digits", seeds=len(SEEDS), metrics=("bce",), eval_split="validation", out=str(run.path),
               progress=False, **SETTINGS)  # fmt: skip


FUNCTIONS: dict[str, Callable[[Run], None] | None] = {
    "load": _load_each,
    "metric": None,
    "open_arrays": None,
    "pixel_levels": None,
    "run": _run_again,
    "to_float": None,
    "to_uint8": None,
}


def test_every_public_function_is_walked() -> None:
    """A new function must say here what it reads of a results folder."""
    found = {name for name in public.__all__ if isinstance(getattr(public, name), types.FunctionType)}
    assert found == set(FUNCTIONS)


@both_ways
@pytest.mark.parametrize("name", [name for name, call in FUNCTIONS.items() if call])
def test_no_function_runs_what_a_folder_names(name: str, planted: Path, mark: Path) -> None:
    call = FUNCTIONS[name]
    assert call is not None
    call(Run(planted))
    assert not mark.exists()
    if name == "run":
        assert {row.variant for row in Run(planted).rows()} == {"vae"}, "what was planted is put aside, and made anew"


# what is handed over


@both_ways
@pytest.mark.parametrize("kind", ["variant", "adopted", "encoder", "decoder", "backbone"])
def test_what_is_handed_over_is_used(
    kind: str, planted: Path, mark: Path, bench: Bench, address: Callable[[str], str]
) -> None:
    names = {"variant": "Own", "adopted": "Own", "encoder": "Enc", "decoder": "Dec", "backbone": "Nets"}
    own, seed = address(names[kind]), SEEDS.index(kind)
    asked = (planted, "--cell-seed", seed, "--n", 4)
    for other in [("--plugin", address("Noise")), ("--plugin", "one/own.py:Missing")]:
        assert bench("sample", *asked, *other)[0] == 2
        assert not mark.exists(), "another object of the same file isn't it"
    bench("sample", *asked, "--plugin", own)  # whose weights may not fit: they are another model's
    assert mark.exists()


def test_results_of_ones_own_code_are_shown_with_it_and_in_part_without(
    mark: Path, bench: Bench, address: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {name: address(name) for name in ("Own", "Enc", "Noise", "seven")}
    asked = ("--variants", f"{own['Own']},vae", "--set", f"vae.encoder={own['Enc']}", "--dataset", own["Noise"],
             "--metrics", f"elbo,{own['seven']}", "--out", "run", *QUICK)  # fmt: skip
    assert bench("run", *asked)[0] == 0
    assert {row.status for row in Run("run").rows()} == {"ok"}
    again = bench("run", *asked, "--dry-run", "--json")[1]
    assert {cell["state"] for cell in json.loads(again)} == {"done"}, "the same command finds all of it"
    cells = {row.variant: f"run/cells/{row.cell}" for row in Run("run").rows()}

    def forget() -> None:
        monkeypatch.setattr(unpublished, "_adopted", {})
        monkeypatch.setattr(unpublished, "_handed", set())
        mark.unlink(missing_ok=True)

    flags = {name: ("--plugin", text) for name, text in own.items()}
    forget()
    code, out, _ = bench("table", "run", "--json")
    assert code == 0
    assert {row["scores"]["seven@own.py"]["value"] for row in json.loads(out)} == {7}
    assert bench("report", "run")[0] == 0
    page = Path("run/report.html").read_text()
    assert all(f"--plugin ./own.py:{name}" in page for name in ("Own", "Enc", "Noise"))
    assert "seven@own.py" in page
    assert bench("verify", "run")[0] == 3
    code, _, err = bench("sample", cells["vae"])
    assert (code, "--plugin ./own.py:Enc" in err) == (2, True)
    code, _, err = bench("run", "--config", "run/run.json", "--out", "run", *QUICK[2:])
    assert (code, f"--plugin {own['Own']}" in err) == (2, True)
    assert not mark.exists()

    assert bench("sample", cells["vae"], *flags["Enc"])[0] == 0, "its pictures need no data"
    code, _, err = bench("reconstruct", cells["vae"])
    assert (code, f"--plugin {own['Noise']}" in err) == (2, True)
    assert bench("reconstruct", cells["vae"], *flags["Noise"])[0] == 0
    forget()
    every = [word for flag in flags.values() for word in flag]
    assert bench("verify", "run", "--retrain", *every)[0] == 0
    forget()
    assert json.loads(bench("verify", "--why", cells["Own@own.py"], *every, "--json")[1])["reused"] is True
    forget()
    assert bench("report", "run", *every)[0] == 0
    assert "--plugin" not in Path("run/report.html").read_text()
    forget()
    assert bench("run", "--config", "run/run.json", "--out", "run", "--dry-run", *every)[0] == 0
    forget()
    assert type(load(cells["Own@own.py"], plugins=[own["Own"]])).__name__ == "Own"
    assert type(load(cells["vae"], plugins=[own["Enc"]]).encoder).__name__ == "Enc"


@pytest.mark.parametrize("setting", list(naming(str)))
def test_a_runs_own_request_names_no_code(
    setting: str, made: Path, tmp_path: Path, mark: Path, bench: Bench, address: Callable[[str], str]
) -> None:
    """Wherever it lies, it is told from a configuration that somebody wrote."""
    run = shutil.copytree(made, tmp_path / "run")
    names = naming(address)
    document = json.loads((run / "run.json").read_text()) | {
        "seeds": [0, 1],
        "metrics": ["elbo"],
        setting: names[setting],
    }
    (run / "run.json").write_text(json.dumps(document))
    shutil.copy(run / "run.json", "copied.json")
    del document["schema"]
    (run / "settings.json").write_text(json.dumps(document))
    for place in (run / "run.json", "copied.json", run / "settings.json"):
        for how in (("--dry-run",), ("--dry-run", "--stack-seeds"), ("--in-process",)):
            code, out, err = bench("run", "--config", place, "--out", "out", "--quiet", *how)
            assert (code, out, mark.exists()) == (2, "", False)
            assert "--plugin" in err
    code, _, err = bench("run", "--config", run / "run.json", "--out", "out", "--quiet", "--stack-seeds")
    assert (code, mark.exists()) == (2, False), "nor in a process that plans for this one"
    flags = [word for name in ("Own", "Enc", "Dec", "Nets", "Noise", "seven", "Log", "Place")
             for word in ("--plugin", address(name))]  # fmt: skip
    assert bench("run", "--config", run / "run.json", "--out", "out", "--dry-run", *flags)[0] == 0


def test_a_configuration_of_ones_own_names_code(bench: Bench, mark: Path, address: Callable[[str], str]) -> None:
    settings = {"variants": [address("Own")], "metrics": ["elbo"], "out": "run"}
    Path("mine.json").write_text(json.dumps(settings))
    assert bench("run", "--config", "mine.json", *QUICK)[0] == 0
    assert mark.exists()


def test_what_is_typed_beside_a_runs_request_is_handed_over(
    planted: Path, bench: Bench, mark: Path, address: Callable[[str], str]
) -> None:
    typed = ("--variants", address("Own"), "--dataset", "digits", "--metrics", "elbo", "--backbone", "mlp")
    code, _, err = bench("run", "--config", planted / "run.json", *typed, "--dry-run", "--executor", "local",
                         "--logger", "tensorboard", "--set", "*.latent_dim=3")  # fmt: skip
    assert (code, mark.exists()) == (0, True), err


def test_a_request_says_all_that_it_hands_over(address: Callable[[str], str]) -> None:
    request = RunRequest.from_json(naming(address))
    named = {address(name) for name in ("Own", "Enc", "Noise", "Dec", "Nets", "seven", "Log", "Place")}
    assert named <= set(words(request))
    given = {f.name for f in RunRequest.__dataclass_fields__.values() if "str" in str(f.type)}
    plain = {"likelihood", "precision", "eval_split", "inception_precision", "device", "address", "data_root", "out"}
    assert given == {*naming(address), *plain}, "a setting that is new names code, or doesn't"


def test_a_refusal_looks_at_nothing_and_is_safe_to_print(tmp_path: Path) -> None:
    odd = "/nowhere/\x1b]0;title\x07 and\nmore.py:Own"
    with pytest.raises(NotHandedOver) as refused:
        VARIANTS.entry(odd)
    assert refused.value.address == odd
    assert not {"\x1b", "\x07"} & set(str(refused.value))
    with pytest.raises(NotHandedOver) as refused:
        VARIANTS.entry("/" + "a" * 10_000 + ".py:Own")
    assert len(str(refused.value)) < 1_000
    unpublished.hand_over(["/nowhere/mine.py:Own"])
    with pytest.raises(UsageError, match="there is no file"):
        VARIANTS.entry("/nowhere/mine.py:Own")


def test_a_request_read_from_a_folder_hands_nothing_over(planted: Path, mark: Path) -> None:
    with pytest.raises(NotHandedOver):
        expand(Run(planted).request())
    cell = next(name for name in Run(planted).names() if "s1" in name)
    assert explain(Run(planted), cell).reused is not True
    with pytest.raises(NotHandedOver):
        trained(str(planted), seed=0)
    assert not mark.exists()
