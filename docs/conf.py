"""The site: what Sphinx needs to know. Built by `make docs`, warnings are errors."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import anypool
from anypool import errors

DOCS = Path(__file__).parent

project = "anypool"
author = "The anypool developers"
copyright = author
release = version = version_of("anypool")

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# The inventories of other libraries are on the network, and a build must not need one: so what is looked up is ours.
nitpick_ignore_regex = [(r"py:.*", r"(?!anypool\.).*|anypool\._.*")]

# Markdown as GitHub shows it: the pages are read there as well. So the navigation is written here, not in them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Docstrings put names and code between single backticks.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "anypool"
html_static_path = ["_static"]
html_css_files = ["anypool.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
    "dark_css_variables": {"color-brand-primary": "#5ec9a0", "color-brand-content": "#5ec9a0"},
}
copybutton_exclude = ".linenos, .gp, .go"

SECTIONS = {
    "Learn": ("tutorial",),
    "How to": ("how-to/",),
    "Understand": ("explanation/", "performance", "reliability", "scorecard"),
    "Look up": ("reference/",),
}
"""The captions of the navigation, and where the pages below each are. Every page has a place, or the build fails."""


def complete(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add to the page of public names those that it does not name, and all errors: none may be missing."""
    if docname != "reference/api":
        return
    missing = [name for name in anypool.__all__ if f"anypool.{name}\n" not in source[0] and name != "__version__"]
    also = [name for name in missing if name not in errors.__all__]
    for title, names in (("Also", also), ("Errors", errors.__all__)):
        if names:
            source[0] += f"\n{title}\n{'-' * len(title)}\n"
            source[0] += "".join(f"\n.. {_directive(name)}:: anypool.{name}\n" for name in names)


def _directive(name: str) -> str:
    value = getattr(anypool, name)
    if not isinstance(value, type):
        return "autofunction" if callable(value) else "autodata"
    return "autoexception" if issubclass(value, BaseException) else "autoclass"


def resolve_public(app: Sphinx, env: BuildEnvironment, node: Any, contnode: Any) -> Any:
    """Find a public name under the private module that it lives in, which is what annotations tell."""
    target = node.get("reftarget", "")
    name = target.rpartition(".")[2]
    if node.get("refdomain") != "py" or not target.startswith("anypool._") or name not in anypool.__all__:
        return None
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", f"anypool.{name}", node, contnode)


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add the navigation to the first page: in the order of its links, then what it does not link to."""
    if docname != "index":
        return
    linked = re.findall(r"\]\(([^)#]+)\.(?:md|rst)\)", source[0])
    names = [path.relative_to(DOCS).with_suffix("").as_posix() for path in sorted(DOCS.rglob("*.*"))
             if path.suffix in {".md", ".rst"} and "_build" not in path.parts]  # fmt: skip
    pages = [*dict.fromkeys([*(name for name in linked if name in names), *names])]
    for caption, places in SECTIONS.items():
        below = [page for place in places for page in pages if page == place or (place[-1] == "/" and place in page)]
        source[0] += f"\n:::{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(below) + "\n:::\n"


def setup(app: Sphinx) -> None:
    """Add what is not a setting."""
    app.connect("source-read", add_navigation)
    app.connect("source-read", complete)
    app.connect("missing-reference", resolve_public)
