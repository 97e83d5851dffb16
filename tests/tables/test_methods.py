"""The paragraph on methods says what holds, for whom it doesn't, and what is missing."""

from __future__ import annotations

from dataclasses import replace

from bench.contracts.row import Row
from bench.running.selection import Choice, Setting
from bench.tables.methods import methods

PLAIN = Row(
    "vae", "vae", "digits", 0, "ok",
    likelihood="bernoulli", steps=(2000,), hyperparameters={"latent_dim": 8},
    plugin={"distribution": "vaebench", "version": "1.0"},
    data={"shape": [1, 8, 8], "train": "0123456789abcdef", "train_images": 1437, "test_images": 360},
    training={"steps": 2000, "batch_size": 128, "optimizer": "adam", "lr": 1e-3, "precision": "fp32"},
    scoring={"samples": 10_000, "mixture": 10, "split": "test", "nll_samples": 100, "nll_images": 1_000, "version": 1},
    provenance={"vaebench": "1.0", "torch": "2.10", "python": "3.11", "device": "cpu", "threads": 1},
)  # fmt: skip


def test_what_holds_for_all_is_said_once() -> None:
    text = methods([PLAIN, replace(PLAIN, seed=1), replace(PLAIN, seed=2)])
    assert text == (
        "digits: vae, seeds 0 to 2. Trained on 1,437 images (1 x 8 x 8, sha256 0123456789ab); scored on 360 of the "
        "test split. Protocol: 2000 steps; batches of 128; Adam; learning rate 0.001; fp32; bernoulli likelihood; 8 "
        "latent dimensions; the last step is scored, and no checkpoint is chosen. Scoring: 10,000 samples, decoder "
        "means; a mixture of 10 Gaussians fitted on codes as second sampler; 100 importance samples for each of 360 "
        "images; protocol version 1. Made with vaebench 1.0, torch 2.10, Python 3.11, on cpu, 1 thread a cell. Every "
        "cell finished."
    )


def test_what_differs_is_said_with_its_labels() -> None:
    other = replace(PLAIN, label="vqvae", steps=(2000, 2000), hyperparameters={}, seed=7)
    far = replace(PLAIN, label="mine", plugin={"distribution": "stranger", "version": "2"})
    gan = replace(PLAIN, label="gan", baseline=True, likelihood="")
    text = methods([PLAIN, far, other, gan])
    assert text.startswith("digits: mine, vae and vqvae, with gan for reference, seed 0 (vqvae: seed 7).")
    more = [replace(row, seed=seed) for row in (PLAIN, gan) for seed in (1, 2, 5)]
    several = methods([PLAIN, gan, *more, replace(gan, label="real")])
    assert "gan and real for reference, seeds 0, 1, 2, 5 (real: seed 0)." in several
    sanity = [replace(gan, label=label) for label in ("mean", "ppca", "real")]
    assert "seeds 0, 1, 2, 5 (mean, ppca and real: seed 0)." in methods([PLAIN, gan, *more, *sanity])
    assert "2000 steps (vqvae: 2000+2000 steps)" in text
    assert "variants from stranger 2" in text
    half = replace(PLAIN, label="half", training={**PLAIN.training, "lr": 5e-4})
    assert "learning rate 0.001 (half: learning rate 0.0005)" in methods([PLAIN, replace(PLAIN, seed=1), half])


def test_failures_are_told_and_datasets_kept_apart() -> None:
    lost = replace(PLAIN, label="beta", status="diverged", reason="non-finite loss")
    first, second = methods([PLAIN, lost, replace(lost, seed=1), replace(PLAIN, dataset="mnist")]).split("\n\n")
    assert first.endswith("Without a result: 2 seeds of beta (diverged).")
    assert second.startswith("mnist: vae, seed 0.")
    assert second.endswith("Every cell finished.")
    assert methods([lost]) == "digits: beta, seed 0. Without a result: 1 seed of beta (diverged)."


def on_validation(row: Row) -> Row:
    """As a cell notes it that was made to be scored on 239 validation images."""
    return replace(
        row,
        data={**row.data, "test": "vvvv", "train_images": 1198, "test_images": 239},
        training={**row.training, "validation": 239},
        scoring={**row.scoring, "split": "validation", "test": "vvvv"},
    )


def test_images_that_were_held_out_are_told_and_counted_by_the_split_that_is_scored() -> None:
    held = on_validation(PLAIN)
    assert "Trained on 1,198 images (1 x 8 x 8, sha256 0123456789ab), 239 more held out for validation" in methods(
        [held]
    )
    assert "scored on 239 of the validation split" in methods([held])
    assert "for each of 239 images" in methods([held])
    assert "239 more held out for validation (whole: none held out)" in methods(
        [held, replace(held, seed=1), replace(PLAIN, label="whole")]
    )

    elsewhere = replace(held, scoring={**PLAIN.scoring, "test": "tttt"})  # of which the cell notes nothing
    assert "scored on" not in methods([elsewhere])
    assert "for each of 1,000 images" in methods([elsewhere])


def choice(variant: str, *labels: str, winner: int | None = 0, dataset: str = "digits") -> Choice:
    settings = tuple(Setting(label, (), -1.0) for label in labels)
    return Choice(variant, dataset, "elbo", 3, settings, None if winner is None else settings[winner])


def test_what_was_chosen_is_said_with_the_number_of_trials() -> None:
    vae, beta = choice("vae", "vae"), choice("beta", "beta", "beta[beta=1]", winner=1)
    chosen = "Settings chosen by mean validation elbo (3 seeds): "
    assert f" {chosen}beta[beta=1] out of 2. Scoring: " in methods([PLAIN], [beta])
    assert f" {chosen}beta[beta=1] out of 2; variants with a single setting are untuned." in methods(
        [PLAIN], [vae, beta]
    )
    lost = choice("wae", "wae[a=1]", "wae", "wae[a=2]", winner=None)
    assert f" {chosen}beta[beta=1] out of 2 and no wae out of 3." in methods([PLAIN], [beta, lost])
    for none in ([vae], [choice("beta", "beta", "beta[beta=1]", dataset="mnist")]):
        assert "Settings" not in methods([PLAIN], none)
