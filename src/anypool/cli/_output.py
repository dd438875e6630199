"""How the command line answers: its exit statuses, text for the terminal, JSON, complaints."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

__all__ = ["FAILED", "INTERRUPTED", "OK", "WRONG_USE", "complain", "one_line", "width", "write_json", "write_text"]

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


def write_json(value: Mapping[str, Any]) -> None:
    """Write one JSON document to the standard output."""
    _write(json.dumps(value, indent=2, default=repr))


def write_text(text: str) -> None:
    """Write lines; those that are too long for the terminal go on below, indented."""
    columns = width()
    lines: list[str] = []
    for line in text.splitlines():
        if columns is None or len(line) <= columns:
            lines.append(line)
        else:
            wrapped = textwrap.wrap(line, columns, subsequent_indent="    ", drop_whitespace=False)
            lines += [each.rstrip() for each in wrapped]
    _write("\n".join(lines))


def _write(text: str) -> None:
    """Write to the standard output. A reader that has gone (`| head`) has seen what it wanted: no error."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except UnicodeEncodeError:  # a terminal, or a pipe, that has no form for what a repr shows
        encoding = sys.stdout.encoding
        _write(text.encode(encoding, "backslashreplace").decode(encoding))
    except OSError as exc:
        if not isinstance(exc, BrokenPipeError) and os.name != "nt":  # Windows says EINVAL
            raise
        # The interpreter flushes once more when it ends, and would complain then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def complain(text: str) -> None:
    """Write one line to the standard error."""
    sys.stderr.write(f"anypool: {' '.join(text.split())}\n")
    sys.stderr.flush()


def one_line(exc: BaseException) -> str:
    """Return the type and the message of `exc`, on one line."""
    message = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {message}" if message else type(exc).__name__


def width() -> int | None:
    """Return the columns of the terminal; None where the output is no terminal, unless COLUMNS says some."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return max(20, shutil.get_terminal_size().columns)
    return None
