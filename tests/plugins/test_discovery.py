"""How plugins come in: by the metadata of distributions, by their file, by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

import bench as public
from bench.cli import catalogue
from bench.cli.catalogue import checked, listed
from bench.contracts.protocol import RunRequest
from bench.contracts.variant import VARIANTS, Variant, _is_variant
from bench.plugins import source, unpublished
from bench.plugins.registry import Registry, installed
from bench.results.store import Run
from bench.running.grid import expand, words
from bench.util.errors import PluginError, UnknownName, UsageError
from tests.conftest import Bench
from tests.warm_process import Mother

pytestmark = pytest.mark.usefixtures("warm_servers")

Distribute = Callable[..., None]

HONEST = """
from bench.blocks import GaussianVAE

class Honest(GaussianVAE):
    "A VAE."
"""


@pytest.fixture
def distribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distribute]:
    """Install a distribution: its modules, and the entry points of its variants."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def install(name: str, variants: dict[str, str], **modules: str) -> None:
        info = site / f"{name.replace('-', '_')}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
        lines = [f"{key} = {value}" for key, value in variants.items()]
        (info / "entry_points.txt").write_text("\n".join(["[bench.variants]", *lines, ""]), encoding="utf-8")
        for module, text in modules.items():
            (site / f"{module}.py").write_text(text)
        installed.cache_clear()

    yield install
    installed.cache_clear()


def registry() -> Registry[type[Variant]]:
    return Registry("bench.variants", "variant", _is_variant)


# by name


def test_a_strangers_variant_is_found_by_its_name(distribute: Distribute) -> None:
    distribute("honest-vae", {"honest": "honest_vae:Honest"}, honest_vae=HONEST)
    assert "honest" in list(registry())
    assert registry().load("honest").__name__ == "Honest"
    assert registry().key("honest-vae:honest") == "honest"
    assert (found := registry().entry("honest")).distribution == "honest-vae"
    assert found.version == "2.5"


@pytest.mark.fault(10, "two distributions claim one name", "an error that names both; `dist:name` picks; exit 2")
def test_two_distributions_with_one_name_are_both_named_and_either_can_be_asked_for(distribute: Distribute) -> None:
    distribute("first", {"twin": "one:Honest"}, one=HONEST)
    distribute("second", {"Twin": "two:Honest"}, two=HONEST)
    for name in ("twin", "Twin"):
        with pytest.raises(PluginError, match="first:twin and second:Twin"):
            registry().entry(name)
    assert registry().load("first:twin").__module__ == "one"
    assert registry().load("second:Twin").__module__ == "two"
    assert {"first:twin", "second:Twin"} < set(registry())


@pytest.mark.fault(11, "a plugin is called like a built-in", "the built-in is taken; `dist:name` has the other; exit 0")
def test_a_built_in_is_not_shadowed(distribute: Distribute) -> None:
    distribute("aaa", {"vae": "honest_vae:Honest"}, honest_vae=HONEST)
    assert registry().load("vae").__name__ == "VAE"
    assert registry().load("aaa:vae").__name__ == "Honest"
    assert {"vae", "aaa:vae"} < set(registry())
    assert registry().key("aaa:vae") == "aaa:vae"


@pytest.mark.fault(11, "a plugin differs from a built-in by case alone", "refused by that name; exit 2")
def test_a_name_that_differs_from_a_built_in_by_case_is_refused(distribute: Distribute) -> None:
    distribute("aaa", {"VAE": "honest_vae:Honest"}, honest_vae=HONEST)
    with pytest.raises(PluginError, match="'VAE' of aaa is named like the built-in 'vae'"):
        registry().entry("VAE")
    assert registry().load("aaa:VAE").__name__ == "Honest"


