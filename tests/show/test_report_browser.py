"""The report as a person opens it: in Chromium, from a file, on a desk and on a phone, in light, in dark and on paper.

`BENCH_BROWSER` names the browser's executable, and makes its absence a failure; else the one on the path is taken, and
without one these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.contracts.protocol import RunRequest
from bench.results.store import Run
from bench.show.report.page import write
from tests.example_rows import failed, many, row
from tests.show.test_report import hostile_run, keep, short  # noqa: F401

ARGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
WATCH = "addEventListener('securitypolicyviolation', e => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`))"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    asked = os.environ.get("BENCH_BROWSER")
    found = asked or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on the path: install one (Debian: `apt install chromium`), or set BENCH_BROWSER")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if asked:
            raise
        pytest.skip("playwright isn't installed: pip install 'vaebench[test]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGS))
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, and all that went wrong on it."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def visited(browser: Any, path: Path, width: int = 1280, **how: Any) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": width, "height": 844}, **how)
    visit = Visit(context.new_page())
    visit.page.on("console", lambda said: visit.problems.append(said.text) if said.type == "error" else None)
    visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
    visit.page.on("request", lambda r: None if r.url.startswith("data:") else visit.requests.append(r.url))
    visit.page.add_init_script(WATCH)
    visit.page.goto(path.as_uri())
    yield visit
    context.close()


def _one(run: Run) -> None:
    keep(run, row("vae", cell="vae"))


def _twenty(run: Run) -> None:
    rows = many(2) + [row(f"vae[latent_dim={d}]", cell=f"v{d}", scores={"elbo": -200.0 - d}) for d in (2, 4)]
    assert len(rows) == 20
    for i, made in enumerate(rows):
        keep(run, made.__class__(**{**vars(made), "cell": f"{made.cell or made.variant}-{i}"}), n=20)


def _failed(run: Run) -> None:
    for i, status in enumerate(("failed", "diverged", "oom", "timeout", "killed")):
        made = failed(f"v{i}", status=status, reason="why " * 60, cell=f"v{i}")
        run.write_failed(made, "Traceback\n" + "x" * 500)


RUNS: dict[str, Callable[[Run], None]] = {"1": _one, "20": _twenty, "failed": _failed, "hostile": hostile_run}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, short: Run) -> dict[str, Path]:  # noqa: F811
    made = {"trained": tmp_path_factory.mktemp("trained") / "report.html"}
    write([short], made["trained"])
    for name, fill in RUNS.items():
        run = Run(tmp_path_factory.mktemp(name) / "run")
        run.create(RunRequest())
        fill(run)
        made[name] = run.path / "report.html"
        write([run], made[name], metrics=("all",) if name == "20" else ())
    return made


NAMES = ("trained", *RUNS)


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_without_a_complaint_and_asks_for_nothing(chromium: Any, reports: dict[str, Path], name: str) -> None:
    with visited(chromium, reports[name]) as visit:
        visit.page.wait_for_timeout(50)
        assert visit.problems == []
        assert visit.requests == [reports[name].as_uri()]
        assert visit.page.evaluate("window.hacked") is None
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert visit.page.evaluate(broken) == 0


def test_the_policy_bites(chromium: Any, reports: dict[str, Path], tmp_path: Path) -> None:
    """What somebody might get into the file neither runs nor is fetched, though something would answer."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    there = f"http://127.0.0.1:{server.getsockname()[1]}"
    wrong = (
        f"<script>window.hacked = 1</script><img src='{there}/a.png'><p id='p' style='color: red'>p</p>"
        f"<a id='a' onclick='window.hacked = 1'>a</a><link rel='stylesheet' href='{there}/a.css'>"
        f"<script src='{there}/a.js'></script>"
        "<iframe src='http://127.0.0.1:9/'></iframe>"  # for which it connects first and looks at the policy then
    )
    path = tmp_path / "wrong.html"
    path.write_text(reports["1"].read_text(encoding="utf-8").replace("<main>", f"<main>{wrong}"), encoding="utf-8")
    with visited(chromium, path) as visit:
        visit.page.evaluate("document.getElementById('a').click()")
        assert visit.page.evaluate("window.hacked") is None
        assert visit.page.evaluate("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
        assert sum("CSP: " in text for text in visit.problems) >= 5
    with server, pytest.raises(BlockingIOError):
        server.accept()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overflows_on_a_phone(chromium: Any, reports: dict[str, Path], name: str) -> None:
    with visited(chromium, reports[name], width=390) as visit:
        visit.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_click_sorts_within_blocks(chromium: Any, reports: dict[str, Path]) -> None:
    values = """name => { const t = document.querySelector('.ranking');
      const i = [...t.tHead.rows[0].cells].findIndex(c => c.innerText.startsWith(name));
      return [...t.tBodies].map(b => [...b.rows].slice(1).map(r => r.cells[i].dataset.value ?? null)) }"""

    def found(page: Any, *, missing_last: bool = True) -> list[list[float]]:
        blocks = page.evaluate(values, "fd_gmm")
        assert not missing_last or all(None not in b[: len(b) - b.count(None)] for b in blocks)
        return [[float(v) for v in block if v is not None] for block in blocks]

    with visited(chromium, reports["20"]) as visit:
        page = visit.page
        before = found(page, missing_last=False)
        assert before != [sorted(b) for b in before]
        button = page.locator(".ranking thead button", has_text="fd_gmm").first
        button.click()
        assert found(page) == [sorted(b) for b in before]  # less is better: the least first
        assert page.locator(".ranking th[aria-sort]").get_attribute("aria-sort") == "ascending"
        button.press("Enter")
        assert found(page) == [sorted(b, reverse=True) for b in before]
        button.press("Enter")
        assert found(page, missing_last=False) == before
        assert page.locator(".ranking th[aria-sort]").count() == 0
        assert visit.problems == []


def test_a_reason_shows_on_hover_on_focus_and_on_paper(chromium: Any, reports: dict[str, Path]) -> None:
    with visited(chromium, reports["20"]) as visit:
        page = visit.page
        noted, tip = page.locator(".ranking td.na .noted").first, page.locator("#tip")
        why = noted.get_attribute("data-note")
        assert tip.is_hidden()
        noted.hover()
        assert tip.is_visible()
        reason = tip.inner_text()
        assert reason == why
        page.keyboard.press("Escape")
        assert tip.is_hidden()
        noted.focus()
        assert tip.inner_text() == reason
        box = tip.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 1280
        page.emulate_media(media="print")
        note = page.locator(".notes dd").first.bounding_box()
        assert note is not None
        assert note["height"] > 5


def test_the_pointer_decodes_as_it_moves(chromium: Any, reports: dict[str, Path]) -> None:
    """By the mouse and by the keyboard, and what it shows is the tile under it."""
    shown = "e => e.querySelector('canvas').toDataURL()"
    same = """([e, column, row]) => { const img = e.querySelector('.tiles'), c = e.querySelector('canvas');
      const w = img.naturalWidth / e.dataset.columns, h = img.naturalHeight / e.dataset.rows;
      const own = new OffscreenCanvas(img.naturalWidth, img.naturalHeight).getContext('2d'); own.drawImage(img, 0, 0);
      const at = (x, y) => own.getImageData(column * w + x, row * h + y, 1, 1).data[0];
      const now = c.getContext('2d', {willReadFrequently: true});
      return [0, 3, 7].flatMap(x => [0, 3, 7].map(y => Math.abs(at(x, y)
        - now.getImageData((x + .5) * c.width / w, (y + .5) * c.height / h, 1, 1).data[0]))) }"""
    with visited(chromium, reports["trained"]) as visit:
        page = visit.page
        explorers = page.locator(".explorer[data-columns]").all()
        assert len(explorers) >= 3
        for explorer in explorers:
            element = explorer.element_handle()
            flat = int(explorer.get_attribute("data-rows")) == 1
            square = explorer.locator(".square").first
            square.scroll_into_view_if_needed()
            box = square.bounding_box()
            columns = 20
            page.mouse.move(box["x"] + (2.5 / columns) * box["width"], box["y"] + (17.5 / columns) * box["height"])
            first, told = page.evaluate(shown, element), explorer.locator("output").inner_text()
            assert max(page.evaluate(same, [element, 2, 0 if flat else 17])) <= 1
            explorer.locator(".field").first.focus()
            for _ in range(9):
                page.keyboard.press("ArrowRight")
            assert page.evaluate(shown, element) != first
            assert max(page.evaluate(same, [element, 11, 0 if flat else 17])) <= 1
            assert explorer.locator("output").inner_text() != told
        assert visit.problems == []


def test_light_and_dark(chromium: Any, reports: dict[str, Path]) -> None:
    colours = "(() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color] })()"
    seen = {}
    for scheme in ("light", "dark"):
        with visited(chromium, reports["1"], color_scheme=scheme) as visit:
            seen[scheme] = visit.page.evaluate(colours)
            visit.page.emulate_media(media="print", color_scheme=scheme)
            assert visit.page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 29, 34)"  # ink on paper
    brightness = {s: [sum(map(int, c[4:-1].split(","))) for c in pair] for s, pair in seen.items()}
    assert brightness["light"][0] > 700 > 150 > brightness["light"][1]
    assert brightness["dark"][0] < 100 < 600 < brightness["dark"][1]
