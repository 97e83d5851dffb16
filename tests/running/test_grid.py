"""Selectors, settings and grids; a cell's identity; what a wrong name answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from bench.contracts.dataset import Data
from bench.contracts.protocol import RunRequest, Training, seed_for
from bench.contracts.variant import Spec, Variant
from bench.plugins.hyperparameters import Range, check, hyperparameters, selector, show, split
from bench.results.store import Run
from bench.running.grid import Config, cell, expand, tuned
from bench.running.planning import plan, validate
from bench.util.errors import UnknownName, UsageError


def labels(*variants: str, **settings: Any) -> list[str]:
    settings.setdefault("baseline", False)
    settings.setdefault("sanity", False)
    return [c.label for c in expand(RunRequest(variants=variants, **settings))]


def test_split_leaves_brackets_whole() -> None:
    assert split("beta[beta=1|4,latent_dim=8], vae,") == ["beta[beta=1|4,latent_dim=8]", "vae"]
    assert selector("beta[beta=1|4,latent_dim=8]") == ("beta", {"beta": "1|4", "latent_dim": "8"})


@pytest.mark.parametrize("text", ["beta[", "beta]", "beta[beta=1]]", "a[b", "[["])
def test_brackets_that_do_not_match_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        [selector(part) for part in split(text)]


@pytest.mark.parametrize("text", ["beta[beta]", "beta[=3]", "beta[beta=]", "beta[beta=1]x"])
def test_a_selector_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"key=value|end with the bracket"):
        selector(text)


def test_selectors_make_grids() -> None:
    assert labels("beta[beta=1|4|10]", "vae") == ["beta[beta=1]", "beta", "beta[beta=10]", "vae"]
    assert len(labels("beta[beta=1|4,latent_dim=2|4|8]")) == 6
    assert labels("vae", "vae", "vae[warmup=0]") == ["vae", "vae[warmup=0]"] or labels("vae", "vae") == ["vae"]


def test_settings_reach_their_variant_and_the_star_all_that_take_it() -> None:
    assert labels("vae", "beta", set=("beta.beta=10",)) == ["vae", "beta[beta=10]"]
    assert labels("vae", "beta", "vqvae", set=("*.latent_dim=8",)) == [
        "vae[latent_dim=8]",
        "beta[latent_dim=8]",
        "vqvae",
    ]
    assert labels("beta[beta=2]", set=("beta.beta=10",)) == ["beta[beta=2]"]
    assert labels("vae", set=("*.latent_dim=8", "vae.latent_dim=4")) == ["vae[latent_dim=4]"]


def test_backbone_lifts_all_that_take_it() -> None:
    assert labels("vae", "cvae", "vqvae", "gan", backbone="conv") == [
        "vae[backbone=conv]", "cvae[backbone=conv]", "vqvae", "gan",
    ]  # fmt: skip
    assert labels("conv", "vae", backbone="mlp") == ["conv", "vae"]


def test_the_baseline_joins_unless_told_not_to_and_once() -> None:
    assert [c.name for c in expand(RunRequest(variants=("vae",), sanity=False))] == ["vae", "gan"]
    assert [(c.name, c.baseline) for c in expand(RunRequest(variants=("gan", "vae"), sanity=False))] == [
        ("gan", True),
        ("vae", False),
    ]
    assert expand(RunRequest(variants=("vae",), sanity=False))[-1].baseline
    every = [c.name for c in expand(RunRequest(sanity=False))]
    assert sorted(every) == ["ae", "beta", "conv", "cvae", "gan", "vae", "vqvae", "wae"]
    assert every[-1] == "gan"


@pytest.mark.parametrize(
    ("variants", "settings", "says"),
    [
        (("vea",), (), "vae"),
        (("beta[bta=3]",), (), "beta"),
        (("vae",), ("beta.beta=3",), "no variant in this run called 'beta'"),
        (("vae",), ("*.latentdim=3",), "latent_dim"),
        (("beta[beta=ten]",), (), "a number"),
        (("beta[beta=-1]",), (), "0 <= value"),
        (("vae[latent_dim=0]",), (), "1 <= value"),
        (("vae[latent_dim=2.5]",), (), "a whole number"),
        (("vae[warmup=0.5]",), (), "0.25"),
        (("beta[beta=nan]",), (), "wrong type"),
        (("vae",), ("beta",), "isn't VARIANT.NAME=VALUE"),
        (("vae",), ("vae.=3",), "isn't VARIANT.NAME=VALUE"),
    ],
)
def test_a_wrong_name_or_value_answers_with_the_right_one(
    variants: tuple[str, ...], settings: tuple[str, ...], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        labels(*variants, set=settings)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_an_unknown_backbone_is_a_wrong_name(digits: Data) -> None:
    with pytest.raises(UnknownName, match="backbone"):
        labels("vae", backbone="convv")
    with pytest.raises(UnknownName, match="backbone"):
        cell(expand(RunRequest(variants=("vae[backbone=convv]",)))[0], digits, 0, RunRequest())


def test_hyperparameters_are_the_keyword_arguments_of_all_constructors() -> None:
    class Base(Variant):
        def __init__(
            self, spec: Spec, *, width: Annotated[int, Range(1), "w"] = 3, kind: Literal["a", "b"] = "a"
        ) -> None:
            super().__init__(spec)

    class Child(Base):
        def __init__(self, spec: Spec, *, depth: float = 2.0, width: int = 9, **rest: Any) -> None:
            super().__init__(spec, width=width, **rest)

    class Closed(Base):
        def __init__(self, spec: Spec, *, depth: float = 2.0) -> None:
            super().__init__(spec)

    assert {n: h.default for n, h in hyperparameters(Child).items()} == {"depth": 2.0, "width": 9, "kind": "a"}
    assert list(hyperparameters(Closed)) == ["depth"]
    assert check("child", Child, {"depth": 3, "kind": "b"}) == {"depth": 3.0, "kind": "b"}
    for bad in ({"kind": "c"}, {"width": True}, {"depth": "x"}, {"width": 1.0}):
        with pytest.raises(UsageError):
            check("child", Child, bad)


@pytest.mark.parametrize("value", [3, 2.5, True, (400, 200), (), "conv", 1e-3])
def test_what_is_shown_can_be_typed(value: Any) -> None:
    from bench.plugins.hyperparameters import Hyperparameter

    kind = tuple[int, ...] if isinstance(value, tuple) else type(value)
    assert Hyperparameter("h", kind, None).parse(show(value)) == value


@pytest.mark.parametrize(
    ("variants", "settings", "found"),
    [
        (("beta[beta=1|4]",), (), {"beta": ["beta[beta=1]", "beta"]}),
        (("beta[beta=1]", "beta[beta=4]", "vae"), (), {"beta": ["beta[beta=1]", "beta"]}),
        (("vae", "vae[latent_dim=4]"), (), {"vae": ["vae", "vae[latent_dim=4]"]}),
        (("vae", "gan"), ("vae.latent_dim=2|3",), {"vae": ["vae[latent_dim=2]", "vae[latent_dim=3]"]}),
        (("vae", "vae", "beta[beta=2]"), (), {}),
        (("beta", "beta[beta=4]"), (), {}),  # its default
        (("vae", "gan", "gan[latent_dim=4]"), (), {}),  # an anchor
    ],
)
def test_several_settings_of_a_variant_are_a_choice_however_they_are_written(
    variants: tuple[str, ...], settings: tuple[str, ...], found: dict[str, list[str]]
) -> None:
    assert tuned(expand(RunRequest(variants=variants, set=settings))) == found


def planned(out: Path, *variants: str, **settings: Any) -> tuple[str | None, str]:
    """The split of a run on digits, and what is noted beforehand."""
    request = RunRequest(variants, steps=1, sanity=False, baseline=False, out=str(out), **settings)
    made = plan(request)
    return made.request.eval_split, "\n".join(made.notes)


def test_a_list_of_settings_is_scored_on_validation_images_too(tmp_path: Path) -> None:
    for variants in (("beta[beta=1]", "beta[beta=4]"), ("vae", "vae[latent_dim=4]")):
        split, notes = planned(tmp_path, *variants)
        assert split == "validation"
        assert "a grid over hyperparameters" in notes
    split, notes = planned(tmp_path, "vae", "beta[beta=1|4]", eval_split="test")
    assert split == "test"
    assert "2 settings of beta scored on the test split" in notes
    assert "test split" not in planned(tmp_path, "vae", "beta", eval_split="test")[1]


def test_what_was_scored_on_the_test_split_in_its_folder_stays_there(tmp_path: Path) -> None:
    variants = ("vae", "vae[latent_dim=4]")
    Run(tmp_path).create(RunRequest(variants, steps=1, sanity=False, baseline=False))
    split, notes = planned(tmp_path, *variants, "beta", seeds=(0, 1))
    assert split is None
    assert "2 settings of vae scored on the test split" in notes
    assert planned(tmp_path, *variants, "vae[latent_dim=2]")[0] == "validation"  # of these, one is new
    assert planned(tmp_path, *variants, eval_split="validation")[0] == "validation"

    Run(tmp_path / "gone").create(RunRequest(("vae", "no-such-plugin"), steps=1))
    assert planned(tmp_path / "gone", *variants)[0] == "validation"


def test_identity_holds_what_the_weights_depend_on_and_nothing_else(digits: Data) -> None:
    request = RunRequest(variants=("beta",), baseline=False, sanity=False)
    (config,) = expand(request)
    one = cell(config, digits, 0, request)
    same = [
        cell(config, digits, 0, replace(request, device="cpu", out="x", metrics=("fd",), seeds=(0, 1))),
        cell(expand(replace(request, variants=("beta[beta=4]",)))[0], digits, 0, request),
        cell(expand(replace(request, variants=("beta[latent_dim=8]",)))[0], digits, 0, request),
        cell(config, digits, 0, replace(request, steps=2000)),
    ]
    other = [
        cell(config, digits, 1, request),
        cell(config, digits, 0, replace(request, steps=1999)),
        cell(config, digits, 0, replace(request, batch_size=64)),
        cell(config, digits, 0, replace(request, likelihood="gaussian")),
        cell(expand(replace(request, variants=("beta[beta=5]",)))[0], digits, 0, request),
        cell(expand(replace(request, variants=("vae",)))[0], digits, 0, request),
    ]
    assert {c.identity == one.identity for c in same} == {True}
    assert {c.identity == one.identity for c in other} == {False}


def test_settled_values_are_in_the_row(digits: Data) -> None:
    request = RunRequest()
    assert cell(Config("vqvae"), digits, 0, request).hyperparameters["codes"] == 32
    assert cell(Config("vae"), digits, 0, request).hyperparameters["latent_dim"] == 8
    assert cell(Config("vqvae"), digits, 0, request).steps == (2000, 2000)
    assert cell(Config("vae"), digits, 0, replace(request, epochs=2.0)).steps == (23,)  # ceil(2 * 1437 / 128)


@pytest.mark.fault(
    12, "names: ../../x, newline, U+202E, 300 characters, <script>, =cmd()", "folders stay inside, and short"
)
@pytest.mark.parametrize("name", ["../../x", "a/b", "new\nline", "\u202eevil", "x" * 300, "<script>", "=cmd()", ".."])
def test_a_cell_folder_is_safe_whatever_the_dataset_is_called(name: str, digits: Data) -> None:
    folder = cell(Config("vae"), replace(digits, name=name), 0, RunRequest()).name
    assert len(folder) < 120
    assert set(folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789._=-")
    assert not folder.startswith(".")


BAD: list[dict[str, Any]] = [
    {"steps": 0},
    {"steps": -3},
    {"epochs": 0.0},
    {"epochs": float("nan")},
    {"steps": 3, "epochs": 1.0},
    {"batch_size": 1},
    {"limit": 0},
    {"validation": -1},
    {"seeds": ()},
    {"seeds": (1, 1)},
    {"seeds": (-1,)},
    {"image_size": 1},
    {"jobs": 0},
    {"precision": "fp16"},
    {"logger": ("nosuch",)},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_numbers_that_make_no_run_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        validate(RunRequest(**bad))


def test_seeds_for_different_purposes_differ() -> None:
    found = {seed_for(p, s, k) for p in ("order", "init", "train") for s in range(10) for k in range(10)}
    assert len(found) == 300
    assert all(0 <= s < 2**63 for s in found)


def test_a_request_survives_json() -> None:
    request = RunRequest(variants=("vae", "beta[beta=1|4]"), seeds=(0, 2), steps=7, metrics=("-fid",))
    assert RunRequest.from_json(request.to_json()) == request
    assert RunRequest.from_json({"dataset": "mnist", "seeds": 4}).datasets == ("mnist",)
    with pytest.raises(UnknownName, match="step"):
        RunRequest.from_json({"stepz": 3})
    with pytest.raises(UsageError, match="schema"):
        RunRequest.from_json({"schema": 99})


def test_training_protocol_holds_all_of_the_request_that_changes_weights() -> None:
    fields = {"steps", "batch_size", "optimizer", "lr", "precision", "compile", "limit", "validation"}
    assert set(Training(1).__dict__) == fields
