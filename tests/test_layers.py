"""The house: which file may import which, what an import may load, and that what is public is there and explained.

`TABLE` is the whole house in order. A file imports only what stands above it, whether at its top, inside a
function or for types alone; so there are no cycles, also within a layer.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import anypool
from anypool import errors

PACKAGE = Path(anypool.__file__).parent

# module, layer, why it is a file of its own
TABLE = """
errors                L0  the tree of errors; what a call raises is none of them
_weight               L1  how many bytes an item or a value is, roughly
_chunks               L1  how many items go into one call; is told times, reads no clock
_flow                 L1  which results may go out, how much may be read: order and back-pressure
_retry                L1  which items again, and after how long
_cpus_limit           L1  one bound on the CPUs, and the small files that tell of it
_cpus_cgroups         L1  what the container grants
_cpus_queues          L1  what batch queues and the user grant
_cpus                 L1  how many CPUs there are: the least that anybody grants
_imported             L1  a library, imported without what its import does to the caller's process
_inner_threads        L1  how many threads the libraries inside of a call may start
_frames               L1  which frames of the stack are ours, and which are the user's
_seeds                L1  (seed, index) to random numbers
_seeds_globals        L1  the global generators, seeded for each item and put back
_seeds_watch          L1  whether calls used a global generator that nobody seeded
_identity             L1  whether two results are the same, strictly, and where they first differ
_table                L1  rows of text as a table
_forks                L1  forks of the caller wait while a process starts
_trackers             L1  resource trackers, in a process that a call forks
_process_tree         L1  what a process has started, ended with it
_settings             L1  the settings that mean the same on every backend
_fingerprint          L1  a digest of a function or a value that is the same in every process
_options              L1  values by their declared types
_raised               L2  an exception as plain data: what it is made of
_raised_reads         L2  what an exception and its class hold, past what the user's class puts in the way
_raised_frames        L2  a traceback as plain data, and a traceback again
_raised_pack          L2  the worker's side: an exception becomes plain data
_raised_unpack        L2  the caller's side: itself again, or the nearest there is
_relay_settings       L2  which output of a call comes home
_relay_events         L2  what was captured, as plain data
_relay_hooks          L2  a hook of this process that is put in its place, and taken off again
_relay_owner          L2  whose output it is
_relay_streams        L2  what a call writes to stdout and stderr, tapped and written again
_relay_warnings       L2  what a call warns, tapped and warned again
_relay_logs           L2  what a call logs, tapped and handled again
_relay                L2  output captured on the worker, replayed by the caller
_context_snapshot     L2  the caller's surroundings at one moment, as plain data
_context_references   L2  an importable thing by its name, and again itself
_context_variables    L2  where a context variable lives, and which one that is elsewhere
_context_numbers      L2  decimal's context and NumPy's errstate, read and set
_context_process      L2  what belongs to a whole process: filters, levels, environment
_context_extensions   L2  settings of libraries that somebody registered
_context_apply        L2  a snapshot in force for one chunk, on the worker
_context              L2  what of the caller's surroundings holds for its calls
_segments             L2  large buffers between processes of one machine, without copies: how it works
_segments_reader      L2  the reader's side: make sure of buffers, then open them
_segments_file        L2  one segment: a memory file of its owner's
_segments_owner       L2  which segments an owner has, and which are free again
_segments_cache       L2  buffers that are sent again and again, stored once
_segments_files       L2  buffers for all workers in files, where there is no memory to share
_functions            L2  functions of __main__ that need to be pickled only once
_pickler              L2  pickling by value, and the part that cannot be sent
_wire                 L2  what travels: pickling that names what could not be sent
_refused              L2  why a worker does not run an envelope that it got
_tickets              L2  what a chunk has come to, where it can be read when its worker is dead
_large_functions      L2  says when a function is so large that sending it takes the time
_envelope             L2  what goes to a worker and what comes back, as objects
_share                L2  a handle on one object for all calls, and what a worker keeps of it
_current              L2  which call this is, and who runs it
_notes                L2  what a running call says to its caller
_observed             L2  receipts of each call and live counts, where somebody watches
_boxed                L2  results told from errors, where both travel as values
_packing              L2  envelopes and replies as plain tuples of bytes
_worker               L2  all that ever runs on a worker
_adopted              L2  what makes a process that another library started a good worker
backend               L3  the contract for authors of backends
_native_future        L3  futures that one thread at a time settles, without a lock until somebody waits
_bridge               L3  from executors of the stdlib's kind to the contract
_worker_end           L3  how a worker came to its end, in words
_lane                 L3  a loky pool of one worker, with the tokens that say which of its calls have begun
_lanes                L3  calls on loky, where a worker that dies takes only the call that it ran
_registry             L4  backends by name, imported when asked for
_config_levels         L4  what each place of configuration says
_config_choice         L4  which of all that was said holds
_config_explain        L4  why it holds, as a table and as JSON
_config               L4  the decision, and `use`
_journal              L4  what the finished items of a map came to, on disk
_attempts             L4  which items of a chunk are final, which run again, which had not begun
_alarms               L4  the thread that sleeps until something is due
_limits               L4  whether a call on its way has run longer than it may
_stores               L4  the memory of one executor for large buffers on their way
_outbox               L4  the way of large buffers, for whoever has none yet
_shares               L4  what one executor shares with its calls
_reuse                L4  warm pools: a backend that stays for the next executor of its choice
_task                 L4  one payload on its way through a backend
_trouble              L4  the pool's own trouble as an error of ours
_at_exit              L4  what still runs when the interpreter ends
_call_text            L4  a call as text, for notes and reports
_callbacks            L4  threads on which the callbacks of futures run
_dispatch             L4  between the calls that people make and the one backend: queue, slots, end
_observe              L4  what a map tells to whoever watches it
_progress             L4  how far a map is, as plain data
_notes_inbox          L4  where notes of running calls arrive
_progress_meter       L4  counts the items of one map, keeps its display up to date
_progress_displays    L4  how progress is shown
_trace                L4  the receipts of one map
_report_times         L4  where the time of the workers went
_report_advice        L4  one sentence of advice
_report_chrome        L4  traced maps for Chrome's viewer and Perfetto
_report_page          L4  a report as a page
_report               L4  what the traced maps of an executor came to
_observers            L4  who watches a map: made from its settings
_submitted_meter      L4  counts the submitted calls of an executor, in a thread of its own
_submitted            L4  who watches the submitted calls of an executor
_futures              L4  the future that `submit` returns
_jobs                 L4  what chunks need besides items, packed once where that can be
_map                  L4  one map: reads the input, keeps workers busy, gives results in order
_amap                 L4  the same for `async for`
_as_runner            L4  an executor as a runner of pymoo
_as_pool_timeout      L4  a pool's result that was not there in time; loads multiprocessing
_as_pool_results      L4  what the asynchronous methods of a pool return
_as_pool_view         L4  an executor as a multiprocessing.Pool
_executor             L4  what people hold
_as_joblib            L4  executors as a backend of joblib's
_as_pool              L4  the same with an executor of its own
_pool_link            L5  the channel between the local pool and one worker
_pool_child           L5  what runs in the processes of the local pool
_pool_start           L5  starting worker processes, watching their ends, the three start methods
_pool_schedule        L5  which worker of the local pool holds which task, under one lock
_pool                 L5  the local pool: one task, one future, no shared lock
backends              L5  the package of the leaves; empty
backends.serial       L5  the reference: calls in the caller's thread
backends.threads      L5  the stdlib's thread pool
backends.processes    L5  the local pool
backends.loky         L5  loky
backends._joblib_pool   L5  joblib's pool of multiprocessing, under watch
backends.joblib       L5  whatever joblib knows
backends._dask_fork     L5  what the workers of a local Dask cluster are forked from
backends._dask_worker   L5  what a Dask worker needs so that the global random is a call's own
backends._dask_nanny    L5  what becomes of the workers of a local Dask cluster
backends._dask_lost     L5  the caller's side of a Dask worker's end
backends._dask_cluster  L5  a Dask cluster in a process of its own
backends._dask_threads  L5  a Dask cluster in threads of the caller's process
backends._dask_client   L5  the connection to a Dask scheduler, and the end of it
backends._dask_held     L5  data that Dask holds for its workers
backends._dask_watch    L5  whether anybody is left to run the calls of a Dask cluster
backends.dask         L5  Dask
testing               L5  the contract as tests; a package with an order of its own
_compare_plot         L5  the times of a comparison as bars
_compare              L5  one workload on many backends
_watch                L5  what a call does besides returning
_verify               L5  whether a function is portable, and why not
_bench                L5  what each backend costs on this machine
__init__              L5  the public names, loaded when asked for
_calls_from           L5  the function and the input that a command line names
cli._output           L5  how the command line answers: statuses, text, JSON, complaints
cli._command          L5  the shape of a command and of its help
cli._calls            L5  the parameters that commands share
cli._backends         L5  `anypool backends`
cli._config           L5  `anypool config`
cli._compare          L5  `anypool compare`
cli._verify           L5  `anypool verify`
cli._check            L5  `anypool check`
cli._bench            L5  `anypool bench`
cli._completion       L5  `anypool completion`
cli._lines            L5  the items of `anypool map`, read as they are wanted
cli._reader           L5  notices that whoever reads the results has gone
cli._results          L5  the results of `anypool map`, apart from all that is printed
cli._mapping          L5  one run of `anypool map`: results and problems in the order of the input
cli._map              L5  `anypool map`
cli._root             L5  `anypool` itself, and what becomes of errors
cli                   L5  the command line; loads click only when it is run
__main__              L5  `python -m anypool`
"""

AWAITED: set[str] = set()
"""Files that the table has room for already; the only ones that may be missing."""

WRAPS_BACKENDS = {"testing.wrong": "a backend that is wrong on purpose is a right one with one thing changed"}
"""Files that may import a backend, and why."""

CONTRACT = {"errors", "backend", "_bridge", "_cpus", "_forks", "_imported", "_process_tree", "_trackers", "_worker_end"}
BACKENDS = {
    "backends": (set(), set()),
    "backends.serial": ({"_native_future"}, set()),
    "backends.threads": (set(), set()),
    "backends.processes": ({"_pool"}, set()),
    "backends.loky": ({"_lanes"}, {"loky"}),
    "backends.joblib": ({"_adopted", "_lanes", "backends._joblib_pool"}, {"joblib"}),
    "backends._joblib_pool": (set(), set()),
    "backends._dask_fork": (set(), {"dask", "distributed"}),
    "backends._dask_worker": ({"backends._dask_fork"}, {"dask", "distributed"}),
    "backends._dask_nanny": ({"backends._dask_worker"}, set()),
    "backends._dask_lost": ({"backends._dask_nanny"}, set()),
    "backends._dask_cluster": ({"backends._dask_fork"}, {"dask", "distributed"}),
    "backends._dask_threads": ({"backends._dask_cluster"}, {"dask", "distributed"}),
    "backends._dask_client": (
        {"backends._dask_cluster", "backends._dask_threads"},
        {"dask", "distributed"},
    ),
    "backends._dask_held": (set(), {"distributed"}),
    "backends._dask_watch": (set(), set()),
    "backends.dask": (
        {
            "backends._dask_client",
            "backends._dask_cluster",
            "backends._dask_held",
            "backends._dask_lost",
            "backends._dask_watch",
        },
        {"dask", "distributed"},
    ),
}
"""What each backend may import beyond `CONTRACT` and the standard library: files of ours, and libraries."""

LAZY_LIBRARIES = {
    "_as_joblib": {"joblib"},
    "_pickler": {"cloudpickle"},
    "_context_numbers": {"numpy"},
    "_seeds": {"numpy"},
    "_seeds_globals": {"numpy"},
    "_identity": {"numpy"},
    "_inner_threads": {"threadpoolctl"},
    "_calls_from": {"cloudpickle"},
    "_progress_displays": {"tqdm", "rich"},
}
"""Libraries that a file of the core may import inside a function, where it is needed."""

LONGEST_BACKEND = 300


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file of the house."""

    place: int
    layer: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import statement: what it loads, and whether loading the file runs it."""

    target: str
    line: int
    at_import: bool

    @property
    def own(self) -> str | None:
        """The name in `TABLE` of a file of ours; None for another library."""
        top, _, rest = self.target.partition(".")
        return (rest or "__init__") if top == "anypool" else None

    @property
    def library(self) -> str | None:
        """The library that is neither ours nor the standard one; None for these."""
        top = self.target.partition(".")[0]
        return None if top == "anypool" or top in sys.stdlib_module_names else top


def _rows() -> dict[str, Row]:
    rows = {}
    for place, line in enumerate(TABLE.strip().splitlines()):
        name, layer, reason = line.split(maxsplit=2)
        rows[name] = Row(place=place, layer=layer, reason=reason)
    return rows


ROWS = _rows()


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


FILES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
CORE = [name for name in FILES if name.partition(".")[0] not in {"backends", "testing"}]
COMMAND_LINE = [name for name in CORE if name.partition(".")[0] == "cli"]
TESTING = [name for name in FILES if name.partition(".")[0] == "testing"]


def _row_name(name: str) -> str:
    """The name in `TABLE`: `testing` has one row."""
    return "testing" if name.startswith("testing.") else name


def _row(name: str) -> Row:
    assert _row_name(name) in ROWS, f"{name}.py has no row in TABLE"
    return ROWS[_row_name(name)]


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


@cache
def _imports(name: str) -> tuple[Import, ...]:
    return tuple(_walk(_tree(name), name, at_import=True))


def _walk(node: ast.AST, name: str, *, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        runs = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if _is_type_checking(child):
            runs = False
        for target in _targets(child, name):
            yield Import(target=target, line=child.lineno, at_import=runs)  # type: ignore[attr-defined]
        yield from _walk(child, name, at_import=runs)


def _targets(node: ast.AST, name: str) -> Iterator[str]:
    """What a statement, or a call of `import_module` with a literal name, loads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{name}:{node.lineno}: a relative import"
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            yield inside if inside.removeprefix("anypool.") in FILES else str(node.module)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"import_module", "importlib.import_module"}:
        first = node.args[0]
        if isinstance(first, ast.Constant):
            yield str(first.value)


