"""What a model lacks is n/a, in a sentence that denies the ability."""

from __future__ import annotations

import re
from typing import Protocol, runtime_checkable

import pytest

from bench.contracts.abilities import ABILITIES, HasCodes, HoldsSamples, Samples, Weighs, require, why_not
from bench.util.errors import NotAvailable


@pytest.mark.parametrize("ability", ABILITIES)
def test_what_is_lacking_is_denied(ability: type) -> None:
    reason = why_not(object(), ability)
    assert reason is not None
    assert re.search(r"\b(lacks|can't|doesn't|aren't) ", reason)
    assert "ability" not in reason, "no sentence of its own"


@pytest.mark.parametrize(
    ("ability", "reason"),
    [
        (Weighs, "it lacks importance weights log p(x, z) - log q(z|x)"),
        (Samples, "it can't draw images"),
        (HoldsSamples, "its samples aren't a fixed set of images"),
        (HasCodes, "its codes aren't discrete"),
    ],
)
def test_the_reason_reads_as_it_should(ability: type, reason: str) -> None:
    with pytest.raises(NotAvailable) as caught:
        require(object(), ability)
    assert caught.value.reason == reason


@runtime_checkable
class Flies(Protocol):
    def fly(self) -> None: ...


def test_a_strangers_ability_has_a_reason_too() -> None:
    assert why_not(object(), Flies) == "it lacks the ability Flies"
