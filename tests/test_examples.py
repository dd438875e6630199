"""The examples do what they say, print the same on every backend, and the notebook has the same cells."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tokenize
from pathlib import Path

import pytest

import anypool
from scripts import BACKENDS, run_python

EXAMPLES = Path(__file__).parent.parent / "examples"

EXPECTED = {
    "process.py": "hello bob\nthe call returned 3\n",
    "pool_map.py": "[4, 9, 16, 25, 36, 49, 64]\n[1, 4, 9, 16]\n",
}


def load(name):
    """An example as a module; for those that a program may import."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def run_example(name, backend):
    done = run_python([str(EXAMPLES / name)], backend=backend, directory=EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# --- the scripts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_prints_the_same_on_every_backend(name, backend):
    assert run_example(name, backend) == EXPECTED[name]


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_am_i_names_the_workers_of_the_backend_in_the_order_of_the_items(backend):
    lines = run_example("who_am_i.py", backend).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"item {item}" for item in range(8)]
    workers = [re.search(r"'(\w+)' pid (\d+) on \S+, thread \S+", line) for line in lines]
    assert {worker[1] for worker in workers} == {backend}
    assert len({worker[2] for worker in workers}) <= 2


def test_cpu_or_io_prints_a_choice_for_each_kind_of_work():
    lines = run_example("cpu_or_io.py", None).splitlines()
    assert [re.split(r"\s{2,}", line)[0] for line in lines[2:]] == ["CPU-bound", "I/O-bound"]
    for line in lines[2:]:
        *seconds, choice = line.split()[1:]
        assert all(float(each) > 0 for each in seconds)
        assert len(seconds) == 3
        assert choice in {"processes", "threads"}


def test_no_example_names_a_backend_but_the_one_that_compares_two():
    names = "|".join(map(re.escape, anypool.backend_names()))
    naming = {
        path.name
        for path in EXAMPLES.glob("*.py")
        if path.name != "run_all.py" and re.search(rf"""["']({names})["']""", path.read_text(encoding="utf-8"))
    }
    assert naming == {"cpu_or_io.py"}


# --- the standard library -----------------------------------------------------------------------------------


def test_source_files_are_those_of_the_standard_library_sorted():
    example = load("tokenize_stdlib")
    files = example.source_files()
    assert files == sorted(set(files))
    assert {"json/decoder.py", "tokenize.py"} <= set(files)
    assert not [path for path in files if "site-packages" in path]


def test_count_tokens_agrees_with_a_plain_loop(tmp_path):
    source = tmp_path / "two.py"
    source.write_text("a = 1\nb = a + 2  # more\n", encoding="utf-8")
    counts = load("tokenize_stdlib").count_tokens(str(source))
    with tokenize.open(source) as file:
        kinds = [tokenize.tok_name[each.type] for each in tokenize.generate_tokens(file.readline)]
    assert counts == {"ENCODING": 1} | {kind: kinds.count(kind) for kind in kinds}


def test_what_is_no_source_is_counted_as_rejected(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_bytes(b"# coding: no-such-coding\n")
    example = load("tokenize_stdlib")
    assert example.count_tokens(str(wrong)) is None
    with anypool.use("serial"):
        text = example.report([str(wrong), "keyword.py"])
    assert text.startswith("2 files, 1 of them no Python source, ")


SAMPLE = "import tokenize_stdlib as t; print(t.report(t.source_files()[::60]))"


@pytest.fixture(scope="module")
def sample_on_serial():
    return run_python(["-c", SAMPLE], backend="serial", directory=EXAMPLES).stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_digest_of_the_standard_library_is_the_same_on_every_backend(backend, sample_on_serial):
    done = run_python(["-c", SAMPLE], backend=backend, directory=EXAMPLES)
    assert done.stderr == ""
    assert done.stdout == sample_on_serial
    assert re.search(r"^sha256 [0-9a-f]{64}$", done.stdout, re.MULTILINE)


# --- run_all ------------------------------------------------------------------------------------------------


def run_all(*arguments):
    return run_python([str(EXAMPLES / "run_all.py"), *map(str, arguments)], directory=EXAMPLES)


def test_run_all_is_content_where_the_outputs_are_the_same():
    done = run_all("--backends", "threads", EXAMPLES / "pool_map.py", EXAMPLES / "who_am_i.py")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("identical") == 2


def test_run_all_fails_where_an_example_prints_something_else_on_another_backend(tmp_path):
    differs = tmp_path / "differs.py"
    differs.write_text("import os\nprint('on', os.environ['ANYPOOL_BACKEND'])\n", encoding="utf-8")
    done = run_all("--backends", "threads", differs)
    assert done.returncode == 1
    assert "differs.py on threads: prints something else than on serial" in done.stdout
    assert "-on serial\n+on threads" in done.stdout


@pytest.mark.parametrize(
    ("code", "complaint"),
    [("raise SystemExit(3)", "exit code 3"), ("import sys; print('x', file=sys.stderr)", "writes to stderr")],
)
def test_run_all_fails_where_an_example_does(code, complaint, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text(code, encoding="utf-8")
    done = run_all("--backends", "serial", broken)
    assert done.returncode == 1
    assert f"broken.py on serial: {complaint}" in done.stdout


def test_run_all_is_not_led_astray_by_the_callers_configuration(monkeypatch, tmp_path):
    example = tmp_path / "which.py"
    example.write_text("import anypool\nprint(anypool.PoolExecutor().backend)\n", encoding="utf-8")
    monkeypatch.setenv("ANYPOOL_BACKEND", "no such backend")
    (tmp_path / "anypool.toml").write_text("this is no TOML", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run = load("run_all").run(example, "threads")
    assert (run.output, run.complaint) == (b"threads\n", "")


# --- the notebook -------------------------------------------------------------------------------------------


def cells(kind):
    content = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_made_of_the_examples_as_they_are():
    made = load("make_notebook").notebook()
    assert (EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8") == made, "run examples/make_notebook.py"


# One namespace for all cells, `__main__`, and no file: as a kernel has it.
KERNEL = "import json, sys\nfor cell in json.load(sys.stdin): exec(compile(cell, '<cell>', 'exec'), globals())"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cells_of_the_notebook_run_one_after_another(backend):
    *quick, _ = cells("code")
    done = run_python(["-c", KERNEL], backend=backend, directory=EXAMPLES, stdin=json.dumps(quick))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(EXPECTED["process.py"] + EXPECTED["pool_map.py"] + "item 0: ")


def test_the_notebook_runs_in_a_real_kernel(monkeypatch):
    pytest.importorskip("ipykernel", reason="optional: needs nbclient and ipykernel")
    pytest.importorskip("nbclient", reason="optional: needs nbclient and ipykernel")
    # In a process of its own: a client of a kernel leaves threads and an event loop behind.
    code = (
        "import sys, nbformat, nbclient\n"
        "notebook = nbformat.read('first_steps.ipynb', as_version=4)\n"
        "nbformat.validate(notebook)\n"
        "nbclient.NotebookClient(notebook, timeout=240, kernel_name='python3').execute()\n"
        "for cell in notebook.cells:\n"
        "    sys.stdout.write(''.join(output['text'] for output in cell.get('outputs', ())))\n"
    )
    done = run_python(["-c", code], backend="processes", directory=EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(EXPECTED["process.py"] + EXPECTED["pool_map.py"] + "item 0: 'processes' ")
    assert "CPU-bound" in done.stdout
