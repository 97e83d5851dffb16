"""What a run costs over cells, steps and images: measured, fitted by lines, and drawn into docs/scaling.svg."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import ours
import torch
from runs import run
from training import machine, show

from bench.drawing.figures import FONT, element, text_of, ticks

FIGURE = Path(__file__).parent.parent / "docs" / "scaling.svg"
ELBO = ("--variants", "vae", "--metrics", "elbo", "--threads", 1)


@dataclass(frozen=True)
class Axis:
    """One quantity that grows while the others stay."""

    name: str
    told: str  #: what stays
    points: dict[int, tuple[object, ...]]  #: options of a run, for each size

    def fitted(self, seconds: list[float]) -> tuple[float, float, float]:
        """Intercept, slope, and R^2 of the line."""
        x, y = np.array(list(self.points), float), np.array(seconds)
        slope, intercept = np.polyfit(x, y, 1)
        rest = ((y - intercept - slope * x) ** 2).sum()
        return float(intercept), float(slope), float(1 - rest / ((y - y.mean()) ** 2).sum())


def axes(folder: Path, quick: bool) -> list[Axis]:
    """Cells and steps on the embedded digits; images of MNIST in files of several sizes."""
    digits, data = (*ELBO, "--dataset", "digits"), ours.mnist()
    scale = 4 if quick else 1
    cells = {n: (*digits, "--steps", 1000 // scale, "--seeds", n) for n in (1, 2, 4, 8)}
    steps = {n: (*digits, "--steps", n) for n in (1000 // scale, 2000 // scale, 4000 // scale, 8000 // scale)}
    images = {}
    for n in (7_500 // scale, 15_000 // scale, 30_000 // scale, 60_000 // scale):
        path, tenth = folder / f"{n}.npz", n // 10
        train, test = data.train.take(torch.arange(n)), data.test.take(torch.arange(tenth) % len(data.test))
        np.savez(path, x_train=train.squeeze(1).numpy(), x_test=test.squeeze(1).numpy())
        images[n] = (*ELBO, "--dataset", f"npz:{path}", "--epochs", 4)
    return [
        Axis("cells", f"seeds of vae on digits, {1000 // scale:,} steps each", cells),
        Axis("steps", "one cell of vae on digits", steps),
        Axis("images", f"one cell of vae on {data.name}, 4 epochs", images),
    ]


WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 860.0, 300.0, 52.0, 50.0, 246.0, 56.0
STYLE = (
    ".bg{fill:#fff}.t{fill:#1b1f24}.d{fill:#57606a}.g{stroke:#d0d7de}.f{stroke:#0969da}.p{fill:#0969da}"
    "@media (prefers-color-scheme:dark){.bg{fill:#0d1117}.t{fill:#e6edf3}.d{fill:#9da7b3}.g{stroke:#30363d}"
    ".f{stroke:#58a6ff}.p{fill:#58a6ff}}"
)


def _each(slope: float) -> str:
    return f"{slope:.2f} s" if slope >= 1 else f"{1000 * slope:.3g} ms"


def panel(axis: Axis, seconds: list[float], left: float, width: float) -> str:
    """Points, their line, and what stays the same."""
    intercept, slope, fit = axis.fitted(seconds)
    right, most, high = left + width, max(axis.points) * 1.05, max(seconds) * 1.1

    def x(value: float) -> float:
        return left + width * value / most

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * value / high

    def text(what: str, at: tuple[float, float], kind: str = "d", size: int = 11, anchor: str = "middle") -> str:
        return element("text", text_of(what), x=at[0], y=at[1], class_=kind, font_size=size, text_anchor=anchor)

    grid = [element("line", x1=left, x2=right, y1=y(v), y2=y(v), class_="g") for v in ticks(0, high, 4)]
    grid += [text(f"{v:g}", (left - 6, y(v) + 4), anchor="end") for v in ticks(0, high, 4)]
    grid += [text(f"{v:,.0f}", (x(v), BOTTOM + 16)) for v in ticks(0, most, 4)]
    line = element("line", x1=x(0), x2=x(most), y1=y(max(intercept, 0)), y2=y(intercept + slope * most), class_="f")
    dots = [element("circle", cx=x(n), cy=y(s), r=4.0, class_="p") for n, s in zip(axis.points, seconds, strict=True)]
    heads = [
        text(axis.name, (left, 20), "t", 14, "start"),
        text(f"CPU: {intercept:.1f} s + {_each(slope)} each, R² {fit:.4f}", (left, 38), anchor="start"),
        text(axis.told, (left, BOTTOM + 38), size=10, anchor="start"),
    ]
    return element("g", *grid, line, *dots, *heads)


def figure(measured: list[tuple[Axis, list[float]]]) -> str:
    """All panels as one SVG."""
    width = (WIDTH - LEFT - GAP * (len(measured) - 1) - 12) / len(measured)
    panels = [panel(axis, s, LEFT + i * (width + GAP), width) for i, (axis, s) in enumerate(measured)]
    title = "CPU seconds of whole runs over cells, steps and images, with the lines that fit them"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" font-family="{FONT}">'
    back = element("rect", class_="bg", width=WIDTH, height=HEIGHT)
    return "\n".join([opening, element("title", title), element("style", STYLE), back, *panels, "</svg>\n"])


@click.command(
    epilog="""\b
Examples:
  python benchmarks/scaling.py
  python benchmarks/scaling.py --quick --figure /tmp/scaling.svg
\b"""
)
@click.option("--rounds", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="One round, a quarter of the sizes.")
@click.option("--figure", "path", default=FIGURE, type=click.Path(path_type=Path), help="[default: docs/scaling.svg]")
@click.option("--markdown", is_flag=True)
def main(rounds: int, quick: bool, path: Path, markdown: bool) -> None:
    """Measure CPU seconds of whole runs, one thread and one cell at a time, as cells, steps and images grow.

    Rounds are interleaved, and medians fitted by a line: what is left beside it is in R^2.
    """
    with tempfile.TemporaryDirectory() as folder:
        todo = axes(Path(folder), quick)
        found: dict[tuple[str, int], list[float]] = {(a.name, n): [] for a in todo for n in a.points}
        for _ in range(1 if quick else rounds):
            for axis in todo:
                for n, options in axis.points.items():
                    found[axis.name, n].append(run(*options).cpu)
    measured = [(a, [statistics.median(found[a.name, n]) for n in a.points]) for a in todo]
    lines = []
    for axis, seconds in measured:
        intercept, slope, fit = axis.fitted(seconds)
        points = ", ".join(f"{n:,}: {s:.1f}" for n, s in zip(axis.points, seconds, strict=True))
        lines.append([axis.name, f"{intercept:.2f}", _each(slope), f"{fit:.4f}", points])
    heads = ["", "intercept s", "each", "R²", "CPU s"]
    show(f"CPU seconds of whole runs · {machine(torch.device('cpu'), 1)}", heads, lines, markdown)
    path.write_text(figure(measured), encoding="utf-8")
    click.echo(f"figure in {path}")


if __name__ == "__main__":
    main()
