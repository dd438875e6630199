"""Writes the generated parts of the pages: what holds where, the house, settings, backends.

    python docs/generate.py            rewrite what is stale
    python docs/generate.py --check    only name what is stale; exit code 1 if anything is

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`. What it says is asked of the product:
the traits of started backends, the marks of the conformance tests, the fields of dataclasses, and the table of the
house in `tests/test_layers.py`, which the tests enforce.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from pathlib import Path
from typing import Any

import anypool
from anypool._registry import names_and_aliases
from anypool.testing import CLAUSES, FEATURES, ExecutorTests
from anypool.testing._clauses import clause_of, unmet

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGE = ROOT / "src" / "anypool"

PART = re.compile(r"(?P<open><!-- generated: (?P<name>[^\n]+) -->\n)(?P<text>.*?)(?P<close><!-- end -->)", re.DOTALL)

BACKENDS = ("serial", "threads", "processes", "loky", "joblib", "dask")
WORKERS = 2


@cache
def traits_of(backend: str) -> anypool.Traits:
    """What a backend says that it is like, asked of a started one."""
    with anypool.get_executor(backend, max_workers=WORKERS) as executor:
        return executor.traits


@cache
def tests() -> Mapping[str, list[Any]]:
    """The tests of the conformance suite, by clause, in the order of their definition."""
    found: dict[str, list[Any]] = {clause: [] for clause in CLAUSES}
    for name, test in inspect.getmembers(ExecutorTests, inspect.isfunction):
        clause = clause_of(test, ExecutorTests) if name.startswith("test_") else None
        if clause is not None:
            found[clause].append(test)
    return {clause: sorted(each, key=_definition) for clause, each in found.items()}


def _definition(test: Any) -> tuple[str, int]:
    code = inspect.unwrap(test).__code__
    return code.co_filename, code.co_firstlineno


def runs_on(test: Any, backend: str) -> bool:
    """Whether the traits of a backend offer what a test checks."""
    return unmet(test, traits_of(backend), frozenset(FEATURES)) is None


# --- the parts ----------------------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def clauses() -> str:
    """How many tests of each clause are asked of each backend."""
    rows = []
    for clause, marked in tests().items():
        counts = [sum(runs_on(test, backend) for test in marked) for backend in BACKENDS]
        cells = [f"all {len(marked)}" if count == len(marked) else f"{count} of {len(marked)}" for count in counts]
        rows.append([f"[{clause}](#{slug(clause)})", *cells])
    return table(["clause", *(f"`{name}`" for name in BACKENDS)], rows)


def tests_of(clause: str) -> str:
    """The tests of one clause, and where each is not asked."""
    rows = []
    for test in tests()[clause]:
        absent = [f"`{backend}`" for backend in BACKENDS if not runs_on(test, backend)]
        guarantee = test.__name__.removeprefix("test_").replace("_", " ")
        rows.append([guarantee, ", ".join(absent) or "-"])
    files = sorted({Path(_definition(test)[0]).name for test in tests()[clause]})
    return f"Tests, in `{'`, `'.join(files)}`:\n\n" + table(["guarantee", "not asked of"], rows)


def traits() -> str:
    """The traits of each backend."""
    rows = []
    for field in fields(anypool.Traits):
        values = [getattr(traits_of(backend), field.name) for backend in BACKENDS]
        rows.append([f"`{field.name}`", *map(_shown_trait, values)])
    return table(["trait", *(f"`{name}`" for name in BACKENDS)], rows)


def _shown_trait(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{each.__name__}`" for each in value) or "-"
    return "yes" if value else "-"


def trait_meanings() -> str:
    """What each trait means, from the docstring of `Traits`."""
    told = parameters(anypool.Traits)
    return table(["trait", "meaning"], [[f"`{name}`", text] for name, text in told.items()])


def options_of(backend: str) -> str:
    """The options of one backend, from its dataclass."""
    cls = type(anypool.PoolExecutor(backend)._backend)  # not started
    told = parameters(cls)
    rows = [
        [f"`{field.name}`", _shown_type(field), _shown_default(field), told[field.name]]
        for field in fields(cls)  # type: ignore[arg-type]
        if field.init
    ]
    return table(["option", "type", "default", "meaning"], rows)


def settings() -> str:
    """The settings, with the variable of each."""
    rows = [
        [f"[`{field.name}`](#{field.name})", _shown_type(field), _shown_default(field), _variable(field.name)]
        for field in fields(anypool.Settings)
    ]
    return table(["setting", "type", "default", "variable"], rows)


def variables() -> str:
    """Every variable of the environment that means something."""
    rows = [["`ANYPOOL_BACKEND`", "a name, or a URL with options"]]
    rows.append(["`ANYPOOL_CONFIG`", "the file to read; `none` or empty: no file"])
    rows.append([_variable("max_workers"), "how many calls run at once, on whichever backend wins"])
    rows += [
        [_variable(field.name), f"the setting [`{field.name}`](../reference/settings.md#{field.name})"]
        for field in fields(anypool.Settings)
    ]
    rows.append(["`ANYPOOL_<BACKEND>_<OPTION>`", "an option or a setting for that backend: `ANYPOOL_DASK_ADDRESS`"])
    return table(["variable", "says"], rows)


def aliases() -> str:
    """Other names of backends."""
    found: dict[str, list[str]] = {}
    for alias, name in names_and_aliases(entry_points=False).items():
        if alias != name:
            found.setdefault(name, []).append(f"`{alias}`")
    return table(["name", "aliases"], [[f"`{name}`", ", ".join(found[name])] for name in BACKENDS if name in found])


def house() -> str:
    """Every file of the package, in the order in which one may import the other."""
    rows = []
    for line in house_table():
        name, layer, reason = line.split(maxsplit=2)
        path = PACKAGE.joinpath(*name.split("."))
        if path.is_dir():
            rows.append([f"`{name.replace('.', '/')}/`", layer, reason])
        elif path.with_suffix(".py").exists():
            rows.append([f"`{name.replace('.', '/')}.py`", layer, reason])
    return table(["file", "layer", "why it is a file of its own"], rows)


def house_table() -> list[str]:
    """The lines of `TABLE` in `tests/test_layers.py`: name, layer, reason."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TABLE":
            return str(ast.literal_eval(node.value)).strip().splitlines()
    raise LookupError("tests/test_layers.py has no TABLE")


