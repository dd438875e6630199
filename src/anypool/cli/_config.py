"""`anypool config`: what holds here, and which place said so."""

from __future__ import annotations

import click

from anypool.cli._calls import BackendName
from anypool.cli._command import Command, json_option
from anypool.cli._output import FAILED, OK, width, write_json, write_text

__all__ = ["config"]

_EPILOG = """
Exit status: 0 the choice can be carried out; 1 it cannot; 2 wrong use
"""


@click.command(cls=Command, epilog=_EPILOG, short_help="Tell which backend and options hold here, and why.")
@click.argument("backend", required=False, type=BackendName(), metavar="[BACKEND]")
@json_option
def config(backend: str | None, as_json: bool) -> int:
    """Tell which backend, options and settings hold here, where each was written, and what limits the CPUs.

    With BACKEND: as if get_executor had this argument. Nothing is started.
    """
    from anypool import _config, _cpus, _registry
    from anypool._table import table

    explanation = _config.explain(backend)
    if backend is not None:
        _registry.require_known(explanation.backend)
    limits = _cpus.cpu_limits()
    least = min(limit.cpus for limit in limits)
    if as_json:
        cpus = [{"source": each.source, "cpus": each.cpus, "detail": each.detail} for each in limits]
        write_json({**explanation.to_dict(), "available_cpus": least, "cpu_limits": cpus})
    else:
        rows = [["*" if each.cpus == least else "", str(each.cpus), each.source, each.detail] for each in limits]
        write_text(
            f"{explanation}\n\n{least} CPUs may be used: the least of\n"
            + table(["", "cpus", "limit", "read from"], rows, width=width(), right={"cpus"})
        )
    return FAILED if explanation.errors else OK
