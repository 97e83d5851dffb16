"""The pages of the documentation: links lead somewhere, examples run, the site builds."""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import bench

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
NOTEBOOKS = sorted((DOCS / "examples").glob("*.ipynb"))
ALL = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES, *NOTEBOOKS]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text(path: Path) -> str:
    """Return the Markdown of a page, or of a notebook's Markdown cells."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@cache
def parsed(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the addresses that a page links to, and the anchors of its headings as GitHub names them."""
    links: set[str] = set()
    anchors: set[str] = set()
    tokens = MarkdownIt("commonmark").enable("table").parse(text(path))
    for before, token in zip([None, *tokens], tokens, strict=False):
        for child in token.children or ():
            links |= {str(child.attrs[key]) for key in ("href", "src") if key in child.attrs}
        if before is not None and before.type == "heading_open":
            words = "".join(child.content for child in token.children or () if child.type in ("text", "code_inline"))
            anchors.add(re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"))
    return frozenset(links), frozenset(anchors)


def toctree(path: Path) -> list[Path]:
    """Return the pages that the tables of contents of a page list."""
    blocks = re.findall(r"```{toctree}\n(.*?)```", text(path), re.DOTALL)
    names = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    pages = {page.with_suffix(""): page for page in [*PAGES, *NOTEBOOKS]}
    return [pages[path.parent / name] for name in names]


@pytest.mark.parametrize("page", ALL, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in parsed(page)[0]:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in parsed(target)[1]):
            dead.append(link)
    assert dead == []


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            waiting += toctree(page)
    assert set(PAGES) | set(NOTEBOOKS) == seen


def test_the_index_links_every_page_outside_the_reference() -> None:
    """On GitHub the table of contents is not drawn: the index has links as well."""
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in parsed(DOCS / "index.md")[0] if ":" not in link}
    listed = {page for page in [*PAGES, *NOTEBOOKS] if page.parent.name not in ("api", "metrics")}
    assert listed - {DOCS / "index.md"} - linked == set()


def test_the_reference_has_every_public_name() -> None:
    page = text(DOCS / "api" / "bench.md")
    assert [public for public in bench.__all__ if not re.search(rf"auto\w+:: {public}\n|`{public}`", page)] == []


@pytest.mark.parametrize("page", [p for p in ALL if "```python" in text(p)], ids=name)
def test_python_on_a_page_compiles(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", text(page), re.DOTALL):
        if ">>>" not in block:
            compile(block, name(page), "exec")


@pytest.mark.parametrize("page", [p for p in PAGES if ">>> " in text(p)], ids=name)
def test_sessions_on_a_page_give_what_they_show(page: Path) -> None:
    blocks = re.findall(r"```python\n(>>> .*?)```", text(page), re.DOTALL)
    session = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name(page), str(page), 0)
    assert session.examples
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(session).failed == 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    code = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(
        bool(missing), reason=f"not installed: {', '.join(missing)} (pip install 'vaebench[docs]')"
    )


@pytest.mark.costly
@needs("nbclient", "ipykernel")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises where a cell does


@pytest.mark.costly
@needs("sphinx", "myst_nb", "furo")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-D", "nb_execution_mode=off"]
    done = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    assert "VAE Bench" in index
    assert 'id="bench.blocks.GaussianVAE"' in (tmp_path / "html" / "api" / "blocks.html").read_text(encoding="utf-8")
