"""The rate-distortion plane: the Pareto front, and a figure whose marks are at the places that its axes name."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.drawing.figures import Spot, numbered, shortened, ticks
from bench.results.store import Run
from bench.tables import frames
from bench.tables.ratedistortion import FIGURE, Plane, Point, dominators, draw, planes, write, write_if_enough
from tests.conftest import Bench
from tests.example_rows import row

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_the_definition(seed: int) -> None:
    draw_from = random.Random(seed)
    points = [(float(draw_from.randint(0, 6)), float(draw_from.randint(0, 6))) for _ in range(15)]  # many ties
    for p, found in zip(points, dominators(points), strict=True):
        above = [q for q in points if q[0] <= p[0] and q[1] <= p[1] and (q[0] < p[0] or q[1] < p[1])]
        assert (found is None) == (not above)
        if found is not None:
            assert points[found] in above
            assert sum(points[found]) == min(map(sum, above))


def test_equal_points_stand_on_the_front_together() -> None:
    assert dominators([(1.0, 2.0), (1.0, 2.0), (1.0, 3.0), (0.0, 9.0)]) == [None, None, 0, None]


def cell(run: Run, made: Row, rate: float | None, distortion: float) -> Row:
    """A finished cell whose evidence has these means."""
    spread = torch.tensor([-1.0, 0.0, 1.0])
    evidence = {"distortion": distortion + spread} | ({} if rate is None else {"rate": rate + spread})
    run.write_done(made, {"w": torch.zeros(1)}, [], evidence, {}, "")
    return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.create(RunRequest())
    return run


def test_points_are_means_of_evidence_over_seeds(run: Run) -> None:
    cell(run, row("a", 0, cell="a-0"), 10.0, 100.0)
    cell(run, row("a", 1, cell="a-1"), 14.0, 104.0)
    cell(run, row("b", 0, cell="b-0"), 13.0, 103.0)
    (plane,), without = planes([(run, run.rows())])

    a, b = plane.points
    assert (a.label, a.rate, a.distortion, a.negative_elbo) == ("a", 12.0, 102.0, 114.0)
    assert a.spread == pytest.approx((8**0.5, 8**0.5))
    assert (b.dominated_by, b.on_front, b.spread) == ("a", False, (0.0, 0.0))
    assert without == {}


def test_what_cant_be_compared_stands_in_another_plane(run: Run) -> None:
    cell(run, row("a", cell="a"), 10.0, 100.0)
    cell(run, row("b", cell="b", likelihood="gaussian"), 1.0, 1.0)
    cell(run, row("c", cell="c", uses_labels=True), 1.0, 1.0)
    cell(run, row("d", cell="d", dataset="mnist"), 1.0, 1.0)
    cell(run, row("e", cell="e", training={"steps": 7}), 1.0, 1.0)
    cell(run, row("f", cell="f"), 20.0, 90.0)
    found, _ = planes([(run, run.rows())])

    assert sorted([p.label for p in plane.points] for plane in found) == [["a", "f"], ["b"], ["c"], ["d"], ["e"]]
    assert all(point.on_front for plane in found for point in plane.points)


def test_anchors_dominate_nobody_and_rows_without_a_bound_have_no_place(run: Run) -> None:
    cell(run, row("anchor", cell="anchor", sanity=True), 0.0, 0.0)
    cell(run, row("a", cell="a"), 10.0, 100.0)
    cell(run, row("ae", cell="ae"), None, 50.0)
    run.write_failed(row("bad", cell="bad", status="diverged", reason="non-finite"), "")
    (plane,), without = planes([(run, run.rows())])

    assert {p.label: p.on_front for p in plane.points} == {"anchor": False, "a": True}
    assert without == {"ae": "no bound", "bad": "diverged: non-finite"}


def test_a_run_draws_itself_where_three_labels_have_a_place(run: Run) -> None:
    for i in range(2):
        cell(run, row(f"v[a={i}]", cell=str(i)), 10.0 + i, 100.0 - i)
    assert write_if_enough(run, run.rows()) is None
    cell(run, row("ae", cell="ae"), None, 50.0)
    assert write_if_enough(run, run.rows()) is None
    cell(run, row("v", cell="v"), 9.0, 120.0)
    assert write_if_enough(run, run.rows()) == run.path / FIGURE
    assert "v[a=1]" in (run.path / FIGURE).read_text()


# the picture


def plane(*points: tuple[str, Sequence[float], Sequence[float]], anchors: Sequence[str] = ()) -> Plane:
    made = [Point(label, label.partition("[")[0], label in anchors, tuple(r), tuple(d)) for label, r, d in points]
    where = dominators([(p.rate, p.distortion) for p in made])
    return Plane(
        "fashion",
        "bernoulli",
        tuple(replace(p, dominated_by=None if i is None else made[i].label) for p, i in zip(made, where, strict=True)),
    )


@pytest.mark.parametrize(
    ("seeds", "anchors", "said"),
    [
        ((3, 3, 1), "c", "means over 3 seeds"),
        ((3, 2, 1), "c", "means over 2 to 3 seeds"),
        ((1, 1, 2), "c", "one seed"),
        ((2, 2, 2), "abc", "means over 2 seeds"),
    ],
)
def test_the_subtitle_counts_the_seeds_of_what_is_held_against_each_other(
    seeds: tuple[int, ...], anchors: str, said: str
) -> None:
    points = [(label, [float(i)] * n, [9.0 - i] * n) for i, (label, n) in enumerate(zip("abc", seeds, strict=True))]
    assert f" · {said}" in draw([plane(*points, anchors=anchors)]).svg()


SWEEP = plane(
    *[(f"beta[beta={b}]", (r - 0.2, r + 0.2), (d, d + 1)) for b, r, d in ((1, 22, 219), (4, 10, 239), (8, 6, 255))],
    ("vqvae[codes=32]", (61,), (210,)),
    ("worse", (70,), (240,)),
)


class Picture:
    """An SVG, read back: its axes by their numbers."""

    def __init__(self, text: str) -> None:
        self.root = ElementTree.fromstring(text)
        self.texts = [t.text or "" for t in self.root.iter(f"{SVG}text")]
        self.rate = self._scale("middle", "x", 0.0)
        self.distortion = self._scale("end", "y", 4.0)

    def _scale(self, anchor: str, axis: str, off: float) -> tuple[float, float]:
        """(offset, nats a pixel), from the numbers of an axis."""
        numbers = []
        for t in self.root.iter(f"{SVG}text"):
            if t.get("text-anchor") == anchor and re.fullmatch(r"[−\d.,e]+", t.text or ""):
                numbers.append((float(t.get(axis, "")) - off, float((t.text or "").replace("−", "-").replace(",", ""))))
        (p, u), (q, v) = numbers[0], numbers[-1]
        return u - p * (v - u) / (q - p), (v - u) / (q - p)

    def nats(self, x: float, y: float) -> tuple[float, float]:
        return self.rate[0] + self.rate[1] * x, self.distortion[0] + self.distortion[1] * y

    def lines(self, kind: str) -> list[tuple[Spot, Spot]]:
        """The ends of lines of two spots in a colour, in pixels."""
        found = []
        for path in self.root.iter(f"{SVG}path"):
            spots = [tuple(map(float, spot.split())) for spot in path.get("d", "")[1:].split("L")]
            if path.get("class") == kind and len(spots) == 2:
                found.append((spots[0], spots[1]))
        return found  # type: ignore[return-value]

    def marks(self) -> dict[str, Spot]:
        """Each mark's centre, in pixels, by its title."""
        found = {}
        for mark in self.root.iter():
            if (title := mark.find(f"{SVG}title")) is None or mark is self.root:
                continue
            if mark.tag == f"{SVG}circle":
                at = float(mark.get("cx", "")), float(mark.get("cy", ""))
            else:
                corners = [tuple(map(float, c.split(","))) for c in mark.get("points", "").split()]
                at = sum(c[0] for c in corners) / len(corners), sum(c[1] for c in corners) / len(corners)
            found[(title.text or "").split(":")[0]] = at
        return found

    def places(self) -> dict[str, tuple[float, float]]:
        """Each mark's centre, in nats."""
        return {label: self.nats(*at) for label, at in self.marks().items()}