def suite() -> str:
    """The files of the conformance suite, by what their first lines say."""
    rows = []
    for path in sorted((PACKAGE / "testing").glob("*.py")):
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        rows.append([f"`{path.name}`", told.partition("\n")[0]])
    return table(["file in `testing/`", "what it is"], rows)


def score_card() -> str:
    """The score card's rows of anypool's own backends: passed / failed / not offered, by clause."""
    card = (DOCS / "scorecard.md").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(card) if line.startswith("| clause |"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card[first:] if line.startswith("|")]
    end = next(number for number, row in enumerate(rows) if row[0] == "*all*") + 1
    shown = [row[: 1 + len(BACKENDS)] for row in rows[:end]]
    return table(shown[0], shown[2:])


def error_tree() -> str:
    """The tree, as the docstring of `anypool.errors` draws it."""
    from anypool import errors

    drawn = (inspect.getdoc(errors) or "").partition("::\n\n")[2]
    return f"```text\n{inspect.cleandoc(drawn)}\n```\n"


PARTS: Mapping[str, Callable[[], str]] = {
    "clauses": clauses,
    "traits": traits,
    "trait meanings": trait_meanings,
    "settings": settings,
    "variables": variables,
    "aliases": aliases,
    "house": house,
    "suite": suite,
    "error tree": error_tree,
    "score card": score_card,
}
"""The parts that stand alone; those below take a word after `of`."""

PARTS_OF: Mapping[str, Callable[[str], str]] = {"tests": tests_of, "options": options_of}


def part(name: str) -> str:
    """The text of a generated part."""
    kind, _, of = name.partition(" of ")
    return PARTS_OF[kind](of) if of else PARTS[name]()


# --- what docstrings and fields say -------------------------------------------------------------------------


def parameters(cls: type) -> dict[str, str]:
    """What the section Parameters of a numpydoc docstring says of each name, on one line."""
    section = (inspect.getdoc(cls) or "").partition("Parameters\n----------\n")[2]
    section = re.split(r"\n\w+\n-+\n", section)[0]
    told: dict[str, list[str]] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
            told.update({name: [] for name in names})
        elif line.strip():
            for name in names:
                told[name].append(line.strip())
    return {name: _cell(" ".join(lines).replace("``", "`")) for name, lines in told.items()}


def _shown_type(field: Field[Any]) -> str:
    return _cell(f"`{field.type}`")


def _shown_default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f"`{field.default!r}`"
    return f"`{field.default_factory()!r}`" if field.default_factory is not MISSING else "required"


def _variable(name: str) -> str:
    return f"`ANYPOOL_{name.upper()}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- the pages ----------------------------------------------------------------------------------------------


def filled(text: str) -> str:
    """A page with its generated parts as they should be."""
    return PART.sub(lambda found: found["open"] + part(found["name"]) + found["close"], text)


def main(arguments: list[str]) -> int:
    """Rewrite stale pages, or only name them."""
    stale = []
    pages = [page for page in sorted(DOCS.rglob("*.md")) if page.name != "scorecard.md"]
    for page in [ROOT / "README.md", *pages]:
        old = page.read_text(encoding="utf-8")
        new = filled(old)
        if new != old:
            stale.append(page.relative_to(ROOT).as_posix())
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8")
    sys.stdout.writelines(f"{name}\n" for name in stale)
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
