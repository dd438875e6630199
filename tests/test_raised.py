"""An exception that crossed to another process is the one that was raised there."""

from __future__ import annotations

import builtins
import copy
import errno
import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import anypool
from anypool import _raised_pack, _raised_unpack
from anypool._raised import Raised
from anypool._raised_pack import pack
from anypool._raised_unpack import unpack
from anypool.errors import StandIn, WorkerLost


class TwoArguments(Exception):
    """Plain pickling calls `TwoArguments("1: a")` and fails."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{code}: {what}")
        self.code = code
        self.what = what


class Decorated(ValueError):
    """Plain pickling decorates it twice."""

    def __init__(self, what: str) -> None:
        super().__init__(f"bad {what}")


class KeywordOnly(LookupError):
    def __init__(self, *, where: object) -> None:
        super().__init__()
        self.where = where


class Slotted(Exception):
    __slots__ = ("depth", "never_set")

    def __init__(self, depth: int) -> None:
        super().__init__("slotted")
        self.depth = depth


class WithOwnPickle(Exception):
    """Holds what can't be pickled, and says how to make it again."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


class BrokenPickle(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit("no pickle of me")


class ForgetfulPickle(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ("something else",)


class EvilText(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class EvilAccess(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(name)


class EvilMeta(type):
    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no module")


class EvilClass(Exception, metaclass=EvilMeta):
    pass


class FileTrouble(OSError):
    """An `__init__` of its own makes OSError read its fields there, not in `__new__`."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, "gone", path)


class ValueFirst(ValueError, OSError):
    """Its layout is OSError's, though the MRO names ValueError first."""


class Codes(ExceptionGroup[Exception]):
    def __new__(cls, errors: list[Exception], code: int) -> Codes:
        made = super().__new__(cls, f"exit {code}", errors)
        made.code = code
        return made

    code: int


class AnyCodes(BaseExceptionGroup[BaseException]):
    pass


def sent(raised: Raised) -> Raised:
    clone = pickle.loads(pickle.dumps(raised))
    assert isinstance(clone, Raised)
    return clone


def travelled(exc: BaseException, dumps: Callable[[object], bytes] = pickle.dumps) -> BaseException:
    return unpack(sent(pack(exc, dumps)), pickle.loads)


def caught(fn: Callable[..., object], *args: object) -> BaseException:
    try:
        fn(*args)
    except BaseException as exc:
        return exc
    raise AssertionError("it did not raise")


def notes_of(exc: BaseException) -> str:
    return "\n".join(getattr(exc, "__notes__", ()))


@pytest.fixture
def vanishing_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], types.ModuleType]]:
    """Make a module that is importable while packing; `sys.modules.pop("vanishing")` takes it away."""

    def make(source: str) -> types.ModuleType:
        module = types.ModuleType("vanishing")
        monkeypatch.setitem(sys.modules, "vanishing", module)
        exec(textwrap.dedent(source), vars(module))
        return module

    yield make
    _raised_unpack._stand_in_class.cache_clear()


def arrived_elsewhere(exc: BaseException) -> BaseException:
    """Unpack where the module of `exc` does not exist."""
    data = pickle.dumps(pack(exc, pickle.dumps))
    sys.modules.pop("vanishing")
    return unpack(pickle.loads(data), pickle.loads)


# ---- as itself

BUILTINS: list[BaseException] = [
    ValueError("x", 1),
    KeyError("k"),
    StopIteration(7),
    StopAsyncIteration(),
    KeyboardInterrupt(),
    SystemExit(3),
    GeneratorExit("g"),
    RecursionError("deep"),
    MemoryError(),
    OSError(errno.ENOENT, "gone", "/a", None, "/b"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    BlockingIOError(errno.EAGAIN, "later", 5),
    OSError("just text"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    UnicodeEncodeError("ascii", "ä", 0, 1, "bad"),
    UnicodeTranslateError("ä", 0, 1, "bad"),
    ImportError("no", name="n", path="p"),
    ModuleNotFoundError("no", name="n"),
    SyntaxError("bad", ("f.py", 3, 4, "x = (", 3, 5)),
    IndentationError("bad", ("f.py", 3, 4, "x = (", 3, 5)),
    NameError("no name", name="nme"),
    AttributeError("no attribute", name="attr"),
    UserWarning("w"),
]
FIELDS = (
    *("errno", "strerror", "filename", "filename2", "characters_written"),
    *("encoding", "object", "start", "end", "reason"),
    *("name", "path", "msg", "lineno", "offset", "text", "end_lineno", "end_offset"),
    *("value", "code"),
)


def fields_of(exc: BaseException) -> dict[str, object]:
    return {name: getattr(exc, name) for name in FIELDS if hasattr(exc, name)}


@pytest.mark.parametrize("exc", BUILTINS, ids=lambda exc: type(exc).__name__)
def test_builtin_exceptions_keep_type_arguments_text_and_fields(exc: BaseException) -> None:
    here = travelled(exc)
    assert type(here) is type(exc)
    assert here.args == exc.args
    assert str(here) == str(exc)
    assert fields_of(here) == fields_of(exc)
    assert vars(here) == vars(exc)


def test_every_builtin_exception_class_travels_as_itself() -> None:
    groups = (BaseExceptionGroup, ExceptionGroup)
    for cls in vars(builtins).values():
        if isinstance(cls, type) and issubclass(cls, BaseException) and cls not in groups:
            empty = cls.__new__(cls)
            assert type(travelled(empty)) is cls


def test_the_object_of_an_attribute_error_stays_on_the_worker() -> None:
    here = travelled(caught(lambda: threading.Lock().nothing))  # type: ignore[attr-defined]
    assert type(here) is AttributeError
    assert here.name == "nothing"
    assert here.obj is None
    assert not hasattr(here, "__notes__")


@pytest.mark.parametrize(
    "exc",
    [
        TwoArguments(1, "a"),
        Decorated("thing"),
        KeywordOnly(where=[1]),
        FileTrouble("/x"),
        ValueFirst(1, "text", "/y"),
        WorkerLost("lost", exitcode=-9, pid=1, host="h"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_init_that_pickle_cannot_call_does_not_matter(exc: BaseException) -> None:
    here = travelled(exc)
    assert type(here) is type(exc)
    assert (here.args, str(here), vars(here)) == (exc.args, str(exc), vars(exc))
    assert fields_of(here) == fields_of(exc)


def test_init_is_not_called_again() -> None:
    calls: list[int] = []

    class Counted(Exception):
        def __init__(self) -> None:
            calls.append(1)

    raised = pack(Counted(), lambda value: cloudpickle.dumps(value))
    unpack(raised, pickle.loads)
    assert calls == [1]


def test_slots_of_the_user_travel() -> None:
    here = travelled(Slotted(4))
    assert isinstance(here, Slotted)
    assert here.depth == 4
    assert not hasattr(here, "never_set")


def test_pickling_of_its_own_is_used_and_notes_are_added() -> None:
    exc = WithOwnPickle("n")
    exc.add_note("from the worker")
    here = travelled(exc)
    assert isinstance(here, WithOwnPickle)
    assert here.lock.acquire(blocking=False)
    assert here.__notes__ == ["from the worker"]


@pytest.mark.parametrize("cls", [BrokenPickle, ForgetfulPickle])
def test_broken_pickling_of_its_own_is_passed_by(cls: type[Exception]) -> None:
    exc = cls("told", 1)
    exc.mark = 5  # type: ignore[attr-defined]
    here = travelled(exc)
    assert type(here) is cls
    assert here.args == ("told", 1)
    assert vars(here) == {"mark": 5}


def test_values_that_are_shared_stay_shared() -> None:
    payload = {"a": 1}
    exc = ValueError(payload)
    exc.payload = payload  # type: ignore[attr-defined]
    here: Any = travelled(exc)
    assert here.payload is here.args[0]


def test_a_local_class_comes_back_as_the_callers_own() -> None:
    class Local(Exception):
        pass

    assert type(travelled(Local("x"), cloudpickle.dumps)) is Local


def test_a_class_is_identified_by_name_before_value(vanishing_module: Any) -> None:
    source = "class E(Exception):\n    pass"
    worker = vanishing_module(source)
    raised = sent(pack(worker.E("x"), pickle.dumps))
    caller = vanishing_module(source)
    assert caller.E is not worker.E
    assert type(unpack(raised, pickle.loads)) is caller.E


def test_a_class_of_the_main_module_goes_by_value_to_a_caller_that_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = sys.modules["__main__"]
    cls = type("OnlyHere", (Exception,), {"__module__": "__main__"})
    with monkeypatch.context() as worker:
        worker.setattr(main, "OnlyHere", cls, raising=False)
        raised = sent(pack(cls("x"), cloudpickle.dumps))
    here = unpack(raised, pickle.loads)
    assert (type(here).__name__, here.args) == ("OnlyHere", ("x",))
    assert not isinstance(here, StandIn)


def test_a_class_of_a_spawned_main_is_the_callers_of_main(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = type("Both", (Exception,), {"__module__": "__mp_main__"})
    ours = type("Both", (Exception,), {"__module__": "__main__"})
    raised = sent(pack(theirs("x"), pickle.dumps))
    monkeypatch.setattr(sys.modules["__main__"], "Both", ours, raising=False)
    monkeypatch.delitem(sys.modules, "__mp_main__", raising=False)
    assert type(unpack(raised, pickle.loads)) is ours


# ---- chains and groups


def test_cause_context_and_suppression_travel() -> None:
    def fails() -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            try:
                raise TypeError("second")
            except TypeError:
                raise ValueError("third") from first

    here = travelled(caught(fails))
    assert type(here.__cause__) is KeyError
    assert type(here.__context__) is TypeError
    assert here.__context__.__context__ is here.__cause__
    assert here.__suppress_context__
    assert here.__cause__.__traceback__ is not None


def test_suppression_without_a_cause_travels() -> None:
    exc = ValueError()
    exc.__context__ = KeyError()
    assert not travelled(exc).__suppress_context__
    exc.__suppress_context__ = True
    here = travelled(exc)
    assert here.__suppress_context__
    assert here.__cause__ is None


def test_cycles_and_shared_exceptions_keep_their_shape() -> None:
    a, b = ValueError("a"), TwoArguments(1, "b")
    a.__cause__, b.__cause__ = b, a
    a.me, a.args = a, (b, "x")  # type: ignore[attr-defined]
    here: Any = travelled(a)
    assert here.__cause__.__cause__ is here
    assert here.me is here
    assert here.args == (here.__cause__, "x")


def test_a_chain_longer_than_the_stack_is_deep_travels() -> None:
    last = first = ValueError(0)
    length = 2 * sys.getrecursionlimit()
    for index in range(1, length):
        last.__cause__ = ValueError(index)
        last = last.__cause__
    here: BaseException | None = travelled(first)
    seen = []
    while here is not None:
        seen.append(here.args[0])
        here = here.__cause__
    assert seen == list(range(length))


def test_groups_keep_members_nesting_tracebacks_and_notes() -> None:
    def failed(exc: Exception) -> Exception:
        found = caught(lambda: (_ for _ in ()).throw(exc))
        found.add_note(f"note of {exc}")
        assert isinstance(found, Exception)
        return found

    one, two = failed(ValueError("one")), failed(TwoArguments(2, "two"))
    group = ExceptionGroup("outer", [one, ExceptionGroup("inner", (two,))])
    two.__context__ = group
    here = travelled(group)
    assert type(here) is ExceptionGroup
    assert here.message == "outer"
    first, inner = here.exceptions
    assert isinstance(inner, ExceptionGroup)
    second = inner.exceptions[0]
    assert (type(first), type(second)) == (ValueError, TwoArguments)
    assert second.__context__ is here
    assert first.__notes__ == ["note of one"]
    assert traceback.format_tb(first.__traceback__) == traceback.format_tb(one.__traceback__)
    assert here.args[1][0] is first
    assert here.split(ValueError)[0].exceptions == (first,)  # type: ignore[union-attr]


def test_a_member_that_is_met_before_its_group_is_in_it() -> None:
    exc = ValueError("member")
    exc.__cause__ = ExceptionGroup("g", [KeyError(), exc])
    here = travelled(exc)
    assert isinstance(here.__cause__, ExceptionGroup)
    assert here.__cause__.exceptions[1] is here


def test_a_group_whose_new_has_its_own_arguments_travels() -> None:
    here = travelled(Codes([KeyError("k")], 5))
    assert isinstance(here, Codes)
    assert (here.code, here.message) == (5, "exit 5")
    assert repr(here.exceptions) == "(KeyError('k'),)"


def test_a_base_exception_group_travels() -> None:
    here = travelled(BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError()]))
    assert type(here) is BaseExceptionGroup
    assert [type(each) for each in here.exceptions] == [KeyboardInterrupt, ValueError]


def test_an_exception_in_an_attribute_keeps_its_traceback() -> None:
    exc: Any = ValueError()
    exc.errors = [caught(int, "x"), caught(lambda: 1 / 0)]
    here: Any = travelled(exc)
    assert [type(each) for each in here.errors] == [ValueError, ZeroDivisionError]
    assert here.errors[1].__traceback__ is not None


# ---- tracebacks


def formatted(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


def fails_in_the_middle_of_a_line(x: int) -> float:
    return sum([x, 1]) + (x / 0)


def calls_it(x: int) -> float:
    return next(
        fails_in_the_middle_of_a_line(each_with_a_long_enough_name)
        for each_with_a_long_enough_name in (x, x + 1, x + 2, x + 3)
    )


def test_the_formatted_traceback_is_the_same_to_the_caret() -> None:
    exc = caught(calls_it, 3)
    assert formatted(travelled(exc)) == formatted(exc)
    assert "fails_in_the_middle_of_a_line" in formatted(exc)


def test_the_interpreter_prints_the_same_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    exc = caught(calls_it, 3)
    printed = []
    for each in (exc, travelled(exc)):
        sys.__excepthook__(type(each), each, each.__traceback__)
        printed.append(capfd.readouterr().err)
    assert printed[0] == printed[1] != ""


def test_frames_know_where_their_function_begins() -> None:
    exc = caught(calls_it, 3)

    def begins(each: BaseException) -> list[tuple[str, int]]:
        codes = [frame.f_code for frame, _ in traceback.walk_tb(each.__traceback__)]
        return [(code.co_qualname, code.co_firstlineno) for code in codes]

    assert begins(travelled(exc)) == begins(exc)


def test_a_second_journey_changes_nothing() -> None:
    exc = caught(calls_it, 3)
    assert formatted(travelled(travelled(exc))) == formatted(exc)


def test_a_traceback_can_be_extended_by_raising_again() -> None:
    here = travelled(caught(calls_it, 3))

    def raises() -> None:
        raise here

    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(caught(raises).__traceback__)]
    assert names[:2] == ["caught", "raises"]
    assert names[-1] == "fails_in_the_middle_of_a_line"


def test_rebuilt_frames_hold_nothing_of_the_caller_and_can_be_cleared() -> None:
    here = travelled(caught(calls_it, 3))
    for frame, _ in traceback.walk_tb(here.__traceback__):
        assert frame.f_back is None
        assert frame.f_locals == {}
        assert frame.f_globals["__name__"] == __name__
    traceback.clear_frames(here.__traceback__)
    assert "calls_it" in formatted(here)


def test_a_deep_recursion_is_kept_at_both_ends() -> None:
    def top(depth: int) -> None:
        deeper(depth)

    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        else:
            bottom()

    def bottom() -> None:
        raise RecursionError("deep")

    here = travelled(caught(top, 300))
    names = [frame.name for frame in traceback.extract_tb(here.__traceback__)]
    assert names[:2] == ["caught", "top"]
    assert names[-1] == "bottom"
    assert len(names) == 100
    assert "204 frames" in notes_of(here)


def test_a_real_recursion_error_travels() -> None:
    def forever() -> None:
        forever()

    here = travelled(caught(forever))
    assert type(here) is RecursionError
    assert len(traceback.extract_tb(here.__traceback__)) == 100


def test_code_without_columns_keeps_its_lines() -> None:
    # As under `python -X no_debug_ranges`, and as in a traceback that only knows its line.
    exc = caught(calls_it, 3)
    frame = exc.__traceback__.tb_frame  # type: ignore[union-attr]
    exc.__traceback__ = types.TracebackType(None, frame, -1, 12345)
    (entry,) = traceback.extract_tb(travelled(exc).__traceback__)
    assert (entry.lineno, entry.name) == (12345, "caught")


# ---- what can't be sent


def test_what_cannot_be_sent_is_replaced_and_named() -> None:
    exc = TwoArguments(1, "a")
    exc.args = (threading.Lock(), "kept", [1, {2}])
    vars(exc).update(stream=(each for each in ""), kept={"a": [1]})
    here: Any = travelled(exc)
    assert type(here) is TwoArguments
    assert here.args == ("<unsendable: _thread.lock>", "kept", [1, {2}])
    assert vars(here)["stream"] == "<unsendable: generator>"
    assert vars(here)["kept"] == {"a": [1]}
    assert "argument 0 <unsendable: _thread.lock>" in notes_of(here)
    assert "attribute 'stream' <unsendable: generator>" in notes_of(here)


def refuse_to_load() -> None:
    raise SystemExit("not here")


class PicklesOneWay:
    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_load, ()


def test_a_value_that_cannot_be_loaded_is_found_on_the_worker() -> None:
    here = travelled(ValueError(PicklesOneWay(), {"kept"}))
    assert here.args == (f"<unsendable: {__name__}.PicklesOneWay>", {"kept"})


@pytest.mark.parametrize("cls", [BrokenPickle, EvilText, EvilAccess, EvilClass])
def test_evil_classes_travel_as_themselves(cls: type[Exception]) -> None:
    exc = caught(lambda: (_ for _ in ()).throw(cls("x")))
    here = travelled(exc)
    assert type(here) is cls
    assert vars(BaseException)["args"].__get__(here) == ("x",)
    assert vars(BaseException)["__traceback__"].__get__(here) is not None


class Liar:
    """Raises at every question."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    __hash__ = None  # type: ignore[assignment]


def test_evil_values_are_replaced() -> None:
    exc = ValueError(Liar())
    exc.__dict__["liar"] = Liar()
    exc.__dict__[3] = "a name that is no text"  # type: ignore[index]
    exc.__notes__ = Liar()  # type: ignore[assignment]
    assert travelled(exc).args == (f"<unsendable: {__name__}.Liar>",)


def test_a_pickler_that_always_fails_costs_only_what_it_should_carry() -> None:
    def dumps(value: object) -> bytes:
        raise MemoryError

    exc = caught(calls_it, 3)
    exc.args = ("text", [object()], object())
    here = travelled(exc, dumps)
    assert type(here) is ZeroDivisionError
    assert here.args == ("text", "<unsendable: list>", "<unsendable: object>")
    assert "fails_in_the_middle_of_a_line" in formatted(here)


def test_pack_survives_when_nothing_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    exc = TwoArguments(1, "a")
    exc.__cause__ = KeyError()
    monkeypatch.setattr(_raised_pack, "places_of", fails)
    here = travelled(exc)
    assert isinstance(here, TwoArguments)
    assert "MemoryError" in str(here)
    monkeypatch.setattr(_raised_pack, "_Packer", fails)
    assert isinstance(travelled(exc), TwoArguments)


def test_unpack_gives_an_exception_for_any_input() -> None:
    assert isinstance(unpack(Raised(nodes=()), pickle.loads), StandIn)
    assert isinstance(unpack(None, pickle.loads), StandIn)  # type: ignore[arg-type]


def test_the_callers_own_ctrl_c_is_not_taken_for_a_failure() -> None:
    def interrupted(_: bytes) -> object:
        raise KeyboardInterrupt

    raised = pack(ValueError({1}), pickle.dumps)
    with pytest.raises(KeyboardInterrupt):
        unpack(raised, interrupted)


def test_values_that_cannot_be_read_in_the_caller_leave_the_rest(vanishing_module: Any) -> None:
    module = vanishing_module("class Thing:\n    pass")
    exc = ValueError("text", 7)
    vars(exc).update(thing=module.Thing())
    here: Any = arrived_elsewhere(exc)
    assert type(here) is ValueError
    assert here.args == ("text", 7)
    assert vars(here)["thing"] == "<could not be read here>"
    assert "vanishing" in notes_of(here)


# ---- stand-ins


def test_a_stand_in_keeps_all_but_the_class(vanishing_module: Any) -> None:
    module = vanishing_module(
        """
        class Outer(KeyError):
            class Inner(OSError):
                def __str__(self):
                    return "own text"
        """
    )
    exc = module.Outer.Inner(errno.ENOENT, "gone", "/f")
    exc.mark = {"a": 1}
    exc.add_note("n")
    exc.__cause__ = TwoArguments(1, "a")
    exc = caught(lambda: (_ for _ in ()).throw(exc))
    here: Any = arrived_elsewhere(exc)
    assert isinstance(here, OSError)
    assert isinstance(here, StandIn)
    assert here.original == "vanishing.Outer.Inner"
    assert (type(here).__name__, type(here).__module__) == ("Inner", "vanishing")
    assert str(here) == "own text"
    assert (here.errno, here.filename, here.args) == (errno.ENOENT, "/f", exc.args)
    assert vars(here)["mark"] == {"a": 1}
    assert here.__notes__[0] == "n"
    assert "can't be rebuilt here: ModuleNotFoundError" in notes_of(here)
    assert type(here.__cause__) is TwoArguments
    assert here.__traceback__ is not None


@pytest.mark.parametrize("exc", BUILTINS, ids=lambda exc: type(exc).__name__)
def test_a_stand_in_can_be_made_below_every_builtin(exc: BaseException, vanishing_module: Any) -> None:
    module = vanishing_module("")
    cls = type("E", (type(exc),), {"__module__": "vanishing"})
    module.E = cls
    original = cls(*exc.args)
    here = arrived_elsewhere(original)
    assert isinstance(here, type(exc))
    assert isinstance(here, StandIn)
    assert str(here) == str(original)
    assert here.args == original.args


def test_a_stand_in_stands_below_the_nearest_base_that_is_here(vanishing_module: Any) -> None:
    module = vanishing_module("")
    module.Middle = type("Middle", (TwoArguments,), {"__module__": "vanishing"})
    module.E = type("E", (module.Middle, KeyError), {"__module__": "vanishing"})
    here = arrived_elsewhere(module.E(1, "a"))
    assert isinstance(here, TwoArguments)
    assert not isinstance(here, KeyError)
    assert vars(here)["what"] == "a"


def test_stand_ins_of_one_class_are_of_one_type(vanishing_module: Any) -> None:
    module = vanishing_module("class E(Exception): pass\nclass F(Exception): pass")
    data = [pickle.dumps(pack(exc, pickle.dumps)) for exc in (module.E(1), module.E(2), module.F())]
    sys.modules.pop("vanishing")
    first, second, other = (unpack(pickle.loads(each), pickle.loads) for each in data)
    assert type(first) is type(second) is not type(other)


def test_a_stand_in_pickles_copies_and_travels_on(vanishing_module: Any) -> None:
    module = vanishing_module("class E(ValueError): pass")
    exc = caught(lambda: (_ for _ in ()).throw(module.E("x", {1})))
    here = arrived_elsewhere(exc)
    for clone in (pickle.loads(pickle.dumps(here)), copy.copy(here), travelled(here, cloudpickle.dumps)):
        assert type(clone) is type(here)
        assert str(clone) == str(here)
        assert clone.args == ("x", {1})
        assert traceback.format_tb(clone.__traceback__) == traceback.format_tb(here.__traceback__)


def test_the_text_of_a_stand_in_says_that_str_raised(vanishing_module: Any) -> None:
    module = vanishing_module("class E(Exception):\n    def __str__(self): raise RuntimeError")
    assert str(arrived_elsewhere(module.E())) == "<vanishing.E: its __str__ raised RuntimeError>"


def test_a_group_that_is_not_here_keeps_its_members(vanishing_module: Any) -> None:
    module = vanishing_module("class G(ExceptionGroup): pass\nclass B(BaseExceptionGroup): pass")
    data = [
        pickle.dumps(pack(group, pickle.dumps))
        for group in (module.G("g", [ValueError(1)]), module.B("b", [KeyboardInterrupt()]))
    ]
    sys.modules.pop("vanishing")
    group, base_group = (unpack(pickle.loads(each), pickle.loads) for each in data)
    assert isinstance(group, ExceptionGroup)
    assert isinstance(group, StandIn)
    assert (group.message, group.exceptions[0].args) == ("g", (1,))
    assert isinstance(base_group, BaseExceptionGroup)
    assert type(base_group.exceptions[0]) is KeyboardInterrupt
    assert "BaseExceptionGroup stands in for vanishing.B" in notes_of(base_group)


def test_a_class_that_cannot_go_by_value_becomes_a_stand_in() -> None:
    class Local(LookupError):
        lock = threading.Lock()

    here = travelled(Local("x"), cloudpickle.dumps)
    assert isinstance(here, StandIn)
    assert isinstance(here, LookupError)
    assert here.original.endswith("Local")


# ---- nothing is held


class Held:
    pass


class TwoUnsendable(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name, threading.Lock(), {1})
        self.broken = PicklesOneWay()


def test_nothing_on_the_worker_is_held_after_packing() -> None:
    held: list[weakref.ref[Held]] = []

    def fails() -> None:
        local = Held()
        held.append(weakref.ref(local))
        # Not held by a local variable, which would be a cycle of the test's own.
        raise TwoUnsendable(local.__class__.__name__) from BrokenPickle()

    def call() -> Raised:
        try:
            fails()
        except TwoUnsendable as exc:
            return pack(exc, cloudpickle.dumps)
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        raised = call()
        assert held[0]() is None
    finally:
        gc.enable()
    assert raised.nodes


def test_nothing_in_the_caller_is_held_by_what_was_unpacked() -> None:
    raised = pack(caught(calls_it, 3), pickle.dumps)
    held: list[weakref.ref[Held]] = []

    def caller() -> BaseException:
        local = Held()
        held.append(weakref.ref(local))
        return unpack(raised, pickle.loads)

    gc.disable()
    try:
        here = caller()
        assert held[0]() is None
    finally:
        gc.enable()
    assert here.__traceback__ is not None


def test_packing_leaves_the_exception_as_it_was() -> None:
    exc = caught(calls_it, 3)
    exc.add_note("n")
    before = (exc.__traceback__, exc.__context__, exc.__cause__, dict(vars(exc)), exc.args)
    pack(exc, pickle.dumps)
    assert (exc.__traceback__, exc.__context__, exc.__cause__, dict(vars(exc)), exc.args) == before


# ---- properties

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=2)
    ),
    max_leaves=5,
)
plain_classes = st.sampled_from(
    [ValueError, KeyError, OSError, SystemExit, StopIteration, KeyboardInterrupt, ForgetfulPickle]
)


@st.composite
def single_exceptions(draw: st.DrawFn) -> BaseException:
    arguments = draw(st.lists(values, max_size=4))
    made: list[Callable[[], BaseException]] = [
        lambda: draw(plain_classes)(*arguments),
        lambda: TwoArguments(draw(st.integers()), draw(st.text())),
        lambda: Decorated(draw(st.text())),
        lambda: KeywordOnly(where=draw(values)),
        lambda: Codes([ValueError(*arguments), Decorated("d")], draw(st.integers())),
    ]
    exc = draw(st.sampled_from(made))()
    vars(exc).update(draw(st.dictionaries(st.sampled_from(["a", "b", "what"]), values, max_size=3)))
    for note in draw(st.lists(st.text(), max_size=2)):
        exc.add_note(note)
    return exc


@st.composite
def chained_exceptions(draw: st.DrawFn) -> BaseException:
    found = draw(st.lists(single_exceptions(), min_size=1, max_size=5))
    edges = st.none() | st.sampled_from(found)
    for exc in found:
        exc.__cause__ = draw(edges)
        exc.__context__ = draw(edges)
        exc.__suppress_context__ = draw(st.booleans())
    return found[0]


def shape(exc: BaseException) -> list[tuple[object, ...]]:
    """The graph of `exc` as a list, its edges as positions in it."""
    met: list[BaseException] = [exc]

    def number(each: BaseException | None) -> int | None:
        if each is None:
            return None
        for index, known in enumerate(met):
            if known is each:
                return index
        met.append(each)
        return len(met) - 1

    found: list[tuple[object, ...]] = []
    for each in met:
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        found.append(
            (
                type(each),
                [len(each.args) if members else each.args, vars(each), fields_of(each)],
                number(each.__cause__),
                number(each.__context__),
                each.__suppress_context__,
                [number(member) for member in members],
            )
        )
    return found


@hypothesis_settings(max_examples=60, deadline=None)
@given(exc=chained_exceptions(), dumps=st.sampled_from([pickle.dumps, cloudpickle.dumps]))
def test_any_graph_arrives_as_it_was(exc: BaseException, dumps: Callable[[object], bytes]) -> None:
    before = shape(exc)
    assert shape(travelled(exc, dumps)) == before


# ---- another process


def run_script(path: Path, *options: str) -> str:
    source = os.pathsep.join([str(Path(anypool.__path__[0]).parent), str(path.parent)])
    done = subprocess.run(
        [sys.executable, *options, str(path)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PACKING_SCRIPT = """
import pickle, sys
from anypool._raised_pack import pack

class Mine(Exception):
    def __init__(self, a, b):
        super().__init__(a + b)
        self.a = a

def middle(n):
    return inner(n) + 1

def inner(n):
    raise Mine("x", "y") from caught()

def caught():
    try:
        return {}["k"]
    except KeyError as exc:
        return exc

try:
    middle(1)
except Mine as exc:
    raised = pack(exc, pickle.dumps)
print(pickle.dumps(raised).hex())
"""


@pytest.mark.parametrize("options", [(), ("-X", "no_debug_ranges")], ids=["carets", "no carets"])
def test_the_traceback_of_another_process_shows_the_users_lines(tmp_path: Path, options: tuple[str, ...]) -> None:
    script = tmp_path / "work_script.py"
    script.write_text(PACKING_SCRIPT, encoding="utf-8")
    here = unpack(pickle.loads(bytes.fromhex(run_script(script, *options))), pickle.loads)
    lines = PACKING_SCRIPT.splitlines()

    def line_of(text: str) -> int:
        return next(index for index, line in enumerate(lines, 1) if text in line)

    walked = [(frame.f_code.co_name, line) for frame, line in traceback.walk_tb(here.__traceback__)]
    assert walked == [
        ("<module>", line_of("    middle(1)")),
        ("middle", line_of("return inner")),
        ("inner", line_of("raise Mine")),
    ]
    text = formatted(here)
    assert f'File "{script}", line {line_of("raise Mine")}, in inner' in text
    assert 'raise Mine("x", "y") from caught()' in text
    assert 'return {}["k"]' in text
    assert isinstance(here, StandIn)
    assert (str(here), vars(here)["a"], type(here).__name__) == ("xy", "x", "Mine")


MAIN_SCRIPT = """
import json, multiprocessing, pickle, sys
import cloudpickle
from anypool._raised_pack import pack
from anypool._raised_unpack import unpack

class Mine(Exception):
    def __init__(self, a, b):
        super().__init__(a + b)
        self.a = a

def work(dumps, pipe):
    try:
        raise Mine("x", "y")
    except Mine as exc:
        pipe.send(pack(exc, dumps))

if __name__ == "__main__":
    told = []
    context = multiprocessing.get_context("spawn")
    for dumps in (pickle.dumps, cloudpickle.dumps):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(dumps, theirs))
        process.start()
        raised = ours.recv()
        process.join()
        try:
            raise unpack(raised, pickle.loads)
        except Mine as exc:
            told.append([type(exc).__module__, exc.a, str(exc), type(exc) is Mine])
    # A worker whose __main__ is another program gets the function by value.
    code = "import pickle,sys; print(pickle.loads(sys.stdin.buffer.read())().hex())"
    import subprocess
    def elsewhere():
        try:
            raise Mine("v", "w")
        except Mine as exc:
            return pickle.dumps(pack(exc, cloudpickle.dumps))
    done = subprocess.run(
        [sys.executable, "-c", code], input=cloudpickle.dumps(elsewhere), capture_output=True, timeout=240
    )
    exc = unpack(pickle.loads(bytes.fromhex(done.stdout.decode())), pickle.loads)
    told.append([type(exc).__module__, exc.a, str(exc), type(exc) is Mine])
    print(json.dumps(told))
"""


def test_except_in_a_script_catches_what_its_workers_raised(tmp_path: Path) -> None:
    script = tmp_path / "main_script.py"
    script.write_text(MAIN_SCRIPT, encoding="utf-8")
    assert json.loads(run_script(script)) == [
        ["__main__", "x", "xy", True],
        ["__main__", "x", "xy", True],
        ["__main__", "v", "vw", True],
    ]


def send_failure(pipe: Any) -> None:
    exc = caught(calls_it, 3)
    pipe.send((pack(exc, pickle.dumps), formatted(exc)))
    pipe.close()


def test_a_spawned_worker_and_its_caller_print_the_same() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with ours:
        process = context.Process(target=send_failure, args=(theirs,))
        process.start()
        theirs.close()
        assert ours.poll(50)
        raised, there = ours.recv()
        process.join(50)
        process.close()
    assert formatted(unpack(raised, pickle.loads)) == there
