"""The kits of datasets and metrics: each mistake is caught by its own check, and nothing that is right is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import Context, DataError, Dataset, File, Images, NotAvailable, Range, Request, Score, Splits
from bench.contracts.dataset import DATASETS
from bench.contracts.measurement import METRICS, Metric, metric
from bench.evidence import Generated, Terms
from bench.testing import Report, check


def noise(n: int = 60, seed: int = 0, **more: Any) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.randint(256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8), **more)


class Right(Dataset):
    """Noise, in two splits."""

    title, license = "noise", "CC0-1.0"

    def load(self, root: Path) -> Splits:
        return Splits(self.split(60, 0), self.split(20, 1))

    def split(self, n: int, seed: int) -> Images:
        return noise(n, seed)


class Untitled(Right):
    title = ""


class Undocumented(Right):
    def __init__(self, *, size: int = 3) -> None: ...


class Fetched(Right):
    def load(self, root: Path) -> Splits:
        if not self.ready(root):
            raise DataError("it isn't there")
        return super().load(root)


class Careless(Fetched):
    files = (File("../nobody_has_it", ("https://example.org/x",), "0" * 64, 3),)


class Plain(Fetched):
    files = (File("x", ("http://example.org/x",), "0" * 64, 3),)


class Unsummed(Fetched):
    files = (File("x", ("https://example.org/x",), "", 3),)


class Tracebacks(Right):
    files = (File("x", ("https://example.org/x",), "0" * 64, 3),)

    def load(self, root: Path) -> Splits:
        return Splits(*[noise(len((root / "x").read_bytes()))] * 2)


class Pretends(Right):
    files = (File("x", ("https://example.org/x",), "0" * 64, 3),)


class Truncated(Right):
    """Floats in [0, 1] that were cast."""

    def split(self, n: int, seed: int) -> Images:
        return Images((noise(n, seed).take(torch.arange(n)) / 255).round().to(torch.uint8))


class Constant(Right):
    def split(self, n: int, seed: int) -> Images:
        return Images(torch.full((n, 1, 8, 8), 200, dtype=torch.uint8))


class Leaks(Right):
    def load(self, root: Path) -> Splits:
        everything = noise()
        return Splits(everything, everything.subset(torch.arange(20)))


class Uneven(Right):
    def split(self, n: int, seed: int) -> Images:
        return Images(torch.randint(256, (n, 1, 8, 8 + seed), dtype=torch.uint8, generator=torch.Generator()))


class Empty(Right):
    def load(self, root: Path) -> Splits:
        return Splits(noise(), noise(0))


class Beyond(Right):
    def split(self, n: int, seed: int) -> Images:
        return noise(n, seed, labels=torch.arange(n) % 4 + 1, classes=("a", "b", "c", "d"))


class Absent(Right):
    def split(self, n: int, seed: int) -> Images:
        return noise(n, seed, labels=torch.arange(n) % 3, classes=("a", "b", "c", "d"))


class Shuffles(Right):
    def split(self, n: int, seed: int) -> Images:
        return noise(n, seed).subset(torch.tensor(random.sample(range(n), n)))


class Reseeds(Right):
    def split(self, n: int, seed: int) -> Images:
        torch.manual_seed(seed)
        return Images(torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8))


class Repeats(Right):
    """Right: a source of few images, which both splits draw from by chance."""

    def split(self, n: int, seed: int) -> Images:
        few = noise(8)
        return few.subset(torch.randint(8, (n,), generator=torch.Generator().manual_seed(seed)))


class Sized(Right):
    """Right: an option, labels."""

    def __init__(self, *, n: Annotated[int, Range(10, 100), "training images"] = 40) -> None:
        self.n = n

    def split(self, n: int, seed: int) -> Images:
        return noise(self.n, seed, labels=torch.arange(self.n) % 2, classes=("even", "odd"))


def failed(report: Report) -> set[str]:
    return {outcome.check for outcome in report.outcomes if outcome.status == "failed"}


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Untitled, "says_what_it_is"), (Undocumented, "says_what_it_is"), (Careless, "declares_its_files"),
        (Plain, "declares_its_files"), (Unsummed, "declares_its_files"), (Tracebacks, "tells_what_is_missing"),
        (Pretends, "tells_what_is_missing"), (Truncated, "has_all_levels"), (Constant, "has_all_levels"),
        (Leaks, "splits_are_disjoint"), (Uneven, "has_two_splits_alike"), (Empty, "has_two_splits_alike"),
        (Beyond, "labels_are_class_indices"), (Absent, "labels_are_class_indices"),
        (Shuffles, "its_digest_is_stable"), (Reseeds, "reading_draws_no_noise"),
    ],
)  # fmt: skip
def test_a_wrong_dataset_is_caught_by_its_own_check(cls: type[Dataset], name: str) -> None:
    report = check(cls)
    necessary = {
        Constant: {"splits_are_disjoint"}, Shuffles: {"reading_draws_no_noise"}, Empty: {"splits_are_disjoint"},
    }  # fmt: skip
    assert name in failed(report)
    assert failed(report) - {name} <= necessary.get(cls, set())
    assert not report.ok
    message = next(o.message for o in report.outcomes if o.check == name)
    assert len(message.splitlines()) >= 2, "what was wrong, where to look, how it should be"


@pytest.mark.parametrize("cls", [Right, Repeats, Sized, DATASETS.load("digits")])
def test_a_right_dataset_passes(cls: type[Dataset]) -> None:
    assert failed(check(cls)) == set()


def test_a_dataset_of_ones_own_folder_is_checked(tmp_path: Path) -> None:
    pixels = noise(50).take(torch.arange(50)).numpy()
    np.savez(tmp_path / "mine.npz", x_train=pixels[:40], x_test=pixels[40:])
    assert failed(check(f"npz:{tmp_path / 'mine.npz'}")) == set()


def test_real_datasets_pass(mnist: Any, fashion: Any) -> None:
    for name in ("mnist", "fashion"):
        report = check(name)
        assert failed(report) == set()
        assert {o.status for o in report.outcomes} <= {"passed", "noted"}


# metrics


@dataclass(frozen=True)
class Restless(Request[float]):
    """Draws outside of the seeded chunks."""

    def resolve(self, context: Context) -> float:
        return random.SystemRandom().random()


class Loose(Request[float]):
    def resolve(self, context: Context) -> float:
        return 1.0


def mean_elbo(terms: Any) -> Tensor:
    found: Tensor = terms.log_likelihood - terms.rate
    return found


def made(function: Callable[..., Score], *needs: Request[Any], **more: Any) -> Metric:
    function.__doc__ = more.pop("doc", "What it is.")
    return metric(*needs, **{"unit": "nats", **more})(function)


def spoils(samples: Tensor) -> Score:
    value = samples.double().mean().item()
    samples.zero_()
    return Score(value, len(samples))


def counts(terms: Any, seen: list[int] = []) -> Score:  # noqa: B006
    seen.append(1)
    return Score(len(seen), 1)


WRONG = {
    "undocumented": (made(lambda t: Score.of(mean_elbo(t)), Terms(), doc=""), "says_what_it_measures"),
    "best": (made(lambda t: Score.of(mean_elbo(t)), Terms(), direction="best"), "says_what_it_measures"),
    "range": (made(lambda t: Score.of(mean_elbo(t)), Terms(), range=(1, 0)), "says_what_it_measures"),
    "upside down": (made(lambda t: Score.of(mean_elbo(t)), Terms(), direction="lower"), "its_direction_holds"),
    "beyond": (made(lambda t: Score.of(mean_elbo(t)), Terms(), range=(0, 1)), "stays_in_its_range"),
    "no samples": (made(lambda t: Score(1.0, 0), Terms()), "gives_a_score"),
    "negative error": (made(lambda t: Score(1.0, 1, -1.0), Terms()), "gives_a_score"),
    "spoils": (made(spoils, Generated()), "is_pure"),
    "counts": (made(counts, Terms()), "is_pure"),
    "numpy": (made(lambda t: Score(1.0 + 0 * np.random.rand(), 1), Terms()), "is_pure"),
    "restless": (made(lambda r: Score(r, 1), Restless()), "is_the_same_each_time"),
    "loose": (made(lambda r: Score(r, 1), Loose()), "requests_can_be_compared"),
    "raises": (made(lambda t: Score(t.nothing, 1), Terms()), "gives_a_score"),
    "a float": (made(lambda t: 1.0, Terms()), "gives_a_score"),  # type: ignore[arg-type, return-value]
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_metric_is_caught_by_its_own_check(name: str) -> None:
    wrong, expected = WRONG[name]
    report = check(wrong)
    necessary = {"counts": {"is_the_same_each_time"}, "range": {"stays_in_its_range"}}
    assert expected in failed(report)
    assert failed(report) - {expected} <= necessary.get(name, set())


def test_a_metric_that_raises_for_a_model_without_abilities_is_caught() -> None:
    @dataclass(frozen=True)
    class Asks(Request[Tensor]):
        def resolve(self, context: Context) -> Tensor:
            found: Tensor = context.model.encode(torch.zeros(1, 1, 8, 8), torch.zeros(1))  # type: ignore[operator]
            return found

    assert failed(check(made(lambda z: Score(float(z.mean()), 1), Asks()))) == {"has_a_reason_where_it_has_no_number"}


def test_a_metric_that_has_no_number_for_any_model_is_skipped_with_the_reason() -> None:
    def never(terms: Any) -> Score:
        raise NotAvailable("only for flows")

    report = check(made(never, Terms()))
    assert report.ok
    assert any("only for flows" in o.message for o in report.outcomes)


SLOW = ("fid", "fid_gmm")  # Inception features


def _costly(name: str) -> bool:
    return not METRICS.load(name).default


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.costly) if _costly(n) else n for n in METRICS if n not in SLOW]
)
def test_the_suites_own_metrics_pass(name: str) -> None:
    assert failed(check(name)) == set()