NAMES = (
    "../../x", "/etc/p", "-rf", "\u202egnp", "a" * 65, "\N{PILE OF POO}" * 64, "{{7*7}}", "<script>",
    "va\u0065\u0301", "a b",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.fault(12, "evil names in a distribution's metadata", "not offered, with the reason; exit 2")
def test_evil_names_are_not_offered(name: str, distribute: Distribute, bench: Bench) -> None:
    distribute("evil", {name: "honest_vae:Honest", "fine": "honest_vae:Honest"}, honest_vae=HONEST)
    fresh = registry()
    assert name not in list(fresh)
    assert "fine" in list(fresh)
    assert [fault.name for fault in fresh.faults] == [name]
    with pytest.raises(PluginError, match="invalid name"):
        fresh.load(name)
    code, out, _ = bench("list")
    assert code == 0
    assert "of evil 2.5: invalid name" in out
    assert "\u202e" not in out


def test_an_address_that_is_none_is_a_fault_of_the_metadata(distribute: Distribute) -> None:
    distribute("odd", {"odd": "just some text"})
    with pytest.raises(PluginError, match="invalid address 'just some text'"):
        registry().load("odd")


def test_what_is_loaded_is_checked_and_the_message_names_all(distribute: Distribute) -> None:
    distribute("odd", {"odd": "odd_vae:make"}, odd_vae="def make(spec): ...")
    with pytest.raises(PluginError) as error:
        registry().load("odd")
    assert error.value.what == "the variant 'odd' of odd 2.5 is no variant"
    assert error.value.cause == "odd_vae:make is the function make, not a subclass of bench.Variant."


def test_strangers_can_be_left_out(distribute: Distribute, monkeypatch: pytest.MonkeyPatch) -> None:
    distribute("honest-vae", {"honest": "honest_vae:Honest"}, honest_vae=HONEST)
    monkeypatch.setenv("BENCH_DISABLE_PLUGINS", "1")
    assert "vae" in registry()
    with pytest.raises(UnknownName, match="BENCH_DISABLE_PLUGINS is set"):
        registry().load("honest")
    monkeypatch.setenv("BENCH_DISABLE_PLUGINS", "0")
    assert "honest" in registry()


def test_a_stranger_sets_no_default(distribute: Distribute, tmp_path: Path) -> None:
    distribute("aaa", {})
    text = "[bench.defaults]\ndataset = mine\nbaseline = mine\n"
    (tmp_path / "site" / "aaa-2.5.dist-info" / "entry_points.txt").write_text(text)
    installed.cache_clear()
    assert public.plugins.registry.default("dataset") == "digits"


# what `bench list` knows


def test_the_last_failure_to_load_is_remembered_until_it_loads(distribute: Distribute, tmp_path: Path) -> None:
    distribute("broken", {"broken": "broken_vae:Honest"}, broken_vae="import nothing_like_it")

    def problem() -> str:
        return next(one.problem for one in listed() if one.name == "broken")

    assert problem() == ""
    with pytest.raises(PluginError):
        registry().load("broken")
    assert "ModuleNotFoundError: No module named 'nothing_like_it'" in problem()
    (tmp_path / "site" / "broken_vae.py").write_text(HONEST)
    sys.modules.pop("broken_vae", None)
    registry().load("broken")
    assert problem() == ""


def test_a_list_with_check_loads_each_in_a_process_of_its_own(
    distribute: Distribute, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "KINDS", {"variant": catalogue.KINDS["variant"]})  # a hundred metrics are alike
    distribute("deadly", {"deadly": "deadly_vae:X", "raising": "raising_vae:X", "honest": "honest_vae:Honest"},
               deadly_vae="import os; os._exit(9)", raising_vae="1 / 0", honest_vae=HONEST)  # fmt: skip
    problems = {one.name: one.problem for one in checked() if one.kind == "variant"}
    assert "ends its process by exit code 9" in problems["deadly"]
    assert "ZeroDivisionError" in problems["raising"]
    assert problems["honest"] == problems["vae"] == ""
    code, out, _ = bench("list", "--json")
    known = {one["name"]: one for one in json.loads(out) if one["kind"] == "variant"}
    assert code == 0
    assert known["deadly"]["problem"]
    assert known["honest"]["distribution"] == "honest-vae" or known["honest"]["distribution"] == "deadly"
    assert known["honest"]["version"] == "2.5"


def test_listing_imports_neither_torch_nor_any_plugin(distribute: Distribute, tmp_path: Path) -> None:
    distribute("deadly", {"deadly": "deadly_vae:X"}, deadly_vae="import os; os._exit(9)")
    code = (
        "import sys, bench.cli; assert bench.cli.main(['list']) == 0;"
        "assert not {'torch', 'pandas', 'deadly_vae'} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deadly" in done.stdout


# by its file

MINE = """
from beside import FACTOR
from bench.blocks import GaussianVAE
from torch import nn

class Mine(GaussianVAE):
    "A VAE whose KL weighs more."
    def weigh(self, kl):
        return FACTOR * kl

class Encoder(nn.Module):
    def __init__(self, shape, out):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], out))
    def forward(self, x):
        return self.net(x)

class Both(Encoder):
    def __init__(self, shape, out, context=0, hidden=None):
        super().__init__(shape, out)
        self.label = nn.Linear(context, out)
        self.widths = hidden
    def forward(self, x, c):
        return self.net(x) + self.label(c)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "mine"
    home.mkdir()
    (home / "mine.py").write_text(MINE)
    (home / "beside.py").write_text("FACTOR = 2")
    (home / "unrelated.py").write_text("1 / 0")
    monkeypatch.chdir(home)
    return home


SHORT = (
    *("--steps", 5, "--threads", 1, "--no-baseline", "--no-sanity"),
    *("--metrics", "elbo,kl", "--quiet", "--in-process"),
)


def test_a_variant_in_a_file_runs_beside_the_built_ins(mine: Path, bench: Bench) -> None:
    code, out, err = bench("run", "--variants", "./mine.py:Mine[latent_dim=3],vae", "--set", "Mine.warmup=0.1", *SHORT,
                           "--out", "run", "--json")  # fmt: skip
    assert code == 0, err
    first, second = json.loads(out)
    assert first["label"] == "Mine@mine.py[latent_dim=3,warmup=0.1]"
    assert second["label"] == "vae"
    row = next(row for row in Run("run").rows() if row.variant == "Mine@mine.py")
    assert row.plugin["distribution"] == "a file"
    assert str(mine) not in json.dumps([row.plugin, row.label, row.variant])


def test_an_edited_file_is_a_new_identity_and_so_is_an_edited_neighbour(mine: Path) -> None:
    def name() -> str:
        unpublished.hand_over(["./mine.py:Mine"])
        (config,) = expand(RunRequest(variants=("./mine.py:Mine",), baseline=False, sanity=False))
        return str(public.running.grid.plugin_of(config.name)["source"])

    first = name()
    assert name() == first
    (mine / "unrelated.py").write_text("2 / 0")
    assert name() == first
    (mine / "beside.py").write_text("FACTOR = 3")
    assert (second := name()) != first
    assert VARIANTS.load("Mine@mine.py").weigh(None, 1) == 3  # type: ignore[attr-defined]
    (mine / "mine.py").write_text(f'"""What it is for."""\n{MINE}\n# more\n')
    assert name() == second, "prose doesn't count"
    (mine / "mine.py").write_text(MINE + "\nMORE = 1")
    assert name() not in (first, second)
    other = mine / "elsewhere"
    other.mkdir()
    for file in ("mine.py", "beside.py"):
        (other / file).write_text((mine / file).read_text())
    before = name()
    os.chdir(other)
    assert name() == before, "where it lies doesn't count"


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("./nothing.py:Mine", UsageError, "there is no file './nothing.py'"),
        ("./mine.py:Nothing", PluginError, "mine.py defines no 'Nothing'\nIt defines Mine, Encoder, Both"),
        ("./mine.py:Encoder", PluginError, "is the class Encoder, not a subclass of bench.Variant"),
        ("./unrelated.py:Mine", PluginError, "ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(address: str, kind: type[Exception], message: str, mine: Path) -> None:
    unpublished.hand_over([address])
    with pytest.raises(kind, match=message):
        VARIANTS.load(address)


def test_two_files_of_one_name_do_not_run_together(mine: Path) -> None:
    (mine / "sub").mkdir()
    for file in ("mine.py", "beside.py"):
        (mine / "sub" / file).write_text((mine / file).read_text())
    request = RunRequest(variants=("./mine.py:Mine", "./sub/mine.py:Mine"))
    unpublished.hand_over(words(request))
    with pytest.raises(UsageError, match=r"two variants in this run would be called 'Mine@mine\.py'"):
        expand(request)


def test_a_file_in_a_package_keeps_its_relative_imports(tmp_path: Path) -> None:
    home = tmp_path / "strange_pkg_of_mine"
    (home / "inner").mkdir(parents=True)
    for folder in (home, home / "inner"):
        (folder / "__init__.py").touch()
    (home / "common.py").write_text("FACTOR = 5")
    (home / "inner" / "mine.py").write_text(MINE.replace("from beside", "from ..common"))
    name = VARIANTS.take(f"{home}/inner/mine.py:Mine")
    assert VARIANTS.load(name).weigh(None, 1) == 5  # type: ignore[attr-defined]
    found = [p.relative_to(home) for p in source.closure(home / "inner" / "mine.py")]
    assert Path("common.py") in found
    assert Path("inner/__init__.py") in found


CODE = """
from typing import Annotated

def weigh(kl: float, *, beta: Annotated[float, Range(0), "weight"] = 4.0) -> float:
    return f"{beta * kl:.2f}", {"a": [beta, kl]}
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("from typing", "# why\nfrom typing", False),
        ("\nfrom typing", "'''A module.'''\nfrom typing", False),
        ("    return", "    'A docstring.'\n\n    return", False),
        ("[beta, kl]}", "[\n        beta,\n        kl,\n    ],\n    }", False),
        ('"weight"', '"weight of the KL"', False),
        ('"a"', "'a'", False),
        ("beta * kl", "(beta * kl)", False),
        ("beta * kl", "kl * beta", True),
        ("4.0", "4.5", True),
        ("Range(0)", "Range(1)", True),
        (".2f", ".3f", True),
        ('"a"', '"b"', True),
        ("*, beta", "beta", True),
    ],
)
def test_code_counts_and_prose_does_not(old: str, new: str, counts: bool, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    before = source.digest([file])
    assert old in CODE
    file.write_text(CODE.replace(old, new))
    assert (source.digest([file]) != before) is counts


def test_a_digest_is_the_same_under_each_python(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    assert source.digest([tmp_path / "mine.py"]) == "a5c3dd3201f804c3"


def test_the_source_of_a_built_in_is_its_own_file_and_its_siblings() -> None:
    for name, files in (("beta", {"beta.py", "vae.py"}), ("wae", {"wae.py", "ae.py"}), ("gan", {"gan.py"})):
        file = Path(str(sys.modules[VARIANTS.load(name).__module__].__file__))
        assert {path.name for path in source.closure(file)} - {"__init__.py"} == files


def test_networks_of_ones_own(mine: Path, bench: Bench) -> None:
    settings = ("--set", "vae.encoder=./mine.py:Encoder", "--set", "cvae.encoder=./mine.py:Both",
                "--set", "cvae.hidden=30", "--set", "beta.decoder=conv")  # fmt: skip
    code, out, err = bench("run", "--variants", "vae,cvae,beta", *settings, *SHORT, "--out", "run", "--json")
    assert code == 0, err
    rows = {row.variant: row for row in Run("run").rows()}
    assert [rows[name].networks for name in ("vae", "cvae", "beta")] == [
        "mlp, Encoder@mine.py as encoder", "mlp, Both@mine.py as encoder", "mlp, conv as decoder",
    ]  # fmt: skip
    assert rows["vae"].parts["encoder"]["distribution"] == "a file"
    assert rows["vae"].parts["encoder"] == rows["cvae"].parts["encoder"]
    assert not rows["beta"].parts
    assert len({row.block for row in rows.values()}) == 3, "networks that differ aren't ranked together"
    cell = Path("run", "cells", rows["cvae"].cell)
    model = public.load(cell)
    assert type(model.encoder).__name__ == "Both"
    assert model.encoder.widths == (30,)  # type: ignore[union-attr]
    (mine / "beside.py").write_text("FACTOR = 7")
    code, out, _ = bench(
        "run", "--variants", "vae,beta", *settings[:2], *settings[-2:], *SHORT, "--out", "run", "--dry-run", "--json"
    )
    assert [cell["state"] for cell in json.loads(out)] == ["new", "done"]


def test_a_network_that_takes_no_labels_is_refused_for_a_model_that_gives_them(mine: Path, bench: Bench) -> None:
    code, _, err = bench("run", "--variants", "cvae", "--set", "cvae.encoder=./mine.py:Encoder", *SHORT, "--out", "run")
    assert code == 2
    assert "Encoder@mine.py takes no context" in err
    assert "Encoder(shape, out)" in err


def test_results_never_name_code_to_be_run(mine: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench("run", "--variants", "./mine.py:Mine", *SHORT, "--out", "run")[0] == 0
    (cell,) = Path("run/cells").iterdir()
    monkeypatch.setattr(unpublished, "_adopted", {})
    with pytest.raises(PluginError, match=r"isn.t known here\nHand it over again: --plugin \./mine\.py:Mine, or"):
        public.load(cell)
    assert bench("verify", "run")[0] == 3
    assert bench("verify", "run", "--plugin", "mine.py:Mine")[0] == 0
    code, out, _ = bench("verify", "--why", cell, "--plugin", "./mine.py:Mine")
    assert code == 0
    assert "reuse" in out
    assert bench("verify", "run", "--plugin", "vae")[0] == 2
    monkeypatch.setattr(unpublished, "_adopted", {})
    assert isinstance(public.load(cell, plugins=["./mine.py:Mine"]), Variant)


def test_metrics_and_datasets_may_lie_in_a_file(mine: Path, bench: Bench) -> None:
    (mine / "more.py").write_text(
        "import torch\n"
        "from bench import Dataset, Images, Splits, Score\n"
        "from bench.contracts.measurement import metric\n"
        "@metric(unit='', direction=None)\n"
        "def seven() -> Score:\n"
        "    'Seven.'\n"
        "    return Score(7, 1)\n"
        "class Noise(Dataset):\n"
        "    'Noise.'\n"
        "    def load(self, root):\n"
        "        g = torch.Generator().manual_seed(0)\n"
        "        make = lambda n: Images(torch.randint(256, (n, 1, 8, 8), generator=g, dtype=torch.uint8))\n"
        "        return Splits(make(200), make(50))\n"
    )
    more = ("--dataset", "./more.py:Noise", "--metrics", "elbo,./more.py:seven")
    code, out, err = bench("run", "--variants", "vae", *SHORT[:6], *more, "--quiet", "--out", "run", "--json")
    assert code == 0, out + err
    (row,) = json.loads(out)
    assert row["scores"]["seven@more.py"]["value"] == 7
    assert bench("info", "./more.py:seven")[0] == bench("info", "./more.py:Noise")[0] == 0


# by hand


class Handed(Variant):
    """Not for use: its file is this one."""


def test_a_class_is_taken_by_its_file_or_is_this_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpublished.adopt(Handed).endswith(f"{Path(__file__).name}:Handed")
    monkeypatch.setattr(Handed, "__module__", "__main__")
    assert unpublished.adopt(Handed) == "Handed@__main__"
    assert VARIANTS.load("Handed@__main__") is Handed


def test_a_class_of_a_notebook_runs(tmp_path: Path, mother: Mother, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script stands for a notebook: its classes live in __main__."""
    monkeypatch.chdir(tmp_path)
    Path("notebook.py").write_text(
        HONEST.replace("import GaussianVAE", "import GaussianVAE; import bench; from torch import nn") + "\n"
        "class Flat(nn.Module):\n"
        "    def __init__(self, shape, out):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], out))\n"
        "    def forward(self, x):\n"
        "        return self.net(x)\n"
        "table = bench.run([Honest, 'vae'], set={'vae.encoder': Flat, 'Honest.latent_dim': 3}, steps=5, out='run',\n"
        "                  baseline=False, sanity=False, metrics=['elbo'], threads=1, progress=False)\n"
        "print(','.join(table.label), ','.join(table.status))\n"
        "from pathlib import Path\n"
        "print(sorted(type(bench.load(cell)).__name__ for cell in Path('run/cells').iterdir()))\n"
    )
    process = mother.python(Path("notebook.py").read_text(), env=os.environ, file="notebook.py")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Honest@__main__[latent_dim=3],vae[encoder=Flat@__main__] ok,ok" in out
    assert "['Honest', 'VAE']" in out


TWICE = """
import os
import bench
from bench.blocks import GaussianVAE
class Mine(GaussianVAE):
    "A VAE."
for _ in range(2):
    bench.run(Mine, steps=4, out="run", baseline=False, sanity=False, metrics=["elbo"], threads=1, device="cpu")
    print(len(os.listdir("run/cells")))
"""


def test_cells_of_a_class_without_a_file_are_never_reused(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-"], input=TWICE, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert process.stdout.split() == ["1", "2"]
    assert "Mine@__main__ has no source file" in process.stderr


def test_cells_of_a_scripts_class_are_reused(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(TWICE)
    process = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert process.stdout.split() == ["1", "1"]
    assert "no source file" not in process.stderr


def test_what_a_session_has_redefined_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert source.file_of(Handed) == Path(__file__)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert source.file_of(Handed) == Path(__file__), "a module's file is not the session's"
    monkeypatch.setattr(Handed, "__module__", "__main__")
    assert source.file_of(Handed) is None


def test_a_class_of_a_library_is_this_process_own() -> None:
    assert unpublished.adopt(nn.Identity) == "Identity@torch.nn.modules.linear"


def test_a_cell_loaded_with_other_code_says_so(mine: Path, bench: Bench) -> None:
    assert bench("run", "--variants", "./mine.py:Mine", *SHORT, "--out", "run")[0] == 0
    (cell,) = Path("run/cells").iterdir()
    public.load(cell, plugins=["./mine.py:Mine"])
    (mine / "beside.py").write_text("FACTOR = 9")
    with pytest.warns(UserWarning, match=r"the source of Mine@mine\.py has changed"):
        public.load(cell, plugins=["./mine.py:Mine"])
    code, out, _ = bench("verify", "run", "--plugin", "./mine.py:Mine")
    assert code == 0
    assert "its plugin's source has changed since" in out


@pytest.mark.parametrize("value", [nn.Identity(), lambda shape, out: None])
def test_only_classes_are_handed_over(value: object) -> None:
    with pytest.raises(UsageError, match="not a class or a name"):
        public.run("vae", set={"vae.encoder": value})


def test_a_network_of_a_wrong_shape_is_told_before_anything_is_trained(mine: Path, bench: Bench) -> None:
    (mine / "mine.py").write_text(MINE.replace("nn.Linear(shape[0] * shape[1] * shape[2], out)", "nn.Linear(64, 9)"))
    code, _, err = bench("run", "--variants", "vae", "--set", "vae.encoder=./mine.py:Encoder", *SHORT, "--out", "run")
    assert code == 2
    assert "Encoder@mine.py gives (2, 9) for (2, 1, 8, 8), and should give (2, 16)" in err


def test_a_file_without_a_name_is_asked_for_one(mine: Path, bench: Bench) -> None:
    for verb in ("check", "info"):
        code, _, err = bench(verb, "./mine.py")
        assert code == 2
        assert "It defines Mine, Encoder, Both." in err
        assert "For example: ./mine.py:Mine" in err


def test_a_mended_plugin_is_listed_as_such(distribute: Distribute, tmp_path: Path) -> None:
    distribute("broken", {"broken": "mended_vae:Honest"}, mended_vae="def (")
    with pytest.raises(PluginError):
        registry().load("broken")
    assert next(one.problem for one in listed() if one.name == "broken")
    (tmp_path / "site" / "mended_vae.py").write_text(HONEST)
    assert not next(one.problem for one in listed() if one.name == "broken")