def _found(name: str, each: Import) -> str:
    return f"{name}.py:{each.line} imports {each.target}"


def for_each(names):
    """One test that asks for each of `names`, and shows all that are wrong. As a thousand tests it took a minute."""

    def decorate(check):
        def test():
            wrong = {}
            for name in names:
                try:
                    check(name)
                except AssertionError as exc:
                    wrong[name] = str(exc)
            assert wrong == {}

        test.__name__ = check.__name__
        return test

    return decorate


def test_every_file_has_a_row_in_the_table():
    assert {_row_name(name) for name in FILES} - set(ROWS) == set()


def test_every_row_of_the_table_has_a_file():
    assert set(ROWS) - {_row_name(name) for name in FILES} - AWAITED == set()


def test_the_layers_of_the_table_only_rise():
    layers = [row.layer for row in ROWS.values()]
    assert layers == sorted(layers)


@for_each(FILES)
def test_every_file_says_in_its_first_line_why_it_exists(name):
    text = ast.get_docstring(_tree(name))
    assert text, f"{name}.py has no docstring"
    assert text.splitlines()[0].rstrip().endswith((".", ":", "?")), f"{name}.py: its first line is no sentence"


@for_each([*CORE, *BACKENDS])
def test_imports_point_down_only(name):
    wrong = [
        _found(name, each)
        for each in _imports(name)
        if each.own is not None and _row(each.own).place >= _row(name).place
    ]
    assert wrong == []


