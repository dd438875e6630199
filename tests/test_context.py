"""What of the caller's surroundings holds for its calls, wherever they run."""

from __future__ import annotations

import contextlib
import contextvars
import decimal
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import cloudpickle
import numpy as np
import pytest

from anypool import _context_extensions
from anypool._context import capture_context
from anypool._context_apply import apply, leave_nothing
from anypool._context_extensions import register_context
from anypool._context_numbers import isolated
from anypool._context_snapshot import ContextSnapshot
from anypool._context_variables import contextvar_at, reduce_contextvar

T = TypeVar("T")

LANGUAGE: ContextVar[str] = ContextVar("language", default="none")
OPTIONS: ContextVar[Any] = ContextVar("options")
_PRIVATE: ContextVar[Any] = ContextVar("private")


class OurWarning(UserWarning):
    pass


def sent(snapshot: ContextSnapshot) -> ContextSnapshot:
    return pickle.loads(pickle.dumps(snapshot))


def on_worker(snapshot: ContextSnapshot, call: Callable[[], T], **how: Any) -> T:
    """Run `call` under the snapshot, from a context that has nothing of the caller's."""

    def chunk() -> T:
        with apply(snapshot, **how) as context:
            return context.copy().run(call)

    return Context().run(chunk)


@pytest.fixture
def root_level() -> Iterator[Callable[[int], None]]:
    before = logging.root.level
    yield logging.root.setLevel
    logging.root.setLevel(before)


@pytest.fixture
def level() -> Iterator[Callable[[str, int], None]]:
    changed: dict[str, int] = {}

    def set_level(name: str, value: int) -> None:
        changed.setdefault(name, logging.getLogger(name).level)
        logging.getLogger(name).setLevel(value)

    yield set_level
    for name, before in changed.items():
        logging.getLogger(name).setLevel(before)


# --- context variables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares_memory", [False, True])
def test_variables_reach_the_call(shares_memory: bool) -> None:
    def caller() -> ContextSnapshot:
        LANGUAGE.set("fr")
        OPTIONS.set({"deep": [1]})
        return capture_context(shares_memory=shares_memory)

    snapshot = copy_context().run(caller)
    if not shares_memory:
        snapshot = sent(snapshot)
    assert LANGUAGE.get() == "none"
    assert on_worker(snapshot, lambda: (LANGUAGE.get(), OPTIONS.get())) == ("fr", {"deep": [1]})
    assert LANGUAGE.get() == "none"


def test_what_a_call_does_to_a_mutable_value_does_not_reach_the_next_chunk() -> None:
    def caller() -> ContextSnapshot:
        OPTIONS.set([])
        return capture_context()

    snapshot = sent(copy_context().run(caller))

    def call() -> int:
        OPTIONS.get().append(1)
        return len(OPTIONS.get())

    assert [on_worker(snapshot, call) for _ in range(2)] == [1, 1]


def test_a_value_that_cannot_be_sent_is_skipped_and_named_once() -> None:
    def caller() -> ContextSnapshot:
        LANGUAGE.set("de")
        OPTIONS.set(threading.Lock())
        _PRIVATE.set(threading.Lock())
        with pytest.warns(RuntimeWarning, match=r"'options' \(.*OPTIONS\) cannot be sent") as seen:
            snapshot = capture_context()
        assert len(seen) == 1
        assert seen[0].filename == __file__
        assert capture_context().variables == snapshot.variables  # silently: warnings are errors here
        return snapshot

    snapshot = sent(copy_context().run(caller))
    assert on_worker(snapshot, lambda: (LANGUAGE.get(), OPTIONS.get(None))) == ("de", None)


def test_a_change_of_a_variable_makes_another_snapshot_and_no_change_makes_none() -> None:
    def caller() -> None:
        LANGUAGE.set("it")
        first = capture_context()
        assert capture_context() is first
        LANGUAGE.set("es")
        second = capture_context()
        assert second.key != first.key
        OPTIONS.set([1])
        third = capture_context()
        assert capture_context() is third
        OPTIONS.get().append(2)
        assert capture_context().key != third.key

    copy_context().run(caller)


def test_true_is_not_taken_for_one() -> None:
    def caller(value: object) -> ContextSnapshot:
        OPTIONS.set(value)
        return capture_context()

    for value in (1, True, 1.0):
        snapshot = sent(copy_context().run(caller, value))
        assert type(on_worker(snapshot, OPTIONS.get)) is type(value)


