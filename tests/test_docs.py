"""The documentation tells the truth: its code runs, its links lead somewhere, its tables say what is."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import anypool
from anypool import errors
from anypool.testing import CLAUSES
from scripts import BACKENDS, run_python

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "anypool"
SCORE_CARD = "scorecard.md"
"""Written by a run of the suite, and checked by `test_scorecard`."""

PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if path.name != SCORE_CARD
}

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$\n?"
    r"(?:\n```text\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# (\w+\.py)\n")

MOST_NOT_RUN = 5
"""Blocks of Python in all pages that may be shown without being run."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of code, what is shown after it, and the files of its page that came before it."""

    page: str
    line: int
    kind: str
    code: str
    not_run: str
    output: str | None
    files: tuple[tuple[str, str], ...]

    @property
    def file(self):
        """The file that the block says it is."""
        found = _FILE.match(self.code) if self.kind == "python" else None
        return found and found[1]

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(page, text):
    found, files = [], []
    for each in _BLOCK.finditer(text):
        block = Block(
            page=page, line=text[: each.start("code")].count("\n") + 1, kind=each["kind"], code=each["code"],
            not_run=each["reason"] or "", output=each["output"], files=tuple(files),
        )  # fmt: skip
        found.append(block)
        if block.file:
            files.append((block.file, block.code))
    return found


BLOCKS = [block for page, text in PAGES.items() for block in blocks_of(page, text)]
PYTHON = [block for block in BLOCKS if block.kind == "python" and not block.not_run]
SUITES = [block for block in PYTHON if (block.file or "").startswith("test_")]
SCRIPTS = [block for block in PYTHON if block not in SUITES]
COMMANDS = [block for block in BLOCKS if block.kind == "bash" and not block.not_run]
TOML = [block for block in BLOCKS if block.kind == "toml" and not block.not_run]


def write_files(block, directory):
    for name, code in block.files:
        (directory / name).write_text(code, encoding="utf-8")


def test_no_block_is_overlooked():
    for page, text in PAGES.items():
        shown = [block for block in BLOCKS if block.page == page]
        outputs = sum(block.output is not None for block in shown)
        assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * (len(shown) + outputs), page
    assert {block.kind for block in BLOCKS} <= {"python", "bash", "toml", "text"}
    assert len(SCRIPTS) >= 20