def drawn(*planes: Plane) -> Picture:
    return Picture(draw(planes).svg())


def test_every_mark_is_where_the_axes_say_and_has_its_number_beside_it() -> None:
    picture = drawn(SWEEP)
    places = picture.places()
    assert places.keys() == {p.label for p in SWEEP.points}
    for i, p in enumerate(SWEEP.points, 1):
        assert places[p.label] == pytest.approx((p.rate, p.distortion), abs=0.25)
        (number,) = (t for t in picture.root.iter(f"{SVG}text") if t.text == str(i) and t.get("class") == "ink")
        at = float(number.get("x", "")), float(number.get("y", ""))
        assert math.dist(at, picture.marks()[p.label]) < 12
        assert f"{i} {p.label}" in {" ".join(text.split()) for text in picture.texts}


def beside(*references: tuple[str, float, float]) -> Plane:
    """The sweep, with reference rows."""
    others = plane(*((label, (r,), (d,)) for label, r, d in references), anchors=[label for label, _, _ in references])
    return replace(SWEEP, points=tuple(sorted((*SWEEP.points, *others.points), key=lambda p: p.rate)))


@pytest.mark.parametrize(
    ("rate", "distortion", "x", "y"),
    [(0, 385, -1, -1), (30, 385, 0, -1), (300, 230, 1, 0), (300, 100, 1, 1), (-9, 230, -1, 0), (-9, 100, -1, 1)],
)
def test_a_reference_beyond_the_axes_of_the_others_is_at_the_edge_with_its_numbers_in_the_legend(
    rate: float, distortion: float, x: int, y: int
) -> None:
    alone, picture = drawn(SWEEP), drawn(beside(("mean", rate, distortion)))
    assert (picture.rate, picture.distortion) == (alone.rate, alone.distortion)
    places, (mark,) = picture.places(), [at for label, at in picture.marks().items() if label == "mean"]
    assert all(places[p.label] == pytest.approx((p.rate, p.distortion), abs=0.25) for p in SWEEP.points)

    ((tail, tip),) = picture.lines("ca")  # from the mark out of the frame, towards the place
    assert tail == pytest.approx(mark, abs=0.06)
    assert [(b > a + 0.1) - (b < a - 0.1) for a, b in zip(tail, tip, strict=True)] == [x, y]
    assert any("mean: beyond the axes" in t and f"R {rate:.1f}, D {distortion:.1f}" in t for t in picture.texts)