def test_a_function_that_was_sent_sees_the_variable_of_its_module() -> None:
    function, (module, name, label, default) = reduce_contextvar(LANGUAGE)
    assert (module, name, label, default) == (__name__, "LANGUAGE", "language", None)
    assert function(module, name, label, default) is LANGUAGE


def test_a_variable_that_no_module_holds_is_one_variable_wherever_it_is_rebuilt() -> None:
    local: ContextVar[str] = ContextVar("local", default="unset")
    function, arguments = reduce_contextvar(local)
    assert reduce_contextvar(local) == (function, arguments)
    assert function(*arguments) is local
    assert arguments[3] == ("unset",)


def test_a_variable_that_was_bound_to_another_object_is_not_confused_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("rerun_cells")
    monkeypatch.setitem(sys.modules, "rerun_cells", module)
    old: ContextVar[str] = ContextVar("cell")
    module.CELL = old  # type: ignore[attr-defined]
    assert reduce_contextvar(old)[1][:2] == ("rerun_cells", "CELL")
    new: ContextVar[str] = ContextVar("cell")
    module.CELL = new  # type: ignore[attr-defined]
    assert reduce_contextvar(new)[1][:2] == ("rerun_cells", "CELL")

    def caller() -> ContextSnapshot:
        new.set("new")
        old.set("old")
        return capture_context()

    values = [pickle.loads(entry[4]) for entry in copy_context().run(caller).variables if entry[2] == "cell"]
    assert values == ["new"]


def test_variables_of_a_script_and_of_a_closure_reach_another_process(tmp_path: Path) -> None:
    caller = """
    import contextvars, copyreg, io, sys
    import cloudpickle
    from anypool._context import capture_context
    from anypool._context_variables import reduce_contextvar

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj):
            if type(obj) is contextvars.ContextVar:
                return reduce_contextvar(obj)
            return super().reducer_override(obj)

    GLOBAL = contextvars.ContextVar("global")
    UNSET = contextvars.ContextVar("unset", default="default")

    def make():
        local = contextvars.ContextVar("local")
        local.set("closure")
        return lambda: (GLOBAL.get(), UNSET.get(), local.get())

    GLOBAL.set("script")
    buffer = io.BytesIO()
    Pickler(buffer).dump(make())
    with open(sys.argv[1], "wb") as file:
        cloudpickle.dump((buffer.getvalue(), capture_context(dumps=cloudpickle.dumps)), file)
    """
    worker = """
    import pickle, sys
    from anypool._context_apply import apply, leave_nothing
    with open(sys.argv[1], "rb") as file:
        function, snapshot = pickle.load(file)
    function = pickle.loads(function)
    for _ in range(2):
        with apply(snapshot) as context:
            print(*context.run(function))
    """
    path = str(tmp_path / "sent")
    for code in (caller, worker):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(code), "utf-8")
        done = subprocess.run([sys.executable, script, path], capture_output=True, text=True, timeout=240)
        assert done.stderr == ""
    assert done.stdout.splitlines() == ["script default closure"] * 2


def test_a_home_whose_module_is_not_here_gets_one_variable_of_its_own() -> None:
    made = contextvar_at("no_such_module_here", "VAR", "var", ("default",))
    assert contextvar_at("no_such_module_here", "VAR", "var") is made
    assert made.get() == "default"


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares_memory", [False, True])
def test_the_decimal_context_reaches_the_call(shares_memory: bool) -> None:
    def caller() -> ContextSnapshot:
        decimal.getcontext().prec = 5
        decimal.getcontext().traps[decimal.Inexact] = False
        decimal.getcontext().traps[decimal.FloatOperation] = True
        return capture_context(shares_memory=shares_memory)

    before = decimal.getcontext().copy()
    with decimal.localcontext():
        snapshot = caller()
        if not shares_memory:
            snapshot = sent(snapshot)
        prec, traps = on_worker(snapshot, lambda: (decimal.getcontext().prec, dict(decimal.getcontext().traps)))
    assert prec == 5
    assert traps[decimal.FloatOperation]
    assert decimal.getcontext().prec == before.prec


def test_a_call_that_sets_its_precision_does_not_set_that_of_the_next() -> None:
    with decimal.localcontext() as mine:
        mine.prec = 7
        snapshot = capture_context()

    def call() -> int:
        decimal.getcontext().prec += 1
        return decimal.getcontext().prec

    with apply(sent(snapshot)) as context:
        assert [isolated(context).run(call) for _ in range(2)] == [8, 8]


