"""Scripts without a ``__main__`` guard: whatever they define can be called, on every backend."""

from __future__ import annotations

import pytest

from scripts import BACKENDS, run_script

FUNCTIONS = """
import functools
import anypool

factor = 3

def times_factor(x):
    return x * factor

def countdown(n):
    return [n] + countdown(n - 1) if n else []

def doubled(fn):
    @functools.wraps(fn)
    def call(x):
        return 2 * fn(x)
    return call

@doubled
def plus_one(x):
    return x + 1

def make_adder(k):
    def add(x):
        print("adding", k, "to", x)
        return x + k
    return add

def results_by_name(first, *, second):
    return {"first": first, "second": second}

with anypool.get_executor() as ex:
    print(list(ex.map(times_factor, range(5))))
    print(list(ex.map(countdown, range(4))))
    print(list(ex.map(plus_one, range(4))))
    print(list(ex.map(lambda x: x * factor, range(4))))
    print(list(ex.map(make_adder(10), (i for i in range(4)))))
    print(list(ex.map(functools.partial(pow, 2), range(6))))
    print([future.result() for future in [ex.submit(lambda x=i: -x) for i in range(4)]])
    print(ex.submit(results_by_name, 1, second=2).result())
"""

FUNCTIONS_PRINT = """\
[0, 3, 6, 9, 12]
[[], [1], [2, 1], [3, 2, 1]]
[2, 4, 6, 8]
[0, 3, 6, 9]
adding 10 to 0
adding 10 to 1
adding 10 to 2
adding 10 to 3
[10, 11, 12, 13]
[1, 2, 4, 8, 16, 32]
[0, -1, -2, -3]
{'first': 1, 'second': 2}
"""

CLASSES = """
import dataclasses
import enum
import typing
import anypool

class Scale:
    count = 0
    def __init__(self, k):
        self.k = k
    def apply(self, x):
        return self.k * x
    @classmethod
    def make(cls, k):
        return cls(k)
    @staticmethod
    def twice(x):
        return 2 * x
    def __call__(self, x):
        return self.apply(x) + 1

@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

class Pair(typing.NamedTuple):
    left: int
    right: int

def mirrored(point):
    return Point(point.y, point.x)

def other(colour):
    return Colour.BLUE if colour is Colour.RED else Colour.RED

def local_class():
    class Local:
        def __init__(self, x):
            self.x = x
        def squared(self):
            return self.x ** 2
    return Local

with anypool.get_executor() as ex:
    print(list(ex.map(Scale(4).apply, range(4))))
    print(list(ex.map(Scale(4), range(4))))
    print(list(ex.map(Scale.twice, range(4))))
    made = list(ex.map(Scale.make, range(4)))
    print([scale.k for scale in made], {type(scale) is Scale for scale in made})
    points = list(ex.map(mirrored, [Point(1, 2), Point(3)]))
    print(points, points == [Point(2, 1), Point(0, 3)], {type(point) is Point for point in points})
    print([colour is expected for colour, expected in zip(ex.map(other, Colour), [Colour.BLUE, Colour.RED])])
    print(list(ex.map(Pair, [1, 2], [3, 4])))
    Local = local_class()
    print([ex.submit(Local(x).squared).result() for x in range(4)])
    back = ex.submit(Local, 5).result()
    print(type(back) is Local, back.squared())
"""

CLASSES_PRINT = """\
[0, 4, 8, 12]
[1, 5, 9, 13]
[0, 2, 4, 6]
[0, 1, 2, 3] {True}
[Point(x=2, y=1), Point(x=0, y=3)] True {True}
[True, True]
[Pair(left=1, right=3), Pair(left=2, right=4)]
[0, 1, 4, 9]
True 25
"""

ERRORS = """
import anypool

class MyError(Exception):
    pass

class Refused(MyError):
    def __init__(self, item, *, reason):
        super().__init__(item)
        self.reason = reason

def refuse(x):
    if x % 2:
        raise Refused(x, reason=f"{x} is odd")
    return x

def chained(x):
    try:
        refuse(x)
    except MyError as exc:
        raise LookupError("nothing") from exc

with anypool.get_executor() as ex:
    results = ex.map(refuse, range(4))
    print(next(results))
    try:
        next(results)
    except MyError as exc:
        print(type(exc) is Refused, exc.args, exc.reason)
    try:
        ex.submit(chained, 3).result()
    except LookupError as exc:
        print(exc, type(exc.__cause__) is Refused, exc.__cause__.reason)
    for got in ex.map(refuse, range(4), errors="return"):
        print(got.reason if isinstance(got, MyError) else got)
    print(ex.submit(pow, 2, 3).result())
"""

ERRORS_PRINT = """\
0
True (1,) 1 is odd
nothing True 3 is odd
0
1 is odd
2
3 is odd
8
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_of_an_unguarded_script_run_everywhere(backend, tmp_path):
    assert run_script(FUNCTIONS, backend, tmp_path) == FUNCTIONS_PRINT


@pytest.mark.parametrize("backend", BACKENDS)
def test_classes_of_an_unguarded_script_come_back_as_themselves(backend, tmp_path):
    assert run_script(CLASSES, backend, tmp_path) == CLASSES_PRINT


@pytest.mark.parametrize("backend", BACKENDS)
def test_exception_classes_of_an_unguarded_script_are_caught_by_name(backend, tmp_path):
    assert run_script(ERRORS, backend, tmp_path) == ERRORS_PRINT


@pytest.mark.parametrize("by", ["stdin", "command"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_script_without_a_file_runs_everywhere(backend, by, tmp_path):
    assert run_script(FUNCTIONS, backend, tmp_path, by=by) == FUNCTIONS_PRINT


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_worker_runs_the_script_again(backend, tmp_path):
    # Counted by the script's own file: what a second run printed might get lost.
    script = (
        "import os\n"
        "with open('runs', 'a') as file: file.write(f'{os.getpid()}\\n')\n"
        "import anypool\n"
        "with anypool.get_executor() as ex: print(list(ex.map(lambda x: x + 1, range(8), chunksize=1)))\n"
    )
    assert run_script(script, backend, tmp_path) == "[1, 2, 3, 4, 5, 6, 7, 8]\n"
    assert len((tmp_path / "runs").read_text().splitlines()) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_executor_that_is_never_shut_down_does_not_keep_the_script_alive(backend, tmp_path):
    script = (
        "import anypool\n"
        "ex = anypool.get_executor()\n"
        "print(list(ex.map(lambda x: x + 1, range(3))))\n"
        "future = ex.submit(lambda: 7)\n"
        "print(future.result())\n"
    )
    assert run_script(script, backend, tmp_path) == "[1, 2, 3]\n7\n"