@for_each(TESTING)
def test_the_imports_of_the_suite_have_no_cycle(name):
    reached: set[str] = set()
    ahead = _own_at_import(name)
    while ahead:
        each = ahead.pop()
        if each not in reached:
            reached.add(each)
            ahead |= _own_at_import(each)
    assert name not in reached


def _own_at_import(name: str) -> set[str]:
    return {each.own for each in _imports(name) if each.at_import and each.own in TESTING}  # type: ignore[misc]


@for_each([name for name in CORE if name not in {*COMMAND_LINE, "__main__"}])
def test_nobody_in_the_core_imports_the_suite_or_the_command_line(name):
    apart = {"testing", "cli"}
    wrong = [_found(name, each) for each in _imports(name) if each.own and each.own.partition(".")[0] in apart]
    assert wrong == []


@for_each([name for name in [*CORE, *TESTING] if name not in WRAPS_BACKENDS])
def test_nobody_imports_a_backend(name):
    assert [_found(name, each) for each in _imports(name) if each.own and each.own.startswith("backends")] == []


@for_each([name for name in CORE if not name.startswith("_pool")])
def test_only_the_backend_processes_imports_the_local_pool(name):
    assert [_found(name, each) for each in _imports(name) if each.own and each.own.startswith("_pool")] == []


