"""The kit for variants: what is right passes, and each wrong variant is caught by the check that is meant for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench import Loss, Spec, Variant
from bench.blocks import GaussianVAE
from bench.contracts.variant import Batch
from bench.testing import (
    Check,
    Failed,
    Outcome,
    Skipped,
    building,
    check,
    checks_of,
    parametrize_with_checks,
    speed,
    training,
    variants,
)
from bench.util.errors import UnknownName, UsageError
from tests.correct_variants import RIGHT
from tests.faulty_variants import (
    NOTED,
    WRONG,
    Adversarial,
    Codes,
    HiddenCounter,
    Labelled,
    LatentMean,
    LayersInAList,
    ListOfStages,
    LossOfTwo,
    NoSuper,
    NotFinite,
    OnlySquares,
    PixelMean,
    QuietSum,
    SuperWithoutSpec,
    Unbuildable,
)

FIRST_PARTY = ("vae", "conv", "beta", "cvae", "vqvae", "wae", "ae", "gan")
SLOW = (speed.compiles, speed.stacks)
NOTES = (*SLOW, building.no_name_is_nearly_the_contracts, training.hyperparameters_change_something)
"""These never fail."""


@pytest.mark.parametrize("plugin", [*FIRST_PARTY, *RIGHT, Adversarial, Codes, Labelled])
def test_what_is_right_passes(plugin: type[Variant] | str) -> None:
    report = check(plugin)
    assert [o for o in report.outcomes if o.status == "failed"] == []
    assert report.ok
    told = {check for check, _ in NOTED.values()}
    assert [o for o in report.outcomes if o.status == "noted" and o.check in told] == []


@pytest.mark.parametrize("wrong", WRONG, ids=lambda cls: cls.__name__)
def test_what_is_wrong_is_caught_where_it_should_be(wrong: type[Variant]) -> None:
    failed = {o.check for o in check(wrong, only=WRONG[wrong]).outcomes if o.status == "failed"}
    assert failed == set(WRONG[wrong])


@pytest.mark.costly
@pytest.mark.parametrize("wrong", WRONG, ids=lambda cls: cls.__name__)
def test_what_is_wrong_is_caught_nowhere_else(wrong: type[Variant], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "CHECKS", [c for c in variants.CHECKS if c not in NOTES])
    report = check(wrong)
    assert not report.ok
    failed = {o.check: o.message for o in report.outcomes if o.status == "failed"}
    assert set(failed) == set(WRONG[wrong]), failed


def test_every_check_that_can_fail_catches_something() -> None:
    assert {c.__name__ for c in variants.CHECKS} - {name for names in WRONG.values() for name in names} == {
        c.__name__ for c in NOTES
    }


@pytest.mark.parametrize("odd", NOTED, ids=lambda cls: cls.__name__)
def test_what_may_be_meant_is_noted(odd: type[Variant]) -> None:
    name, says = NOTED[odd]
    (found,) = check(odd, only=[name]).outcomes
    assert found.status == "noted"
    assert says in found.message


def the(plugin: type[Variant] | str, name: str) -> Check:
    return next(c for c in checks_of(plugin) if c.name == name)


@pytest.mark.parametrize(
    ("wrong", "name", "says"),
    [
        (PixelMean, "terms_are_in_nats", "64 times smaller: a mean over pixels and channels instead of a sum"),
        (LatentMean, "terms_are_in_nats", "8 times smaller: a mean over latents instead of a sum"),
        (QuietSum, "loss_is_a_mean_over_images", "grows with the batch"),
    ],
)
def test_a_failure_says_what_was_measured_where_and_how_it_should_be(
    wrong: type[Variant], name: str, says: str
) -> None:
    with pytest.raises(Failed) as failure:
        the(wrong, name)()
    assert says in failure.value.wrong
    assert "(faulty_variants.py:" in failure.value.look
    assert failure.value.should
    assert len(str(failure.value).splitlines()) == 3


class Raises(GaussianVAE):
    def sample(self, y: object, temperature: float = 1.0) -> object:  # type: ignore[override]
        raise KeyError("no such key")


class Asked(Variant):
    """It draws as many images as it's told to: a mistake about `sample`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.image = nn.Parameter(torch.zeros(spec.shape))

    def loss(self, batch: Batch) -> Loss:
        return (batch.x - self.image).square().flatten(1).sum(1).mean(), {}

    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        return self.image + torch.randn(n, *self.spec.shape)


