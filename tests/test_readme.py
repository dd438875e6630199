"""The README tells the truth: its code runs and prints what it shows, its tables name what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest

import anypool
from anypool.testing import CLAUSES
from scripts import BACKENDS, run_script

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """One block of code: what it is, why it is not run (empty: it is), and the output shown after it."""

    kind: str
    code: str
    not_run: str
    output: str | None


_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)```\n"
    r"(?:\n```text\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
BLOCKS = [
    Block(kind=each["kind"], code=each["code"], not_run=each["reason"] or "", output=each["output"])
    for each in _BLOCK.finditer(TEXT)
]
PYTHON = [block for block in BLOCKS if block.kind == "python"]
COMMANDS = [block for block in BLOCKS if block.kind == "bash" and not block.not_run]


def section(title):
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(title):
    by_hand = section(title).partition("<!-- generated")[0]
    rows = re.findall(r"^\| ([^|]+) \|(.*)\|$", by_hand, re.MULTILINE)
    return {name.strip(" `"): rest for name, rest in rows if name.strip()}


def test_no_block_is_overlooked():
    assert TEXT.count("\n```") == 2 * (len(BLOCKS) + sum(block.output is not None for block in BLOCKS))
    assert {block.kind for block in BLOCKS} == {"python", "bash", "toml"}
    assert len(PYTHON) >= 3
    assert len(COMMANDS) >= 2


@pytest.mark.parametrize("backend", ["serial", "threads", "processes"])
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line {TEXT[: TEXT.index(block.code)].count(chr(10)) + 1}")
def test_a_block_of_python_prints_what_is_shown_below_it(block, backend, tmp_path):
    assert run_script(block.code, backend, tmp_path) == block.output


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_example_prints_the_same_on_every_backend(backend, tmp_path):
    assert run_script(PYTHON[0].code, backend, tmp_path) == PYTHON[0].output


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are written for a POSIX shell")
@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.code.splitlines()[0])
def test_a_command_that_is_shown_runs(block, tmp_path):
    (tmp_path / "squares.py").write_text(PYTHON[0].code, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANYPOOL_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment["ANYPOOL_CONFIG"] = "none"
    done = subprocess.run(
        ["sh", "-e", "-c", block.code],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    if "squares.py" in block.code:
        assert done.stdout == PYTHON[0].output


def test_the_file_that_is_shown_is_understood(tmp_path, monkeypatch):
    block = next(block for block in BLOCKS if block.kind == "toml")
    file = tmp_path / "anypool.toml"
    file.write_text(block.code, encoding="utf-8")
    for name in [name for name in os.environ if name.startswith("ANYPOOL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANYPOOL_CONFIG", str(file))
    written = tomllib.loads(block.code)
    executor = anypool.PoolExecutor("serial")
    assert executor.backend == "serial"  # the argument is stronger
    found = {row.key: row for row in anypool.explain().rows}
    for key in ("backend", "max_workers"):
        assert found[key].value == written[key]
        assert "anypool.toml" in found[key].source
    of_dask = {row.key: row.value for row in anypool.explain("dask").rows}
    assert of_dask["threads_per_worker"] == written["dask"]["threads_per_worker"]


def test_the_table_of_backends_names_all_and_their_options():
    shown = {name: set(re.findall(r"`(\w+)`", rest.split("|")[1])) for name, rest in first_column("Backends").items()}
    shown.pop("name")
    offered = {
        name: {
            field.name
            for field in fields(anypool.PoolExecutor(name)._backend)
            if field.init and field.name != "max_workers"
        }
        for name in BACKENDS
    }
    assert {name: shown[name] for name in offered} == offered


def test_the_table_of_promises_has_the_clauses_of_the_suite():
    # The last two clauses of the suite are what clients of any executor rely on; no promise of their own.
    promised = [name for name in first_column("What is promised") if not name.startswith("-")]
    assert promised == [name for name in CLAUSES if name not in {"futures", "configuration"}]


def test_the_measured_table_has_a_place_between_two_marks():
    assert re.findall(r"^<!-- (measured: overhead|/measured) -->$", TEXT, re.MULTILINE) == [
        "measured: overhead",
        "/measured",
    ]


def test_links_to_files_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_first_screen_shows_an_example():
    assert "get_executor() as ex" in "\n".join(TEXT.splitlines()[:24])
