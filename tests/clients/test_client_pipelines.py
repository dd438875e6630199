"""pipefunc and tqdm: pipelines, and progress bars over maps."""

from __future__ import annotations

import io
from functools import partial

import pytest
from client_libraries import library

import anypool

pipefunc = library("pipefunc")
tqdm = library("tqdm")
concurrent = library("tqdm.contrib.concurrent")


@pipefunc.pipefunc(output_name="doubled", mapspec="x[i] -> doubled[i]")
def double(x):
    return 2 * x


@pipefunc.pipefunc(output_name="total")
def add_up(doubled):
    return int(sum(doubled))


def test_pipefunc(executor):
    pipeline = pipefunc.Pipeline([double, add_up])
    inputs = {"x": list(range(10))}
    expected = pipeline.map(inputs, parallel=False, storage="dict")["total"].output
    found = pipeline.map(inputs, executor=executor, chunksizes=2, storage="dict", show_progress=False)
    assert found["total"].output == expected == 90


def square(x):
    return x * x


def test_tqdm_over_a_map(executor):
    shown = io.StringIO()
    assert list(tqdm.tqdm(executor.map(square, range(20)), total=20, file=shown)) == [x * x for x in range(20)]
    assert "20/20" in shown.getvalue()


@pytest.mark.parametrize("backend", ["threads", "serial"])
def test_the_helper_of_tqdm_that_makes_its_own_executor(backend):
    """It calls the class with `max_workers`, `initializer` and `initargs`, and `map` with `chunksize`."""
    make = partial(anypool.PoolExecutor, backend)
    results = concurrent._executor_map(make, square, range(20), max_workers=2, chunksize=3, file=io.StringIO())
    assert results == [x * x for x in range(20)]
