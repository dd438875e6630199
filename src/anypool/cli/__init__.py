"""The command `anypool`: look at backends and configuration, run calls, and compare what runs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_NEEDS = "the command line needs click: pip install 'anypool[cli]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (something failed or differs), 2 (wrong use), 130 (Ctrl-C).

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the name of the program. Default: those of the process.

    Notes
    -----
    Everything but this function needs click, which `import anypool` does not: the extra ``cli`` brings it.
    """
    try:
        import click  # noqa: F401
    except ImportError:
        sys.stderr.write(f"anypool: {_NEEDS}\n")
        return 2
    from anypool.cli._root import run

    return run(sys.argv[1:] if argv is None else list(argv))
