"""dask, xarray and zarr: graphs and chunks."""

from __future__ import annotations

import numpy as np
from client_libraries import library

dask = library("dask")
bag = library("dask.bag")
array = library("dask.array")
xarray = library("xarray")
zarr = library("zarr")

VALUES = np.arange(60.0).reshape(6, 10)


def add(x, y):
    return x + y


def test_dask_delayed(executor):
    total = dask.delayed(add)(dask.delayed(add)(1, 2), dask.delayed(add)(3, 4))
    assert total.compute(scheduler=executor) == 10
    assert dask.compute(total, total, pool=executor, scheduler="threads") == (10, 10)
    with dask.config.set(scheduler=executor):
        assert total.compute() == 10


def test_dask_bag(executor):
    squares = bag.from_sequence(range(20), npartitions=4).map(lambda x: x * x)
    assert squares.compute(scheduler=executor) == [x * x for x in range(20)]
    assert squares.sum().compute(scheduler=executor) == sum(x * x for x in range(20))


def test_dask_array(executor):
    chunked = array.from_array(VALUES, chunks=(2, 5))
    expected = chunked.T.dot(chunked).compute(scheduler="synchronous")
    np.testing.assert_array_equal(chunked.T.dot(chunked).compute(scheduler=executor), expected)
    np.testing.assert_array_equal(chunked.T.dot(chunked).compute(pool=executor, scheduler="threads"), expected)


def test_xarray(executor):
    data = xarray.DataArray(VALUES, dims=("time", "place"), name="values").chunk(time=2)
    expected = data.mean("time").compute(scheduler="synchronous")
    xarray.testing.assert_identical(data.mean("time").compute(scheduler=executor), expected)


def write(place, row):
    zarr.open_array(place, mode="r+")[row] = VALUES[row] * 2
    return row


def test_zarr(executor, tmp_path):
    place = str(tmp_path / "array.zarr")
    zarr.create_array(place, shape=VALUES.shape, chunks=(1, 10), dtype="f8")
    assert list(executor.map(write, [place] * 6, range(6))) == list(range(6))
    np.testing.assert_array_equal(zarr.open_array(place, mode="r")[:], VALUES * 2)
    chunked = array.from_zarr(place)
    np.testing.assert_array_equal((chunked + 1).compute(scheduler=executor), VALUES * 2 + 1)