def test_every_backend_has_its_rule():
    assert {name for name in FILES if name.startswith("backends")} == set(BACKENDS)


@for_each(BACKENDS)
def test_a_backend_imports_only_the_contract_and_its_own_library(name):
    ours, libraries = BACKENDS[name]
    wrong = [
        _found(name, each)
        for each in _imports(name)
        if (each.own is not None and each.own not in CONTRACT | ours)
        or (each.library is not None and each.library not in libraries)
    ]
    assert wrong == []


@for_each([*CORE, *BACKENDS])
def test_loading_a_file_loads_no_library(name):
    allowed = {"click"} if name in COMMAND_LINE and name != "cli" else set()
    wrong = [_found(name, each) for each in _imports(name) if each.at_import and each.library]
    assert [each for each in wrong if each.rpartition(" ")[2].partition(".")[0] not in allowed] == []


@for_each(CORE)
def test_the_core_uses_no_library_but_those_listed(name):
    allowed = {"click"} if name in COMMAND_LINE else LAZY_LIBRARIES.get(name, set())
    assert [_found(name, each) for each in _imports(name) if each.library and each.library not in allowed] == []


@for_each([name for name in CORE if name in ROWS and _row(name).layer <= "L2"])
def test_what_runs_on_a_worker_loads_nothing_of_the_caller(name):
    wrong = [
        _found(name, each)
        for each in _imports(name)
        if each.at_import and each.own is not None and _row(each.own).layer > "L2"
    ]
    assert wrong == []


