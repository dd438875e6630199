"""`anypool verify`: whether a function is portable, and if not, why."""

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

__all__ = ["verify"]

_EPILOG = f"""
{INPUT_FORMS}

Examples:
  anypool verify math:sqrt "range(1000)"
  anypool verify work.py:parse :files --backends processes,threads --sample 50

Each call runs several times: results, errors, prints, warnings and logs are compared item by item, and what a call
changes on the way is reported: arguments, globals, environment, global random generators.

Exit status: 0 portable; 1 not; 2 wrong use; 130 interrupted
"""


@click.command(
    cls=Command,
    epilog=_EPILOG,
    short_help="Tell whether a function does the same on every backend, and if not, why.",
)
@calls_options
@workers_option(default=2, help="Workers of each backend.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="Items that are tried.",
)
@seed_option(default=0)
@json_option
def verify(
    function: str,
    input_: str,
    backends: str | None,
    starmap: bool,
    max_workers: int,
    sample: int,
    seed: int,
    as_json: bool,
) -> int:
    """Tell whether a function does the same on every backend, and if not, why and what to change."""
    from anypool._verify import verify_calls

    with only_results():
        loaded, calls = calls_of(function, input_, starmap=starmap)
        verification = verify_calls(
            loaded, calls, backends=split_backends(backends), sample=sample, seed=seed, max_workers=max_workers
        )
    if as_json:
        write_json(verification.to_dict())
    else:
        write_text(verification.render(width()))
    return OK if verification.portable else FAILED
