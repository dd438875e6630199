"""`anypool map`: a call for each line of JSON, a line of JSON for each result."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import click

import anypool
from anypool.cli._calls import INPUT_FORMS, BackendName, seed_option, workers_option
from anypool.cli._command import Command
from anypool.cli._lines import Input, json_items
from anypool.cli._mapping import Mapping, Tally
from anypool.cli._output import FAILED, OK, complain
from anypool.cli._reader import ReaderGone, reader_watched
from anypool.cli._results import results_apart
from anypool.errors import ConfigError

__all__ = ["map_command"]

_EPILOG = f"""
{INPUT_FORMS}

Examples:
  anypool map work.py:parse < items.jsonl > results.jsonl
  anypool map work:fetch --backend threads --workers 20 --retries 3 < urls.jsonl > pages.jsonl
  anypool map builtins:pow --starmap < pairs.jsonl           a line has the arguments of a call: [2, 3]
  anypool map work:simulate "range(10000)" --seed 1 --journal done.journal > results.jsonl
  anypool map work:parse --errors report < items.jsonl | jq 'select(.error)'

Results are in the order of the items, one line each, written as they come. What calls print goes to the
standard error. Blank lines are passed over, and counted.

What a line that is not JSON, a call that fails, or a result that JSON cannot hold does:
  --errors stop      ends the run after the results before it (this is the default)
  --errors skip      is told on the standard error; its result is left out
  --errors report    is told in its place: every line out is {{"line": 3, "result": ...}}
                     or {{"line": 4, "error": {{"in": "input" | "call" | "result", "type": ..., "message": ...}}}}

Exit status: 0 every item has a result, or the reader has gone (| head); 1 an item has none, whatever --errors
says; 2 wrong use; 130 interrupted
"""


@click.command("map", cls=Command, epilog=_EPILOG, short_help="Call a function for each line of JSON.")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("input_", metavar="[INPUT]", default="-")
@click.option("--backend", type=BackendName(), metavar="NAME", help="A name or a URL. Default: what is configured.")
@workers_option()
@click.option("--starmap", is_flag=True, help="Each item is the arguments of a call, as a list.")
@click.option("--errors", type=click.Choice(["stop", "skip", "report"]), default="stop", help="See below.")
@click.option("--retries", type=click.IntRange(min=0), metavar="N", help="Try a failed call up to N times more.")
@click.option("--call-timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each call.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For all of it.")
@click.option("--journal", metavar="PATH", help="Note what is done in this file; go on from it after a stop.")
@seed_option()
@click.option("--chunksize", type=click.IntRange(min=1), metavar="N", help="Items sent at a time. Default: adapted.")
@click.option(
    "--progress",
    is_flag=False,
    flag_value="",
    metavar="[STYLE]",
    help="Show how far it is, on the standard error; STYLE as in the setting progress.",
)
@click.option("--trace", metavar="PATH", help="Write where the time went to this file.")
@click.option("--json", "as_json", is_flag=True, help="Sum up as JSON on the standard error.")
def map_command(
    function: str,
    input_: str,
    backend: str | None,
    max_workers: int | None,
    starmap: bool,
    errors: Literal["stop", "skip", "report"],
    as_json: bool,
    progress: str | None,
    **settings: Any,
) -> int:
    """Call a function for each line of JSON on the standard input; write a line of JSON for each result."""
    from anypool._calls_from import load_named, local_imports

    chosen = {name: value for name, value in settings.items() if value is not None}
    if progress is not None:
        chosen["progress"] = progress or True
    if max_workers is not None:
        chosen["max_workers"] = max_workers
    with local_imports(), results_apart() as results, _input(input_, function) as (unit, numbered):
        items = Input(numbered, starmap=starmap, stops=errors == "stop")
        mapping = Mapping(items, write=results.write, errors=errors, unit=unit)
        loaded = load_named(function)
        try:
            with (
                reader_watched(results.descriptor, lambda: mapping.is_running),
                anypool.get_executor(backend, **chosen) as ex,
            ):
                mapping.run(ex, loaded, starmap=starmap)
        except ReaderGone:
            return OK
        finally:
            _sum_up(mapping.tally, as_json=as_json)
    return FAILED if mapping.tally.problems else OK


@contextmanager
def _input(text: str, function: str) -> Iterator[tuple[str, Iterator[tuple[int, Callable[[], Any]]]]]:
    """Give what an item is called, "line" or "item", and the items with their numbers; files are read as wanted."""
    from anypool._calls_from import load_input

    if text == "-":
        yield "line", json_items(getattr(sys.stdin, "buffer", sys.stdin))
    elif text.endswith(".jsonl"):
        with _opened(text) as lines:
            yield "line", json_items(lines)
    else:
        items = load_input(text, function)
        yield "item", ((number, lambda item=item: item) for number, item in enumerate(items, 1))  # type: ignore[misc]


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as exc:
        raise ConfigError(f"{path!r} cannot be read: {exc}") from exc


def _sum_up(tally: Tally, *, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(json.dumps(tally.to_dict()) + "\n")
    elif tally.problems:
        complain(str(tally))