@pytest.mark.parametrize("shares_memory", [False, True])
def test_a_decimal_context_that_is_as_new_is_left_for_each_call_to_make(shares_memory: bool) -> None:
    """It would have to be copied for each item, for 2 microseconds, in every program that has loaded decimal."""

    def names() -> list[str]:
        decimal.setcontext(decimal.DefaultContext.copy())
        snapshot = capture_context(shares_memory=shares_memory)
        with apply(snapshot, in_caller=True) as context:
            return [var.name for var in context]

    def changed() -> int:
        decimal.setcontext(decimal.Context(prec=9))
        with apply(capture_context(shares_memory=shares_memory), in_caller=True) as context:
            return context.run(decimal.getcontext).prec

    assert "decimal_context" not in Context().run(names)
    assert Context().run(changed) == 9


def test_numpys_error_modes_reach_the_call() -> None:
    with np.errstate(divide="raise", over="ignore"):
        snapshot = sent(capture_context())

    def call() -> object:
        with pytest.raises(FloatingPointError):
            np.float64(1) / np.float64(0)
        return np.geterr()["over"]

    before = np.geterr()
    assert on_worker(snapshot, call) == "ignore"
    assert np.geterr() == before


# --- what belongs to the process ----------------------------------------------------------------------------


def test_the_callers_warning_filters_hold_in_the_call_and_no_longer() -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.filterwarnings("error", "bad.*", OurWarning, __name__)
        warnings.simplefilter("ignore", append=True)
        wanted = list(warnings.filters)
        snapshot = sent(capture_context())
    before, entries = warnings.filters, list(warnings.filters)

    def call() -> list[Any]:
        warnings.warn("good", OurWarning, stacklevel=1)
        with pytest.raises(OurWarning, match="bad"):
            warnings.warn("bad luck", OurWarning, stacklevel=1)
        return list(warnings.filters)

    assert on_worker(snapshot, call) == wanted
    assert warnings.filters is before
    assert before == entries


def test_a_filter_that_an_import_in_a_call_added_stays_for_the_next_chunk() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "only the caller has this")
        snapshot = sent(capture_context())
    entry = ("ignore", None, OurWarning, None, 12345)
    with warnings.catch_warnings():
        on_worker(snapshot, lambda: warnings.simplefilter("ignore", OurWarning, 12345))
        assert entry in warnings.filters
        assert on_worker(snapshot, lambda: warnings.filters[0]) == entry
        assert list(warnings.filters).count(entry) == 1


def test_levels_hold_in_the_call_and_no_longer(
    level: Callable[[str, int], None], root_level: Callable[[int], None]
) -> None:
    level("context.a", logging.DEBUG)
    level("context.b", logging.ERROR)
    root_level(logging.INFO)
    snapshot = sent(capture_context())
    level("context.a", logging.CRITICAL)
    level("context.b", logging.NOTSET)
    root_level(logging.WARNING)

    def call() -> list[bool]:
        a, b = logging.getLogger("context.a"), logging.getLogger("context.b.c")
        return [
            a.isEnabledFor(logging.DEBUG),
            b.isEnabledFor(logging.WARNING),
            logging.getLogger("context.other").isEnabledFor(logging.INFO),
        ]

    for _ in range(2):
        assert call() == [False, True, False]
        assert on_worker(snapshot, call) == [True, False, True]
    assert call() == [False, True, False]


def test_a_level_set_between_two_chunks_does_not_weaken_the_second(level: Callable[[str, int], None]) -> None:
    level("context.a", logging.DEBUG)
    snapshot = sent(capture_context())

    def call() -> int:
        return logging.getLogger("context.a").level

    assert on_worker(snapshot, call) == logging.DEBUG
    level("context.a", logging.ERROR)
    assert on_worker(snapshot, call) == logging.DEBUG
    assert logging.getLogger("context.a").level == logging.ERROR


def test_a_level_that_a_call_sets_is_kept(level: Callable[[str, int], None]) -> None:
    level("context.a", logging.DEBUG)
    snapshot = sent(capture_context())
    level("context.a", logging.ERROR)
    on_worker(snapshot, lambda: logging.getLogger("context.a").setLevel(logging.INFO))
    assert logging.getLogger("context.a").level == logging.INFO


