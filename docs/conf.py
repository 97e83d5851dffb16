"""Build the documentation as a site: `make docs` writes docs/_build/html."""

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "VAE Bench"
author = "VAE Bench contributors"
copyright = author
html_title = "VAE Bench"
html_theme = "furo"
html_theme_options = {
    "source_repository": "https://github.com/vaebench/vaebench",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_copy_source = False
html_show_sphinx = False

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

# Markdown pages. Headings get the anchors that GitHub gives them, so one link works in both places.
myst_heading_anchors = 4

# Notebooks are stored without outputs; a build runs them and keeps their outputs in docs/_build/.jupyter_cache.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 3600
nb_execution_in_temp = True
nb_merge_streams = True
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # notebooks call `bench`
os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

# Docstrings of the public API are plain text: a single backtick is code, and no other sign is markup.
default_role = "code"
suppress_warnings = ["ref.python"]  # fields of one name in several classes
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def link_to_repository(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace relative links to files that are not pages of the site by links to the repository."""
    folder = Path(app.env.doc2path(page)).parent

    def replaced(match: re.Match[str]) -> str:
        path = (folder / match[2]).resolve()
        is_page = path.is_relative_to(DOCS) and path.suffix in (".md", ".ipynb", ".png", ".svg")
        if is_page or not path.is_relative_to(ROOT):
            return match[0]
        kind = "tree" if path.is_dir() else "blob"
        address = f"https://github.com/vaebench/vaebench/{kind}/main/{path.relative_to(ROOT).as_posix()}"
        return match[1] + address + match[3]

    source[0] = LINK.sub(replaced, source[0])


def plain_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape the signs that reStructuredText would take for markup, and drop what a module says of itself."""
    if what == "module" or lines[0].startswith("Alias for field number"):
        lines.clear()  # the page has an introduction of its own; a field without a description has none
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # an empty comment, or napoleon takes the words before a colon for a type
    session = False  # within an example of doctest, up to its blank line
    for i, line in enumerate(lines):
        session = line.lstrip().startswith(">>>") or (session and bool(line.strip()))
        if not session:
            parts = line.split("`")
            parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
            lines[i] = "`".join(parts)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("source-read", link_to_repository)
