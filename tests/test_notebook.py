"""The notebook of the examples runs in a kernel, as a new user runs it, and shows what a script prints."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from scripts import run_python

NOTEBOOK = Path(__file__).parent.parent / "examples" / "first_steps.ipynb"

EXECUTE = """
import json, sys
import nbclient, nbformat

notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
print(json.dumps({cell.id: [[each.get("name"), each.get("text")] for each in cell.outputs] for cell in cells}))
"""


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nbclient", "ipykernel")), reason="needs a kernel"
)
@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_every_cell_of_the_notebook_runs(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    done = run_python(["-c", EXECUTE, str(NOTEBOOK)], backend=backend, directory=tmp_path, limit=280)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)
    assert {name for outputs_of in outputs.values() for name, _ in outputs_of} == {"stdout"}
    assert "".join(text for _, text in outputs["process"]) == "hello bob\nthe call returned 3\n"
    assert "[4, 9, 16, 25, 36, 49, 64]\n[1, 4, 9, 16]\n" in "".join(text for _, text in outputs["pool-map"])
