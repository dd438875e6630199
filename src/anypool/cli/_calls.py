"""The parameters that commands share: a function, its input, backends, workers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from anypool.errors import ConfigError

__all__ = [
    "INPUT_FORMS",
    "BackendName",
    "calls_of",
    "calls_options",
    "only_results",
    "seed_option",
    "split_backends",
    "workers_option",
]

F = TypeVar("F", bound=Callable[..., Any])

INPUT_FORMS = """\
INPUT is one of
  MODULE:NAME, path/to/file.py:NAME   an iterable, or a function that returns one
  :NAME                               the same, in the file of the function
  [1, 2, 3]  range(1000)              a literal
  items.jsonl                         a file with one item a line, as JSON
  -                                   the same on the standard input"""
"""For the end of the help of commands that take an input."""


class BackendName(click.types.StringParamType):
    """A name or a URL of a backend; which ones there are is checked where it is used, with a better message."""

    name = "backend"

    def __init__(self, *, several: bool = False) -> None:
        self._several = several

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that go on from what was typed; after the last comma, where there can be several."""
        from anypool._registry import backend_names

        before, comma, typed = incomplete.rpartition(",") if self._several else ("", "", incomplete)
        return [CompletionItem(f"{before}{comma}{name}") for name in backend_names() if name.startswith(typed)]


workers_option = functools.partial(
    click.option,
    "--max-workers",
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many calls run at once.",
)
seed_option = functools.partial(
    click.option, "--seed", type=int, metavar="N", help="For functions that draw random numbers."
)


def calls_options(command: F) -> F:
    """Give a command the arguments MODULE:FUNCTION and INPUT, and the options that say where and how."""
    for add in (
        click.option("--starmap", is_flag=True, help="Each item is the arguments of a call."),
        click.option(
            "--backends",
            type=BackendName(several=True),
            metavar="A,B,...",
            help="Names or URLs. Default: all that are installed.",
        ),
        click.argument("input_", metavar="INPUT"),
        click.argument("function", metavar="MODULE:FUNCTION"),
    ):
        command = add(command)
    return command


@contextmanager
def only_results() -> Iterator[None]:
    """Drop what is printed in the block: it would end up between the lines of the table, or of the JSON."""
    from anypool._calls_from import local_imports

    with local_imports(), open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def calls_of(function: str, input_: str, *, starmap: bool) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """Return the function that is named, and the arguments of each of its calls."""
    from anypool._calls_from import load_input, load_named

    loaded = load_named(function)
    items = load_input(input_, function)
    return loaded, _argument_tuples(items) if starmap else [(item,) for item in items]


def _argument_tuples(items: Sequence[Any]) -> list[tuple[Any, ...]]:
    calls = []
    for index, item in enumerate(items):
        try:
            calls.append(tuple(item))
        except TypeError as exc:
            raise ConfigError(f"--starmap: item {index} is not a list of arguments: {item!r}") from exc
    return calls


def split_backends(text: str | None) -> list[str] | None:
    """Return the names between commas; None: all there are."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--backends names no backend")
    return names
