"""Writes `first_steps.ipynb`: the first examples as cells of a notebook, so that the two cannot drift."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOTEBOOK = HERE / "first_steps.ipynb"
CELLS = ("process.py", "pool_map.py", "who_am_i.py", "cpu_or_io.py")

TITLE = """# First steps with anypool

No cell but the last names a backend, and none needs a `__main__` guard. By default calls run in processes of this
machine. To have them run elsewhere, start Jupyter with another choice, for example `ANYPOOL_BACKEND=dask`, or choose
in a cell before the others: `%env ANYPOOL_BACKEND=threads`."""


def split(source: str) -> tuple[str, str]:
    """The docstring of a script, and its code without it."""
    first = ast.parse(source).body[0]
    if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
        raise ValueError(f"an example starts with a docstring, not with {source[:40]!r}")
    code = "".join(source.splitlines(keepends=True)[first.end_lineno :])
    return str(first.value.value).strip(), code.strip()


def cell(kind: str, name: str, text: str) -> dict[str, Any]:
    """One cell, as nbformat 4.5 writes it."""
    made: dict[str, Any] = {"cell_type": kind, "id": name, "metadata": {}, "source": text.splitlines(keepends=True)}
    return made | {"execution_count": None, "outputs": []} if kind == "code" else made


def notebook() -> str:
    """The notebook as JSON text; without outputs, which would name a machine."""
    cells = [cell("markdown", "title", TITLE)]
    for name in CELLS:
        text, code = split((HERE / name).read_text(encoding="utf-8"))
        stem = name.removesuffix(".py").replace("_", "-")
        cells += [cell("markdown", f"{stem}-text", text), cell("code", stem, code)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
