"""What the suite is timed against computes the same: one loss, one gradient, from the same weights and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from bench.blocks import GaussianVAE
from bench.contracts.variant import Batch, Spec

FOLDER = Path(__file__).parent.parent / "benchmarks"
NAMES = ("vae", "conv")


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts find each other as they do when one of them is run."""
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def first_layer(module: nn.Module) -> Tensor:
    """The weights that meet the pixels."""
    return next(p for p in module.parameters() if p.ndim in (2, 4))


def outcome(loss: Tensor, weight: Tensor) -> tuple[float, Tensor]:
    (gradient,) = torch.autograd.grad(loss, [weight])
    return loss.item(), gradient


def bare(name: str, x: Tensor) -> tuple[float, Tensor]:
    from baselines.bare import neg_elbo
    from baselines.networks import NETWORKS

    torch.manual_seed(0)
    network = NETWORKS[name]()
    torch.manual_seed(2)
    return outcome(neg_elbo(network, x), first_layer(network.encoder))


def textbook(name: str, x: Tensor) -> tuple[float, Tensor]:
    from baselines.networks import NETWORKS, TwoHeads
    from baselines.textbook import forward, loss_function

    torch.manual_seed(0)
    model = TwoHeads(NETWORKS[name]())
    torch.manual_seed(2)
    recon, mu, logvar = forward(model, x)
    return outcome(loss_function(recon, x, mu, logvar) / len(x), first_layer(model.trunk))


def peer(name: str, x: Tensor) -> tuple[float, Tensor]:
    pytest.importorskip("pythae")
    from baselines.networks import NETWORKS, TwoHeads
    from baselines.peer import model_of

    torch.manual_seed(0)
    heads = TwoHeads(NETWORKS[name]())
    model = model_of(heads)
    torch.manual_seed(2)
    return outcome(model({"data": x}).loss, first_layer(heads.trunk))


def last_channels(plain: Tensor, shape: torch.Size) -> Tensor:
    """Dense weights between a vector and the convolutions' 128 x 7 x 7, in the suite's order: channels last."""
    assert plain.shape == shape
    if 6272 not in shape or plain.ndim > 2:
        return plain
    axis = shape.index(6272)
    return plain.unflatten(axis, (128, 7, 7)).movedim(axis, axis + 2).flatten(axis, axis + 2)


def ours(name: str, x: Tensor) -> tuple[float, Tensor]:
    """The suite's own variant, with the weights of the plain network."""
    from baselines.networks import LATENT, NETWORKS

    from bench.running.grid import Config

    torch.manual_seed(0)
    network = NETWORKS[name]()
    model: Any = Config(name).build(Spec((1, 28, 28), 10, 60_000, LATENT))
    assert isinstance(model, GaussianVAE)
    decoder: Any = model.decoder
    up = decoder.up.parameters() if name == "conv" else ()
    dense = decoder.dense if name == "conv" else decoder
    mine = [*model.encoder.parameters(), *dense.parameters(), *up]
    with torch.no_grad():
        for own, plain in zip(mine, network.parameters(), strict=True):
            own.copy_(last_channels(plain, own.shape) if name == "conv" else plain)
    torch.manual_seed(2)
    labels = torch.zeros(len(x), dtype=torch.long)
    loss, _ = model.loss(Batch(x, labels, labels, torch.zeros(())))
    return outcome(loss, first_layer(model.encoder))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("contender", [textbook, peer, ours], ids=lambda f: f.__name__)
def test_everybody_descends_the_same_loss(contender: Any, name: str, x: Tensor) -> None:
    loss, gradient = contender(name, x)
    plain, expected = bare(name, x)

    assert loss == pytest.approx(plain, rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_the_limit_counts_every_product_of_the_perceptron_once() -> None:
    """2 operations a weight and image: forward, and for both gradients, but not for that of the pixels."""
    from baselines.limit import operations
    from baselines.networks import BATCH, vae

    weights = [784 * 400, 400 * 40, 20 * 400, 400 * 784]
    assert operations(vae()) == 2 * BATCH * (3 * sum(weights) - weights[0])


def test_who_skips_work_is_found_out() -> None:
    from training import Contender, idle

    def found(losses: list[float]) -> list[str]:
        everybody = [("a", [100.0, 90.0]), ("b", [101.0, 91.0]), ("c", losses)]
        return [line.split()[0] for line in idle([Contender(name, {}, losses=values) for name, values in everybody])]

    assert found([99.0, 92.0]) == []
    assert found([99.0, 120.0]) == ["c"]
    assert found([float("nan"), 90.0]) == ["c"]


def test_distances_that_do_not_rise_with_a_disturbance_are_named() -> None:
    from feature_networks import STRENGTHS, not_rising

    rising = [0.1, *(float(i) for all in STRENGTHS.values() for i in range(1, len(all) + 1))]
    assert not_rising(rising) == []
    assert not_rising([0.1, 1, 2, 3, 4, 1, 2, 2, 3, 4], ("blur", "noise")) == ["noise"]
    assert not_rising([1.0, 1, 2, 3, 4, 1.1, 2, 3, 4, 5], ("blur", "noise")) == ["blur"], "the first is the undisturbed"


@pytest.mark.parametrize("rises", [True, False])
def test_only_a_network_that_sees_blur_and_noise_is_written(
    rises: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import train_networks

    found = [float(i if rises else -i) for i in (0, *range(1, 5), *range(1, 6))]
    monkeypatch.setattr(train_networks, "distances", lambda *_: found)
    done = CliRunner().invoke(train_networks.main, ["digits", "--steps", "1", "--out", str(tmp_path)])
    assert (done.exit_code, len(list(tmp_path.iterdir()))) == ((0, 1) if rises else (1, 0))
    assert ("fd doesn't rise with blur and noise: not written" in done.output) == (not rises)