def test_a_reference_within_the_axes_is_a_mark() -> None:
    picture = drawn(beside(("near", 30.0, 230.0), ("mean", 0.0, 385.0)))
    assert picture.places()["near"] == pytest.approx((30.0, 230.0), abs=0.25)
    assert len(picture.lines("ca")) == 1
    assert any(text.endswith(" near") for text in picture.texts)


def test_fewer_than_two_others_share_their_axes_with_references() -> None:
    for anchors in ("ab", "a"):
        picture = drawn(plane(("a", (1.0,), (90.0,)), ("b", (2.0,), (7.0,)), anchors=anchors))
        assert (picture.marks().keys(), picture.lines("ca")) == ({"a", "b"}, [])


def test_a_label_that_is_alone_in_its_plane_is_named(run: Run) -> None:
    for i, label in enumerate(("a", "b", "c")):
        cell(run, row(label, cell=label), 10.0 + i, 100.0 - i)
    assert write_if_enough(run, run.rows()) is not None
    assert "Not shown" not in (run.path / FIGURE).read_text()
    cell(run, row("given", cell="given", uses_labels=True), 9.25, 90.0)
    assert write_if_enough(run, run.rows()) is not None
    picture = Picture((run.path / FIGURE).read_text())
    assert any("given (rate 9.2, distortion 90.0)" in text for text in picture.texts)
    assert "given" not in picture.marks()

    cell(run, row("other", cell="other", uses_labels=True, likelihood="gaussian"), 9.0, 80.0)
    write_if_enough(run, run.rows())
    assert "given (rate 9.2, distortion 90.0); other (rate 9.0" in (run.path / FIGURE).read_text()
    cell(run, row("too", cell="too", uses_labels=True), 9.5, 80.0)  # two of five: beside three that are enough
    write_if_enough(run, run.rows())
    drawn = (run.path / FIGURE).read_text()
    assert "other (rate 9.0" in drawn
    assert "given (rate" not in drawn
    assert "<title>given: " in drawn


