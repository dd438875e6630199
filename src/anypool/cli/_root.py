"""`anypool` itself: its commands, its help, and what becomes of each kind of error."""

from __future__ import annotations

from collections.abc import Sequence

import click

import anypool
from anypool.cli._backends import backends
from anypool.cli._bench import bench
from anypool.cli._check import check
from anypool.cli._command import SETTINGS, Group, Interrupted
from anypool.cli._compare import compare
from anypool.cli._completion import completion
from anypool.cli._config import config
from anypool.cli._map import map_command
from anypool.cli._output import FAILED, INTERRUPTED, WRONG_USE, complain
from anypool.cli._verify import verify
from anypool.errors import AnypoolError, ConfigError, MissingExtra

__all__ = ["root", "run"]

_EPILOG = """
Examples:
  anypool backends                 what is installed, and how to install the rest
  anypool config                   which backend and options hold here, and why
  anypool map work.py:parse < items.jsonl > results.jsonl
                                   a call for each line, on the backend that is configured
  anypool compare math:sqrt "range(1000)"
                                   the same calls on every backend: equal? how fast?
  anypool verify work.py:parse :files
                                   is a function portable, and if not, why?
  anypool check threads            does an executor keep the contract?

Exit status: 0 fine; 1 results differ, a call or a check failed; 2 wrong use; 130 interrupted
"""


@click.group(
    cls=Group,
    name="anypool",
    epilog=_EPILOG,
    context_settings=SETTINGS,
    no_args_is_help=False,
    commands=[backends, config, map_command, compare, verify, check, bench, completion],
)
@click.version_option(anypool.__version__, prog_name="anypool", message="%(prog)s %(version)s")
def root() -> None:
    """One executor over many backends: see what there is, run calls on it, compare."""


def run(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name; return its exit status."""
    try:
        status = root.main(list(arguments), prog_name="anypool", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return WRONG_USE
    except SystemExit as exc:  # how click answers a shell that asks what could be completed
        return exc.code if isinstance(exc.code, int) else WRONG_USE
    except (ConfigError, MissingExtra) as exc:
        complain(str(exc))
        return WRONG_USE
    except AnypoolError as exc:
        complain(str(exc))
        return FAILED
    except (Interrupted, KeyboardInterrupt):
        complain("interrupted")
        return INTERRUPTED
    return status if isinstance(status, int) else 0
