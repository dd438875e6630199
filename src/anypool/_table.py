"""A table as text, for terminals of any width."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

__all__ = ["table"]

# A last column that is narrower than this is wrapped into a ribbon that nobody can read.
_LEAST_LAST = 30


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    right: Collection[str] = (),
) -> str:
    """Return rows below a header; no line is longer than `width` unless a single word is.

    Where the table is too wide its last column is wrapped; where that leaves too little, each row becomes a
    block of lines.

    Parameters
    ----------
    rows : sequence of sequences of str
        Each as long as `header`; a cell is one line.
    width : int or None
        Columns of the terminal. None: as wide as it gets.
    right : collection of str
        The names of the columns that are set flush right: numbers.

    Examples
    --------
    >>> print(table(["name", "size"], [["a", "1"], ["long", "10"]], right={"size"}))
    name  size
    a        1
    long    10
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    before_last = sum(widths[:-1]) + 2 * len(widths[:-1])
    if width is not None and before_last + widths[-1] > width:
        if width - before_last < _LEAST_LAST:
            return _blocks(header, rows, width)
        widths[-1] = width - before_last
    lines: list[str] = []
    for row in (header, *rows):
        cells = [
            cell.rjust(size) if name in right else cell.ljust(size)
            for name, cell, size in zip(header, row, widths, strict=True)
        ]
        last = textwrap.wrap(row[-1], widths[-1]) if len(row[-1]) > widths[-1] else [cells[-1]]
        lines.append("  ".join([*cells[:-1], last[0]]).rstrip())
        lines += [" " * before_last + more for more in last[1:]]
    return "\n".join(lines)


def _blocks(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    label = max(map(len, header[1:]), default=0)
    blocks = []
    for row in rows:
        lines = [row[0]]
        for name, cell in zip(header[1:], row[1:], strict=True):
            lead = f"  {name.ljust(label)}  "
            if cell:
                lines += textwrap.wrap(
                    cell, max(width, len(lead) + 10), initial_indent=lead, subsequent_indent=" " * len(lead)
                )
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
