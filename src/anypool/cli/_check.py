"""`anypool check`: the conformance suite on one executor."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from anypool.cli._calls import BackendName
from anypool.cli._command import Command, json_option
from anypool.cli._output import FAILED, OK, width, write_json, write_text

__all__ = ["check"]

_EPILOG = """
Examples:
  anypool check loky
  anypool check stdlib-threads -k values -k once
  anypool check work.py:make_executor --json    a function that returns an executor of any library

Known executors of other libraries: stdlib-threads, stdlib-processes, loky-raw, dask-raw, mpi4py. "Not offered" is what
an executor does not claim to do; only what it claims can fail.

Exit status: 0 every clause holds; 1 one does not; 2 wrong use; 130 interrupted
"""


class _Clause(click.types.StringParamType):
    name = "clause"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from anypool.testing._clauses import CLAUSES

        return [CompletionItem(clause) for clause in CLAUSES if clause.startswith(incomplete)]


@click.command(cls=Command, epilog=_EPILOG, short_help="Run the conformance suite on an executor.")
@click.argument("executor", metavar="EXECUTOR", type=BackendName())
@click.option(
    "-k", "--clause", "clauses", type=_Clause(), multiple=True, metavar="CLAUSE", help="Only this; repeatable."
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=60, show_default=True, metavar="SECONDS", help="For each test."
)
@json_option
def check(executor: str, clauses: tuple[str, ...], limit: int, as_json: bool) -> int:
    """Run the conformance suite on a backend, or on an executor of another library.

    EXECUTOR is a backend, a known executor, or MODULE:FACTORY.
    """
    from anypool.testing._check import check_executor

    checked = check_executor(executor, clauses=list(clauses), limit=limit)
    if as_json:
        write_json(checked.to_dict())
    else:
        write_text(checked.render(width()))
    return OK if checked.holds else FAILED
