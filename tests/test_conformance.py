"""The kit for variants: what is right passes, and each wrong variant is caught by the check that is meant for it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bench import Loss, Spec, Variant
from bench.blocks import GaussianVAE
from bench.errors import UnknownName, UsageError
from bench.testing import Check, Failed, Outcome, Skipped, check, checks_of, parametrize_with_checks, speed, variants
from bench.variant import Batch
from tests.right import RIGHT
from tests.wrong import WRONG, Adversarial, Codes, Labelled, LatentMean, NotFinite, PixelMean, QuietSum, Unbuildable

FIRST_PARTY = ("vae", "conv", "beta", "cvae", "vqvae", "wae", "ae", "gan")
NOTES = (speed.compiles, speed.stacks)


@pytest.mark.parametrize("plugin", [*FIRST_PARTY, *RIGHT, Adversarial, Codes, Labelled])
def test_what_is_right_passes(plugin: type[Variant] | str) -> None:
    report = check(plugin)
    assert [o for o in report.outcomes if o.status == "failed"] == []
    assert report.ok


@pytest.mark.parametrize("wrong", WRONG, ids=lambda cls: cls.__name__)
def test_what_is_wrong_is_caught_where_it_should_be(wrong: type[Variant]) -> None:
    failed = {o.check for o in check(wrong, only=WRONG[wrong]).outcomes if o.status == "failed"}
    assert failed == set(WRONG[wrong])


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG, ids=lambda cls: cls.__name__)
def test_what_is_wrong_is_caught_nowhere_else(wrong: type[Variant], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "CHECKS", [c for c in variants.CHECKS if c not in NOTES])  # they never fail
    report = check(wrong)
    assert not report.ok
    failed = {o.check: o.message for o in report.outcomes if o.status == "failed"}
    assert set(failed) == set(WRONG[wrong]), failed


def test_every_check_that_can_fail_catches_something() -> None:
    assert {c.__name__ for c in variants.CHECKS} - {name for names in WRONG.values() for name in names} == {
        "compiles",
        "stacks",
    }


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
    assert "(wrong.py:" in failure.value.look
    assert failure.value.should
    assert len(str(failure.value).splitlines()) == 3


class Raises(GaussianVAE):
    def sample(self, y: object, temperature: float = 1.0) -> object:  # type: ignore[override]
        raise KeyError("no such key")


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
    with pytest.raises(UsageError, match="is no variant"):
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
