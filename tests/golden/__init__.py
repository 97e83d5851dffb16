"""Tables as a terminal shows them, word for word: tests/golden/table-*.txt, out of rows made by hand.

`python -m tests.golden` records them anew, after a change that is meant.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.contracts.measurement import Note, Score
from bench.contracts.row import Row
from bench.show import console
from tests.example_rows import DATA, SCORING, row

FOLDER = Path(__file__).parent
WIDTHS = (80, 140)
NO_WEIGHTS = "no Inception weights"
NO_BOUND = "deterministic encoder: its code has no posterior, so there is no bound and no rate"
PROTOCOLS = {"data": {**DATA, "test_images": 10_000}, "scoring": {**SCORING, "split": "test"}}
MLP, CONV = ({"backbone": backbone, "latent_dim": 20} for backbone in ("mlp", "conv"))


def cell(label: str, seed: int, seconds: float, scores: dict[str, Any], **changes: Any) -> Row:
    """A row of Fashion-MNIST; a distance by Inception is missing."""
    values = {"scores": {"fid": NO_WEIGHTS, **scores}, "costs": {"train_seconds": seconds}, **PROTOCOLS, **changes}
    return row(label, seed, **values)


def scored(elbo: Any, bce: Any, kl: Any, fd: float, blur: float, sharp: float) -> dict[str, Any]:
    """Scores by metric; a text is why there is none."""
    return {"elbo": elbo, "bce": bce, "kl": kl, "fd": fd, "blur": blur, "sharpness": sharp, "modes": 1.0}


def references(seed: int = 0) -> list[Row]:
    """The baseline and the rows of no model or a trivial one."""
    trivial: dict[str, Any] = {"sanity": True, "steps": (0,), "hyperparameters": {}}
    none = "a GAN samples only"
    gan: dict[str, Any] = {"baseline": True, "hyperparameters": CONV}
    return [
        cell("gan", seed, 1530.0, scored(none, none, none, 11.363, 0.292, 0.663), **gan),
        cell("real", 0, 0.1, scored("no model", "no model", "no model", 0.038, 0.040, 0.994), **trivial),
        cell("ppca", 0, 2.0, scored(*["its likelihood is Gaussian"] * 3, 35.261, 0.695, 0.117), **trivial),
        cell("mean", 0, 0.1, scored(-385.018, 385.018, 0.0, 106.968, 1.276, 0.012), **trivial),
    ]


def readme() -> list[Row]:
    """The run of the README: three variants, one seed."""
    codes = {"hyperparameters": {"backbone": "conv", "codes": 256}, "steps": (4690, 4690)}
    return [
        cell("vae", 0, 74.0, scored(-243.957, 227.453, 16.504, 15.587, 0.557, 0.167), hyperparameters=MLP),
        cell("beta", 0, 75.0, scored(-253.034, 246.353, 6.681, 18.416, 0.696, 0.118), hyperparameters=MLP),
        cell("vqvae", 0, 2640.0, scored(-340.5, 202.63, 137.87, 3.882, 0.325, 0.55), **codes),
        *references(),
    ]


def seeds() -> list[Row]:
    """Twelve variants of three seeds, one of which failed."""
    variants: list[tuple[str, float, dict[str, Any]]] = [
        ("vae", -243.9, {}), ("beta", -253.0, {}), ("beta[beta=10,latent_dim=20,warmup=0.25]", -271.3, {}),
        ("iwae", -243.2, {}), ("wae", 0.0, {}), ("ae", 0.0, {}), ("conv", -238.7, {"hyperparameters": CONV}),
        ("ladder", -238.9, {"hyperparameters": CONV}), ("hvae", -239.4, {"hyperparameters": CONV}),
        ("cvae", -242.7, {"uses_labels": True}), ("collapsed", -391.2, {}),
        ("vqvae", -340.5, {"hyperparameters": {"backbone": "conv"}, "steps": (4690, 4690)}),
    ]  # fmt: skip
    rows = []
    for i, (label, elbo, changes) in enumerate(variants):
        for seed in range(3):
            if (label, seed) == ("hvae", 1):
                lost = {**PROTOCOLS, **changes, "status": "diverged", "reason": "non-finite loss at step 120"}
                rows.append(row(label, seed, **{**lost, "scoring": {}}))
                continue
            x = ((7 * i + 5 * seed * (i + 2)) % 11 - 5) / 15 + 0.2 * seed
            kl: float | str = 16.5 - i / 2 + x / 3 if elbo else NO_BOUND
            scores = scored(elbo + x if elbo else NO_BOUND, 227.5 + i - x, kl, 12 + i + x, 0.5 + x / 30, 0.2 + x / 40)
            if label == "collapsed":
                warning = Note("classes missing from the samples: {n}", "modes_missing", {"n": 4 + seed}, warns=True)
                scores["modes"] = Score(0.5, 10, notes=warning)
            rows.append(cell(label, seed, 70.0 + 9 * i + seed, scores, **{"hyperparameters": MLP, **changes}))
    return [*rows, *(r for seed in range(3) for r in references(seed)[: 4 if seed == 0 else 1])]


TABLES = {"readme": readme, "seeds": seeds}


def screen(name: str, width: int) -> str:
    """The table `name` as a terminal of this width shows it."""
    out = io.StringIO()
    made = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    console.summary(TABLES[name](), ["results/fashion"], made)
    return out.getvalue()


def file(name: str, width: int) -> Path:
    return FOLDER / f"table-{name}-{width}.txt"
