"""`anypool compare`: the same calls on several backends."""

from __future__ import annotations

import click

from anypool.cli._calls import (
    INPUT_FORMS,
    calls_of,
    calls_options,
    only_results,
    seed_option,
    split_backends,
    workers_option,
)
from anypool.cli._command import Command, json_option
from anypool.cli._output import FAILED, OK, width, write_json, write_text

__all__ = ["compare"]

_EPILOG = f"""
{INPUT_FORMS}

Examples:
  anypool compare math:sqrt "range(1000)"
  anypool compare work.py:parse work.py:files --backends processes,loky --repeat 5
  anypool compare work.py:parse :files              the input is in the same file
  anypool compare builtins:pow "[(2, 3), (3, 2)]" --starmap
  anypool compare work.py:parse :files --plot times.svg
  generate | anypool compare work:handle - --json   an item a line, as JSON

What the same means: equal, and of the same type, inside as well; NaN is NaN; arrays by dtype, shape and bytes;
errors of calls by class and arguments. What calls print is dropped.

Exit status: 0 identical; 1 results differ, or a backend failed; 2 wrong use; 130 interrupted
"""


@click.command(
    cls=Command,
    epilog=_EPILOG,
    short_help="Run the same calls on several backends, and compare results and times.",
)
@calls_options
@workers_option(help="Workers of each backend.")
@click.option("--repeat", type=click.IntRange(min=1), default=1, metavar="K", help="Warm maps; their median is shown.")
@seed_option()
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE.svg", help="Draw the times as bars, too.")
@json_option
def compare(
    function: str,
    input_: str,
    backends: str | None,
    starmap: bool,
    max_workers: int | None,
    repeat: int,
    seed: int | None,
    plot: str | None,
    as_json: bool,
) -> int:
    """Run the same calls on several backends, and compare results and times with those of 'serial'."""
    from anypool._compare import compare_calls

    if plot is not None and not plot.lower().endswith(".svg"):
        raise click.BadParameter("the file must end in .svg", param_hint="--plot")
    with only_results():
        loaded, calls = calls_of(function, input_, starmap=starmap)
        comparison = compare_calls(
            loaded, calls, backends=split_backends(backends), max_workers=max_workers, repeat=repeat, seed=seed
        )
    if plot is not None:
        comparison.save(plot)
    if as_json:
        write_json(comparison.to_dict())
    else:
        write_text(comparison.render(width()))
    return OK if comparison.identical else FAILED