@for_each(BACKENDS)
def test_a_backend_is_short(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_BACKEND


WATCHED_IMPORT = """
import json, os, sys
wanted = sys.argv[1]
before = set(sys.modules)
opened, forbidden = [], []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(os.fsdecode(arguments[0]))
    elif event in {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system",
                   "_winapi.CreateProcess", "_thread.start_new_thread", "os.putenv"} or event.startswith("socket."):
        forbidden.append(event)

sys.addaudithook(watch)
import anypool
if wanted == "all names":
    for name in anypool.__all__:
        getattr(anypool, name)
elif wanted == "a worker's":
    import anypool._worker
loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"loaded": loaded, "opened": list(opened), "forbidden": list(forbidden)}))
"""


@pytest.fixture(scope="module", params=["the package", "all names", "a worker's"])
def watched(request, tmp_path_factory):
    """What importing does in a fresh interpreter, surrounded by configuration that nobody could use."""
    directory = tmp_path_factory.mktemp("misconfigured")
    (directory / "anypool.toml").write_text("this is no TOML", encoding="utf-8")
    environment = {**os.environ, "ANYPOOL_BACKEND": "no such backend", "ANYPOOL_NONSENSE": "1"}
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", WATCHED_IMPORT, request.param],
        capture_output=True, text=True, env=environment, cwd=directory, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_loads_no_library(watched):
    assert set(watched["loaded"]) - sys.stdlib_module_names == {"anypool"}


def test_importing_starts_no_thread_and_no_process_and_sets_no_variable(watched):
    assert watched["forbidden"] == []


def test_importing_reads_nothing_but_code(watched):
    assert [path for path in watched["opened"] if not path.endswith((".py", ".pyc", ".so", ".pyd"))] == []


@for_each(anypool.__all__)
def test_every_public_name_is_there_and_explained(name):
    value = getattr(anypool, name)
    if name != "__version__":
        assert (value.__doc__ or "").strip()
        assert value.__doc__ not in {object.__doc__, Exception.__doc__}


def test_what_type_checkers_see_is_what_is_public():
    block = next(node for node in _tree("__init__").body if _is_type_checking(node))
    seen = {
        alias.asname: node.module
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: f"anypool.{home}" for name, home in anypool._HOMES.items()}
    assert seen == homes


@for_each(sorted({*anypool._HOMES.values()}))
def test_what_is_public_is_public_where_it_lives(name):
    home = importlib.import_module(f"anypool.{name}")
    public = {each for each, where in anypool._HOMES.items() if where == name}
    assert public <= set(home.__all__)


def test_every_error_is_exported_and_drawn_in_the_tree():
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.AnypoolError)
    }
    assert defined == set(errors.__all__)
    assert defined <= set(anypool.__all__)
    assert [name for name in sorted(defined) if name not in (errors.__doc__ or "")] == []