def test_few_blocks_are_shown_without_being_run():
    assert len([block for block in BLOCKS if block.kind == "python" and block.not_run]) <= MOST_NOT_RUN


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_block_of_python_prints_what_is_shown_below_it(block, tmp_path, monkeypatch):
    if "dask" in block.code and "dask" not in BACKENDS:
        pytest.skip("distributed is not installed")
    if "dask.distributed" in block.code:  # which warns of a machine that does other work
        monkeypatch.setenv("DASK_LOGGING__DISTRIBUTED", "error")
    write_files(block, tmp_path)
    script = tmp_path / (block.file or "script.py")
    script.write_text(block.code, encoding="utf-8")
    done = run_python([str(script)], directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (block.output or "")


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", SUITES, ids=str)
def test_a_backend_that_is_shown_passes_the_suite(block, tmp_path):
    write_files(block, tmp_path)
    (tmp_path / block.file).write_text(block.code, encoding="utf-8")
    done = run_python(["-m", "pytest", "-q", "-p", "no:cacheprovider", block.file], directory=tmp_path, limit=280)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are written for a POSIX shell")
@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_a_command_that_is_shown_runs(block, tmp_path):
    write_files(block, tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYPOOL_")}
    environment |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    environment |= {"ANYPOOL_CONFIG": "none"}
    done = subprocess.run(
        ["sh", "-e", "-c", block.code],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    if block.output is not None:
        assert done.stdout == block.output


@pytest.mark.parametrize("block", TOML, ids=str)
def test_a_file_that_is_shown_is_understood(block, tmp_path, monkeypatch):
    name = "pyproject.toml" if "[tool.anypool" in block.code else "anypool.toml"
    (tmp_path / name).write_text(block.code, encoding="utf-8")
    monkeypatch.setenv("ANYPOOL_CONFIG", str(tmp_path / name))
    for backend in (None, *BACKENDS):
        explanation = anypool.explain(backend)
        assert (explanation.errors, explanation.unknown) == ((), ())


# --- links ----------------------------------------------------------------------------------------------------


def prose(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    found = re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page]))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    dead = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (DOCS / page).parent / path if path else DOCS / page
        if target.resolve() == DOCS / SCORE_CARD:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    assert dead == []


def test_each_feature_of_the_comparison_leads_to_tests_of_ours_and_to_pages_that_are_named():
    page = PAGES["explanation/comparison.md"]
    rows = re.findall(r"^\| (?!anypool|---| )([^|]+) \| ([^|]+) \|(.+)$", page, re.MULTILINE)
    assert len(rows) >= 20
    for feature, ours, _ in rows:
        path = re.fullmatch(r"\[yes\]\((.+)\)", ours.strip())
        assert path, feature
        text = (DOCS / "explanation" / path[1]).read_text(encoding="utf-8")
        assert re.search(r"^ *(async )?def test_", text, re.MULTILINE), feature
    used = {name for _, _, theirs in rows for name in re.findall(r"\]\[(\w+)\]", theirs)}
    defined = re.findall(r"^\[(\w+)\]: https://\S+$", page, re.MULTILINE)
    assert sorted(defined) == sorted(used)


def test_every_page_can_be_reached_from_the_first():
    reached, ahead = set(), {"index.md"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        for link in links(page):
            target = os.path.normpath(os.path.join(os.path.dirname(page), link.partition("#")[0]))
            if target in PAGES and target not in reached:
                ahead.add(target)
    assert reached == set(PAGES)


# --- tables and sections --------------------------------------------------------------------------------------


@pytest.mark.skipif(set(BACKENDS) < set(anypool.backend_names()), reason="the tables are about every backend")
def test_the_generated_parts_are_up_to_date(tmp_path):
    done = run_python([str(DOCS / "generate.py"), "--check"], directory=tmp_path)
    assert (done.stdout, done.stderr) == ("", ""), "run: python docs/generate.py"


def first_column(page, name):
    part = PAGES[page].partition(f"<!-- generated: {name} -->\n")[2].partition("<!-- end -->")[0]
    return re.findall(r"^\| `([^`]+)`", part, re.MULTILINE)


def test_the_house_has_every_file_of_the_package():
    house = set(first_column("explanation/architecture.md", "house"))
    testing = {f"testing/{name}" for name in first_column("explanation/architecture.md", "suite")}
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    shown = {name for name in house | testing if not name.endswith("/")}
    assert shown == found - {"backends/__init__.py", "cli/__init__.py"}, (
        "a row in TABLE of test_layers, then: python docs/generate.py"
    )


def test_every_clause_has_a_section():
    sections = re.findall(r"^### (.+)$", PAGES["explanation/contract.md"], re.MULTILINE)
    assert sections == list(CLAUSES)


def test_every_error_of_ours_has_a_section():
    sections = re.findall(r"^## (\w+)$", PAGES["reference/errors.md"], re.MULTILINE)
    assert sorted(sections) == sorted(errors.__all__)


def test_every_setting_has_a_section():
    sections = re.findall(r"^## (\w+)$", PAGES["reference/settings.md"], re.MULTILINE)
    assert sections == [field.name for field in fields(anypool.Settings)]


def test_every_backend_has_a_section():
    sections = re.findall(r"^## (\w+)$", PAGES["reference/backends.md"], re.MULTILINE)
    assert [name for name in sections if name != "Traits"] == list(load_generate().BACKENDS)


def load_generate():
    """`docs/generate.py` as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RESERVED = "Reserved: nothing raises it in this version."


def test_what_is_said_to_be_reserved_is_raised_by_nobody():
    text = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    sections = re.split(r"^## ", PAGES["reference/errors.md"], flags=re.MULTILINE)
    reserved = [section.split("\n")[0] for section in sections if RESERVED in section]
    assert [name for name in reserved if re.search(rf"\b{name}\(", text.replace(f"class {name}(", ""))] == []
