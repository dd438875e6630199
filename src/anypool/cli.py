"""The command `anypool`: which backends there are, what is configured, and whether backends agree."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import anypool
from anypool.errors import AnypoolError, ConfigError, MissingExtra

if TYPE_CHECKING:
    from anypool.backend import Traits

__all__ = ["main"]

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
examples:
  anypool backends                 what is installed, and how to install the rest
  anypool config                   which backend and options hold here, and why
  anypool compare math:sqrt "range(1000)"
                                   the same calls on every backend: equal? how fast?
  anypool verify work.py:parse :files
                                   is a function portable, and if not, why?
  anypool check threads            does an executor keep the contract?

exit status: 0 fine; 1 results differ, or a check failed; 2 wrong use; 130 interrupted
"""

_COMPARE_EPILOG = """\
examples:
  anypool compare math:sqrt "range(1000)"
  anypool compare work.py:parse work.py:files --backends processes,loky --repeat 5
  anypool compare work.py:parse :files              the input is in the same file
  anypool compare builtins:pow "[(2, 3), (3, 2)]" --starmap
  generate | anypool compare work:handle - --json   an item a line, as JSON

What the same means: equal, and of the same type, inside as well; NaN is NaN; arrays by dtype, shape and bytes;
errors of calls by class and arguments. What calls print is dropped.

exit status: 0 identical; 1 results differ, or a backend failed; 2 wrong use; 130 interrupted
"""

_VERIFY_EPILOG = """\
examples:
  anypool verify math:sqrt "range(1000)"
  anypool verify work.py:parse :files --backends processes,threads --sample 50

Each call runs several times: results, errors, prints, warnings and logs are compared item by item, and what a call
changes on the way is reported: arguments, globals, environment, global random generators. INPUT is as for compare.

exit status: 0 portable; 1 not; 2 wrong use; 130 interrupted
"""