def test_diagonals_have_one_elbo_and_their_numbers_say_which() -> None:
    picture = drawn(SWEEP)
    sums = []
    for start, end in (ends for ends in picture.lines("rule") if ends[0][0] < ends[1][0] and ends[0][1] < ends[1][1]):
        assert sum(picture.nats(*start)) == pytest.approx(sum(picture.nats(*end)), abs=0.2)
        sums.append(round(sum(picture.nats(*start))))
    assert len(set(sums)) >= 4
    numbered = [float(t.removeprefix("−ELBO ").replace(",", "")) for t in picture.texts if t.startswith("−ELBO ")]
    assert numbered == sums


def test_labels_units_and_the_front_are_written() -> None:
    made = draw([SWEEP], ["ae"]).svg()
    shown = Picture(made).texts
    assert all(any(p.label in text for text in shown) for p in SWEEP.points)
    assert any("rate R (nats/image)" in text for text in shown)
    assert any("distortion D (nats/image)" in text for text in shown)
    assert any("ae" in text for text in shown)
    assert "worse: rate 70.00, distortion 240.00, -ELBO 310.00, dominated by beta[beta=1]" in made
    assert made.count('class="c2 hollow"') == 2  # the mark and its entry in the legend


HOSTILE = ('<script>alert("x")</script>', "a&b]]>", "' onload='x", "\x00\x1b[31m\ud800", "</svg>", "y" * 300)


def test_hostile_labels_are_text() -> None:
    made = draw([plane(*((name, (float(i),), (10.0 - i,)) for i, name in enumerate(HOSTILE)))], HOSTILE).svg()
    root = ElementTree.fromstring(made.encode())
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags <= {"svg", "title", "rect", "path", "circle", "polygon", "text"}
    assert not any(name.lower().startswith("on") or "href" in name for e in root.iter() for name in e.attrib)
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4], HOSTILE[5]):
        assert any(title.startswith(f"{name}: rate") for title in titles)
    assert all(len(t.text or "") <= 140 for t in root.iter(f"{SVG}text"))


@pytest.mark.parametrize("values", [[(5.0, 5.0)] * 3, [(0.0, -3.0), (1e-9, -3.0)], [(1e6, 2e6), (3.0, -1e6)]])
def test_any_numbers_can_be_drawn(values: list[tuple[float, float]]) -> None:
    made = draw([plane(*((f"v{i}", (r,), (d,)) for i, (r, d) in enumerate(values)))]).svg()
    assert not re.search(r'"[^"]*\b(nan|inf)\b', made)
    assert len([t for t in Picture(made).texts if re.search(r"\bv\d", t)]) == len(values)


def test_numbers_of_marks_that_are_close_together_share_a_text() -> None:
    texts = [part.text for part in numbered([(0.0, 0.0), (5.0, 5.0), (99.0, 0.0), (6.0, -5.0)])]
    assert texts == ["1, 2, 4", "3"]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 10.0, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.3, 0.31, 6) == [-0.2, 0.0, 0.2]
    assert ticks(237.2, 307.9, 7) == [240, 260, 280, 300]


