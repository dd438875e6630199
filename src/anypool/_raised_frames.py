"""A traceback as plain data, and a traceback again that holds nobody's locals."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from anypool._raised import Place
from anypool._raised_reads import exact

__all__ = ["places_of", "traceback_of"]

_FRAMES_KEPT = 50  # at each end of a traceback: a RecursionError has a thousand equal ones between


def places_of(tb: types.TracebackType | None) -> tuple[tuple[Place, ...], int]:
    """The entries of `tb` that are sent, and how many in the middle are not."""
    head: list[Place] = []
    tail: deque[types.TracebackType] = deque(maxlen=_FRAMES_KEPT)
    later = 0
    while tb is not None:
        if len(head) < _FRAMES_KEPT:
            head.append(_place(tb))
        else:
            tail.append(tb)
            later += 1
        tb = tb.tb_next
    return (*head, *map(_place, tail)), later - len(tail)


def _place(tb: types.TracebackType) -> Place:
    code, lasti = tb.tb_frame.f_code, tb.tb_lasti
    line: int | None = tb.tb_lineno  # None, against its annotation, at an instruction of no line
    position = next(islice(code.co_positions(), lasti // 2, None), None) if lasti >= 0 else None
    _, end_line, column, end_column = position or (None, None, None, None)
    return Place(
        filename=exact(code.co_filename),
        name=exact(code.co_name),
        qualname=exact(code.co_qualname),
        first=code.co_firstlineno,
        line=code.co_firstlineno if line is None else line,
        end_line=end_line,
        column=column,
        end_column=end_column,
        module=_module_of(tb),
    )


def _module_of(tb: types.TracebackType) -> str:
    return exact(dict.get(tb.tb_frame.f_globals, "__name__", "?"))


def traceback_of(places: tuple[Place, ...]) -> types.TracebackType | None:
    tb = None
    for place in reversed(places):
        code, lasti = _code_at(place)
        # The frame of a generator that never ran: no `f_back`, so that it holds nobody's locals.
        frame = types.FunctionType(code, {"__name__": place.module, "__file__": place.filename})().gi_frame
        tb = types.TracebackType(tb, frame, lasti, place.line)
    return tb


def _no_call() -> Iterator[None]:
    yield


# Failing calls tend to fail at the same place, and compiling is most of the cost of a traceback.
@lru_cache(maxsize=256)
def _code_at(place: Place) -> tuple[types.CodeType, int]:
    """Return code that has an instruction at `place`, and its offset; -1 if only the line is known."""
    import ast

    names: Any = {"co_name": place.name, "co_qualname": place.qualname, "co_filename": place.filename}
    if place.end_line is None or place.column is None or place.end_column is None:
        return _no_call.__code__.replace(co_firstlineno=place.line, **names), -1
    at = {
        "lineno": place.line,
        "end_lineno": place.end_line,
        "col_offset": place.column,
        "end_col_offset": place.end_column,
    }
    tree = ast.parse("def call():\n yield")
    function: Any = tree.body[0]
    function.lineno = function.end_lineno = min(place.first, place.line)
    for part in (function.body[0], function.body[0].value):
        vars(part).update(at)
    function.end_lineno = max(place.end_line, function.lineno)
    constants = compile(tree, place.filename, "exec").co_consts
    code = next(each for each in constants if isinstance(each, types.CodeType)).replace(**names)
    wanted = (place.line, place.end_line, place.column, place.end_column)
    offsets = (2 * index for index, position in enumerate(code.co_positions()) if position == wanted)
    return code, next(offsets, -1)
