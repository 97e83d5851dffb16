"""The one law: the core knows nobody by name, and plugins come in through the public door."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
POINTS = PROJECT["entry-points"]
CORE = sorted(p for p in (ROOT / "bench").rglob("*.py") if p.parent.name not in ("metrics",))
PLUGINS = sorted([*(ROOT / "variants").glob("*.py"), *(ROOT / "datasets").glob("*.py")])
METRICS = sorted((ROOT / "bench" / "metrics").glob("*.py"))

# Words of the field or of Python that are also names of plugins; as text they name no plugin.
WORDS = {
    "conv", "beta", "folder", "noise", "modes", "confidence", "kl", "distortion", "mean", "real", "elbo", "precision",
    "density",
}  # fmt: skip


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, module) of every import; `from a import b` gives both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
            yield from ((node.level, f"{node.module or ''}.{alias.name}".strip(".")) for alias in node.names)


def strings(path: Path) -> Iterator[str]:
    """Every string of the code that isn't a docstring."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_imports_no_plugin(path: Path) -> None:
    for level, module in imports(path):
        assert not (level == 0 and re.match(r"(variants|datasets|bench\.variants|bench\.datasets)(\.|$)", module)), (
            module
        )
        assert not (level == 0 and re.match(r"bench\.metrics(\.|$)", module)), module


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_names_no_plugin(path: Path) -> None:
    groups = ("bench.variants", "bench.datasets", "bench.metrics")
    names = {name for group in groups for name in POINTS[group]} - WORDS
    examples = path.name == "cli.py"  # help texts show examples; they decide nothing
    for text in strings(path):
        if examples and (" " in text or "\n" in text):
            continue
        assert text not in names
        assert not (set(re.findall(r"[a-z0-9_]+", text)) & names and " " not in text and "," in text), text


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_plugin_imports_the_public_api_and_its_siblings(path: Path) -> None:
    import bench
    import bench.blocks

    public = {f"bench.{name}" for name in bench.__all__} | {f"bench.blocks.{name}" for name in bench.blocks.__all__}
    modules = {"bench", "bench.blocks"}
    for level, module in imports(path):
        assert level <= 1, "a sibling is one dot away"
        if level == 0 and module.split(".")[0] in ("bench", "variants", "datasets"):
            assert module in public | modules, f"{module} isn't public"


def test_every_registered_name_resolves() -> None:
    from importlib.metadata import entry_points

    for group, points in POINTS.items():
        if group != "bench.defaults":
            for name in points:
                (point,) = entry_points(group=group, name=name)
                assert point.load() is not None


def test_what_is_public_is_importable_and_sorted() -> None:
    import bench
    import bench.blocks

    for module in (bench, bench.blocks):
        names = module.__all__
        assert [n for n in names if not hasattr(module, n)] == []
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("module", ["bench", "bench.cli", "bench.plugins.registry", "bench.util.errors"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'pandas', 'numpy', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_nothing_unpickles() -> None:
    for path in [*CORE, *PLUGINS, *METRICS]:
        text = path.read_text()
        assert not re.search(r"pickle\.(load|dump|Unpickler|Pickler)", text)
        assert "allow_pickle=True" not in text
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, path


@pytest.mark.parametrize("name", sorted(POINTS["bench.metrics"]))
def test_every_metric_has_its_page(name: str) -> None:
    pages = [p.name for p in (ROOT / "docs" / "metrics").glob("*.md") if re.search(rf"`{name}`", p.read_text())]
    assert pages


# the order of the rooms


def floors() -> list[list[str]]:
    """Return the rooms of each floor, the highest floor first, as docs/design.md draws them."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    drawing = text.partition("## The rooms")[2].partition("```text\n")[2].partition("```")[0]
    return [line.split() for line in drawing.splitlines() if line.strip()]


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "bench").rglob("*.py"))
}


def arrows() -> Iterator[tuple[str, str]]:
    """Return (importer, imported) of every import in bench/, those inside functions and for type checks among them."""
    for name, path in MODULES.items():
        for _, imported in imports(path):
            if imported in MODULES and imported not in ("bench", name):
                yield name, imported


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_floor() -> None:
    drawn = [name for floor in floors() for name in floor]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) == {room(module) for module in MODULES if module != "bench"}


def test_every_arrow_points_down() -> None:
    level = {name: i for i, floor in enumerate(floors()) for name in floor}
    wrong = [
        f"{importer} -> {imported}"
        for importer, imported in arrows()
        if importer != "bench" and room(importer) != room(imported) and level[room(importer)] >= level[room(imported)]
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for importer, imported in arrows():
        # a module that imports a sibling runs the package's __init__ first, which is no circle
        if not importer.startswith(f"{imported}."):
            graph[importer].add(imported)
    assert list(TopologicalSorter(graph).static_order())


def test_few_modules_stand_outside_of_a_room() -> None:
    assert len(list((ROOT / "bench").glob("*.py"))) <= 6
    assert len([path for path in (ROOT / "bench").iterdir() if (path / "__init__.py").is_file()]) <= 14


def test_listed_slow_tests_are_there() -> None:
    listed = [line for line in (ROOT / "tests" / "slow.txt").read_text().splitlines() if not line.startswith("#")]
    for line in listed:
        path, _, name = line.partition("::")
        assert f"def {name.partition('[')[0].split('::')[-1]}(" in (ROOT / path).read_text(encoding="utf-8"), line