def test_a_table_without_its_run_has_the_scores_to_go_by(run: Run, bench: Bench, tmp_path: Path) -> None:
    rows = [
        cell(run, row("a", cell="a", scores={"elbo": -110.0, "kl": 10.0}), 10.0, 100.0),
        cell(run, row("b", cell="b", scores={"elbo": -112.0, "kl": 11.0}), 11.0, 101.0),
        cell(run, row("ae", cell="ae", scores={"elbo": "no density", "kl": 3.0}), None, 50.0),
    ]
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps(frames.records(rows)))

    by_run = bench("pareto", run.path, "--json")
    by_table = bench("pareto", kept, "--json", "--out", tmp_path / "own.svg")
    assert json.loads(by_table[1])["planes"] == json.loads(by_run[1])["planes"]
    assert json.loads(by_table[1])["without"] == {"ae": "elbo: no density"}
    assert (tmp_path / "own.svg").read_text() == (run.path / FIGURE).read_text()
    assert bench("pareto", kept)[2] == "", "nothing is drawn beside a table unasked"

    code, out, _ = bench("pareto", kept, run.path, "--json")
    assert (code, json.loads(out)) == (0, json.loads(by_table[1])), "of equal seeds one counts"


def test_a_table_that_tells_too_little_says_what_it_lacks(bench: Bench, tmp_path: Path) -> None:
    kept, halves = tmp_path / "kept.json", {"elbo": -110.0, "kl": 10.0}
    lacking = [
        row("a", scores=halves, data={"test": "0123"}, training={"lr": 0.001}),
        row("b", scores={"elbo": -110.0}),
        row("c", scores={"elbo": -110.0, "kl": "came out as nan"}),
        row("d", scores={"elbo": "no density", "kl": 1.0}),
    ]
    documents = frames.records(lacking)
    del documents[1]["scores"]["kl"]
    kept.write_text(json.dumps(documents))
    code, out, _ = bench("pareto", kept, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["without"] == {"b": "its table has no kl", "c": "kl: came out as nan", "d": "elbo: no density"}
    assert [plane["heading"] for plane in found["planes"]] == ["bernoulli likelihood"]

    code, _, err = bench("pareto", kept, "--out", kept)
    assert code == 2
    assert "is what is to be read" in err
    kept.write_text("[]")
    code, _, err = bench("pareto", kept)
    assert code == 4
    assert "holds no rows" in err


def test_long_names_lose_their_middle() -> None:
    assert shortened("abc", 5) == "abc"
    assert len(shortened("x" * 300, 40)) == 40
    assert shortened("beta[beta=10,latent_dim=8]", 12) == "beta[bet…=8]"


def test_no_figure_of_a_single_label(tmp_path: Path) -> None:
    assert not write(tmp_path / "x.svg", [plane(("a", (1.0,), (2.0,)))])
    assert not (tmp_path / "x.svg").exists()


def test_the_verb_prints_the_front_and_draws(run: Run, bench: Bench) -> None:
    cell(run, row("a", cell="a"), 10.0, 100.0)
    cell(run, row("b", cell="b"), 11.0, 101.0)
    code, out, err = bench("pareto", run.path)
    assert code == 0
    assert re.search(r"a +1 +10\.00 +100\.00 +110\.00 +on the front", out)
    assert re.search(r"b +1 +11\.00 +101\.00 +112\.00 +dominated by a", out)
    assert str(run.path / FIGURE) in err

    code, out, err = bench("pareto", run.path, "--json", "--out", run.path / "own.svg")
    found = json.loads(out)["planes"][0]["points"]
    assert [(p["label"], p["rate"], p["negative_elbo"], p["on_front"]) for p in found] == [
        ("a", 10.0, 110.0, True),
        ("b", 11.0, 112.0, False),
    ]
    assert (run.path / "own.svg").exists()
    assert bench("pareto", run.path / "nothing")[0] == 4
    assert bench("pareto", run.path, "--out", run.path / "no" / "such" / "folder.svg")[0] == 4
