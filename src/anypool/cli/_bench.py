"""`anypool bench`: what each backend costs on this machine."""

from __future__ import annotations

import click

from anypool.cli._calls import BackendName, only_results, split_backends, workers_option
from anypool.cli._command import Command, json_option
from anypool.cli._output import FAILED, OK, width, write_json, write_text

__all__ = ["bench"]

_EPILOG = """
Examples:
  anypool bench
  anypool bench --backends threads,processes --workers 4 --json

Columns: start, until the first result; one call, submitted and back; per item, in a long map of tiny calls;
data, sent as arguments of 8 MB; speed-up of busy calls in pure Python over a loop in the caller; end, until
nothing is left. A second or two for each backend.

Exit status: 0 all of them ran; 1 one did not; 2 wrong use; 130 interrupted
"""


@click.command(cls=Command, epilog=_EPILOG, short_help="Measure what each backend costs on this machine.")
@click.option(
    "--backends",
    type=BackendName(several=True),
    metavar="A,B,...",
    help="Names or URLs. Default: all that are installed.",
)
@workers_option(help="Workers of each backend.")
@json_option
def bench(backends: str | None, max_workers: int | None, as_json: bool) -> int:
    """Measure what each backend costs on this machine: start, calls, data, end."""
    from anypool import _bench

    with only_results():
        found = _bench.bench(split_backends(backends), max_workers=max_workers)
    if as_json:
        write_json(found.to_dict())
    else:
        write_text(found.render(width()))
    return FAILED if any(row.error for row in found.rows) else OK