def test_every_change_of_a_level_is_noticed(level: Callable[[str, int], None]) -> None:
    level("context.a", logging.DEBUG)
    keys = [capture_context().key]
    level("context.a", logging.INFO)
    keys.append(capture_context().key)
    level("context.b", logging.INFO)
    keys.append(capture_context().key)
    logging.disable(logging.INFO)
    try:
        keys.append(capture_context().key)
    finally:
        logging.disable(logging.NOTSET)
    keys.append(capture_context().key)
    assert len(set(keys[:4])) == 4
    assert keys[4] != keys[3]


def test_logging_disable_holds_in_the_call_and_no_longer() -> None:
    logging.disable(logging.ERROR)
    try:
        snapshot = sent(capture_context())
    finally:
        logging.disable(logging.NOTSET)
    logger = logging.getLogger("context.a")
    assert not on_worker(snapshot, lambda: logger.isEnabledFor(logging.ERROR))
    assert logger.isEnabledFor(logging.ERROR)


@pytest.mark.parametrize("exclusive", [True, False])
def test_chosen_environment_variables_hold_where_the_process_is_the_calls_own(
    exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTEXT_SET", "caller")
    monkeypatch.delenv("CONTEXT_UNSET", raising=False)
    snapshot = sent(capture_context(["CONTEXT_SET", "CONTEXT_UNSET"]))
    monkeypatch.setenv("CONTEXT_SET", "worker")
    monkeypatch.setenv("CONTEXT_UNSET", "worker")

    def call() -> tuple[str | None, str | None]:
        return os.environ.get("CONTEXT_SET"), os.environ.get("CONTEXT_UNSET")

    expected = ("caller", None) if exclusive else ("worker", "worker")
    assert on_worker(snapshot, call, exclusive=exclusive) == expected
    assert call() == ("worker", "worker")


def test_the_callers_own_process_is_left_alone(
    level: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    level("context.a", logging.DEBUG)
    monkeypatch.setenv("CONTEXT_SET", "then")
    snapshot = sent(capture_context(["CONTEXT_SET"]))
    level("context.a", logging.ERROR)
    monkeypatch.setenv("CONTEXT_SET", "now")

    def call() -> tuple[int, str]:
        return logging.getLogger("context.a").level, os.environ["CONTEXT_SET"]

    assert on_worker(snapshot, call, in_caller=True) == (logging.ERROR, "now")


def test_overlapping_chunks_share_a_snapshot_and_the_last_to_leave_restores(
    level: Callable[[str, int], None],
) -> None:
    level("context.a", logging.DEBUG)
    first = sent(capture_context())
    level("context.a", logging.INFO)
    second = sent(capture_context())
    level("context.a", logging.ERROR)
    logger = logging.getLogger("context.a")
    chunks = [apply(each, exclusive=False) for each in (first, sent(first), second)]
    seen = []
    for chunk in chunks:
        chunk.__enter__()
        seen.append(logger.level)
    for chunk in chunks:
        chunk.__exit__(None, None, None)
        seen.append(logger.level)
    debug, info, error = logging.DEBUG, logging.INFO, logging.ERROR
    assert seen == [debug, debug, info, info, info, error]


# --- extensions ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def restored_sklearn(config: dict[str, Any]) -> Iterator[None]:
    import sklearn

    with sklearn.config_context(**config):
        yield


@contextlib.contextmanager
def restored_options(value: Any) -> Iterator[None]:
    token = OPTIONS.set(value)
    try:
        yield
    finally:
        OPTIONS.reset(token)


@pytest.fixture
def extensions() -> Iterator[None]:
    before = dict(_context_extensions._extensions)
    yield
    _context_extensions._extensions.clear()
    _context_extensions._extensions.update(before)


@pytest.mark.usefixtures("extensions")
@pytest.mark.parametrize("shares_memory", [False, True])
def test_scikit_learns_configuration_is_carried_by_an_extension(shares_memory: bool) -> None:
    sklearn = pytest.importorskip("sklearn")
    register_context("sklearn", sklearn.get_config, restored_sklearn)
    with sklearn.config_context(assume_finite=True):
        snapshot = capture_context(shares_memory=shares_memory)
    if not shares_memory:
        snapshot = sent(snapshot)
    seen = []

    def thread() -> None:
        seen.append(on_worker(snapshot, lambda: sklearn.get_config()["assume_finite"]))
        seen.append(sklearn.get_config()["assume_finite"])

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join(30)
    assert seen == [True, False]


@pytest.mark.usefixtures("extensions")
def test_an_extension_is_entered_in_the_context_of_the_calls() -> None:
    register_context("options", lambda: "carried", f"{__name__}:restored_options")
    assert on_worker(sent(capture_context()), OPTIONS.get) == "carried"
    assert OPTIONS.get(None) is None


@pytest.mark.usefixtures("extensions")
def test_an_extension_that_workers_cannot_import_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="workers cannot import"):
        register_context("local", dict, lambda value: contextlib.nullcontext(value))


@pytest.mark.usefixtures("extensions")
def test_an_extension_whose_setting_cannot_be_sent_is_skipped_and_named() -> None:
    register_context("lock", threading.Lock, f"{__name__}:restored_options")
    with pytest.warns(RuntimeWarning, match="registered context 'lock'"):
        snapshot = capture_context()
    assert snapshot.extensions == ()


# --- what stays ---------------------------------------------------------------------------------------------


def test_a_process_of_the_pools_own_stays_as_it_is_until_something_else_is_needed(
    level: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTEXT_A", "caller")
    level("context.a", logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OurWarning)
        strict = sent(capture_context(("CONTEXT_A",)))
    level("context.a", logging.ERROR)
    lenient = sent(capture_context(("CONTEXT_A",)))
    monkeypatch.setenv("CONTEXT_A", "worker")

    def now() -> tuple[bool, int, str | None]:
        is_strict = ("error", None, OurWarning, None, 0) in warnings.filters
        return is_strict, logging.getLogger("context.a").level, os.environ.get("CONTEXT_A")

    assert on_worker(strict, now, stays=True) == (True, logging.DEBUG, "caller")
    assert now() == (True, logging.DEBUG, "caller")
    assert on_worker(lenient, now, stays=True) == (False, logging.ERROR, "caller")
    assert on_worker(strict, now, stays=True) == (True, logging.DEBUG, "caller")
    leave_nothing()
    assert now() == (False, logging.ERROR, "worker")


@pytest.mark.parametrize(
    "change",
    [
        lambda: warnings.resetwarnings(),
        lambda: logging.getLogger("context.a").setLevel(logging.CRITICAL),
        lambda: logging.disable(logging.CRITICAL),
        lambda: os.environ.__setitem__("CONTEXT_A", "a call's"),
        lambda: os.environ.pop("CONTEXT_A"),
    ],
    ids=["filters", "level", "disable", "variable", "no variable"],
)
def test_what_a_call_changes_in_a_process_that_stays_does_not_reach_the_next_chunk(
    change: Callable[[], object], level: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTEXT_A", "caller")
    monkeypatch.setattr(logging.root.manager, "disable", 0)  # what a call has disabled stays so here
    level("context.a", logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OurWarning)
        snapshot = sent(capture_context(("CONTEXT_A",)))

        def now() -> tuple[Any, ...]:
            levels = logging.getLogger("context.a").level, logging.root.manager.disable
            return warnings.filters[0], *levels, os.environ.get("CONTEXT_A")

        wanted = on_worker(snapshot, now, stays=True)
        on_worker(snapshot, change, stays=True)
        assert on_worker(snapshot, now, stays=True) == wanted
        leave_nothing()


def test_a_snapshot_that_failed_to_apply_leaves_nothing_behind(level: Callable[[str, int], None]) -> None:
    level("context.a", logging.DEBUG)
    snapshot = capture_context()
    broken = ContextSnapshot(
        key="broken",
        levels=snapshot.levels,
        filters=snapshot.filters,
        extensions=(("gone", "no_such_module_here:attribute", pickle.dumps(None)),),
    )
    level("context.a", logging.ERROR)
    filters = list(warnings.filters)
    with pytest.raises(ModuleNotFoundError):
        apply(broken).__enter__()
    assert logging.getLogger("context.a").level == logging.ERROR
    assert warnings.filters == filters


def test_a_sent_snapshot_holds_only_what_any_pickler_takes() -> None:
    def caller() -> bytes:
        LANGUAGE.set("pt")
        return pickle.dumps(capture_context(dumps=cloudpickle.dumps))

    assert len(copy_context().run(caller)) < 20_000


def test_the_context_of_the_worker_thread_is_not_changed() -> None:
    def chunk() -> list[Any]:
        with apply(snapshot) as context:
            context.copy().run(LANGUAGE.set, "call")
        return [var for var in contextvars.copy_context() if var is LANGUAGE]

    def caller() -> ContextSnapshot:
        LANGUAGE.set("nl")
        return capture_context()

    snapshot = sent(copy_context().run(caller))
    assert Context().run(chunk) == []