class Confused(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        raise KeyError("no such term")


class Narrow(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        return (batch.x + torch.zeros(5, 5, 5, 5)).mean(), {}


@pytest.mark.parametrize(
    ("wrong", "look", "should"),
    [
        (NoSuper, "in __init__: self.image = nn.Linear(1, 1)", "Call super().__init__(spec) first in __init__."),
        (SuperWithoutSpec, "in __init__: super().__init__()", "Call super().__init__(spec) first in __init__."),
        (OnlySquares, "in __init__: torch.zeros", "Take the sizes from spec.shape"),
        (LossOfTwo, "LossOfTwo.loss (faulty_variants.py:", "Let it accept the call loss(batch)."),
        (Confused, "in loss: raise KeyError", ""),
        (Narrow, "in loss: return (batch.x", "Take the sizes from spec.shape"),
        (Asked, "in sample: return", "Let it accept the call sample(y, temperature=1.0)"),
    ],
)
def test_what_cant_be_built_or_asked_is_told_apart(wrong: type[Variant], look: str, should: str) -> None:
    with pytest.raises(Failed) as failure:
        the(wrong, "builds_at_several_sizes")()
    assert look in failure.value.look
    assert failure.value.should.startswith(should)
    assert should or not failure.value.should


def test_an_error_of_the_suites_own_is_shown_without_its_kind() -> None:
    (found,) = check(NoLossAtAll, only=["phases_descend"]).outcomes
    assert found.message.startswith("NoLossAtAll.loss returned NoneType")


class NoLossAtAll(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:  # type: ignore[empty-body]
        pass


def test_what_cant_be_trained_is_said_shortly() -> None:
    skipped = {o.message for o in check(Confused).outcomes if o.status == "skipped"}
    assert any("see phases_descend" in message for message in skipped)
    assert not any("no such term" in message for message in skipped)


def test_stages_are_told_in_one_line() -> None:
    with pytest.raises(Failed) as failure:
        the(ListOfStages, "stages_are_well_formed")()
    assert failure.value.wrong == "stages() gives a list"


def test_hidden_layers_are_counted() -> None:
    with pytest.raises(Failed, match=r"4 weights of shape \(1, 8\), \(1,\), .* unknown to the model"):
        the(LayersInAList, "every_weight_is_the_models")()


def test_hidden_state_is_named_and_so_is_the_plugins_own_loss() -> None:
    with pytest.raises(Failed, match="`calls` of the model") as failure:
        the(HiddenCounter, "training_resumes_exactly")()
    assert failure.value.look.startswith("HiddenCounter.loss (faulty_variants.py:")


class Penalised(GaussianVAE):
    """A gradient penalty, at a leaf of its own."""

    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        x = batch.x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(self.encode(x, batch.y).square().sum(), x, create_graph=True)
        return loss + grad.square().flatten(1).sum(1).mean(), terms


def test_a_gradient_penalty_needs_no_strange_weights() -> None:
    the(Penalised, "every_weight_is_the_models")()


class Prints(GaussianVAE):
    def loss(self, batch: Batch) -> Loss:
        print("a loss")  # noqa: T201
        print("for the log", file=sys.stderr)  # noqa: T201
        return super().loss(batch)


def test_what_a_plugin_prints_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(Prints, only=["phases_descend"]).ok
    assert capsys.readouterr() == ("", "")


def test_what_a_plugin_raises_is_shown_with_its_own_line() -> None:
    heard: list[Outcome] = []
    report = check(Raises, on_outcome=heard.append)
    assert tuple(heard) == report.outcomes
    (found,) = (o for o in heard if o.check == "samples_follow_the_seed")
    assert found.status == "failed"
    assert "KeyError: 'no such key'" in found.message
    assert 'in sample: raise KeyError("no such key")' in found.message
    assert "test_conformance.py:" in found.message


def test_one_fault_at_the_root_isnt_told_25_times() -> None:
    report = check(Unbuildable)
    assert [o.check for o in report.outcomes if o.status == "failed"] == ["builds_at_several_sizes"]
    assert all("see builds_at_several_sizes" in o.message for o in report.outcomes if o.status == "skipped")


def test_a_report_is_plain_json() -> None:
    document = json.loads(json.dumps(check("ae", latent_dim=2).to_json()))
    assert document["subject"] == "ae[latent_dim=2]"
    assert document["ok"] is True
    assert [o["check"] for o in document["outcomes"]] == [c.name for c in checks_of("ae")]
    assert {o["status"] for o in document["outcomes"]} == {"passed", "skipped"}
    assert all(o["message"] for o in document["outcomes"] if o["status"] == "skipped")


def test_verdicts_repeat() -> None:
    one, two = (check(NotFinite) for _ in range(2))
    assert [(o.check, o.status, o.message) for o in one.outcomes] == [
        (o.check, o.status, o.message) for o in two.outcomes
    ]


def test_what_there_are_no_checks_for_is_a_usage_error() -> None:
    with pytest.raises(UnknownName, match="vea"):
        checks_of("vea")
    with pytest.raises(UsageError, match="variant, dataset or metric"):
        checks_of(int)
    with pytest.raises(UnknownName, match="betta"):
        checks_of("beta", betta=3)


def test_a_check_has_a_name_and_a_promise() -> None:
    for one in checks_of("ae"):
        assert one.name.isidentifier()
        assert one.what.endswith(".")


def test_ids_are_readable() -> None:
    mark = parametrize_with_checks([PixelMean, ("beta", {"beta": 10.0})])
    ids = [case.id for case in mark.args[1]]
    assert ids[0] == "PixelMean-hyperparameters_are_declared"
    assert "beta[beta=10]-kl_is_not_negative" in ids


def test_a_check_with_nothing_to_check_is_skipped_with_the_reason() -> None:
    with pytest.raises(Skipped, match="implicit model"):
        the("gan", "kl_is_not_negative")()
    (case,) = (c for c in parametrize_with_checks(["gan"]).args[1] if c.id == "gan-kl_is_not_negative")
    with pytest.raises(pytest.skip.Exception, match="implicit model"):
        case.values[0]()


@parametrize_with_checks(["ae", ("vae", {"latent_dim": 2, "warmup": 0.2})])
def test_as_an_author_would_write_it(check: Callable[[], None]) -> None:
    check()


class Annealed(GaussianVAE):
    """A KL that is pushed in over the whole stage: its loss may rise, its objective falls."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)

    def loss(self, batch: Batch) -> Loss:
        loss, terms = super().loss(batch)
        return loss + 50 * batch.progress * terms["kl"], terms


def test_a_warm_up_is_no_ascent() -> None:
    the(Annealed, "phases_descend")()