_CHECK_EPILOG = """\
examples:
  anypool check loky
  anypool check stdlib-threads -k values -k once
  anypool check work.py:make_executor --json    a function that returns an executor of any library

Known executors of other libraries: stdlib-threads, stdlib-processes, loky-raw, dask-raw, mpi4py. "Not offered" is what
an executor does not claim to do; only what it claims can fail.

exit status: 0 every clause holds; 1 one does not; 2 wrong use; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (results differ, a check failed), 2 (wrong use), 130 (Ctrl-C).

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the name of the program. Default: those of the process.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as exc:  # how argparse ends: after --help with 0, after wrong use with 2
        return exc.code if isinstance(exc.code, int) else WRONG_USE
    try:
        status: int = arguments.run(arguments)
    except (ConfigError, MissingExtra) as exc:
        _complain(str(exc))
        return WRONG_USE
    except AnypoolError as exc:
        _complain(str(exc))
        return FAILED
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="anypool",
        description="One executor over many backends: look at them, at what is configured, and compare them.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"anypool {anypool.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    backends = commands.add_parser(
        "backends",
        help="list the backends",
        description="List every backend, those of other distributions included.",
    )
    backends.add_argument("--start", action="store_true", help="start each one, to see its real size and traits")
    backends.set_defaults(run=_backends)

    config = commands.add_parser(
        "config",
        help="tell which backend and options hold here, and why",
        description="Tell which backend, options and settings hold here, where each was written, and what limits "
        "the CPUs. Nothing is started.",
    )
    config.add_argument("backend", nargs="?", metavar="BACKEND", help="as if get_executor had this argument")
    config.set_defaults(run=_config)

    compare = commands.add_parser(
        "compare",
        help="run the same calls on several backends, and compare results and times",
        description="Run the same calls on several backends, and compare results and times with those of 'serial'.",
        epilog=_COMPARE_EPILOG,
        formatter_class=raw,
    )
    _add_calls(compare)
    compare.add_argument("--max-workers", type=_positive, metavar="N", help="workers of each backend")
    compare.add_argument("--repeat", type=_positive, default=1, metavar="K", help="warm maps; their median is shown")
    compare.add_argument("--seed", type=int, metavar="N", help="for functions that draw random numbers")
    compare.set_defaults(run=_compare)

    verify = commands.add_parser(
        "verify",
        help="tell whether a function does the same on every backend, and if not, why",
        description="Tell whether a function does the same on every backend, and if not, why and what to change.",
        epilog=_VERIFY_EPILOG,
        formatter_class=raw,
    )
    _add_calls(verify)
    verify.add_argument("--max-workers", type=_positive, default=2, metavar="N", help="workers of each backend")
    verify.add_argument("--sample", type=_positive, default=20, metavar="N", help="items that are tried (default: 20)")
    verify.add_argument("--seed", type=int, default=0, metavar="N", help="for functions that draw random numbers")
    verify.set_defaults(run=_verify)

    check = commands.add_parser(
        "check",
        help="run the conformance suite on an executor",
        description="Run the conformance suite on a backend, or on an executor of another library.",
        epilog=_CHECK_EPILOG,
        formatter_class=raw,
    )
    check.add_argument("executor", metavar="EXECUTOR", help="a backend, a known executor, or MODULE:FACTORY")
    check.add_argument("-k", "--clause", action="append", default=[], metavar="CLAUSE", help="only this; repeatable")
    check.add_argument("--limit", type=_positive, default=60, metavar="SECONDS", help="for each test (default: 60)")
    check.set_defaults(run=_check)

    for command in (backends, config, compare, verify, check):
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _add_calls(command: argparse.ArgumentParser) -> None:
    command.add_argument("function", metavar="MODULE:FUNCTION", help="or path/to/file.py:FUNCTION")
    command.add_argument(
        "input",
        metavar="INPUT",
        help="MODULE:NAME or path/to/file.py:NAME or :NAME, an iterable or a function that returns one; "
        "a list literal; range(...); a .jsonl file; - for JSON lines on standard input",
    )
    command.add_argument("--backends", metavar="A,B,...", help="names or URLs; default: all that are installed")
    command.add_argument("--starmap", action="store_true", help="each item is the arguments of a call")


def _positive(text: str) -> int:
    number = int(text)  # argparse turns the ValueError into its own message
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


# --- anypool backends ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _BackendRow:
    """One backend as `anypool backends` tells it."""

    name: str
    library: str
    """The distribution that runs it, with its version; of what is not there, nothing."""
    aliases: tuple[str, ...]
    workers: int | None = None
    """How many a default start has; None where only the start tells."""
    traits: Traits | None = None
    problem: str = ""
    """Why it cannot be used: not installed, with what to do; broken; failed to start."""
    installed: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "installed": self.installed,
            "library": self.library,
            "workers": self.workers,
            "traits": None if self.traits is None else _trait_values(self.traits),
            "aliases": list(self.aliases),
            "problem": self.problem,
        }


def _backends(arguments: argparse.Namespace) -> int:
    from anypool import _registry

    aliases: dict[str, list[str]] = {}
    for alias, name in _registry.names_and_aliases(entry_points=True).items():
        if alias != name:
            aliases.setdefault(name, []).append(alias)
    rows = [
        _backend_row(name, tuple(sorted(aliases.get(name, ()))), start=arguments.start)
        for name in _registry.backend_names()
    ]
    if arguments.json:
        _write_json({"backends": [row.to_dict() for row in rows]})
    else:
        _write_text(_backend_table(rows, started=arguments.start))
    return FAILED if arguments.start and any(row.installed and row.problem for row in rows) else OK


def _backend_row(name: str, aliases: tuple[str, ...], *, start: bool) -> _BackendRow:
    from anypool import _registry

    built_in = _registry._BUILT_IN.get(name)
    try:
        # A built-in one whose library is here is not imported for a mere list: that may take a second.
        if built_in is None or not _registry.installed(name):
            _registry.find(name)
        library = _library(name, None if built_in is None else built_in.modules)
    except MissingExtra as exc:
        return _BackendRow(name=name, library="", aliases=aliases, problem=str(exc))
    except Exception as exc:  # a third party's module may raise anything; the row is where that is told
        return _BackendRow(name=name, library="", aliases=aliases, problem=_one_line(exc), installed=True)
    workers, traits, problem = _started(name) if start else (_default_workers(name), None, "")
    return _BackendRow(
        name=name,
        library=library,
        aliases=aliases,
        workers=workers,
        traits=traits,
        problem=problem,
        installed=True,
    )


def _library(name: str, modules: tuple[str, ...] | None) -> str:
    """Return who runs the calls of a backend: the last of its `modules`, or its own distribution."""
    from importlib.metadata import PackageNotFoundError, version

    from anypool import _registry

    if modules is None:
        found = _registry._entry_points().get(name)
        dist = found[0].dist if found else None
        return "registered" if dist is None else f"{dist.name} {dist.version}"
    if not modules:
        return "Python {}.{}.{}".format(*sys.version_info)
    try:
        return f"{modules[-1]} {version(modules[-1])}"
    except PackageNotFoundError:  # importable without having been installed, say from a source tree
        return modules[-1]


def _default_workers(name: str) -> int | None:
    """Return how many workers a default start has, as far as that can be known without one."""
    from anypool import _config, _registry, available_cpus

    if name == "serial":
        return 1
    said = {row.key: row.value for row in _config.explain(name).rows if row.source != "default"}
    if name not in _registry._BUILT_IN or said.get("address"):
        return None
    workers = said.get("max_workers")
    return workers if isinstance(workers, int) else available_cpus()


def _started(name: str) -> tuple[int | None, Traits | None, str]:
    try:
        with anypool.get_executor(name) as ex:
            return ex.max_workers, ex.traits, ""
    except Exception as exc:  # of a third party's backend, anything; it is told in the row
        return None, None, f"does not start: {_one_line(exc)}"


def _backend_table(rows: Sequence[_BackendRow], *, started: bool) -> str:
    from anypool._table import table

    header = ["backend", "library", "workers", "aliases", "traits" if started else "note"]
    cells = [
        [
            row.name,
            row.library or ("broken" if row.installed else "not installed"),
            "-" if row.workers is None else str(row.workers),
            ", ".join(row.aliases),
            row.problem or ("" if row.traits is None else _traits_text(row.traits)),
        ]
        for row in rows
    ]
    text = table(header, cells, width=_width(), right={"workers"})
    return text if started else f"{text}\nsizes and traits as they are once started: anypool backends --start"


def _traits_text(traits: Traits) -> str:
    return ", ".join(name.replace("_", " ") for name, value in _trait_values(traits).items() if value is True)


def _trait_values(traits: Traits) -> dict[str, Any]:
    values = {field.name: getattr(traits, field.name) for field in fields(traits)}
    return {**values, "lost": [f"{cls.__module__}.{cls.__qualname__}" for cls in traits.lost]}


# --- anypool config -----------------------------------------------------------------------------------------


def _config(arguments: argparse.Namespace) -> int:
    from anypool import _config, _cpus, _registry
    from anypool._table import table

    explanation = _config.explain(arguments.backend)
    if arguments.backend is not None:
        _registry.require_known(explanation.backend)
    limits = _cpus.cpu_limits()
    least = min(limit.cpus for limit in limits)
    if arguments.json:
        cpus = [{"source": each.source, "cpus": each.cpus, "detail": each.detail} for each in limits]
        _write_json({**explanation.to_dict(), "available_cpus": least, "cpu_limits": cpus})
    else:
        rows = [["*" if each.cpus == least else "", str(each.cpus), each.source, each.detail] for each in limits]
        _write_text(
            f"{explanation}\n\n{least} CPUs may be used: the least of\n"
            + table(["", "cpus", "limit", "read from"], rows, width=_width(), right={"cpus"})
        )
    return FAILED if explanation.errors else OK


# --- anypool compare ----------------------------------------------------------------------------------------


def _compare(arguments: argparse.Namespace) -> int:
    from anypool._calls_from import load_input, load_named, local_imports
    from anypool._compare import compare_calls

    # What the function and its module print would end up between the lines of the table, or of the JSON.
    with local_imports(), open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        function = load_named(arguments.function)
        items = load_input(arguments.input, arguments.function)
        comparison = compare_calls(
            function,
            _argument_tuples(items) if arguments.starmap else [(item,) for item in items],
            backends=None if arguments.backends is None else _split(arguments.backends),
            max_workers=arguments.max_workers,
            repeat=arguments.repeat,
            seed=arguments.seed,
        )
    if arguments.json:
        _write_json(comparison.to_dict())
    else:
        _write_text(comparison.render(_width()))
    return OK if comparison.identical else FAILED


# --- anypool verify, anypool check --------------------------------------------------------------------------


def _verify(arguments: argparse.Namespace) -> int:
    from anypool._calls_from import load_input, load_named, local_imports
    from anypool._verify import verify_calls

    with local_imports(), open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        function = load_named(arguments.function)
        items = load_input(arguments.input, arguments.function)
        verification = verify_calls(
            function,
            _argument_tuples(items) if arguments.starmap else [(item,) for item in items],
            backends=None if arguments.backends is None else _split(arguments.backends),
            sample=arguments.sample,
            seed=arguments.seed,
            max_workers=arguments.max_workers,
        )
    if arguments.json:
        _write_json(verification.to_dict())
    else:
        _write_text(verification.render(_width()))
    return OK if verification.portable else FAILED


def _check(arguments: argparse.Namespace) -> int:
    from anypool._calls_from import local_imports
    from anypool.testing._check import check_executor

    with local_imports():
        checked = check_executor(arguments.executor, clauses=arguments.clause, limit=arguments.limit)
    if arguments.json:
        _write_json(checked.to_dict())
    else:
        _write_text(checked.render(_width()))
    return OK if checked.holds else FAILED


def _argument_tuples(items: Sequence[Any]) -> list[tuple[Any, ...]]:
    calls = []
    for index, item in enumerate(items):
        try:
            calls.append(tuple(item))
        except TypeError as exc:
            raise ConfigError(f"--starmap: item {index} is not a list of arguments: {item!r}") from exc
    return calls


def _split(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--backends names no backend")
    return names


# --- output -------------------------------------------------------------------------------------------------


def _write_json(value: Mapping[str, Any]) -> None:
    _write(json.dumps(value, indent=2, default=repr))


def _write(text: str) -> None:
    """Write to the standard output. A reader that has gone (`| head`) has seen what it wanted: no error."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except UnicodeEncodeError:  # a terminal, or a pipe, that has no form for what a repr shows
        encoding = sys.stdout.encoding
        _write(text.encode(encoding, "backslashreplace").decode(encoding))
    except OSError as exc:
        if not isinstance(exc, BrokenPipeError) and os.name != "nt":  # Windows says EINVAL
            raise
        # The interpreter flushes once more when it ends, and would complain then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _complain(text: str) -> None:
    sys.stderr.write(f"anypool: {' '.join(text.split())}\n")


def _one_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"


def _width() -> int | None:
    """Return the columns of the terminal; None where the output is no terminal, unless COLUMNS says some."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return max(20, shutil.get_terminal_size().columns)
    return None


def _write_text(text: str) -> None:
    """Write lines; those that are too long for the terminal go on below, indented."""
    import textwrap

    width = _width()
    lines: list[str] = []
    for line in text.splitlines():
        if width is None or len(line) <= width:
            lines.append(line)
        else:
            wrapped = textwrap.wrap(line, width, subsequent_indent="    ", drop_whitespace=False)
            lines += [each.rstrip() for each in wrapped]
    _write("\n".join(lines))
