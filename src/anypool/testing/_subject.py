"""What is under test, and the fixtures that every clause shares."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from anypool._executor import PoolExecutor, get_executor
from anypool.backend import Traits
from anypool.testing._clauses import FEATURES, unmet
from anypool.testing._effects import LIMIT

__all__ = ["Subject", "SubjectFixtures", "end"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """An executor under test.

    Parameters
    ----------
    name : str
        For people: the name of the backend, or of the executor's class.
    traits : Traits
        What it says that it is like; of a foreign executor, what it is believed to be.
    features : frozenset of str
        What it offers beyond the `concurrent.futures` interface: names of `FEATURES`.
    workers : int
        How many calls run at once.
    """

    name: str
    traits: Traits
    features: frozenset[str]
    workers: int

    @property
    def is_parallel(self) -> bool:
        """Whether one call may wait for another."""
        return self.workers > 1 and not self.traits.synchronous


def end(executor: Any) -> None:
    """Shut `executor` down, cancelling what has not begun; fail if that does not end within the limit.

    In a thread, since a backend that is broken must not stop the run of the tests.
    """
    errors: list[BaseException] = []

    def shut_down() -> None:
        try:
            if _can_cancel(executor):
                executor.shutdown(wait=True, cancel_futures=True)
            else:  # Dask's; the tests that are about it call it themselves, and fail
                executor.shutdown(wait=True)
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=shut_down, name="ending an executor under test", daemon=True)
    thread.start()
    thread.join(LIMIT)
    if thread.is_alive():
        pytest.fail(f"{executor!r} did not shut down within {LIMIT} s")
    if errors:
        raise errors[0]


def _can_cancel(executor: Any) -> bool:
    parameters = inspect.signature(executor.shutdown).parameters.values()
    return any(each.name == "cancel_futures" or each.kind is each.VAR_KEYWORD for each in parameters)


class _Expendable:
    """At most one executor, for tests that kill its workers: they share it for as long as it answers."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._executor: Any = None

    def get(self) -> Any:
        if self._executor is not None and not _answers(self._executor):
            self.drop()
        if self._executor is None:
            self._executor = self._make()
        return self._executor

    def drop(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            end(executor)


def _answers(executor: Any) -> bool:
    try:
        return bool(executor.submit(abs, -1).result(timeout=LIMIT) == 1)
    except Exception:  # broken by the test before, where that may be; or ended by it
        return False


class SubjectFixtures:
    """The hooks for authors, and the fixtures made from them.

    Attributes
    ----------
    backend : name, URL, mapping, backend or backend class
        Anything that `anypool.get_executor` takes.
    options : mapping
        Options for it.
    traits : Traits or None
        None asks the executor. A foreign executor is believed to be what this says.
    features : collection of str or None
        What of `FEATURES` is offered. None: all by an executor of anypool's, none by a foreign one.
    """

    backend: ClassVar[Any] = None
    options: ClassVar[Mapping[str, Any]] = {}
    traits: ClassVar[Traits | None] = None
    features: ClassVar[Collection[str] | None] = None

    @classmethod
    def make_executor(cls, **options: Any) -> Any:
        """A new executor; override for what `get_executor` cannot make, such as a foreign executor."""
        return get_executor(cls.backend, **{**cls.options, **options})

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Iterator[Any]:
        """The executor that the tests of a class share. Tests that end or break one take `fresh_executor`."""
        executor = cls.make_executor()
        try:
            yield executor
        finally:
            end(executor)

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, executor: Any) -> Subject:
        """What is under test."""
        is_ours = isinstance(executor, PoolExecutor)
        traits = cls.traits
        if traits is None:
            traits = executor.traits if is_ours else Traits()
        features = cls.features
        if features is None:
            features = FEATURES if is_ours else ()
        return Subject(
            name=executor.backend if is_ours else type(executor).__qualname__,
            traits=traits,
            features=frozenset(features),
            workers=getattr(executor, "_max_workers", 1),
        )

    @pytest.fixture(autouse=True)
    def _only_what_is_offered(self, request: pytest.FixtureRequest, subject: Subject) -> None:
        why_not = unmet(request.function, subject.traits, subject.features)
        if why_not is not None:
            pytest.skip(why_not)

    @pytest.fixture
    def make_fresh(self) -> Iterator[Callable[..., Any]]:
        """Makes executors of the test's own, with more options; they are shut down after it."""
        made: list[Any] = []

        def make(**options: Any) -> Any:
            executor = self.make_executor(**options)
            made.append(executor)
            return executor

        yield make
        for executor in made:
            end(executor)

    @pytest.fixture
    def fresh_executor(self, make_fresh: Callable[..., Any]) -> Any:
        """An executor of the test's own."""
        return make_fresh()

    @pytest.fixture(scope="class")
    @classmethod
    def _expendables(cls) -> Iterator[_Expendable]:
        held = _Expendable(cls.make_executor)
        yield held
        held.drop()

    @pytest.fixture(autouse=True)
    def _none_is_there_for_other_tests(self, request: pytest.FixtureRequest, _expendables: _Expendable) -> None:
        """A worker that is started in place of a killed one would be taken for what another test has left."""
        if "expendable" not in request.fixturenames:
            _expendables.drop()

    @pytest.fixture
    def expendable(self, request: pytest.FixtureRequest, _expendables: _Expendable) -> Iterator[Any]:
        """An executor whose workers the test may kill. The next such test has it too, unless this one fails."""
        failed = request.session.testsfailed
        yield _expendables.get()
        if request.session.testsfailed != failed:
            _expendables.drop()

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        """A directory that the test and its calls see. Override where workers see another file system."""
        return tmp_path
