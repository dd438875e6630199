"""Counts the tokens of every source file of the standard library: real work, over a thousand calls.

The report is the same, to the last byte, on every backend: the digest covers each file's counts, in order.
Compare the backends with ``anypool compare``, which takes `count_tokens` and `sample_files` from here.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
import token
import tokenize
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import anypool

STDLIB = Path(sysconfig.get_path("stdlib"))
NOT_STDLIB = {"site-packages", "dist-packages"}


def source_files() -> list[str]:
    """Every ``.py`` file of the standard library, relative to its directory, sorted."""
    found = (path.relative_to(STDLIB) for path in STDLIB.rglob("*.py"))
    return sorted(path.as_posix() for path in found if NOT_STDLIB.isdisjoint(path.parts))


def sample_files() -> list[str]:
    """Every 20th of them: enough to compare backends in seconds."""
    return source_files()[::20]


def count_tokens(path: str) -> dict[str, int] | None:
    """How often each type of token occurs in a file; None if it is no Python source.

    The tests of the standard library bring files that are wrong on purpose.
    """
    try:
        with open(STDLIB / path, "rb") as file:
            counts = Counter(each.type for each in tokenize.tokenize(file.readline))
    except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return None
    return {token.tok_name[kind]: counts[kind] for kind in sorted(counts)}


def report(paths: Iterable[str]) -> str:
    """Count on whichever backend the configuration says; the totals by type and the digest, as text."""
    totals: Counter[str] = Counter()
    rejected: list[str] = []
    digest = hashlib.sha256()
    paths = list(paths)
    with anypool.get_executor() as ex:
        for path, counts in zip(paths, ex.map(count_tokens, paths), strict=True):
            digest.update(json.dumps([path, counts]).encode())
            if counts is None:
                rejected.append(path)
            else:
                totals.update(counts)
    lines = [f"{kind:16}{count:10,}" for kind, count in sorted(totals.items(), key=lambda each: (-each[1], each[0]))]
    return "\n".join(
        [
            f"{len(paths):,} files, {len(rejected)} of them no Python source, {totals.total():,} tokens",
            *lines,
            f"sha256 {digest.hexdigest()}",
        ]
    )


# `anypool compare` imports this file for its functions, so here a guard is natural. No backend asks for one.
if __name__ == "__main__":
    print(report(source_files()))
